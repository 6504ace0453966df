//! The servers that are compared: each in a temporary folder, on a port of the kernel's choice, ended with its value.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::databases;

/// A row of the table: a program, and how it is started in a folder to listen on an address.
pub struct Peer {
    pub name: &'static str,
    /// Servers that it needs, started in the same folder.
    pub companions: fn(&Path) -> Vec<Child>,
    command: fn(&Path, SocketAddr) -> Command,
}

/// The peer that all others are compared with.
pub const YARDSTICK: &str = "smtp-sink";

/// In the order in which they take turns. Another store is another entry here.
pub const PEERS: &[Peer] = &[
    Peer {
        name: YARDSTICK,
        companions: |_| Vec::new(),
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
        companions: |_| Vec::new(),
        command: |folder, address| goguerrilla(folder, address, &[("GM_STORE", "discard")]),
    },
    Peer {
        name: "sqlite",
        companions: |_| Vec::new(),
        command: |folder, address| goguerrilla(folder, address, &[("GM_STORE", "sqlite")]),
    },
    Peer {
        name: "mysql + redis",
        companions: databases::start,
        command: |folder, address| goguerrilla(folder, address, &databases::settings(folder)),
    },
];

/// The server of this house with these keys beside the address.
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
    let mut command = program(env!("CARGO_BIN_EXE_goguerrilla"));
    command.arg("-config=goguerrilla.conf");
    command
}

/// A program that the kernel ends with us, whatever ends us.
pub fn program(name: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", name]);
    command
}

/// Where Postfix's tools are: Debian keeps them out of the path of most users.
pub fn postfix_tool(name: &str) -> String {
    let usual = format!("/usr/sbin/{name}");
    match Path::new(&usual).exists() {
        true => usual,
        false => name.to_owned(),
    }
}

/// A peer that runs.
pub struct Server {
    child: Child,
    companions: Vec<Child>,
    pub address: SocketAddr,
    folder: TempDir,
}

impl Server {
    /// Starts it and waits for its greeting.
    pub fn start(peer: &Peer) -> Server {
        Server::start_prepared(peer.name, peer.companions, peer.command)
    }

    /// The same with a command of its own, which may prepare the store first.
    pub fn start_prepared(
        name: &str,
        companions: fn(&Path) -> Vec<Child>,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Server {
        let mut server = Server::start_beside(name, companions, command);
        server.wait_for("greet", name, is_greeted);
        server
    }

    /// Starts what the command says, which may put files into the folder first, and waits until it accepts.
    pub fn start_command(name: &str, command: impl FnOnce(&Path, SocketAddr) -> Command) -> Server {
        Server::start_beside(name, |_| Vec::new(), command)
    }

    fn start_beside(
        name: &str,
        companions: fn(&Path) -> Vec<Child>,
        command: impl FnOnce(&Path, SocketAddr) -> Command,
    ) -> Server {
        // On the disk of the build: a temporary folder in memory would make commits free.
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
        let companions = companions(folder.path());
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
            companions,
            address,
            folder,
        };
        server.wait_for("start", name, |address| TcpStream::connect(address).is_ok());
        server
    }

    fn wait_for(&mut self, what: &str, name: &str, is_there: impl Fn(SocketAddr) -> bool) {
        let give_up_at = Instant::now() + START_PATIENCE;
        while !is_there(self.address) {
            let has_ended = !matches!(self.child.try_wait(), Ok(None));
            if has_ended || Instant::now() > give_up_at {
                let errors = fs::read_to_string(self.folder.path().join("stderr"));
                panic!("{name} does not {what}: {}", errors.unwrap_or_default());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it runs, and its store is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Those of the servers that it needs.
    pub fn companions(&self) -> Vec<u32> {
        self.companions.iter().map(Child::id).collect()
    }

    /// Processor time of all its threads so far.
    pub fn cpu_seconds(&self) -> f64 {
        cpu_seconds_of(self.child.id())
    }
}

/// Processor time of all threads of a process so far.
pub fn cpu_seconds_of(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"));
    let stat = stat.expect("the server runs");
    // proc(5): the name, in brackets, may hold anything; utime and stime are the 12th and 13th field behind it.
    let behind_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = behind_name.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.child).chain(&mut self.companions) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn is_greeted(address: SocketAddr) -> bool {
    let Ok(socket) = TcpStream::connect(address) else {
        return false;
    };
    let _ = socket.set_read_timeout(Some(START_PATIENCE));
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).is_ok() && line.starts_with("220")
}

/// Free a moment ago, at least.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// USER_HZ, which is 100 on every Linux of today whatever the kernel ticks at.
pub const TICKS_PER_SECOND: f64 = 100.0;
const START_PATIENCE: Duration = Duration::from_secs(10);
