//! One connection to the database, and the transaction on it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use mysql::{Conn, Statement};
use nix::sys::socket::{Shutdown, shutdown};

use super::call_timeout::CallWatchdog;
use super::galera::GaleraNode;
use super::guard::{guarded, is_panic};
use super::table_info::TableInfo;

/// One connection and what it knows.
pub struct DbConnection {
    /// Used through [`call`](Link::call) only.
    connection: Conn,
    /// The server and table at its other end.
    pub facts: TableInfo,
    /// Which server that is.
    pub server: Server,
    /// It must not be used again.
    pub broken: bool,
    /// A transaction was begun and neither committed nor rolled back.
    pub in_transaction: bool,
    /// INSERTs that were prepared, by their number of rows.
    pub inserts: HashMap<usize, Statement>,
    implicit_begin: bool,
    /// When the server last said yes to a COMMIT.
    committed_at: Option<Instant>,
    socket: RawFd,
    watchdog: Arc<CallWatchdog>,
    _counted: ConnectionCounter,
}

/// Which server a connection leads to.
#[derive(Clone)]
pub struct Server {
    /// Its place among the hosts of the settings.
    pub host: usize,
    /// Its address, for a name may have several; none for a socket of this machine.
    pub address: Option<SocketAddr>,
    /// What the server calls the connection.
    pub connection_id: u32,
    /// Its place in a Galera cluster, where there is one.
    pub galera: Option<GaleraNode>,
}

impl DbConnection {
    /// A connection that is ready for use; `count` is of those that exist, `calls` ends what takes too long.
    pub fn new(
        connection: Conn,
        facts: TableInfo,
        server: Server,
        calls: &Arc<CallWatchdog>,
        count: &Arc<AtomicUsize>,
    ) -> DbConnection {
        DbConnection {
            socket: connection.as_raw_fd(),
            connection,
            facts,
            server,
            broken: false,
            in_transaction: false,
            inserts: HashMap::new(),
            implicit_begin: false,
            committed_at: None,
            watchdog: Arc::clone(calls),
            _counted: ConnectionCounter::new(count),
        }
    }

    /// Talks to the server, for ten seconds in all.
    ///
    /// # Errors
    /// What the server said, or what became of the connection.
    pub fn with_timeout<T>(
        &mut self,
        call: impl FnOnce(&mut Conn) -> mysql::Result<T>,
    ) -> mysql::Result<T> {
        self.watchdog.begin(self.socket, CALL_TIMEOUT);
        let outcome = guarded(|| call(&mut self.connection));
        self.watchdog.end(self.socket);
        self.broken |= outcome.as_ref().is_err_and(is_panic);
        outcome
    }

    /// Runs a query whose result may be long: only each single read and write has a time limit, that of the socket.
    ///
    /// # Errors
    /// The error of the server or of the connection.
    pub fn read<T>(
        &mut self,
        query: impl FnOnce(&mut Conn) -> mysql::Result<T>,
    ) -> mysql::Result<T> {
        let outcome = guarded(|| query(&mut self.connection));
        self.broken |= outcome.as_ref().is_err_and(is_panic);
        outcome
    }

    /// From now on the first statement begins a transaction, which saves a writer a round trip for each batch. What others
    /// read must not hold on to the table.
    ///
    /// # Errors
    /// What the server said, or what became of the connection.
    pub fn enable_implicit_begin(&mut self) -> mysql::Result<()> {
        self.with_timeout(|connection| connection.query_drop("SET SESSION autocommit = 0"))?;
        self.implicit_begin = true;
        Ok(())
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// What the server said, or what became of the connection.
    pub fn begin(&mut self) -> mysql::Result<()> {
        // Else this tells besides whether an idle connection still works.
        let is_fresh = self.implicit_begin
            && (self.committed_at)
                .is_some_and(|committed_at| committed_at.elapsed() < LIVENESS_WINDOW);
        if !is_fresh {
            self.with_timeout(|connection| connection.query_drop("START TRANSACTION"))?;
        }
        self.in_transaction = true;
        Ok(())
    }

    /// Keeps what the transaction did. After an error it may or may not be kept.
    ///
    /// # Errors
    /// What the server said, or what became of the connection.
    pub fn commit(&mut self) -> mysql::Result<()> {
        self.with_timeout(|connection| connection.query_drop("COMMIT"))?;
        self.in_transaction = false;
        self.committed_at = Some(Instant::now());
        Ok(())
    }

    /// Undoes what the transaction did; a connection that cannot even do that is broken.
    pub fn rollback(&mut self) {
        let undone = self.with_timeout(|connection| connection.query_drop("ROLLBACK"));
        self.broken |= undone.is_err();
        self.in_transaction &= undone.is_err();
    }
}

impl Drop for DbConnection {
    fn drop(&mut self) {
        self.watchdog.end(self.socket);
        if self.broken {
            // The library says goodbye, behind what a failed write left in its buffer: to a host that hangs that would take
            // a time-out for each prepared statement, and it must not hear the rest of an INSERT either.
            let _ = shutdown(self.socket, Shutdown::Both);
        }
    }
}

/// One of the connections that exist, until it is dropped.
struct ConnectionCounter(Arc<AtomicUsize>);

impl ConnectionCounter {
    fn new(count: &Arc<AtomicUsize>) -> ConnectionCounter {
        count.fetch_add(1, Ordering::SeqCst);
        ConnectionCounter(Arc::clone(count))
    }
}

impl Drop for ConnectionCounter {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// For a call, and for each read or write of it. Not shorter with several hosts: a Galera cluster stands still for five seconds
/// when it loses a node, and goes on by itself.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Whoever committed a moment ago is not asked whether it still can, as under load nobody is.
const LIVENESS_WINDOW: Duration = Duration::from_millis(20);
