//! The servers under comparison: each in a temporary folder, on a free port; dropping it ends the process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::databases;
use crate::other_servers::missing_program;
use crate::process;
use crate::program::program;

/// A server under comparison: its name and how it is started.
pub struct Peer {
    pub name: &'static str,
    /// What has happened to a mail when its sender gets 250.
    pub meaning: &'static str,
    /// Returns what the server needs and this machine does not have.
    pub missing: fn() -> Option<String>,
    /// Starts the databases that the server needs, in the same folder.
    pub database_processes: fn(&Path) -> Vec<Child>,
    pub command: fn(&Path, SocketAddr) -> Command,
    /// Whether the folder of the server is in memory instead of on the disk.
    pub is_in_memory: bool,
    /// Returns whether the server in this folder still works on mails that it acknowledged.
    pub is_working: fn(&Path) -> bool,
}

impl Peer {
    /// The fields that most servers have in common.
    pub const NOTHING: Peer = Peer {
        name: "",
        meaning: "",
        missing: nothing_missing,
        database_processes: |_| Vec::new(),
        command: |_, _| Command::new("false"),
        is_in_memory: false,
        is_working: |_| false,
    };
}

/// Returns `None`: the server needs no other program.
pub fn nothing_missing() -> Option<String> {
    None
}

/// This program without a store.
pub const DISCARD: Peer = Peer {
    name: "goguerrilla, discard",
    meaning: "nothing is kept",
    command: |folder, address| goguerrilla(folder, address, &DISCARD_SETTINGS),
    ..Peer::NOTHING
};

/// This program with SQLite.
pub const SQLITE: Peer = Peer {
    name: "goguerrilla, SQLite",
    meaning: "the transaction is committed and synced",
    command: |folder, address| goguerrilla(folder, address, &SQLITE_SETTINGS),
    ..Peer::NOTHING
};

/// This program with MariaDB and Redis.
pub const MARIADB: Peer = Peer {
    name: "goguerrilla, MariaDB + Redis",
    meaning: "the body is in Redis and the row is committed and synced",
    missing: || {
        missing_program("mariadbd", "mariadb-server-core")
            .or_else(|| missing_program("redis-server", "redis-server"))
    },
    database_processes: databases::start,
    command: |folder, address| goguerrilla(folder, address, &databases::settings(folder)),
    ..Peer::NOTHING
};

/// This program with each store.
pub const STORES: [&Peer; 3] = [&DISCARD, &SQLITE, &MARIADB];

/// Returns the command that runs goguerrilla with these keys in addition to its address.
pub fn goguerrilla<S: AsRef<str>>(
    folder: &Path,
    address: SocketAddr,
    settings: &[(&str, S)],
) -> Command {
    program_of_goguerrilla(testkit::binary(), folder, address, settings)
}

/// Returns the command that runs this file of goguerrilla, which may be of another version.
pub fn program_of_goguerrilla<S: AsRef<str>>(
    file: &str,
    folder: &Path,
    address: SocketAddr,
    settings: &[(&str, S)],
) -> Command {
    let mut config = serde_json::json!({
        "GSTMP_LISTEN_INTERFACE": address.to_string(),
        "GSMTP_HOST_NAME": "mx.test",
        "GSMTP_LOG_FILE": "log",
        "GM_MAX_CLIENTS": "1100",
    });
    for (key, value) in settings {
        config[key] = value.as_ref().into();
    }
    fs::write(folder.join("goguerrilla.conf"), config.to_string()).expect("a file is written");
    let mut command = program(file);
    command.arg("-config=goguerrilla.conf");
    command
}

/// A running server.
pub struct Server {
    child: Child,
    database_processes: Vec<Child>,
    pub address: SocketAddr,
    folder: TempDir,
    is_working: fn(&Path) -> bool,
}

impl Server {
    /// Starts a server and waits for its greeting.
    pub fn start(peer: &Peer) -> Server {
        let parent = match peer.is_in_memory {
            true => MEMORY_FOLDER,
            false => DISK_FOLDER,
        };
        let mut server = Server::start_in(parent, peer.name, peer.database_processes, peer.command);
        server.is_working = peer.is_working;
        server.wait_for("greet", peer.name, is_greeted);
        server
    }

    /// Starts a server with a custom command, which may prepare the store first, and waits for its greeting.
    pub fn start_prepared(
        name: &str,
        database_processes: fn(&Path) -> Vec<Child>,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Server {
        let mut server = Server::start_in(DISK_FOLDER, name, database_processes, command);
        server.wait_for("greet", name, is_greeted);
        server
    }

    /// Starts a custom command, which may write files into the folder first, and waits until it accepts connections.
    pub fn start_command(name: &str, command: impl FnOnce(&Path, SocketAddr) -> Command) -> Server {
        Server::start_in(DISK_FOLDER, name, |_| Vec::new(), command)
    }

    fn start_in(
        parent: &str,
        name: &str,
        database_processes: fn(&Path) -> Vec<Child>,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Server {
        let folder = TempDir::new_in(parent).expect("a temporary folder");
        let database_processes = database_processes(folder.path());
        let address = free_address();
        let errors = File::create(folder.path().join("stderr")).expect("a file for stderr");
        let child = command(folder.path(), address)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("setpriv of util-linux starts the server");
        let mut server = Server {
            child,
            database_processes,
            address,
            folder,
            is_working: |_| false,
        };
        server.wait_for("start", name, |address| TcpStream::connect(address).is_ok());
        server
    }

    fn wait_for(&mut self, what: &str, name: &str, is_ready: impl Fn(SocketAddr) -> bool) {
        let deadline = Instant::now() + START_TIMEOUT;
        while !is_ready(self.address) {
            let has_ended = !matches!(self.child.try_wait(), Ok(None));
            if has_ended || Instant::now() > deadline {
                let errors = fs::read_to_string(self.folder.path().join("stderr"));
                panic!("{name} does not {what}: {}", errors.unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns the folder in which the server runs and stores its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the process ids of its databases.
    pub fn database_processes(&self) -> Vec<u32> {
        self.database_processes.iter().map(Child::id).collect()
    }

    /// Returns the processor time that all its threads and child processes have used.
    pub fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(self.child.id())
    }

    /// Returns the processor time that its databases have used.
    pub fn database_cpu_seconds(&self) -> f64 {
        let processes = self.database_processes.iter();
        processes
            .map(|child| process::cpu_seconds(child.id()))
            .sum()
    }

    /// Waits until the server no longer works on mails that it acknowledged, so that this work is not missing in its
    /// processor time.
    pub fn wait_until_idle(&self) {
        let deadline = Instant::now() + IDLE_TIMEOUT;
        while (self.is_working)(self.folder.path()) {
            assert!(Instant::now() < deadline, "the queue does not become empty");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.child).chain(&mut self.database_processes) {
            // The children of Postfix end when its first process does; until then they write files into the folder.
            let has_ended = !matches!(child.try_wait(), Ok(None));
            let processes = if has_ended {
                Vec::new()
            } else {
                process::tree(child.id())
            };
            for process in processes {
                let _ = kill(Pid::from_raw(process as i32), Signal::SIGKILL);
            }
            let _ = child.wait();
        }
    }
}

fn is_greeted(address: SocketAddr) -> bool {
    let Ok(socket) = TcpStream::connect(address) else {
        return false;
    };
    let _ = socket.set_read_timeout(Some(START_TIMEOUT));
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).is_ok() && line.starts_with("220")
}

/// Returns a loopback address with a port that is free at the time of the call.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

pub const DISCARD_SETTINGS: [(&str, &str); 1] = [("GM_STORE", "discard")];
pub const SQLITE_SETTINGS: [(&str, &str); 1] = [("GM_STORE", "sqlite")];

/// Maximum time from the start of a server to its greeting.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time until a queue is empty after a run.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The disk of the build: a temporary folder in memory would make commits free.
const DISK_FOLDER: &str = env!("CARGO_TARGET_TMPDIR");
const MEMORY_FOLDER: &str = "/dev/shm";
