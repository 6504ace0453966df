//! Saving one part of a batch: INSERT, COMMIT, and retries.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::MySqlStore;
use super::backoff::{MAX_RETRY_PAUSE, MIN_RETRY_PAUSE, jittered};
use super::batch_failure::BatchFailure;
use super::error::MySqlErrorClass;
use super::insert::insert_rows;
use super::pool::PooledDbConnection;
use super::unknown_commit::UnknownCommit;
use super::writer_connection::ConnectionWaitLimit;
use crate::mail::Mail;
use crate::store::SaveError;
use crate::store::queue::bisect::BatchError;
use crate::store::redis::BodiesInRedis;

impl MySqlStore {
    /// Commits `part` completely or not at all; retries for a few seconds. `inserted` is the result of the first
    /// INSERT if it has already run.
    pub(super) fn commit_batch_part(
        &mut self,
        part: &[Mail],
        bodies_in: &Arc<BodiesInRedis>,
        mut inserted: Option<Result<PooledDbConnection, BatchFailure>>,
    ) -> Result<(), BatchError> {
        let mut pause = MIN_RETRY_PAUSE;
        let (mut value_retries, mut read_only_answers, mut lost_connections) = (0, 0, 0);
        loop {
            if Instant::now() > self.deadline {
                // If the batch was split, the earlier parts may have used up the time limit of the batch.
                let error = SaveError::unavailable(BatchFailure::batch_deadline_failure().text);
                return Err(BatchError::Store(error));
            }
            let inserted =
                (inserted.take()).unwrap_or_else(|| self.insert_batch_part(part, bodies_in));
            let Err(failure) = inserted.and_then(|connection| self.commit_part(connection)) else {
                return Ok(());
            };
            if let Some(commit) = failure.unknown_commit {
                let error = self.commit_in_doubt(bodies_in, *commit, &failure.text);
                return Err(BatchError::Store(error));
            }
            let unavailable = match failure.class {
                MySqlErrorClass::Retry => SaveError::store_locked(failure.text.clone()),
                _ => SaveError::unavailable(failure.text.clone()),
            };
            match failure.class {
                MySqlErrorClass::Full => {
                    return Err(BatchError::Store(SaveError::full(failure.text)));
                }
                MySqlErrorClass::Schema | MySqlErrorClass::IdsUsedUp => {
                    return Err(BatchError::Store(unavailable));
                }
                MySqlErrorClass::NoMemory => {
                    return Err(BatchError::Mail(SaveError::full(failure.text)));
                }
                MySqlErrorClass::Mail | MySqlErrorClass::TooLarge => {
                    return Err(BatchError::Mail(SaveError::refused(failure.text)));
                }
                // The table may have been altered after a pooled connection read its columns. Each retry replaces one
                // connection, so after `max_size` retries the known columns are current, and the mail itself is the cause.
                MySqlErrorClass::ValueOutOfRange if value_retries > self.pool.max_size() => {
                    return Err(BatchError::Mail(SaveError::refused(failure.text)));
                }
                MySqlErrorClass::ValueOutOfRange => value_retries += 1,
                MySqlErrorClass::ReadOnly => {
                    read_only_answers += 1;
                    if read_only_answers >= self.connector.hosts().host_count() {
                        return Err(BatchError::Store(unavailable));
                    }
                }
                MySqlErrorClass::ConnectionLost
                | MySqlErrorClass::Retry
                | MySqlErrorClass::NotReady
                | MySqlErrorClass::Busy => {}
            }
            let is_lost = failure.class == MySqlErrorClass::ConnectionLost;
            let is_unreachable = is_lost || failure.class == MySqlErrorClass::NotReady;
            lost_connections += usize::from(is_unreachable);
            let retry_until = self.retry_until(failure.class, lost_connections);
            if Instant::now() + pause > retry_until || self.connector.is_retry_futile(is_lost) {
                return Err(BatchError::Store(unavailable));
            }
            if failure.class != MySqlErrorClass::ValueOutOfRange {
                thread::sleep(jittered(pause));
                pause = (pause * 2).min(MAX_RETRY_PAUSE);
            }
        }
    }

    /// Returns until when a batch is retried here. After that the mails wait in the queue, which also finds a host that is
    /// back. Every other host gets one attempt, even if the first one has kept the batch for the longest time of a call.
    fn retry_until(&self, class: MySqlErrorClass, lost_connections: usize) -> Instant {
        let hosts = self.connector.hosts().host_count();
        match class {
            MySqlErrorClass::ConnectionLost | MySqlErrorClass::NotReady => match hosts {
                hosts if lost_connections < hosts => self.deadline,
                1 => self.began_at + SHORT_RETRY_TIME,
                _ => self.began_at + RETRY_TIME,
            },
            MySqlErrorClass::Retry => self.began_at + SHORT_RETRY_TIME,
            _ => self.began_at + RETRY_TIME,
        }
    }

    /// Inserts the rows of `part` in a transaction and returns its connection, ready for COMMIT.
    pub(super) fn insert_batch_part(
        &mut self,
        part: &[Mail],
        bodies_in: &BodiesInRedis,
    ) -> Result<PooledDbConnection, BatchFailure> {
        let mut connection = self.begin_transaction(ConnectionWaitLimit::UntilDeadline)?;
        let table = self.connector.table();
        let known_ids = connection.table_info.auto_increment;
        match insert_rows(&mut connection, table, part, bodies_in, &HashSet::new()) {
            Ok(()) => {
                // The ranges differ if a further tenth of the ids is to be reported as used. The pool then replaces the
                // connection. The new connection reads the range again, and the finding is logged.
                connection.broken |= connection.table_info.auto_increment != known_ids;
                Ok(connection)
            }
            Err(error) => Err(self.roll_back_or_break_connection(connection, &error, None)),
        }
    }

    fn commit_part(&mut self, mut connection: PooledDbConnection) -> Result<(), BatchFailure> {
        if Instant::now() > self.deadline {
            // The clients get 451 and send the mails again, so a COMMIT now would store them twice.
            connection.roll_back();
            return Err(BatchFailure::batch_deadline_failure());
        }
        if let Some(reason) = self
            .connector
            .hanging_commits()
            .commit_hang_reason(connection.server.host)
        {
            connection.broken = true;
            return Err(BatchFailure::database_unreachable_failure(&reason));
        }
        let sent_at = Instant::now();
        if let Err(error) = connection.commit() {
            let sent_to = connection.server.clone();
            let commit = Box::new(UnknownCommit { sent_to, sent_at });
            return Err(self.roll_back_or_break_connection(connection, &error, Some(commit)));
        }
        self.connection = Some(connection);
        Ok(())
    }
}

/// Time for which a batch is retried if there are several hosts, or if a host allows no further connection or query.
const RETRY_TIME: Duration = Duration::from_secs(5);
/// Time for which a batch is retried after a lock or a deadlock, and after the connection to the only host was lost. After that
/// GM_HOLD_SECONDS decides.
const SHORT_RETRY_TIME: Duration = Duration::from_secs(1);
