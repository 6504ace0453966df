//! A COMMIT whose answer did not arrive. Its rows are looked up before anything is sent again.

use std::collections::HashSet;
use std::thread;
use std::time::Instant;

use mysql::prelude::Queryable;

use super::MySqlStore;
use super::backoff::{MAX_RETRY_PAUSE, MIN_RETRY_PAUSE, jittered};
use super::batch_failure::BatchFailure;
use super::connect_error::is_connection_refused;
use super::connection::{ConnectedServer, MySqlConnection};
use super::connector::Connector;
use super::galera::enable_causal_reads;
use super::hanging::{exclude_host_if_commit_hangs, wait_until_no_commit_hangs};
use super::insert::insert_rows;
use crate::mail::Mail;
use crate::store::queue::bisect::BatchError;
use crate::store::redis::BodiesInRedis;
use crate::store::{SaveError, TableName};

/// A COMMIT that may or may not have been carried out.
pub struct UnknownCommit {
    /// The server that the COMMIT was sent to.
    pub sent_to: ConnectedServer,
    /// Time at which the COMMIT was sent.
    pub sent_at: Instant,
}

/// Returns whether this error means that the COMMIT was certainly not carried out. After any other error the outcome is
/// unknown.
///
/// A Galera node that is not ready answers error 1047 without executing the COMMIT. The connection is then closed, and closing
/// rolls back the transaction.
pub fn is_certainly_rolled_back(error: &mysql::Error) -> bool {
    matches!(error, mysql::Error::MySqlError(error) if matches!(error.code, 1047 | 1205 | 1213 | 1290 | 1792 | 1836 | 3100 | 3101))
}

impl MySqlStore {
    /// Looks up the rows of `part` on a server that knows the outcome of the COMMIT. Inserts the missing rows in the
    /// transaction of the look-up. Retries until the batch's deadline. The look-up locks the rows, so it waits for a COMMIT
    /// that is still in progress.
    pub(super) fn store_missing_after_unknown_commit(
        &self,
        part: &[Mail],
        bodies_in: &BodiesInRedis,
        commit: &UnknownCommit,
    ) -> Result<(), BatchError> {
        let mut pause = MIN_RETRY_PAUSE;
        exclude_host_if_commit_hangs(&self.connector, commit);
        loop {
            let host = commit.sent_to.host;
            if let Err(reason) = wait_until_no_commit_hangs(&self.connector, host, self.deadline) {
                return Err(BatchError::Store(SaveError::unavailable(reason)));
            }
            let mut second_commit = None;
            let error = match self.store_missing_rows(part, bodies_in, commit, &mut second_commit) {
                Ok(true) => {
                    log::warn!(mails = part.len(); "commit_resolved");
                    return Ok(());
                }
                Ok(false) => {
                    return Err(BatchError::Store(SaveError::unavailable(
                        BatchFailure::batch_deadline_failure().text,
                    )));
                }
                Err(error) => error,
            };
            // The look-up ends with its own COMMIT, `second_commit`, which may hang as well.
            for commit in second_commit.iter().chain([commit]) {
                exclude_host_if_commit_hangs(&self.connector, commit);
            }
            if Instant::now() + pause > self.deadline {
                return Err(BatchError::Store(SaveError::unavailable(format!(
                    "COMMIT was not answered, and its outcome cannot be determined: {error}"
                ))));
            }
            thread::sleep(jittered(pause));
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    }

    /// Looks up the rows of `part`, inserts the missing ones and commits. Sets `second_commit` before this COMMIT is sent.
    /// Returns `false`, without a COMMIT, if rows are missing and the deadline has passed; the clients then get 451 and send
    /// the mails again.
    fn store_missing_rows(
        &self,
        part: &[Mail],
        bodies_in: &BodiesInRedis,
        commit: &UnknownCommit,
        second_commit: &mut Option<UnknownCommit>,
    ) -> mysql::Result<bool> {
        let table = self.connector.table();
        let mut connection = connect_for_commit_lookup(&self.connector, &commit.sent_to)?;
        // The connection counts as broken until the COMMIT succeeds, so after an error it is shut down.
        connection.broken = true;
        enable_causal_reads(&mut connection)?;
        connection.begin()?;
        let stored = select_stored_hashes_for_update(&mut connection, table, part)?;
        insert_rows(&mut connection, table, part, bodies_in, &stored)?;
        let rows = part.iter().flat_map(Mail::recipients).count();
        if stored.len() < rows && Instant::now() > self.deadline {
            return Ok(false);
        }
        *second_commit = Some(UnknownCommit {
            sent_to: connection.server.clone(),
            sent_at: Instant::now(),
        });
        connection.commit()?;
        connection.broken = false;
        Ok(true)
    }
}

/// Connects to a server that knows whether the COMMIT sent to `sent_to` succeeded: the same address or, if that address refuses
/// connections, a Galera node that remained in the primary component when `sent_to` dropped out of it. Other hosts, and other
/// addresses of the same name, do not know the outcome.
fn connect_for_commit_lookup(
    connector: &Connector,
    sent_to: &ConnectedServer,
) -> mysql::Result<MySqlConnection> {
    let error = match connector.connect_to(sent_to.host, sent_to.address) {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    let Some(lost) = sent_to
        .galera
        .as_ref()
        .filter(|_| is_connection_refused(&error))
    else {
        return Err(error);
    };
    let others = connector.hosts().host_indexes_in_try_order().into_iter();
    for other in others.filter(|other| *other != sent_to.host) {
        if let Ok(connection) = connector.connect_to(other, None)
            && (connection.server.galera.as_ref())
                .is_some_and(|peer| peer.knows_outcome_of_commits_on(lost))
        {
            return Ok(connection);
        }
    }
    Err(error)
}

/// Returns the values of column `hash` that both `part` and the table contain, and locks their rows.
///
/// # Errors
/// The server refused the statement, or the connection broke.
pub fn select_stored_hashes_for_update(
    connection: &mut MySqlConnection,
    table: &TableName,
    part: &[Mail],
) -> mysql::Result<HashSet<String>> {
    let ids: Vec<&str> = part
        .iter()
        .flat_map(Mail::recipients)
        .map(|recipient| recipient.hash.as_str())
        .collect();
    let mut stored = HashSet::new();
    for chunk in ids.chunks(HASHES_PER_SELECT) {
        let placeholders = vec!["?"; chunk.len()].join(",");
        let sql = format!("SELECT `hash` FROM {table} WHERE `hash` IN ({placeholders}) FOR UPDATE");
        let rows: Vec<String> =
            connection.call_driver_with_timeout(|conn| conn.exec(sql, chunk.to_vec()))?;
        stored.extend(rows);
    }
    Ok(stored)
}

/// Maximum number of `hash` values in one SELECT.
const HASHES_PER_SELECT: usize = 1_000;
