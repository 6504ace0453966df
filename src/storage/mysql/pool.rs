//! Connections to the database: several hosts in order, made anew in the background while all are down.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use mysql::{Conn, OptsBuilder};
use r2d2::{HandleError, ManageConnection, Pool, PooledConnection};

use super::calls::{self, Calls};
use super::facts::Facts;
use super::link::{CALL_TIMEOUT, Link, Server};
use super::mail_ids::{self, MailIds};
use super::member::Member;
use super::nodes::Nodes;
use crate::storage::TableName;
use crate::storage::health::Health;

/// How the database is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct MySqlSettings {
    /// In the order they are tried.
    pub hosts: Vec<MySqlHost>,
    /// Who we are.
    pub user: String,
    /// Never shown.
    pub password: String,
    /// The default database; empty for none.
    pub database: String,
    /// Where mail goes.
    pub table: TableName,
    /// Writers, and connections as many.
    pub workers: usize,
}

/// `host:port` or the path of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MySqlHost {
    /// Over TCP.
    Tcp(String, u16),
    /// Over a socket of this machine.
    Socket(String),
}

/// Told whenever a connection has learned about the table.
pub type Learned = Arc<dyn Fn(&Facts) + Send + Sync>;

/// Makes connections, for the pool and for those who must reach one certain host. Clones share their state.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    settings: MySqlSettings,
    learned: Learned,
    health: Health,
    nodes: Nodes,
    /// Connections that exist, idle ones too.
    links: Arc<AtomicUsize>,
    calls: Arc<Calls>,
}

/// A pooled connection.
pub type PooledLink = PooledConnection<Connector>;

/// Makes the pool; waits for nothing. Its health follows each try to connect.
pub fn pool(connector: &Connector) -> Pool<Connector> {
    Pool::builder()
        .max_size(connector.shared.settings.workers as u32)
        .connection_timeout(RETRY_CEILING * 2)
        .test_on_check_out(false)
        .error_handler(Box::new(TellHealth {
            health: connector.shared.health.clone(),
            links: Arc::clone(&connector.shared.links),
        }))
        .build_unchecked(connector.clone())
}

/// Looks every two seconds whether an idle connection still works, as long as the pool is in use: without mail nobody else
/// would notice that the database is gone. Meanwhile calls that take too long are ended.
///
/// # Errors
/// When a thread cannot be started.
pub fn watch(connector: &Connector, pool: &Arc<Pool<Connector>>) -> std::io::Result<()> {
    calls::look_after(&connector.shared.calls)?;
    let (pool, health) = (Arc::downgrade(pool), connector.shared.health.clone());
    let watching = move || {
        while let Some(pool) = pool.upgrade() {
            while let Some(mut link) = pool.try_get() {
                // One that broke is dropped, and the pool's try to replace it tells how the database is.
                link.broken = link.call(Conn::ping).is_err();
                if !link.broken {
                    health.set_up();
                    // The connection that replaces it reads whether there are ids again.
                    link.broken = health.has_shortage();
                    break;
                }
            }
            drop(pool);
            thread::sleep(LOOK_EVERY);
        }
    };
    let builder = thread::Builder::new().name("mysql-check".to_owned());
    builder.spawn(watching).map(drop)
}

impl Connector {
    /// A connector that tries the hosts in their order.
    pub fn new(settings: MySqlSettings, learned: Learned, health: &Health) -> Connector {
        let names = settings.hosts.iter().map(MySqlHost::to_string).collect();
        let shared = Shared {
            settings,
            learned,
            health: health.clone(),
            nodes: Nodes::new(names),
            links: Arc::default(),
            calls: Arc::default(),
        };
        Connector {
            shared: Arc::new(shared),
        }
    }

    /// Where mail goes.
    pub fn table(&self) -> &TableName {
        &self.shared.settings.table
    }

    /// Connects to the first host that answers, those that are well before those that were left.
    ///
    /// # Errors
    /// What the last host said.
    pub fn connect_any(&self) -> mysql::Result<Link> {
        let mut outcome = Err(mysql::Error::DriverError(
            mysql::DriverError::ConnectTimeout,
        ));
        let nodes = &self.shared.nodes;
        for host in nodes.order() {
            // One that hangs is left after a short look; a connection may take longer.
            let looked = match nodes.count() {
                1 => Ok(()),
                _ => self.connect_to_look(host).map(drop),
            };
            outcome = looked.and_then(|()| self.connect_to(host));
            match &outcome {
                Ok(_) => break,
                Err(error) => nodes.leave(host, &error.to_string()),
            }
        }
        outcome
    }

    /// Connects to a server that knows what became of a COMMIT: the one that it was sent to, or, where that one has stopped
    /// listening, a node of its Galera cluster that has closed ranks without it. Any other host proves nothing, and no other
    /// address of its name does.
    ///
    /// # Errors
    /// What the server that the COMMIT was sent to said.
    pub fn connect_to_witness(&self, sent_to: &Server) -> mysql::Result<Link> {
        let error = match self.connect_at(sent_to.host, sent_to.address) {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        let Some(lost) = sent_to.member.as_ref().filter(|_| is_refused(&error)) else {
            return Err(error);
        };
        let others = self.shared.nodes.order().into_iter();
        for other in others.filter(|other| *other != sent_to.host) {
            if let Ok(link) = self.connect_to(other)
                && (link.server.member.as_ref()).is_some_and(|witness| witness.outlived(lost))
            {
                return Ok(link);
            }
        }
        Err(error)
    }

    /// Connects to one host, sets up the session and reads the facts. Looking up its name takes as long as the system's
    /// resolver does. The pool's own threads wait for that; a writer only where a COMMIT went unanswered.
    ///
    /// # Errors
    /// What the host said.
    pub fn connect_to(&self, host: usize) -> mysql::Result<Link> {
        self.connect_at(host, None)
    }

    fn connect_at(&self, host: usize, only: Option<SocketAddr>) -> mysql::Result<Link> {
        let settings = &self.shared.settings;
        let (mut connection, address) = self.reach(host, only, |options| {
            options
                .read_timeout(Some(CALL_TIMEOUT))
                .write_timeout(Some(CALL_TIMEOUT))
                .stmt_cache_size(STATEMENTS_KEPT)
                .init(SESSION_SETTINGS.to_vec())
        })?;
        let facts = Facts::read(&mut connection, &settings.table)?;
        let member = Member::read(&mut connection)?;
        self.learn(&facts);
        self.shared.health.set_up();
        let server = Server {
            host,
            address,
            member,
        };
        let Shared { calls, links, .. } = &*self.shared;
        Ok(Link::new(connection, facts, server, calls, links))
    }

    /// Connects to one host for a short question: what it does not answer in a moment it will not answer to writers.
    ///
    /// # Errors
    /// What the host said.
    pub fn connect_to_look(&self, host: usize) -> mysql::Result<Conn> {
        let reached = self.reach(host, None, |options| {
            options
                .read_timeout(Some(LOOK_TIMEOUT))
                .write_timeout(Some(LOOK_TIMEOUT))
        });
        reached.map(|(connection, _)| connection)
    }

    /// Connects to a host, by the first of its addresses that answers, or by the only one that will do.
    #[expect(clippy::indexing_slicing, reason = "a host is its place among them")]
    fn reach(
        &self,
        host: usize,
        only: Option<SocketAddr>,
        with: impl Fn(OptsBuilder) -> OptsBuilder,
    ) -> mysql::Result<(Conn, Option<SocketAddr>)> {
        let options = || with(self.options());
        let (name, port) = match &self.shared.settings.hosts[host] {
            MySqlHost::Socket(path) => {
                return Ok((Conn::new(options().socket(Some(path)))?, None));
            }
            MySqlHost::Tcp(name, port) => (name.as_str(), *port),
        };
        let addresses = match only {
            Some(address) => vec![address],
            None => (name, port).to_socket_addrs()?.collect(),
        };
        let mut outcome = Err(std::io::Error::other(format!("{name} has no address")).into());
        for address in addresses {
            let ip = address.ip().to_string();
            outcome = Conn::new(options().ip_or_hostname(Some(ip)).tcp_port(port))
                .map(|connection| (connection, Some(address)));
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    fn options(&self) -> OptsBuilder {
        let settings = &self.shared.settings;
        let connect_timeout = match settings.hosts.len() {
            1 => CONNECT_TIMEOUT,
            // Another one waits.
            _ => LOOK_TIMEOUT,
        };
        OptsBuilder::new()
            .user(Some(settings.user.as_str()))
            .pass(Some(settings.password.as_str()))
            .db_name(Some(settings.database.as_str()).filter(|name| !name.is_empty()))
            // A loopback TCP connection stays one.
            .prefer_socket(false)
            .tcp_connect_timeout(Some(connect_timeout))
    }

    /// The hosts, and which of them are well.
    pub fn nodes(&self) -> &Nodes {
        &self.shared.nodes
    }

    /// Lets whoever asks after the store see the state of each host.
    pub fn tell_nodes(&self) {
        self.shared.health.set_parts(self.shared.nodes.lines());
    }

    /// Reads the facts again where an error shows that they have changed, so that the cure is named at once and not only
    /// by the next connection. Should this fail, that one does.
    pub fn look_again(&self, connection: &mut Conn) {
        if let Ok(facts) = Facts::read(connection, &self.shared.settings.table) {
            self.learn(&facts);
        }
    }

    /// Passes on what a connection has learned about the table.
    fn learn(&self, facts: &Facts) {
        (self.shared.learned)(facts);
        let ids = facts.mail_ids.as_ref();
        let shortage = ids.and_then(|ids| ids.shortage(self.table()));
        // That an INSERT found no id is kept until there are ids without doubt.
        if shortage.is_some() || ids.is_none_or(MailIds::has_more) {
            self.shared.health.set_shortage(shortage);
        }
    }

    /// Marks the store as not ready until a connection finds that there are ids; returns the reason and its cure.
    pub fn ids_used_up(&self, error: &mysql::Error, facts: &Facts) -> String {
        let why = mail_ids::explain(error, self.table(), facts.mail_ids.as_ref());
        self.shared.health.set_shortage(Some(why.clone()));
        why
    }

    /// Why no host can be reached; `None` while that is not known.
    pub fn why_down(&self) -> Option<String> {
        self.shared.health.why_down()
    }
}

impl ManageConnection for Connector {
    type Connection = Link;
    type Error = mysql::Error;

    fn connect(&self) -> Result<Link, mysql::Error> {
        let mut link = self.connect_any()?;
        // Behind what was read of the table.
        link.begin_by_itself()?;
        Ok(link)
    }

    fn is_valid(&self, link: &mut Link) -> Result<(), mysql::Error> {
        link.call(Conn::ping)
    }

    fn has_broken(&self, link: &mut Link) -> bool {
        // One that comes back in the middle of a transaction, after a panic, must not carry it into the next batch.
        link.broken || link.in_transaction || self.shared.nodes.shall_move(link.server.host)
    }
}

/// Hears of each try to connect that failed.
#[derive(Debug)]
struct TellHealth {
    health: Health,
    links: Arc<AtomicUsize>,
}

impl HandleError<mysql::Error> for TellHealth {
    fn handle_error(&self, error: mysql::Error) {
        // While another connection lives, one more that is refused is no reason to turn mail away: the server may allow
        // fewer than there are writers. A connection that is dead is dropped by whoever tries to use it.
        if self.links.load(Ordering::SeqCst) == 0 {
            self.health.set_down(&error.to_string());
        }
    }
}

/// Nothing listens there: the server has ended, and all its transactions with it.
fn is_refused(error: &mysql::Error) -> bool {
    let refused = std::io::ErrorKind::ConnectionRefused;
    match error {
        mysql::Error::IoError(error) => error.kind() == refused,
        mysql::Error::DriverError(mysql::DriverError::CouldNotConnect(Some((_, _, kind)))) => {
            *kind == refused
        }
        _ => false,
    }
}

impl fmt::Display for MySqlHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MySqlHost::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            MySqlHost::Tcp(name, port) => write!(f, "{name}:{port}"),
            MySqlHost::Socket(path) => f.write_str(path),
        }
    }
}

impl fmt::Debug for MySqlSettings {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlSettings")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// Made explicit, so that no server's configuration changes what a 250 means: values that do not fit are errors, a lock
/// of a row or of the whole table is not waited for longer than a client would like.
const SESSION_SETTINGS: &[&str] = &[
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
     SESSION innodb_lock_wait_timeout = 5, SESSION lock_wait_timeout = 5, SESSION autocommit = 1",
    "SET NAMES utf8mb4",
];
/// To reach a host at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The same where there are several hosts, and for one read or write of a look at one of them.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest pause between two tries to reach a database that is down.
const RETRY_CEILING: Duration = Duration::from_secs(2);
/// Between two looks at an idle connection.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// INSERTs of each number of rows, and the few others: fewer, and the library would close INSERTs that are still known here.
const STATEMENTS_KEPT: usize = 80;
