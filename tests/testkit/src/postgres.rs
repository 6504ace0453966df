//! A PostgreSQL server for one test: its data in a temporary folder, on a Unix socket.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use super::{needs, send_signal, tail, wait_for};

/// A database server; runs until [`Postgres::kill`]. Dropping it stops the processes.
pub struct Postgres {
    child: Option<Child>,
    folder: TempDir,
}

impl Postgres {
    /// Makes an empty database and starts the server.
    pub fn start() -> Postgres {
        needs("PostgreSQL", Path::new(VERSIONS).exists());
        let folder = TempDir::new().expect("a temporary folder");
        if geteuid().is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("permitted for root");
        }
        let mut postgres = Postgres {
            child: None,
            folder,
        };
        let initdb = postgres
            .command("initdb")
            .arg(format!("--pgdata={}/data", postgres.path()))
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--locale=C"])
            .output()
            .expect("initdb is installed: tests/install-tools");
        assert!(initdb.status.success(), "{initdb:?}");
        postgres.run();
        postgres
    }

    /// Starts the server and waits until it answers.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "the server is already running");
        wait_for("PostgreSQL to answer", || {
            let mut child = self.child.take().unwrap_or_else(|| self.spawn());
            // After a SIGKILL the server does not start until the last of the old processes has ended.
            if child.try_wait().expect("a child").is_some() {
                return None;
            }
            self.child = Some(child);
            self.psql("SELECT 1").status.success().then_some(())
        });
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log file");
        self.command("postgres")
            .args(["-D", &format!("{}/data", self.path())])
            .args(["-k", &self.path(), "-c", "listen_addresses="])
            .args(["-c", "shared_buffers=16MB", "-c", "max_connections=20"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres is installed: tests/install-tools")
    }

    /// Returns the connection string for libpq and the crate postgres.
    pub fn connection(&self) -> String {
        format!("host={} user=postgres dbname=postgres", self.path())
    }

    /// Runs a statement; returns the rows as lines, with `|` between columns.
    pub fn sql(&self, statement: &str) -> String {
        let output = self.psql(statement);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statement}: {errors}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Locks table `new_mail`, so that no statement can use it until the value is dropped.
    pub fn lock_table(&self) -> TableLock {
        let mut child = self
            .command("psql")
            .args(["-XAtq", &self.connection()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("psql is installed: tests/install-tools");
        let mut input = child.stdin.take().expect("a pipe");
        input
            .write_all(b"BEGIN; LOCK TABLE new_mail; SELECT 'locked';\n")
            .expect("psql reads");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("text");
        assert_eq!(line, "locked\n");
        TableLock {
            child,
            input: Some(input),
        }
    }

    /// Sends SIGKILL to the main process and to those that it started, which would still commit what they are doing.
    pub fn kill(&mut self) {
        let main = self.child.as_ref().expect("the server runs").id();
        // A stopped main process starts no further process.
        send_signal(main, Signal::SIGSTOP);
        let others = fs::read_to_string(format!("/proc/{main}/task/{main}/children"));
        for other in others.expect("a running process").split_whitespace() {
            let _ = kill(
                Pid::from_raw(other.parse().expect("a number")),
                Signal::SIGKILL,
            );
        }
        self.end(Signal::SIGKILL);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
            let _ = child.wait();
        }
    }

    fn psql(&self, statement: &str) -> Output {
        self.command("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement])
            .arg(self.connection())
            .output()
            .expect("psql is installed: tests/install-tools")
    }

    /// Returns a command that runs a program of PostgreSQL. The server refuses to run as root.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program_folder().join(name));
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn path(&self) -> String {
        self.folder.path().display().to_string()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Ends all processes at once, but removes the shared memory, unlike SIGKILL.
        self.end(Signal::SIGQUIT);
        if thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log"));
            crate::note!("---- log of PostgreSQL\n{}", tail(&log.unwrap_or_default()));
        }
    }
}

/// A lock of table `new_mail`.
pub struct TableLock {
    child: Child,
    input: Option<ChildStdin>,
}

impl Drop for TableLock {
    fn drop(&mut self) {
        // psql exits at the end of its input, which ends the transaction.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Returns the folder of the newest version. Debian installs each version in a folder of its own.
fn program_folder() -> PathBuf {
    let versions = fs::read_dir(VERSIONS).into_iter().flatten();
    let names = versions.filter_map(|version| version.ok()?.file_name().into_string().ok());
    let newest = names.filter_map(|name| name.parse::<u32>().ok()).max();
    let newest = newest.expect("PostgreSQL is installed: tests/install-tools");
    Path::new(VERSIONS).join(newest.to_string()).join("bin")
}

/// The folder in which Debian installs each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The user and group that run the server if the test runs as root.
const NOBODY: u32 = 65_534;
