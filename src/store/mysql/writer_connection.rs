//! Takes a connection for a batch from the pool and begins its transaction.

use std::time::{Duration, Instant};

use super::MySqlStore;
use super::batch_failure::BatchFailure;
use super::error::MySqlErrorClass;
use super::pool::PooledDbConnection;

/// When a writer stops waiting for a connection; it always stops after [`MySqlStore::connection_timeout`] or if every host
/// refuses connections.
#[derive(Clone, Copy)]
pub enum ConnectionWaitLimit {
    /// Until the database is known to be down. Used by a writer that prepares its connection before it has mail.
    WhileNotDown,
    /// Until the deadline of the current batch.
    UntilDeadline,
}

impl MySqlStore {
    /// Returns a connection on which a transaction has begun: the prepared connection or one from the pool. Connections that
    /// were closed while idle are replaced.
    pub(super) fn begin_transaction(
        &mut self,
        wait: ConnectionWaitLimit,
    ) -> Result<PooledDbConnection, BatchFailure> {
        let mut connection = self.take_connection(wait)?;
        let mut stale = 0;
        while !connection.in_transaction {
            match connection.begin() {
                Ok(()) => {}
                Err(error)
                    if stale <= self.pool.max_size()
                        && matches!(
                            MySqlErrorClass::classify_mysql_error(&error),
                            MySqlErrorClass::ConnectionLost | MySqlErrorClass::NotReady
                        ) =>
                {
                    if MySqlErrorClass::classify_mysql_error(&error) == MySqlErrorClass::NotReady {
                        let hosts = self.connector.hosts();
                        hosts.mark_down(connection.server.host, &error.to_string());
                    }
                    connection.broken = true;
                    stale += 1;
                    drop(connection);
                    connection = self.take_connection(wait)?;
                }
                Err(error) => {
                    return Err(self.roll_back_or_break_connection(connection, &error, None));
                }
            }
        }
        Ok(connection)
    }

    fn take_connection(
        &mut self,
        wait: ConnectionWaitLimit,
    ) -> Result<PooledDbConnection, BatchFailure> {
        if let Some(reason) = self.connector.hang_reason_on_all_hosts() {
            return Err(BatchFailure::database_unreachable_failure(&reason));
        }
        while let Some(connection) = self.connection.take().or_else(|| self.pool.try_get()) {
            // A connection to a host that is not usable is dropped here; the pool then connects to a usable host.
            if self.connector.is_host_usable(connection.server.host) {
                return Ok(connection);
            }
        }
        let until = match wait {
            ConnectionWaitLimit::WhileNotDown => Instant::now() + self.connection_timeout(),
            ConnectionWaitLimit::UntilDeadline => self
                .deadline
                .min(Instant::now() + self.connection_timeout()),
        };
        let mut pool_error = String::new();
        loop {
            let remaining = until.saturating_duration_since(Instant::now());
            match self.pool.get_timeout(remaining.min(POLL_INTERVAL)) {
                Ok(connection) => return Ok(connection),
                // The pool returns the cause of a failure once and afterwards only its own timeout. The text with the cause is
                // the longest, so the longest text is kept.
                Err(error) if error.to_string().len() > pool_error.len() => {
                    pool_error = error.to_string();
                }
                Err(_) => {}
            }
            let reason = match wait {
                ConnectionWaitLimit::WhileNotDown => self.connector.reason_if_store_is_down(),
                ConnectionWaitLimit::UntilDeadline => None,
            };
            // If every host refuses connections, waiting longer is useless.
            if let Some(reason) = reason.or_else(|| self.connector.last_error_if_all_hosts_failed())
            {
                return Err(BatchFailure::database_unreachable_failure(&reason));
            }
            if remaining <= POLL_INTERVAL {
                return Err(BatchFailure::database_unreachable_failure(&pool_error));
            }
        }
    }

    fn connection_timeout(&self) -> Duration {
        match self.connector.hosts().host_count() {
            1 => CONNECTION_TIMEOUT,
            _ => CONNECTION_TIMEOUT_OF_SEVERAL_HOSTS,
        }
    }
}

/// Maximum time to wait for a connection from the pool; the attempt to save then fails. Further attempts are made while the
/// mails may wait (GM_HOLD_SECONDS).
const CONNECTION_TIMEOUT: Duration = Duration::from_millis(900);
/// The same with several hosts: the pool may have to find out first that the preferred host does not answer.
const CONNECTION_TIMEOUT_OF_SEVERAL_HOSTS: Duration = Duration::from_secs(5);
/// Interval at which a writer that waits for a connection checks whether the database is down.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
