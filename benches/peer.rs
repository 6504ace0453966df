//! The servers under comparison: each in a temporary folder, on a free port; dropping it ends the process.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::databases;
use crate::program::{postfix_tool, program};

/// A server under comparison: its name and how it is started.
pub struct Peer {
    pub name: &'static str,
    /// Starts the databases that the server needs, in the same folder.
    pub database_processes: fn(&Path) -> Vec<Child>,
    command: fn(&Path, SocketAddr) -> Command,
}

/// The server that all others are compared with.
pub const REFERENCE: &str = "smtp-sink";

/// The servers, in the order in which they take turns. To measure another store, add an entry.
pub const PEERS: &[Peer] = &[
    Peer {
        name: REFERENCE,
        database_processes: |_| Vec::new(),
        command: |_, address| {
            let mut command = program(&postfix_tool("smtp-sink"));
            if nix::unistd::geteuid().is_root() {
                command.args(["-u", "root"]);
            }
            command.args(["-m", "20000", &address.to_string(), "4096"]);
            command
        },
    },
    Peer {
        name: "discard",
        database_processes: |_| Vec::new(),
        command: |folder, address| goguerrilla(folder, address, &[("GM_STORE", "discard")]),
    },
    Peer {
        name: "sqlite",
        database_processes: |_| Vec::new(),
        command: |folder, address| goguerrilla(folder, address, &[("GM_STORE", "sqlite")]),
    },
    Peer {
        name: "mysql + redis",
        database_processes: databases::start,
        command: |folder, address| goguerrilla(folder, address, &databases::settings(folder)),
    },
];

/// Returns the command that runs goguerrilla with these keys in addition to its address.
pub fn goguerrilla<S: AsRef<str>>(
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
    let mut command = program(testkit::binary());
    command.arg("-config=goguerrilla.conf");
    command
}

/// A running server.
pub struct Server {
    child: Child,
    database_processes: Vec<Child>,
    pub address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// Starts a server and waits for its greeting.
    pub fn start(peer: &Peer) -> Server {
        Server::start_prepared(peer.name, peer.database_processes, peer.command)
    }

    /// Starts a server with a custom command, which may prepare the store first, and waits for its greeting.
    pub fn start_prepared(
        name: &str,
        database_processes: fn(&Path) -> Vec<Child>,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Server {
        let mut server = Server::start_with_databases(name, database_processes, command);
        server.wait_for("greet", name, is_greeted);
        server
    }

    /// Starts a custom command, which may write files into the folder first, and waits until it accepts connections.
    pub fn start_command(name: &str, command: impl FnOnce(&Path, SocketAddr) -> Command) -> Server {
        Server::start_with_databases(name, |_| Vec::new(), command)
    }

    fn start_with_databases(
        name: &str,
        database_processes: fn(&Path) -> Vec<Child>,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Server {
        // The folder is on the disk of the build: a temporary folder in memory would make commits free.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
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

    /// Returns the processor time that all its threads have used.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds_of(self.child.id())
    }
}

/// Returns the processor time that all threads of a process have used.
pub fn cpu_seconds_of(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    let stat = stat.expect("the server runs");
    // proc(5): the name in parentheses may contain anything; utime and stime are the 12th and 13th field after it.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.child).chain(&mut self.database_processes) {
            let _ = child.kill();
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

/// USER_HZ, which is 100 on every current Linux and independent of the tick rate of the kernel.
pub const TICKS_PER_SECOND: f64 = 100.0;
/// Maximum time from the start of a server to its greeting.
const START_TIMEOUT: Duration = Duration::from_secs(10);
