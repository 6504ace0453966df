//! A MariaDB or MySQL server for one test: its data in a temporary folder, on a free port.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use mysql::prelude::{FromRow, Queryable};
use mysql::{Conn, OptsBuilder};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::ports::free_port;
use super::server_programs::{
    database_server, database_version, install_db, is_mysql, low_memory_options, uses_unix_sockets,
};
use super::{Server, needs_program, send_signal, tail, wait_for_within};

/// The password of [`USER`]; no output may contain it.
pub const PASSWORD: &str = "s3cr3t-of-mariadb";
/// The database user of the server under test. It is not root, because root may write to a read-only database.
pub const USER: &str = "mailer";
/// MySQL needs about three seconds to start, ten times as long on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The table as existing installations have it, word for word.
pub const EXISTING_TABLE: &str = "CREATE TABLE `new_mail` (`mail_id` int(11) NOT NULL auto_increment, \
    `date` datetime NOT NULL, `from` varchar(128) character set latin1 NOT NULL, \
    `to` varchar(128) character set latin1 NOT NULL, `subject` varchar(255) NOT NULL, `body` text NOT NULL, \
    `charset` varchar(32) character set latin1 NOT NULL, `mail` longblob NOT NULL, `spam_score` float NOT NULL, \
    `hash` char(32) character set latin1 NOT NULL, `content_type` varchar(64) character set latin1 NOT NULL, \
    `recipient` varchar(128) character set latin1 NOT NULL, `has_attach` int(11) NOT NULL, \
    `ip_addr` varchar(15) NOT NULL, `delivered` bit(1) NOT NULL default b'0', `attach_info` text NOT NULL, \
    `dkim_valid` tinyint(4) default NULL, PRIMARY KEY (`mail_id`), KEY `to` (`to`), KEY `hash` (`hash`), \
    KEY `date` (`date`)) ENGINE=InnoDB DEFAULT CHARSET=utf8";

/// A database server; runs until [`MariaDb::kill`]. Dropping it kills the process.
pub struct MariaDb {
    child: Option<Child>,
    port: u16,
    options: Vec<String>,
    folder: TempDir,
}

impl MariaDb {
    /// Starts a server with the table of existing installations in database `mail`.
    pub fn start() -> MariaDb {
        let database = MariaDb::start_with(&[]);
        database.sql(EXISTING_TABLE);
        database
    }

    /// Starts a server with these options and an empty database `mail`.
    pub fn start_with(options: &[&str]) -> MariaDb {
        let folder = TempDir::new().expect("a temporary folder");
        copy_folder(template(), &folder.path().join("data"));
        let mut database = MariaDb {
            child: None,
            port: 0,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            folder,
        };
        database.run();
        let mut root = Conn::new(database.root()).expect("root may log in");
        for statement in [
            "CREATE DATABASE mail".to_owned(),
            format!("CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT ALL ON mail.* TO {USER}@'%'"),
        ] {
            root.query_drop(statement).expect("a valid statement");
        }
        database
    }

    /// Starts the server and waits until it answers. The first start chooses a free port; later starts use the same
    /// one.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "the server is already running");
        // Another process may take the port before MariaDB binds it.
        for _ in 0..5 {
            let port = match self.port {
                0 => free_port(),
                port => port,
            };
            self.child = Some(self.spawn(port));
            let is_up = wait_for_within("the database to answer", START_LIMIT, || {
                let root = root_at(port);
                match (Conn::new(root), self.child_mut().try_wait()) {
                    (Ok(_), Ok(None)) => Some(true),
                    (_, Ok(None)) => None,
                    _ => Some(false),
                }
            });
            if is_up {
                self.port = port;
                return;
            }
            self.child = None;
        }
        panic!("MariaDB does not start:\n{}", tail(&self.log()));
    }

    fn spawn(&self, port: u16) -> Child {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("a log file");
        Command::new(database_server())
            .arg("--no-defaults")
            .args(as_this_user())
            .args(low_memory_options())
            .arg(format!("--datadir={}", self.path("data")))
            .arg(format!("--tmpdir={}", self.path("")))
            .arg(format!("--socket={}", self.path("socket")))
            .arg(format!("--pid-file={}", self.path("pid")))
            .arg(format!("--port={port}"))
            .arg("--bind-address=127.0.0.1")
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("mariadbd is installed: tests/install-tools")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn child_mut(&mut self) -> &mut Child {
        self.child.as_mut().expect("the server runs")
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the server with SIGTERM and waits for its end.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Kills the server and restarts it with its data on the same port, with other options.
    pub fn restart_with(&mut self, options: &[&str]) {
        self.kill();
        self.options = options.iter().map(|&option| option.to_owned()).collect();
        self.run();
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        send_signal(child.id(), signal);
    }

    /// Returns the address on which the server listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Returns the path of the server's Unix socket.
    pub fn socket(&self) -> String {
        self.path("socket")
    }

    /// Returns the error log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Returns how root connects.
    pub fn root(&self) -> OptsBuilder {
        root_at(self.port)
    }

    /// Connects as root to database `mail`.
    pub fn connection(&self) -> Conn {
        Conn::new(self.root().db_name(Some("mail"))).expect("root may log in")
    }

    /// Runs a statement as root.
    pub fn sql(&self, statement: &str) {
        let done = self.connection().query_drop(statement);
        done.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    /// Returns the rows of a query.
    pub fn rows<T: FromRow>(&self, query: &str) -> Vec<T> {
        let rows = self.connection().query(query);
        rows.unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    /// Returns the single number that a query yields.
    pub fn number(&self, query: &str) -> u64 {
        self.rows(query).pop().expect("a row")
    }

    /// Kills the connections of [`USER`] and returns their number. Uses SHOW PROCESSLIST for the same reason as
    /// [`running_inserts`](MariaDb::running_inserts).
    pub fn kill_connections(&self) -> usize {
        let mut administrator = self.connection();
        let rows: Vec<mysql::Row> = administrator
            .query("SHOW PROCESSLIST")
            .expect("a process list");
        let is_of_server = |row: &&mysql::Row| {
            row.get::<String, _>("User")
                .is_some_and(|user| user == USER)
        };
        let ids = (rows.iter().filter(is_of_server)).filter_map(|row| row.get::<u64, _>("Id"));
        // A connection may have ended before its KILL.
        ids.filter(|id| administrator.query_drop(format!("KILL {id}")).is_ok())
            .count()
    }

    /// Returns the number of INSERT statements in progress whose state begins with this text. The statements contain octets
    /// that MySQL's information_schema.PROCESSLIST cannot convert.
    pub fn running_inserts(&self, state: &str) -> usize {
        let rows: Vec<mysql::Row> = self.rows("SHOW PROCESSLIST");
        let begins = |row: &mysql::Row, column: &str, with: &str| {
            let value: Option<Option<Vec<u8>>> = row.get(column);
            value
                .flatten()
                .is_some_and(|value| value.starts_with(with.as_bytes()))
        };
        rows.iter()
            .filter(|row| begins(row, "Info", "INSERT") && begins(row, "State", state))
            .count()
    }

    /// Returns the number of rows in the table.
    pub fn count(&self) -> u64 {
        self.number("SELECT COUNT(*) FROM new_mail")
    }

    /// Starts goguerrilla with this database, without Redis, and with these additional keys.
    pub fn server(&self, settings: &[(&str, &str)]) -> Server {
        let host = if uses_unix_sockets() {
            self.socket()
        } else {
            self.address().to_string()
        };
        self.server_at(&host, settings)
    }

    /// Starts goguerrilla as [`MariaDb::server`] does, but with this MYSQL_HOST.
    pub fn server_at(&self, hosts: &str, settings: &[(&str, &str)]) -> Server {
        Server::start(&with_hosts(hosts, settings))
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            crate::note!("---- log of MariaDB\n{}", tail(&self.log()));
        }
    }
}

/// Returns the configuration keys of a server that saves at `hosts`.
pub fn with_hosts<'a>(hosts: &'a str, settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![
        ("GM_STORE", "mysql"),
        ("MYSQL_HOST", hosts),
        ("MYSQL_USER", USER),
        ("MYSQL_PASS", PASSWORD),
        ("MYSQL_DB", "mail"),
        ("REDIS_INTERFACE", ""),
    ];
    all.extend_from_slice(settings);
    all
}

pub fn root_at(port: u16) -> OptsBuilder {
    OptsBuilder::new()
        .ip_or_hostname(Some("127.0.0.1"))
        .tcp_port(port)
        .user(Some("root"))
        .prefer_socket(false)
        .tcp_connect_timeout(Some(Duration::from_secs(5)))
        .read_timeout(Some(Duration::from_secs(30)))
}

/// Returns a data folder as it is after installation. It is made once and kept next to the build for later runs.
pub fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    needs_program(&database_server());
    TEMPLATE.get_or_init(|| {
        let version: String = database_version()
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
            .collect();
        let builds = crate::cache();
        let template = builds.join(version);
        if template.is_dir() {
            return template;
        }
        let folder = TempDir::new_in(builds).expect("a folder next to the build");
        let data = folder.path().join("data");
        let mut install = if is_mysql() {
            let mut server = Command::new(database_server());
            server.args(["--no-defaults", "--initialize-insecure"]);
            server
        } else {
            let mut script = Command::new(install_db());
            script.arg("--no-defaults");
            script.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
            script
        };
        let installed = install
            .arg(format!("--datadir={}", data.display()))
            .args(as_this_user())
            .args(low_memory_options())
            .output()
            .expect("the database is installed: tests/install-tools");
        assert!(installed.status.success(), "{installed:?}");
        // MySQL makes this file anew if it is missing; else all copies would be the same server to a replica.
        let _ = fs::remove_file(data.join("auto.cnf"));
        // If a concurrent run was faster, its folder is used.
        let _ = fs::rename(&data, &template);
        template
    })
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("a readable folder");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Returns the path of a server program. Debian installs servers in /usr/sbin, which is not in a user's PATH.
pub fn program(name: &str) -> String {
    let in_sbin = format!("/usr/sbin/{name}");
    if Path::new(&in_sbin).exists() {
        in_sbin
    } else {
        name.to_owned()
    }
}

/// Returns the option without which MariaDB refuses to run as root.
fn as_this_user() -> Option<&'static str> {
    nix::unistd::geteuid().is_root().then_some("--user=root")
}
