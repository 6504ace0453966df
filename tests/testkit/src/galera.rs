//! A Galera cluster for one test: real nodes on free loopback ports, in temporary folders.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use mysql::prelude::Queryable;
use mysql::{Conn, OptsBuilder};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::certificates::Pair;
use super::mariadb::{EXISTING_TABLE, PASSWORD, USER, copy_folder, root_at, template};
use super::ports::free_ports;
use super::server_programs::{database_server, low_memory_options};
use super::soak_settings::{LoopbackAuthority, SOAK_SETTINGS};
use super::{needs, needs_program, send_signal, tail, wait_for_within};

/// The nodes of one cluster; each runs until [`Galera::kill`]. Dropping the cluster kills all nodes.
pub struct Galera {
    nodes: Vec<Node>,
    /// The authority of the nodes' certificates, if the servers under test use everything.
    authority: Option<LoopbackAuthority>,
}

struct Node {
    child: Option<Child>,
    port: u16,
    /// The port for replication; state transfers use the next two ports.
    group_port: u16,
    folder: TempDir,
}

impl Galera {
    /// Starts three nodes with the table of existing installations in database `mail`.
    pub fn start() -> Galera {
        Galera::start_nodes(None)
    }

    /// Starts three nodes that speak TLS with clients; [`Galera::settings`] turns everything on.
    pub fn start_with_soak_settings() -> Galera {
        Galera::start_nodes(Some(LoopbackAuthority::make()))
    }

    fn start_nodes(authority: Option<LoopbackAuthority>) -> Galera {
        needs_program("mariadbd");
        needs_program("rsync");
        needs("galera-4", Path::new(PROVIDER).exists());
        let pair = authority.as_ref().map(|authority| authority.pair("galera"));
        let nodes = (0..3).map(|_| Node::new(pair.as_ref())).collect();
        let mut galera = Galera { nodes, authority };
        galera.run_first();
        for statement in [
            "CREATE DATABASE mail".to_owned(),
            format!("CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'"),
            format!("GRANT ALL ON mail.* TO {USER}@'%'"),
            format!("USE mail; {EXISTING_TABLE}"),
            "CREATE TABLE mail.writes (id int AUTO_INCREMENT PRIMARY KEY)".to_owned(),
        ] {
            galera.sql_at(0, &statement);
        }
        for node in 1..galera.nodes.len() {
            galera.spawn(node);
        }
        for node in 1..galera.nodes.len() {
            galera.wait_until_synced(node);
        }
        galera
    }

    /// Returns the additional keys of a server that saves here: none, or hold, feed, retention and TLS.
    pub fn settings(&self) -> Vec<(&str, &str)> {
        match &self.authority {
            None => Vec::new(),
            Some(authority) => [SOAK_SETTINGS, &authority.mysql_settings()].concat(),
        }
    }

    /// Returns whether [`Galera::settings`] turns everything on.
    pub fn has_soak_settings(&self) -> bool {
        self.authority.is_some()
    }

    /// Returns the value of MYSQL_HOST for all nodes.
    pub fn hosts(&self) -> String {
        let hosts: Vec<String> = (0..self.nodes.len()).map(|node| self.host(node)).collect();
        hosts.join(",")
    }

    /// Returns the address of one node.
    pub fn host(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].port)
    }

    /// Sends SIGKILL to a node and waits for its exit.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Sends a signal to a node.
    pub fn signal(&self, node: usize, signal: Signal) {
        let child = self.nodes[node].child.as_ref().expect("the node runs");
        send_signal(child.id(), signal);
    }

    /// Restarts a node with its data on the same port and waits until it is synced.
    pub fn run(&mut self, node: usize) {
        self.spawn(node);
        self.wait_until_synced(node);
    }

    /// Returns the process ids of the running nodes.
    #[allow(dead_code, reason = "the measurements need it")]
    pub fn processes(&self) -> Vec<u32> {
        let running = self.nodes.iter().filter_map(|node| node.child.as_ref());
        running.map(Child::id).collect()
    }

    /// Runs statements as root on one node.
    pub fn sql_at(&self, node: usize, statements: &str) {
        let mut connection = Conn::new(self.root(node)).expect("root may log in");
        for statement in statements.split("; ") {
            let done = connection.query_drop(statement);
            done.unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
    }

    /// Connects as root to database `mail` of one node; reads include everything that any node has committed.
    pub fn connection(&self, node: usize) -> Conn {
        let root = self.root(node).db_name(Some("mail"));
        let mut connection = Conn::new(root).expect("root may log in");
        let waits = connection.query_drop("SET SESSION wsrep_sync_wait = 1");
        waits.expect("a node of Galera");
        connection
    }

    /// Returns how root connects to a node.
    pub fn root(&self, node: usize) -> OptsBuilder {
        root_at(self.nodes[node].port)
    }

    fn run_first(&mut self) {
        let node = &mut self.nodes[0];
        node.child = Some(node.command("gcomm://", None).spawn().expect(INSTALLED));
        self.wait_until_synced(0);
    }

    fn spawn(&mut self, node: usize) {
        let others = self.nodes.iter().map(|node| node.group_port);
        let others: Vec<String> = others.map(|port| format!("127.0.0.1:{port}")).collect();
        let address = format!("gcomm://{}", others.join(","));
        let node = &mut self.nodes[node];
        assert!(node.child.is_none(), "the node is already running");
        // After a crash a node does not know its position and would fetch all data again. Debian's unit recovers the
        // position in the same way.
        let position = node.recover();
        let command = node.command(&address, position.as_deref()).spawn();
        node.child = Some(command.expect(INSTALLED));
    }

    fn wait_until_synced(&mut self, node: usize) {
        let root = self.root(node);
        let node = &mut self.nodes[node];
        let time_limit = Duration::from_secs(60);
        let synced = wait_for_within("a node to be synced", time_limit, || {
            let child = node.child.as_mut().expect("the node was started");
            if !matches!(child.try_wait(), Ok(None)) {
                return Some(false);
            }
            let question = "SHOW STATUS LIKE 'wsrep_local_state_comment'";
            let row: Option<(String, String)> =
                Conn::new(root.clone()).ok()?.query_first(question).ok()?;
            row.filter(|(_, state)| state == "Synced").map(|_| true)
        });
        assert!(synced, "a node ended:\n{}", tail(&node.log()));
    }
}

impl Node {
    /// Makes a node, with the certificate that clients get if they want TLS.
    fn new(pair: Option<&Pair>) -> Node {
        let folder = TempDir::new().expect("a temporary folder");
        let data = folder.path().join("data");
        copy_folder(template(), &data);
        if let Some(pair) = pair {
            // The node may not read the key of another user.
            fs::copy(&pair.chain, folder.path().join("cert.pem")).expect("a copy");
            fs::copy(&pair.key, folder.path().join("key.pem")).expect("a copy");
        }
        if nix::unistd::geteuid().is_root() {
            chown_to_nobody(folder.path());
        }
        Node {
            child: None,
            port: free_ports(1),
            group_port: free_ports(3),
            folder,
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Returns the replication position of a stopped node, or `None` if it never ran in a cluster.
    fn recover(&self) -> Option<String> {
        if !self.folder.path().join("data/grastate.dat").exists() {
            return None;
        }
        let mut command = self.command("gcomm://", None);
        let ended = command
            .arg("--wsrep-recover")
            .stderr(Stdio::piped())
            .output();
        let output = ended.expect(INSTALLED).stderr;
        let output = String::from_utf8_lossy(&output).into_owned();
        let (_, position) = output.split_once("Recovered position: ")?;
        Some(position.lines().next()?.trim().to_owned())
    }

    fn command(&self, cluster: &str, position: Option<&str>) -> Command {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let group = format!("127.0.0.1:{}", self.group_port);
        let log = File::options().create(true).append(true).open(path("log"));
        let has_tls = self.folder.path().join("cert.pem").exists();
        let tls = [("ssl-cert", "cert.pem"), ("ssl-key", "key.pem")];
        let tls = tls.map(|(option, file)| format!("--{option}={}", path(file)));
        let mut command = Command::new(database_server());
        command
            .arg("--no-defaults")
            .args(has_tls.then_some(tls).into_iter().flatten())
            .args(nix::unistd::geteuid().is_root().then_some("--user=nobody"))
            .args(low_memory_options())
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--tmpdir={}", path("")))
            .arg(format!("--socket={}", path("socket")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--port={}", self.port))
            .arg("--bind-address=127.0.0.1")
            .args(["--binlog-format=ROW", "--innodb-autoinc-lock-mode=2"])
            .args(["--wsrep-on=ON", "--wsrep-sst-method=rsync"])
            .arg(format!("--wsrep-provider={PROVIDER}"))
            .arg(format!("--wsrep-cluster-address={cluster}"))
            .arg(format!("--wsrep-node-address={group}"))
            .arg(format!("--wsrep-node-incoming-address=127.0.0.1:{}", self.port))
            .arg(format!("--wsrep-sst-receive-address=127.0.0.1:{}", self.group_port + 2))
            .arg(format!(
                "--wsrep-provider-options=gmcast.listen_addr=tcp://{group};base_port={};ist.recv_addr=127.0.0.1:{};gcache.size=32M",
                self.group_port,
                self.group_port + 1
            ))
            .args(position.map(|position| format!("--wsrep-start-position={position}")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log file"));
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Galera {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.kill();
            if std::thread::panicking() {
                crate::note!("---- log of a node\n{}", tail(&node.log()));
            }
        }
    }
}

/// Gives the files to user nobody: rsync, which transfers a node's data, changes from root to nobody. So nodes run as
/// nobody if the tests run as root.
fn chown_to_nobody(path: &Path) {
    const NOBODY: u32 = 65_534;
    chown(path, Some(NOBODY), Some(NOBODY)).expect("root may give files away");
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a readable folder").flatten();
        entries.for_each(|entry| chown_to_nobody(&entry.path()));
    }
}

/// The library that Debian's package galera-4 installs.
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";
const INSTALLED: &str = "mariadbd and galera-4 are installed: tests/install-tools";
