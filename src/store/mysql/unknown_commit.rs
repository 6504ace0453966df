//! A COMMIT whose answer did not arrive. Its rows are looked up before anything is sent again.
//!
//! The writer only checks whether the COMMIT hangs on its host, and only if the COMMIT is old enough for that. The look-up
//! itself runs on a thread of its own (`store::queue::in_doubt`), so the writer goes on with the next host.
//!
//! All waits after which a client gets its reply:
//!
//! ```text
//! wait                                              longest time
//! COMMIT without an answer                          10 s (`CALL_TIMEOUT`); with several hosts about 3 s if the host does not
//!                                                   answer its check either, 1 s to 1.5 s if another host has become
//!                                                   the primary (`probe`)
//! check whether the COMMIT hangs, in the writer     3 s to connect (1 s with several hosts) + 2 s; only after 5 s without
//!                                                   an answer (`HANG_THRESHOLD`)
//! look-up, in its own thread                        until 20 s after the start of the batch (`BATCH_TIMEOUT`)
//! pause between two attempts of the look-up         1 s (`MAX_LOOK_UP_PAUSE`)
//! check whether the COMMITs hang, after an attempt  as in the writer, for the first COMMIT and for that of the look-up
//! last attempt of the look-up                       12 s: it may begin at the end of the 20 s, so a client waits for 32 s
//! more batches in doubt than threads                0 s: 451 at once (`BATCHES_IN_DOUBT_PER_WRITER`)
//! a new mail, after a host was lost                 0 s if another host is up; else GM_HOLD_SECONDS (`queue::hold`) until a
//!                                                   host is back, which is noticed within 1 s
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use super::MySqlStore;
use super::backoff::{MIN_RETRY_PAUSE, jittered};
use super::batch_failure::BatchFailure;
use super::commit_lookup_server::connect_to_commit_lookup_server;
use super::connection::{ConnectedServer, MySqlConnection};
use super::connector::Connector;
use super::error::MySqlErrorClass;
use super::error_text::error_words;
use super::hanging::{exclude_host_if_commit_hangs, wait_until_no_commit_hangs_on_host};
use super::insert::insert_rows;
use crate::mail::Mail;
use crate::store::redis::BodiesInRedis;
use crate::store::{CommitInDoubt, SaveError, TableName};

/// A COMMIT that may or may not have been carried out.
#[derive(Clone)]
pub struct UnknownCommit {
    /// The server that the COMMIT was sent to.
    pub sent_to: ConnectedServer,
    /// Time at which the COMMIT was sent.
    pub sent_at: Instant,
}

impl UnknownCommit {
    /// Returns whether `error`, the answer to this COMMIT, means that it was certainly not carried out. After any other error
    /// the outcome is unknown.
    ///
    /// A Galera node that is not ready answers error 1047 without executing the COMMIT. The connection is then closed, and
    /// closing rolls back the transaction. A member of a replication group answers 3100 or 3101 also if it leaves its group
    /// while it waits for the group's decision, and the group may then carry out the transaction.
    pub fn is_certainly_rolled_back(&self, error: &mysql::Error) -> bool {
        let mysql::Error::MySqlError(error) = error else {
            return false;
        };
        match error.code {
            1047 | 1205 | 1213 | 1290 | 1792 | 1836 => true,
            3100 | 3101 => self.sent_to.group.is_none(),
            _ => false,
        }
    }
}

/// The look-up of the outcome of a COMMIT.
struct CommitLookUpState {
    connector: Connector,
    bodies_in: Arc<BodiesInRedis>,
    commit: UnknownCommit,
    /// Time at which the look-up is given up.
    deadline: Instant,
}

impl MySqlStore {
    /// Returns the error of the mails of a transaction whose COMMIT was not answered. The error contains the look-up of the
    /// outcome, for the thread of the batch. If the COMMIT hangs on its host, the host is excluded before this function
    /// returns, so that the writer sends nothing more to it.
    pub(super) fn commit_in_doubt(
        &self,
        bodies_in: &Arc<BodiesInRedis>,
        commit: UnknownCommit,
        reason: &str,
    ) -> SaveError {
        exclude_host_if_commit_hangs(&self.connector, &commit);
        let look_up = CommitLookUpState {
            connector: self.connector.clone(),
            bodies_in: Arc::clone(bodies_in),
            commit,
            deadline: self.deadline,
        };
        CommitInDoubt::save_error(
            reason,
            Box::new(move |part| look_up.store_missing_after_unknown_commit(part)),
        )
    }
}

impl CommitLookUpState {
    /// Looks up the rows of `part` on a server that knows the outcome of the COMMIT. Inserts the missing rows in the
    /// transaction of the look-up. Retries until the deadline. The look-up locks the rows, so it waits for a COMMIT that is
    /// still in progress.
    fn store_missing_after_unknown_commit(&self, part: &[Mail]) -> Result<(), SaveError> {
        let CommitLookUpState {
            connector, commit, ..
        } = self;
        // A look-up ends with a COMMIT of its own. If this COMMIT is not answered either, it may still be carried out, so the
        // next look-up must know the outcome of both.
        let mut unanswered = vec![commit.clone()];
        let mut pause = MIN_RETRY_PAUSE;
        loop {
            for commit in &unanswered {
                // A member of a group on which the COMMIT hangs is not asked, but the group may have removed it.
                if commit.sent_to.group.is_none() {
                    let host = commit.sent_to.host;
                    wait_until_no_commit_hangs_on_host(connector, host, self.deadline)
                        .map_err(SaveError::unavailable)?;
                }
            }
            let error = match self.store_missing_rows(part, &mut unanswered) {
                Ok(true) => {
                    (self.bodies_in).count_saved_bodies(part.iter(), connector.health().metrics());
                    log::warn!(mails = part.len(); "commit_resolved");
                    return Ok(());
                }
                Ok(false) => {
                    return Err(SaveError::unavailable(
                        BatchFailure::batch_deadline_failure().text,
                    ));
                }
                Err(error) => error,
            };
            if MySqlErrorClass::classify_mysql_error(&error) == MySqlErrorClass::TooLarge {
                return Err(SaveError::refused(error_words(&error)));
            }
            let newest = unanswered.last().filter(|_| unanswered.len() > 1);
            for commit in newest.into_iter().chain([commit]) {
                exclude_host_if_commit_hangs(connector, commit);
            }
            if Instant::now() + pause > self.deadline {
                return Err(SaveError::unavailable(format!(
                    "COMMIT was not answered, and its outcome cannot be determined: {error}"
                )));
            }
            thread::sleep(jittered(pause));
            pause = (pause * 2).min(MAX_LOOK_UP_PAUSE);
        }
    }

    /// Looks up the rows of `part`, inserts the missing ones and commits. Adds this COMMIT to `unanswered` if its outcome is
    /// unknown. Returns `false`, without a COMMIT, if rows are missing and the deadline has passed; the clients then get 451
    /// and send the mails again.
    fn store_missing_rows(
        &self,
        part: &[Mail],
        unanswered: &mut Vec<UnknownCommit>,
    ) -> mysql::Result<bool> {
        let table = self.connector.table();
        let sent_to: Vec<&ConnectedServer> =
            unanswered.iter().map(|commit| &commit.sent_to).collect();
        let mut connection = connect_to_commit_lookup_server(&self.connector, &sent_to)?;
        // The connection counts as broken until the COMMIT succeeds, so after an error it is shut down.
        connection.broken = true;
        connection.begin()?;
        let stored = select_stored_hashes_for_update(&mut connection, table, part)?;
        insert_rows(&mut connection, table, part, &self.bodies_in, &stored)?;
        let rows = part.iter().flat_map(Mail::recipients).count();
        if stored.len() < rows && Instant::now() > self.deadline {
            return Ok(false);
        }
        let commit = UnknownCommit {
            sent_to: connection.server.clone(),
            sent_at: Instant::now(),
        };
        let committed = connection.commit();
        match &committed {
            Ok(()) => connection.broken = false,
            // A COMMIT of no rows changes nothing, whatever its outcome is.
            Err(error) if stored.len() == rows || commit.is_certainly_rolled_back(error) => {}
            Err(_) => unanswered.push(commit),
        }
        committed.map(|()| true)
    }
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
/// Maximum pause between two attempts of a look-up, before [`jittered`] is applied. The mails are acknowledged within about a
/// second after their server is back.
const MAX_LOOK_UP_PAUSE: Duration = Duration::from_secs(1);
