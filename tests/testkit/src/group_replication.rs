//! A MySQL replication group for one test: three real servers on free loopback ports, in temporary folders, with one primary.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::mariadb::{EXISTING_TABLE, PASSWORD, USER, copy_folder, root_at, template};
use super::ports::free_ports;
use super::server_programs::{database_server, is_mysql, low_memory_options};
use super::{needs, send_signal, tail, wait_for_within};

/// The members of one group; each runs until [`ReplicationGroup::kill`]. Dropping the group kills all of them.
pub struct ReplicationGroup {
    members: Vec<Member>,
}

struct Member {
    child: Option<Child>,
    number: usize,
    port: u16,
    /// The port for messages of the group.
    group_port: u16,
    folder: TempDir,
}

impl ReplicationGroup {
    /// Starts three members with the table of existing installations in database `mail`. Member 0 is the primary.
    pub fn start() -> ReplicationGroup {
        needs("MySQL", is_mysql());
        let members: Vec<Member> = (0..3).map(Member::new).collect();
        let mut group = ReplicationGroup { members };
        for member in 0..group.members.len() {
            group.spawn(member);
        }
        for member in 0..group.members.len() {
            group.wait_until_it_answers(member);
            // The account must not become a transaction of the member's own.
            group.sql_at(
                member,
                &format!(
                    "SET SESSION sql_log_bin = 0; CREATE USER {RECOVERY_USER}@'%' IDENTIFIED BY '{PASSWORD}'; \
                     GRANT REPLICATION SLAVE, CONNECTION_ADMIN, BACKUP_ADMIN, GROUP_REPLICATION_STREAM ON *.* \
                     TO {RECOVERY_USER}@'%'; SET SESSION sql_log_bin = 1; \
                     CHANGE REPLICATION SOURCE TO SOURCE_USER = '{RECOVERY_USER}', SOURCE_PASSWORD = '{PASSWORD}' \
                     FOR CHANNEL 'group_replication_recovery'"
                ),
            );
        }
        group.sql_at(
            0,
            "SET GLOBAL group_replication_bootstrap_group = ON; START GROUP_REPLICATION; \
             SET GLOBAL group_replication_bootstrap_group = OFF; CREATE DATABASE mail; \
             CREATE TABLE mail.writes (id int AUTO_INCREMENT PRIMARY KEY)",
        );
        group.sql_at(
            0,
            &format!("CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'"),
        );
        group.sql_at(0, &format!("GRANT ALL ON mail.* TO {USER}@'%'"));
        group.sql_at(
            0,
            &format!("GRANT SELECT ON performance_schema.replication_group_members TO {USER}@'%'"),
        );
        group.sql_at(0, &format!("USE mail; {EXISTING_TABLE}"));
        for member in 1..group.members.len() {
            group.join(member);
        }
        group
    }

    /// Returns the value of MYSQL_HOST for all members.
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = (0..self.members.len())
            .map(|member| self.host(member))
            .collect();
        hosts.join(",")
    }

    /// Returns the address of one member.
    pub fn host(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].port)
    }

    /// Returns how root connects to a member.
    pub fn root(&self, member: usize) -> OptsBuilder {
        root_at(self.members[member].port)
    }

    /// Connects as root to a member.
    pub fn connection(&self, member: usize) -> Conn {
        Conn::new(self.root(member)).expect("root may log in")
    }

    /// Runs statements as root on one member.
    pub fn sql_at(&self, member: usize, statements: &str) {
        let mut connection = self.connection(member);
        for statement in statements.split("; ") {
            let done = connection.query_drop(statement);
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    /// Sends a signal to a member.
    pub fn signal(&self, member: usize, signal: Signal) {
        let child = self.members[member]
            .child
            .as_ref()
            .expect("the member runs");
        send_signal(child.id(), signal);
    }

    /// Sends SIGKILL to a member and waits for its exit.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Waits until a member that got a signal has ended.
    pub fn wait_for_end(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            let _ = child.wait();
        }
    }

    /// Restarts a member with its data on the same port; it joins the group again.
    pub fn run(&mut self, member: usize) {
        self.spawn(member);
        self.wait_until_it_answers(member);
        self.join(member);
    }

    /// Makes a running member join the group and waits until it is ONLINE.
    pub fn join(&self, member: usize) {
        self.sql_at(member, "START GROUP_REPLICATION");
        wait_for_within("a member to be online", LIMIT, || {
            (self.state(member)? == "ONLINE").then_some(())
        });
    }

    /// Returns the state of a member as it reports it itself.
    pub fn state(&self, member: usize) -> Option<String> {
        let own = "SELECT MEMBER_STATE FROM performance_schema.replication_group_members WHERE MEMBER_ID = @@server_uuid";
        Conn::new(self.root(member)).ok()?.query_first(own).ok()?
    }

    /// Waits until one of these members takes writes and returns it.
    pub fn wait_for_primary(&self, among: &[usize]) -> usize {
        wait_for_within("a primary", LIMIT, || {
            among.iter().copied().find(|member| {
                let question = "SELECT @@global.super_read_only";
                let is_read_only: Option<Option<u8>> = Conn::new(self.root(*member))
                    .ok()
                    .and_then(|mut connection| connection.query_first(question).ok());
                is_read_only == Some(Some(0))
            })
        })
    }

    fn spawn(&mut self, member: usize) {
        let seeds: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.group_port))
            .collect();
        let member = &mut self.members[member];
        assert!(member.child.is_none(), "the member is already running");
        member.child = Some(
            member
                .command(&seeds.join(","))
                .spawn()
                .expect("MySQL is installed"),
        );
    }

    fn wait_until_it_answers(&mut self, member: usize) {
        let root = self.root(member);
        let member = &mut self.members[member];
        let answers = wait_for_within("a member to answer", LIMIT, || {
            let child = member.child.as_mut().expect("the member was started");
            match (Conn::new(root.clone()), child.try_wait()) {
                (Ok(_), Ok(None)) => Some(true),
                (_, Ok(None)) => None,
                _ => Some(false),
            }
        });
        assert!(answers, "a member ended:\n{}", tail(&member.log()));
    }
}

impl Member {
    fn new(number: usize) -> Member {
        let folder = TempDir::new().expect("a temporary folder");
        copy_folder(template(), &folder.path().join("data"));
        Member {
            child: None,
            number,
            port: free_ports(1),
            group_port: free_ports(1),
            folder,
        }
    }

    fn command(&self, seeds: &str) -> Command {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let log = File::options().create(true).append(true).open(path("log"));
        let mut command = Command::new(database_server());
        command
            .arg("--no-defaults")
            .args(nix::unistd::geteuid().is_root().then_some("--user=root"))
            .args(low_memory_options())
            // A server without performance schema cannot be a member.
            .args([
                "--performance-schema=ON",
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
            ])
            .arg(format!("--log-bin={}", path("data/bin")))
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--tmpdir={}", path("")))
            .arg(format!("--socket={}", path("socket")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--report-host=127.0.0.1"])
            .arg(format!("--report-port={}", self.port))
            .arg(format!("--server-id={}", self.number + 1))
            .arg("--plugin-load-add=group_replication.so")
            .arg(format!("--group-replication-group-name={GROUP}"))
            .arg("--group-replication-start-on-boot=OFF")
            .arg(format!(
                "--group-replication-local-address=127.0.0.1:{}",
                self.group_port
            ))
            .arg(format!("--group-replication-group-seeds={seeds}"))
            .arg("--group-replication-ip-allowlist=127.0.0.1/8")
            .arg("--group-replication-recovery-get-public-key=ON")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log file"));
        command
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for ReplicationGroup {
    fn drop(&mut self) {
        for member in &mut self.members {
            member.kill();
            if std::thread::panicking() {
                crate::note!(
                    "---- log of member {}\n{}",
                    member.number,
                    tail(&member.log())
                );
            }
        }
    }
}

/// The name of the group.
const GROUP: &str = "5f6e1a2c-0b1d-4c3e-8a9f-7d6c5b4a3e2f";
/// The account with which a member fetches what it missed.
const RECOVERY_USER: &str = "recovery";
/// The time limit for a member to answer or to join, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
