//! A Redis server for one test, in a temporary folder on a free port; a cluster of them; and a fake Redis with wrong
//! answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use r2d2_redis::redis;
use tempfile::TempDir;

use super::ports::free_port;
use super::server_programs::{redis_server, uses_unix_sockets};
use super::{TEST_TIMEOUT, command, let_time_pass, send_signal, wait_for};

/// A Redis server; runs until [`Redis::kill`]. Dropping it kills the process.
pub struct Redis {
    child: Option<Child>,
    port: u16,
    options: Vec<String>,
    password: Option<String>,
    folder: TempDir,
}

impl Redis {
    /// Starts a server with default options, but without saving to disk.
    pub fn start() -> Redis {
        Redis::start_with(&[])
    }

    /// Starts a server with these options, such as `--maxmemory 1mb`.
    pub fn start_with(options: &[&str]) -> Redis {
        let password = options
            .iter()
            .position(|option| *option == "--requirepass")
            .map(|index| options[index + 1].to_owned());
        let mut redis = Redis {
            child: None,
            port: 0,
            options: options.iter().map(|&option| option.to_owned()).collect(),
            password,
            folder: TempDir::new().expect("a temporary folder"),
        };
        redis.run();
        redis
    }

    /// Starts the server and waits until it answers. The first start chooses a free port; later starts use the same
    /// one.
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "the server is already running");
        // Another process may take the port before Redis binds it.
        for _ in 0..5 {
            let port = match self.port {
                0 => free_port(),
                port => port,
            };
            let socket = self.socket();
            let child = command(&redis_server())
                .args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
                .args(["--port", &port.to_string()])
                .arg("--dir")
                .arg(self.folder.path())
                .arg("--unixsocket")
                .arg(&socket)
                .args(&self.options)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("redis-server is installed: tests/install-tools");
            let child = self.child.insert(child);
            let is_up = wait_for("Redis to answer", || {
                let answers = answers_ping(&socket);
                match (answers, child.try_wait()) {
                    (true, Ok(None)) => Some(true),
                    (false, Ok(None)) => None,
                    _ => Some(false),
                }
            });
            if is_up {
                self.port = port;
                return;
            }
            self.child = None;
        }
        panic!("Redis does not start");
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends a signal to the server.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        send_signal(child.id(), signal);
    }

    /// Returns the value of REDIS_INTERFACE: `host:port`, or the path of the Unix socket if the tests use sockets.
    pub fn address(&self) -> String {
        if uses_unix_sockets() {
            self.socket()
        } else {
            self.tcp_address()
        }
    }

    /// Returns `host:port`.
    pub fn tcp_address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the path of the Unix socket.
    pub fn socket(&self) -> String {
        self.folder.path().join("socket").display().to_string()
    }

    /// Sets the password that [`Redis::command`] sends from now on; an empty one is not sent.
    pub fn set_password(&mut self, password: &str) {
        self.password = Some(password.to_owned()).filter(|password| !password.is_empty());
    }

    /// Runs a command and returns its answer.
    pub fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let password = self.password.as_deref().unwrap_or_default();
        let url = format!("redis://:{password}@{}/", self.tcp_address());
        let url = match password {
            "" => format!("redis://{}/", self.tcp_address()),
            _ => url,
        };
        let client = redis::Client::open(url).expect("an address");
        let mut connection = client
            .get_connection_with_timeout(TEST_TIMEOUT)
            .expect("Redis runs");
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        wait_for("an answer of Redis", || {
            match command.query(&mut connection) {
                // The nodes of a cluster lose sight of each other while the machine is busy.
                Err(error) if error.code() == Some("CLUSTERDOWN") => None,
                answer => Some(answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))),
            }
        })
    }

    /// Runs many commands in one pipeline.
    fn pipe(&self, commands: &redis::Pipeline) {
        let client = redis::Client::open(format!("redis://{}/", self.tcp_address()));
        let mut connection = client
            .and_then(|client| client.get_connection())
            .expect("the server runs");
        let done = commands.query::<()>(&mut connection);
        done.expect("valid commands");
    }

    /// Returns the entries of a stream, the oldest first, each with its fields.
    pub fn stream_entries(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let entries: Vec<Vec<redis::Value>> = self.command(&["XRANGE", name, "-", "+"]);
        let fields = entries
            .iter()
            .map(|entry| redis::from_redis_value(&entry[1]).expect("fields and values"));
        fields.collect()
    }

    /// Returns the sorted hashes of the stored bodies. Keys with a colon were written by `check`.
    pub fn bodies(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.command(&["KEYS", "*"]);
        keys.retain(|key| !key.contains(':'));
        keys.sort();
        keys
    }
}

/// Returns whether the server answers on its Unix socket. A Redis listens before it finds that another of its ports is
/// taken, and ends then.
fn answers_ping(socket: &str) -> bool {
    let ping = || {
        let mut socket = UnixStream::connect(socket)?;
        socket.set_read_timeout(Some(TEST_TIMEOUT))?;
        socket.write_all(b"PING\r\n")?;
        socket.read(&mut [0; 64])
    };
    ping().is_ok_and(|octets| octets > 0)
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a [`FakeRedis`] answers every command.
#[derive(Clone, Copy, Debug)]
pub enum FakeBehavior {
    /// Sends these octets each time something arrives.
    Replies(&'static [u8]),
    /// Sends one of these octets every 50 ms.
    RepliesSlowly(&'static [u8]),
    /// Sends these octets and closes the connection.
    RepliesAndCloses(&'static [u8]),
    /// Sends the first octets at once, and the others each time something arrives.
    Greets(&'static [u8], &'static [u8]),
    /// Reads and sends nothing.
    Hangs,
}

/// A server on the port where Redis is expected.
pub struct FakeRedis {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl FakeRedis {
    /// Starts listening on a free port.
    pub fn start(behavior: FakeBehavior) -> FakeRedis {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let stopped = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let (stop, count) = (Arc::clone(&stopped), Arc::clone(&connections));
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                // This thread ends with its client.
                if let Ok(client) = client {
                    thread::spawn(move || serve_client(&client, behavior));
                }
            }
        });
        FakeRedis {
            address,
            stopped,
            connections,
            thread: Some(thread),
        }
    }

    /// Returns `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FakeRedis {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve_client(mut client: &TcpStream, behavior: FakeBehavior) {
    let _ = client.set_read_timeout(Some(TEST_TIMEOUT));
    let mut octets = [0; 4096];
    if let FakeBehavior::Greets(greeting, _) = behavior
        && client.write_all(greeting).is_err()
    {
        return;
    }
    while client.read(&mut octets).is_ok_and(|count| count > 0) {
        let sent = match behavior {
            FakeBehavior::Replies(text) | FakeBehavior::Greets(_, text) => client.write_all(text),
            FakeBehavior::RepliesAndCloses(text) => {
                let _ = client.write_all(text);
                return;
            }
            FakeBehavior::RepliesSlowly(text) => text.iter().try_for_each(|octet| {
                let_time_pass(Duration::from_millis(50), "a slow Redis");
                client.write_all(&[*octet])
            }),
            FakeBehavior::Hangs => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Reads bodies from whichever node of a cluster has them.
pub struct BodyReader {
    connections: Vec<redis::Connection>,
}

impl BodyReader {
    /// Returns the body with this hash, if the node of its slot has it.
    pub fn body(&mut self, hash: &str) -> Option<Vec<u8>> {
        for connection in &mut self.connections {
            match redis::cmd("GET").arg(hash).query(connection) {
                Ok(body) => return body,
                // The slot belongs to another node.
                Err(error) if error.kind() == redis::ErrorKind::Moved => {}
                Err(error) => panic!("{hash}: {error}"),
            }
        }
        panic!("no node has the slot of {hash}");
    }
}

/// Three masters that share the slots.
pub struct RedisCluster {
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Connects to every node.
    pub fn reader(&self) -> BodyReader {
        let connect = |node: &Redis| {
            let client = redis::Client::open(format!("redis://{}/", node.address()));
            let connection = client.and_then(|client| client.get_connection());
            connection.expect("the node runs")
        };
        let connections = self.nodes.iter().map(connect).collect();
        BodyReader { connections }
    }

    /// Starts a cluster that keeps serving the slots of the remaining nodes when a node is lost.
    pub fn start() -> RedisCluster {
        RedisCluster::start_with(&[])
    }

    /// Starts a cluster with additional options.
    pub fn start_with(own: &[&str]) -> RedisCluster {
        RedisCluster::start_nodes(
            |_| own.iter().map(|&option| option.to_owned()).collect(),
            None,
        )
    }

    /// Starts a cluster with these additional options of each node. `tls_ports` are the ports of the nodes if they find each
    /// other with TLS.
    pub(crate) fn start_nodes(
        own: impl Fn(usize) -> Vec<String>,
        tls_ports: Option<&[u16]>,
    ) -> RedisCluster {
        let buses: Vec<String> = (0..3).map(|_| free_port().to_string()).collect();
        let start = |(number, bus): (usize, &String)| {
            let options = ["--cluster-enabled", "yes", "--cluster-port", bus];
            let behavior = [
                "--cluster-require-full-coverage",
                "no",
                "--cluster-node-timeout",
                "1000",
            ];
            let own = own(number);
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            Redis::start_with(&[&options[..], &behavior[..], &own].concat())
        };
        let nodes: Vec<Redis> = buses.iter().enumerate().map(start).collect();
        for (number, node) in nodes.iter().enumerate() {
            let (first, last) = RedisCluster::slots_of(number);
            let range = [first.to_string(), last.to_string()];
            let _: String = node.command(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
            let epoch = (number + 1).to_string();
            let _: String = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
        }
        for (number, (node, bus)) in nodes.iter().zip(&buses).enumerate().skip(1) {
            let port = tls_ports.map_or(node.port, |ports| ports[number]);
            let port = port.to_string();
            let _: String = nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
        }
        let cluster = RedisCluster { nodes };
        cluster.wait_until_all_slots_are_served();
        cluster
    }

    /// Returns the value of REDIS_INTERFACE for all nodes.
    pub fn addresses(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(Redis::tcp_address).collect();
        addresses.join(",")
    }

    /// Waits until every node reports that all slots are served.
    pub fn wait_until_all_slots_are_served(&self) {
        for node in &self.nodes {
            wait_for("all slots to be served", || {
                let info: String = node.command(&["CLUSTER", "INFO"]);
                let lines = ["cluster_state:ok", "cluster_slots_ok:16384"];
                lines.iter().all(|line| info.contains(line)).then_some(())
            });
        }
    }

    /// Starts the migration of every slot of node `from` to node `to`; existing keys stay.
    pub fn start_slot_migration(&self, from: usize, to: usize) {
        let id = |node: usize| -> String { self.nodes[node].command(&["CLUSTER", "MYID"]) };
        let (giver, taker) = (id(from), id(to));
        let (first, last) = RedisCluster::slots_of(from);
        for (node, state, other) in [(to, "IMPORTING", &giver), (from, "MIGRATING", &taker)] {
            let mut moves = redis::pipe();
            for slot in first..=last {
                let words = ["CLUSTER", "SETSLOT", &slot.to_string(), state, other];
                words[1..]
                    .iter()
                    .fold(moves.cmd(words[0]), |command, word| command.arg(*word))
                    .ignore();
            }
            self.nodes[node].pipe(&moves);
        }
    }

    /// Returns the hashes of the bodies on each node.
    pub fn bodies_by_node(&self) -> Vec<Vec<String>> {
        self.nodes.iter().map(Redis::bodies).collect()
    }

    /// Returns the first and last slot that a node has initially.
    fn slots_of(node: usize) -> (usize, usize) {
        let first = node * SLOTS_PER_NODE;
        (first, (first + SLOTS_PER_NODE - 1).min(16_383))
    }

    /// Returns the node that has a slot initially.
    pub fn initial_owner(slot: usize) -> usize {
        slot / SLOTS_PER_NODE
    }

    /// Deletes all keys and gives nearly all slots to one node. Each node keeps one slot, because a node without slots
    /// would become a replica.
    pub fn move_slots_to(&self, owner: usize) {
        let id: String = self.nodes[owner].command(&["CLUSTER", "MYID"]);
        for node in &self.nodes {
            let _: String = node.command(&["FLUSHALL"]);
        }
        for node in self.nodes.iter().rev() {
            let mut moves = redis::pipe();
            for slot in (0..16_384).filter(|slot| slot % SLOTS_PER_NODE != 0) {
                moves
                    .cmd("CLUSTER")
                    .arg("SETSLOT")
                    .arg(slot)
                    .arg("NODE")
                    .arg(&id)
                    .ignore();
            }
            node.pipe(&moves);
        }
    }
}

/// The slots of each node; the last one has fewer.
const SLOTS_PER_NODE: usize = 5_500;
