//! Connecting to the database: to the first of several hosts that answers, or to a certain one.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use mysql::{Conn, OptsBuilder};

use super::call_timeout::CallWatchdog;
use super::connection::{CALL_TIMEOUT, DbConnection, Server};
use super::galera::GaleraNode;
use super::guard::{guarded, is_panic};
use super::hanging::HangingCommits;
use super::hosts::Hosts;
use super::mail_ids::{self, MailIds};
use super::settings::{MySqlHost, MySqlSettings};
use super::table_info::TableInfo;
use crate::store::TableName;
use crate::store::health::Health;
use crate::sync::lock;

/// Told whenever a connection has learned about the table.
pub type OnTableInfo = Arc<dyn Fn(&TableInfo) + Send + Sync>;

/// Makes connections, for the pool and for those who must reach one certain host. Clones share their state.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<Shared>,
}

/// What the clones of a [`Connector`] share.
pub struct Shared {
    settings: MySqlSettings,
    on_table_info: OnTableInfo,
    health: Health,
    hosts: Hosts,
    hanging: HangingCommits,
    /// Why every host refused the last connection.
    refused: Mutex<Option<String>>,
    /// Connections that exist, idle ones too.
    links: Arc<AtomicUsize>,
    calls: Arc<CallWatchdog>,
}

impl Connector {
    /// A connector that tries the hosts in their order.
    pub fn new(settings: MySqlSettings, learned: OnTableInfo, health: &Health) -> Connector {
        let names = settings.hosts.iter().map(MySqlHost::to_string).collect();
        let shared = Shared {
            settings,
            on_table_info: learned,
            health: health.clone(),
            hosts: Hosts::new(names),
            hanging: HangingCommits::default(),
            refused: Mutex::default(),
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

    /// Connects to the first host that answers, those that are well before those that were left. A host on which a COMMIT
    /// hangs is not asked.
    ///
    /// # Errors
    /// What the last host said.
    pub fn connect_any(&self) -> mysql::Result<DbConnection> {
        let Shared {
            hosts: nodes,
            hanging,
            ..
        } = &*self.shared;
        let mut outcome = Err(mysql::DriverError::ConnectTimeout.into());
        let mut are_refused = true;
        for host in nodes.order() {
            if let Some(reason) = hanging.reason_at(host) {
                outcome = Err(io::Error::other(reason).into());
                are_refused = false;
                continue;
            }
            // One that hangs is left after a short look; a connection may take longer.
            let looked = match nodes.count() {
                1 => Ok(()),
                _ => self.connect_for_probe(host).map(drop),
            };
            outcome = looked.and_then(|()| self.connect_to(host));
            match &outcome {
                Ok(_) => break,
                Err(error) => {
                    are_refused &= is_away(error);
                    nodes.mark_down(host, &error.to_string());
                }
            }
        }
        let error = outcome.as_ref().err().filter(|_| are_refused);
        *lock(&self.shared.refused) = error.map(ToString::to_string);
        outcome
    }

    /// Connects to a server that knows what became of a COMMIT: the one that it was sent to, or, where that one has stopped
    /// listening, a node of its Galera cluster that has closed ranks without it. Any other host proves nothing, and no other
    /// address of its name does.
    ///
    /// # Errors
    /// What the server that the COMMIT was sent to said.
    pub fn connect_for_commit_lookup(&self, sent_to: &Server) -> mysql::Result<DbConnection> {
        let error = match self.connect_at(sent_to.host, sent_to.address) {
            Ok(link) => return Ok(link),
            Err(error) => error,
        };
        let Some(lost) = sent_to.galera.as_ref().filter(|_| is_refused(&error)) else {
            return Err(error);
        };
        let others = self.shared.hosts.order().into_iter();
        for other in others.filter(|other| *other != sent_to.host) {
            if let Ok(link) = self.connect_to(other)
                && (link.server.galera.as_ref())
                    .is_some_and(|witness| witness.is_surviving_peer_of(lost))
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
    pub fn connect_to(&self, host: usize) -> mysql::Result<DbConnection> {
        self.connect_at(host, None)
    }

    fn connect_at(&self, host: usize, only: Option<SocketAddr>) -> mysql::Result<DbConnection> {
        let settings = &self.shared.settings;
        let (mut connection, address) = self.connect_tcp(host, only, |options| {
            options
                .read_timeout(Some(CALL_TIMEOUT))
                .write_timeout(Some(CALL_TIMEOUT))
                .stmt_cache_size(STATEMENT_CACHE_SIZE)
                .init(SESSION_SETTINGS.to_vec())
        })?;
        let (facts, member) = guarded(|| {
            let facts = TableInfo::read(&mut connection, &settings.table)?;
            Ok((facts, GaleraNode::read(&mut connection)?))
        })?;
        self.learn(&facts);
        self.shared.health.set_up();
        let server = Server {
            host,
            address,
            connection_id: connection.connection_id(),
            galera: member,
        };
        let Shared { calls, links, .. } = &*self.shared;
        Ok(DbConnection::new(connection, facts, server, calls, links))
    }

    /// Connects to one host for a short question: what it does not answer in a moment it will not answer to writers.
    ///
    /// # Errors
    /// What the host said.
    pub fn connect_for_probe(&self, host: usize) -> mysql::Result<Conn> {
        self.connect_for_idle_check(host, None)
    }

    /// The same, at one of its addresses.
    ///
    /// # Errors
    /// What the host said.
    pub fn connect_for_idle_check(
        &self,
        host: usize,
        only: Option<SocketAddr>,
    ) -> mysql::Result<Conn> {
        let reached = self.connect_tcp(host, only, |options| {
            options
                .read_timeout(Some(PROBE_TIMEOUT))
                .write_timeout(Some(PROBE_TIMEOUT))
        });
        reached.map(|(connection, _)| connection)
    }

    /// Connects to a host, by the first of its addresses that answers, or by the only one that will do.
    #[expect(clippy::indexing_slicing, reason = "a host is its place among them")]
    fn connect_tcp(
        &self,
        host: usize,
        only: Option<SocketAddr>,
        with: impl Fn(OptsBuilder) -> OptsBuilder,
    ) -> mysql::Result<(Conn, Option<SocketAddr>)> {
        let options = || with(self.options());
        let password = self.shared.settings.password.as_str();
        let (name, port) = match &self.shared.settings.hosts[host] {
            MySqlHost::Socket(path) => {
                return Ok((connect(options().socket(Some(path)), password)?, None));
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
            outcome = connect(options().ip_or_hostname(Some(ip)).tcp_port(port), password)
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
            _ => PROBE_TIMEOUT,
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
    pub fn hosts(&self) -> &Hosts {
        &self.shared.hosts
    }

    /// Lets whoever asks after the store see the state of each host.
    pub fn publish_host_status(&self) {
        self.shared
            .health
            .set_hosts(self.shared.hosts.status_lines());
    }

    /// Reads the facts again where an error shows that they have changed, so that the cure is named at once and not only
    /// by the next connection. Should this fail, that one does.
    pub fn refresh_table_info(&self, connection: &mut Conn) {
        if let Ok(facts) = TableInfo::read(connection, &self.shared.settings.table) {
            self.learn(&facts);
        }
    }

    /// Passes on what a connection has learned about the table.
    fn learn(&self, facts: &TableInfo) {
        (self.shared.on_table_info)(facts);
        let ids = facts.mail_ids.as_ref();
        let shortage = ids.and_then(|ids| ids.shortage(self.table()));
        // That an INSERT found no id is kept until there are ids without doubt.
        if shortage.is_some() || ids.is_none_or(MailIds::has_more) {
            self.shared.health.set_shortage(shortage);
        }
    }

    /// Marks the store as not ready until a connection finds that there are ids; returns the reason and its cure.
    pub fn ids_used_up(&self, error: &mysql::Error, facts: &TableInfo) -> String {
        let why = mail_ids::explain(error, self.table(), facts.mail_ids.as_ref());
        self.shared.health.set_shortage(Some(why.clone()));
        why
    }

    /// Why no host can be reached; `None` while that is not known.
    pub fn down_reason(&self) -> Option<String> {
        self.shared.health.down_reason()
    }

    /// Returns why every host refused the last connection; `None` if one of them did not.
    pub fn refusal_reason(&self) -> Option<String> {
        lock(&self.shared.refused).clone()
    }

    /// Returns why nothing may be sent to any host.
    pub fn stall_reason(&self) -> Option<String> {
        self.shared
            .hanging
            .reason_everywhere(self.shared.hosts.count())
    }

    /// Returns whether a batch is not worth another try: nothing may be sent to any host or, if its connection `is_lost`,
    /// every host refused another one.
    pub fn is_useless(&self, is_lost: bool) -> bool {
        self.stall_reason().is_some() || (is_lost && self.refusal_reason().is_some())
    }

    /// Returns whether connections to a host are used while there are others.
    pub fn may_use(&self, host: usize) -> bool {
        !self.shared.hosts.is_down(host) && self.shared.hanging.reason_at(host).is_none()
    }

    /// The COMMITs that hang.
    pub fn hanging(&self) -> &HangingCommits {
        &self.shared.hanging
    }

    /// What is known of the store.
    pub fn health(&self) -> &Health {
        &self.shared.health
    }

    /// How many connections the pool keeps.
    pub fn workers(&self) -> usize {
        self.shared.settings.workers
    }

    /// The count of connections that exist.
    pub fn links(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.shared.links)
    }

    /// The calls under way.
    pub fn calls(&self) -> &Arc<CallWatchdog> {
        &self.shared.calls
    }

    /// The account's name.
    pub fn user(&self) -> &str {
        &self.shared.settings.user
    }

    /// Returns a reference that does not keep the connector.
    pub fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    /// Returns a connector over shared state.
    pub fn of(shared: Arc<Shared>) -> Connector {
        Connector { shared }
    }
}

/// Connects: the only place that does.
fn connect(options: OptsBuilder, password: &str) -> mysql::Result<Conn> {
    guarded(|| Conn::new(options)).map_err(|error| match is_panic(&error) {
        true if password.len() > LONGEST_PASSWORD => io::Error::other(format!(
            "a password of {} octets may be too long for the server's key: it holds {LONGEST_PASSWORD} if it has 2,048 \
             bits; shorten MYSQL_PASS, or connect to the server's socket: {error}",
            password.len()
        ))
        .into(),
        _ => error,
    })
}

/// Returns whether it was known at once that nothing can be reached there, for the moment or for longer.
fn is_away(error: &mysql::Error) -> bool {
    use std::io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound,
        PermissionDenied,
    };
    let away = [
        ConnectionRefused,
        NotFound,
        PermissionDenied,
        HostUnreachable,
        NetworkUnreachable,
        AddrNotAvailable,
    ];
    kind_of(error).is_some_and(|kind| away.contains(&kind))
}

/// Nothing listens there: the server has ended, and all its transactions with it.
pub fn is_refused(error: &mysql::Error) -> bool {
    kind_of(error) == Some(io::ErrorKind::ConnectionRefused)
}

fn kind_of(error: &mysql::Error) -> Option<io::ErrorKind> {
    match error {
        mysql::Error::IoError(error) => Some(error.kind()),
        mysql::Error::DriverError(mysql::DriverError::CouldNotConnect(Some((_, _, kind)))) => {
            Some(*kind)
        }
        _ => None,
    }
}

/// Made explicit, so that no server's configuration changes what a 250 means: values that do not fit are errors, a lock
/// of a row or of the whole table is not waited for longer than a client would like.
const SESSION_SETTINGS: &[&str] = &[
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
     SESSION innodb_lock_wait_timeout = 5, SESSION lock_wait_timeout = 5, SESSION autocommit = 1",
    "SET NAMES utf8mb4",
];
/// What RSA with OAEP and SHA-1 leaves of 256 octets, less the NUL after the password.
const LONGEST_PASSWORD: usize = 213;
/// To reach a host at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The same where there are several hosts, and for one read or write of a look at one of them.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// INSERTs of each number of rows, and the few others: fewer, and the library would close INSERTs that are still known here.
const STATEMENT_CACHE_SIZE: usize = 80;
