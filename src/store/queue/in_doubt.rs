//! Batches whose COMMIT was not answered. Each gets a thread of its own, which looks up the outcome and answers the clients, so
//! that the writer can save the next batch.
//!
//! The number of these threads is limited. A further batch in doubt is not looked up: its clients get 451 at once and send the
//! mails again.

use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::outcome::{ClaimedMail, report_outcomes};
use crate::feed::Feed;
use crate::metrics::Component;
use crate::panics;
use crate::store::{CommitInDoubt, CommitLookUp, SaveError, SavedId, StoreHealth};
use crate::sync::lock;

/// The threads that look up the outcome of unanswered COMMITs.
pub struct InDoubtThreads {
    health: StoreHealth,
    feed: Arc<Feed>,
    limit: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl InDoubtThreads {
    /// Returns an empty list of threads for a store with `writers` writers.
    pub fn new(writers: usize, health: StoreHealth, feed: Arc<Feed>) -> InDoubtThreads {
        InDoubtThreads {
            health,
            feed,
            limit: writers * BATCHES_IN_DOUBT_PER_WRITER,
            threads: Mutex::default(),
        }
    }

    /// Removes the mails that are in doubt from a batch and starts a thread for those of each transaction. Returns the other
    /// mails with their outcomes.
    pub fn start_for_mails_in_doubt(
        &self,
        mails: Vec<ClaimedMail>,
        outcomes: Vec<Result<SavedId, SaveError>>,
    ) -> (Vec<ClaimedMail>, Vec<Result<SavedId, SaveError>>) {
        let is_in_doubt = |outcome: &Result<SavedId, SaveError>| doubt_of(outcome).is_some();
        if !outcomes.iter().any(is_in_doubt) {
            return (mails, outcomes);
        }
        let (mut certain, mut certain_outcomes) = (Vec::new(), Vec::new());
        let mut in_doubt: Vec<(CommitLookUp, Vec<ClaimedMail>)> = Vec::new();
        for (mail, outcome) in mails.into_iter().zip(outcomes) {
            let Some(doubt) = doubt_of(&outcome) else {
                certain.push(mail);
                certain_outcomes.push(outcome);
                continue;
            };
            // The mails of one transaction follow each other and share one error.
            if let Some(look_up) = doubt.take_look_up() {
                in_doubt.push((look_up, Vec::new()));
            }
            if let Some((_, mails)) = in_doubt.last_mut() {
                mails.push(mail);
            }
        }
        for (look_up, mails) in in_doubt {
            self.start(look_up, mails);
        }
        (certain, certain_outcomes)
    }

    fn start(&self, look_up: CommitLookUp, mails: Vec<ClaimedMail>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        if threads.len() >= self.limit {
            drop(threads);
            let reason = format!(
                "COMMIT was not answered, and its outcome is not looked up, because {} other COMMITs are being looked up",
                self.limit
            );
            fail_batch(
                &self.health,
                &self.feed,
                mails,
                SaveError::unavailable(reason),
            );
            return;
        }
        log::warn!(mails = mails.len(); "commit_in_doubt");
        let (health, feed) = (self.health.clone(), Arc::clone(&self.feed));
        let builder = thread::Builder::new().name("commit-in-doubt".to_owned());
        // If the thread cannot be started, its closure drops the mails, whose clients then get 451.
        match builder.spawn(move || resolve(&health, &feed, look_up, mails)) {
            Ok(thread) => threads.push(thread),
            Err(error) => log::error!(reason:% = error; "thread_start_failed"),
        }
    }

    /// Returns whether no thread is running.
    pub fn are_finished(&self) -> bool {
        lock(&self.threads).iter().all(JoinHandle::is_finished)
    }

    /// Waits until every thread has answered its clients.
    pub fn join(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            // The thread catches panics, so `join` returns no error.
            let _ = thread.join();
        }
    }
}

fn doubt_of(outcome: &Result<SavedId, SaveError>) -> Option<&CommitInDoubt> {
    outcome.as_ref().err().and_then(SaveError::commit_in_doubt)
}

/// Looks up the outcome of a COMMIT and answers the clients of its mails.
fn resolve(health: &StoreHealth, feed: &Feed, look_up: CommitLookUp, claimed: Vec<ClaimedMail>) {
    let (handles, mails): (Vec<_>, Vec<_>) = claimed.into_iter().unzip();
    let looked_up =
        panics::catch_and_count_panic(health.metrics(), Component::Writer, || look_up(&mails));
    let outcome = looked_up.unwrap_or_else(|text| {
        Err(SaveError::unavailable(format!(
            "the look-up panicked: {text}"
        )))
    });
    let claimed: Vec<ClaimedMail> = handles.into_iter().zip(mails).collect();
    match outcome {
        Ok(()) => {
            let outcomes = claimed
                .iter()
                .map(|(_, mail)| Ok(SavedId::from(mail.hash())))
                .collect();
            report_outcomes(health, feed, claimed, outcomes);
        }
        Err(error) => fail_batch(health, feed, claimed, error),
    }
}

fn fail_batch(health: &StoreHealth, feed: &Feed, mails: Vec<ClaimedMail>, error: SaveError) {
    let outcomes = vec![Err(error); mails.len()];
    report_outcomes(health, feed, mails, outcomes);
}

/// Maximum number of batches in doubt at a time, per writer. If a host is lost, the batch of each writer is in doubt; a second
/// host may be lost within the 20 seconds of their look-ups.
pub const BATCHES_IN_DOUBT_PER_WRITER: usize = 2;
