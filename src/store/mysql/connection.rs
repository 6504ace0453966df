//! One connection to the database with its transaction.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, Statement};
use nix::sys::socket::{Shutdown, shutdown};

use super::call_timeout::DatabaseCallWatchdog;
use super::driver_panic::{catch_panic, is_panic};
use super::galera::GaleraNodeView;
use super::group_replication::GroupMember;
use super::table_info::TableInfo;
use crate::metrics::Metrics;

/// One connection to the database, with the properties that were read when it was opened.
pub struct MySqlConnection {
    /// The driver's connection. Only [`Self::call_driver`] uses it.
    connection: Conn,
    /// Properties of the server and the table.
    pub table_info: TableInfo,
    /// The server that this connection leads to.
    pub server: ConnectedServer,
    /// Whether the connection must not be used again.
    pub broken: bool,
    /// Whether a transaction is open: it has begun, and was neither committed nor rolled back.
    pub in_transaction: bool,
    /// Prepared INSERT statements by their number of rows.
    pub inserts: HashMap<usize, Statement>,
    implicit_begin: bool,
    /// Time of the last successful COMMIT.
    committed_at: Option<Instant>,
    socket: RawFd,
    watchdog: Arc<DatabaseCallWatchdog>,
    /// The metrics of the server.
    pub metrics: Arc<Metrics>,
    _counter: OpenMySqlConnectionGuard,
}

/// The server at the other end of a connection.
#[derive(Clone)]
pub struct ConnectedServer {
    /// Index of the host in the settings.
    pub host: usize,
    /// Address that the host's name resolved to; `None` for a Unix socket. A name may have several addresses.
    pub address: Option<SocketAddr>,
    /// The server's id of the connection, as in SHOW PROCESSLIST.
    pub connection_id: u32,
    /// The state of the server as a Galera node; `None` without Galera.
    pub galera: Option<GaleraNodeView>,
    /// The server's replication group; `None` without Group Replication.
    pub group: Option<GroupMember>,
}

impl MySqlConnection {
    /// Wraps an open connection of the driver. `open_connections` is 1 higher until the returned value is dropped.
    pub fn new(
        connection: Conn,
        table_info: TableInfo,
        server: ConnectedServer,
        watchdog: &Arc<DatabaseCallWatchdog>,
        open_connections: &Arc<AtomicUsize>,
        metrics: &Arc<Metrics>,
    ) -> MySqlConnection {
        MySqlConnection {
            socket: connection.as_raw_fd(),
            connection,
            table_info,
            server,
            broken: false,
            in_transaction: false,
            inserts: HashMap::new(),
            implicit_begin: false,
            committed_at: None,
            watchdog: Arc::clone(watchdog),
            metrics: Arc::clone(metrics),
            _counter: OpenMySqlConnectionGuard::new(open_connections),
        }
    }

    /// Runs `call`, one call of the database driver. The watchdog aborts `call` after [`CALL_TIMEOUT`].
    pub fn call_driver_with_timeout<T>(
        &mut self,
        call: impl FnOnce(&mut Conn) -> mysql::Result<T>,
    ) -> mysql::Result<T> {
        self.call_driver(Some(CALL_TIMEOUT), call)
    }

    /// Runs `call`. The watchdog aborts `call` after `limit`. Without a limit only each read and write of the socket must end
    /// within the socket timeout, which [`for_long_queries`](super::connector::Connector::for_long_queries) sets to an hour for
    /// reads.
    pub fn call_driver<T>(
        &mut self,
        limit: Option<Duration>,
        call: impl FnOnce(&mut Conn) -> mysql::Result<T>,
    ) -> mysql::Result<T> {
        if let Some(limit) = limit {
            let host = self.server.host;
            self.watchdog.add_call_deadline(self.socket, host, limit);
        }
        let outcome = catch_panic(&self.metrics, || call(&mut self.connection));
        self.watchdog.remove_call_deadline(self.socket);
        self.broken |= outcome.as_ref().is_err_and(is_panic);
        outcome
    }

    /// Switches `autocommit` off, so that the first statement of a batch begins the transaction. This saves one round trip per
    /// batch. Must not be used for a connection that only reads: its transaction would stay open and lock the table's
    /// definition.
    ///
    /// # Errors
    /// The server returned an error, or the connection broke.
    pub fn enable_implicit_begin(&mut self) -> mysql::Result<()> {
        self.call_driver_with_timeout(|conn| conn.query_drop("SET SESSION autocommit = 0"))?;
        self.implicit_begin = true;
        Ok(())
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The server returned an error, or the connection broke.
    pub fn begin(&mut self) -> mysql::Result<()> {
        // With `implicit_begin` START TRANSACTION only checks whether an idle connection still works.
        let is_known_alive = self.implicit_begin
            && (self.committed_at)
                .is_some_and(|committed_at| committed_at.elapsed() < LIVENESS_WINDOW);
        if !is_known_alive {
            self.call_driver_with_timeout(|conn| conn.query_drop("START TRANSACTION"))?;
        }
        self.in_transaction = true;
        Ok(())
    }

    /// Commits the transaction. After an error the outcome of the COMMIT may be unknown; see
    /// [`is_certainly_rolled_back`](super::unknown_commit::UnknownCommit::is_certainly_rolled_back).
    ///
    /// # Errors
    /// The server returned an error, or the connection broke.
    pub fn commit(&mut self) -> mysql::Result<()> {
        self.call_driver_with_timeout(|conn| conn.query_drop("COMMIT"))?;
        self.in_transaction = false;
        self.committed_at = Some(Instant::now());
        Ok(())
    }

    /// Rolls the transaction back. If the ROLLBACK fails, the connection is marked as broken.
    pub fn roll_back(&mut self) {
        let outcome = self.call_driver_with_timeout(|conn| conn.query_drop("ROLLBACK"));
        self.broken |= outcome.is_err();
        self.in_transaction &= outcome.is_err();
    }
}

impl Drop for MySqlConnection {
    fn drop(&mut self) {
        self.watchdog.remove_call_deadline(self.socket);
        if self.broken {
            // Without this shutdown the driver would first send the rest of a failed write from its buffer, such as part of an
            // INSERT. It would then close each prepared statement, and if the host hangs, each of these closings would take one
            // socket timeout.
            let _ = shutdown(self.socket, Shutdown::Both);
        }
    }
}

/// A guard that counts one open connection until the guard is dropped.
struct OpenMySqlConnectionGuard(Arc<AtomicUsize>);

impl OpenMySqlConnectionGuard {
    fn new(count: &Arc<AtomicUsize>) -> OpenMySqlConnectionGuard {
        count.fetch_add(1, Ordering::SeqCst);
        OpenMySqlConnectionGuard(Arc::clone(count))
    }
}

impl Drop for OpenMySqlConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Maximum time for a database call, which is then aborted; for each of its writes; and for each of its reads, except on
/// connections for long queries. The limit is not shorter with several hosts, because a Galera cluster that loses a node stops
/// for five seconds and then continues by itself.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after a COMMIT in which the connection is assumed to work, so that START TRANSACTION can be omitted.
const LIVENESS_WINDOW: Duration = Duration::from_millis(20);
