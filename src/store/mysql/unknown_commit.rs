//! A COMMIT whose answer did not arrive: its rows are looked up before anything is sent again.

use std::collections::HashSet;
use std::thread;
use std::time::Instant;

use mysql::prelude::Queryable;

use super::connection::{DbConnection, Server};
use super::hanging::{note_if_hanging, wait_while_hanging};
use super::insert::insert_rows;
use super::{BatchError, MAX_RETRY_PAUSE, MIN_RETRY_PAUSE, MySqlStore, deadline_passed, jittered};
use crate::mail::Mail;
use crate::store::redis::BodiesIn;
use crate::store::{SaveError, TableName};

/// A COMMIT of which it is not known whether it was carried out.
pub struct UnknownCommit {
    /// Where it was sent to.
    pub sent_to: Server,
    /// When.
    pub sent_at: Instant,
}

impl MySqlStore {
    /// A COMMIT went unanswered: whoever knows is asked. A locking look-up waits for a commit that is still under way;
    /// what is missing then is inserted in the same transaction.
    pub(super) fn resolve_unknown_commit(
        &self,
        part: &[Mail],
        placed: &BodiesIn,
        commit: &UnknownCommit,
    ) -> Result<(), BatchError> {
        let mut pause = MIN_RETRY_PAUSE;
        let sent_to = &commit.sent_to;
        note_if_hanging(&self.connector, commit);
        loop {
            if let Err(reason) = wait_while_hanging(&self.connector, sent_to.host, self.deadline) {
                return Err(BatchError::Store(SaveError::Unavailable(reason)));
            }
            let mut another = None;
            let witness = self.connector.connect_for_commit_lookup(sent_to);
            let settled = witness.and_then(|mut link| {
                // Until all went well.
                link.broken = true;
                link.sync_with_cluster()?;
                link.begin()?;
                let found = stored_ids(&mut link, self.connector.table(), part)?;
                insert_rows(&mut link, self.connector.table(), part, placed, &found)?;
                let rows = part.iter().flat_map(Mail::recipients).count();
                if found.len() < rows && Instant::now() > self.deadline {
                    // Nothing is stored behind anybody's back.
                    return Ok(false);
                }
                another = Some(UnknownCommit {
                    sent_to: link.server.clone(),
                    sent_at: Instant::now(),
                });
                link.commit()?;
                link.broken = false;
                Ok(true)
            });
            let error = match settled {
                Ok(true) => {
                    log::warn!(mails = part.len(); "commit_resolved");
                    return Ok(());
                }
                Ok(false) => {
                    return Err(BatchError::Store(SaveError::Unavailable(
                        deadline_passed().text,
                    )));
                }
                Err(error) => error,
            };
            // The COMMIT of the look-up may hang as well.
            for commit in another.iter().chain([commit]) {
                note_if_hanging(&self.connector, commit);
            }
            if Instant::now() + pause > self.deadline {
                return Err(BatchError::Store(SaveError::Unavailable(format!(
                    "COMMIT was not answered, and its host cannot say whether it was carried out: {error}"
                ))));
            }
            thread::sleep(jittered(pause));
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    }
}

pub fn stored_ids(
    link: &mut DbConnection,
    table: &TableName,
    part: &[Mail],
) -> mysql::Result<HashSet<String>> {
    let hashes: Vec<&str> = part
        .iter()
        .flat_map(Mail::recipients)
        .map(|delivery| delivery.hash.as_str())
        .collect();
    let mut found = HashSet::new();
    for some in hashes.chunks(IDS_PER_LOOKUP) {
        let places = vec!["?"; some.len()].join(",");
        let sql = format!("SELECT `hash` FROM {table} WHERE `hash` IN ({places}) FOR UPDATE");
        let rows: Vec<String> =
            link.with_timeout(|connection| connection.exec(sql, some.to_vec()))?;
        found.extend(rows);
    }
    Ok(found)
}

/// Placeholders of one look-up.
const IDS_PER_LOOKUP: usize = 1_000;
