//! One connection that asks the database whether a recipient exists.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use mysql::Conn;
use mysql::prelude::Queryable;
use nix::sys::socket::{Shutdown, shutdown};

use super::{ANSWER_TIMEOUT, NO_ANSWER, RecipientQuerySettings};
use crate::metrics::Metrics;
use crate::store::mysql::call_timeout::DatabaseCallWatchdog;
use crate::store::mysql::connect_options::PROBE_TIMEOUT;
use crate::store::mysql::driver_connection::open_mysql_driver_connection;
use crate::store::mysql::driver_panic::catch_panic;

/// A connection to the database whose transactions are all read-only.
pub struct RecipientQueryConnection {
    connection: Conn,
    socket: RawFd,
    host: usize,
    watchdog: Arc<DatabaseCallWatchdog>,
    metrics: Arc<Metrics>,
    /// Whether the connection must not be used again.
    broken: bool,
}

impl RecipientQueryConnection {
    /// Connects to the host with index `host` of the settings.
    ///
    /// # Errors
    /// The host cannot be reached, or the server returns an error.
    pub fn open(
        settings: &RecipientQuerySettings,
        host: usize,
        watchdog: &Arc<DatabaseCallWatchdog>,
        metrics: &Arc<Metrics>,
    ) -> mysql::Result<RecipientQueryConnection> {
        let database = &settings.database;
        if database.hosts.len() > 1 {
            // A connection with shorter time limits finds a host that hangs early enough to ask the next one.
            open_mysql_driver_connection(database, metrics, host, None, |options| {
                options
                    .read_timeout(Some(PROBE_TIMEOUT))
                    .write_timeout(Some(PROBE_TIMEOUT))
            })?;
        }
        let opened = open_mysql_driver_connection(database, metrics, host, None, |options| {
            options
                .read_timeout(Some(ANSWER_TIMEOUT))
                .write_timeout(Some(ANSWER_TIMEOUT))
                .init(SESSION_SETTINGS.to_vec())
        });
        let (connection, _) = opened?;
        Ok(RecipientQueryConnection {
            socket: connection.as_raw_fd(),
            connection,
            host,
            watchdog: Arc::clone(watchdog),
            metrics: Arc::clone(metrics),
            broken: false,
        })
    }

    /// Returns whether `query`, a SELECT with one placeholder, returns a row for `address`.
    ///
    /// # Errors
    /// The server returns an error, the connection broke, or `query` can never return a row.
    pub fn returns_row(&mut self, query: &str, address: &str) -> mysql::Result<bool> {
        self.call_driver(|connection| {
            // The driver prepares the query once and keeps the statement in its cache.
            let mut rows = connection.exec_iter(query, (address,))?;
            if rows.columns().as_ref().is_empty() {
                return Err(io::Error::other("the query returns no columns").into());
            }
            Ok(rows.next().transpose()?.is_some())
        })
    }

    /// Returns the rows of `EXPLAIN query`, with their values by column.
    ///
    /// # Errors
    /// The server returns an error, or the connection broke.
    pub fn explain(&mut self, query: &str, address: &str) -> mysql::Result<Vec<mysql::Row>> {
        // MySQL 9 prints a tree without this format.
        let explain = format!("EXPLAIN FORMAT=TRADITIONAL {query}");
        self.call_driver(|connection| connection.exec(explain, (address,)))
    }

    /// Prepares the query without running it.
    ///
    /// # Errors
    /// The server returns an error, or the connection broke.
    pub fn prepare(&mut self, query: &str) -> mysql::Result<()> {
        self.call_driver(|connection| connection.prep(query).map(drop))
    }

    /// Runs one call of the driver. The watchdog aborts it after [`ANSWER_TIMEOUT`]; a later result is not used, because the
    /// server may have interrupted the query.
    fn call_driver<T>(
        &mut self,
        call: impl FnOnce(&mut Conn) -> mysql::Result<T>,
    ) -> mysql::Result<T> {
        let started_at = Instant::now();
        self.watchdog
            .add_call_deadline(self.socket, self.host, ANSWER_TIMEOUT);
        let mut outcome = catch_panic(&self.metrics, || call(&mut self.connection));
        self.watchdog.remove_call_deadline(self.socket);
        if started_at.elapsed() >= ANSWER_TIMEOUT {
            outcome = Err(io::Error::new(io::ErrorKind::TimedOut, NO_ANSWER).into());
        }
        self.broken |=
            matches!(&outcome, Err(error) if !matches!(error, mysql::Error::MySqlError(_)));
        outcome
    }
}

impl Drop for RecipientQueryConnection {
    fn drop(&mut self) {
        if self.broken {
            // Without this shutdown the driver would close its prepared statements first, and wait for a host that hangs.
            let _ = shutdown(self.socket, Shutdown::Both);
        }
    }
}

/// Statements that make every SELECT a read-only transaction of one row. The server aborts a SELECT a second after the client
/// has given up, so that slow queries do not accumulate there: MariaDB runs the comment that begins with `M!`, in seconds, and
/// MySQL the other one, in milliseconds. The server's limit must not be shorter than [`ANSWER_TIMEOUT`], because a SLEEP that
/// MySQL interrupts returns a row like any other.
const SESSION_SETTINGS: &[&str] = &[
    "SET NAMES utf8mb4",
    "SET SESSION TRANSACTION READ ONLY",
    "SET SESSION autocommit = 1, SESSION sql_select_limit = 1 \
     /*M!100101 , SESSION max_statement_time = 3 */ /*!50708 , SESSION max_execution_time = 3000 */",
];
