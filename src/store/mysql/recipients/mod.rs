//! Asks the database which recipients exist (GM_RECIPIENT_QUERY).
//!
//! Four threads with connections of their own send the query, so that a question never waits for a COMMIT, for a name to be
//! resolved or for a connection to be made: a session waits for [`ANSWER_TIMEOUT`] at most and then defers the recipient.
//! Answers are cached. If the database does not answer, a cached yes stays valid, however old it is.

mod answer_cache;
mod connection;
mod failure_log;
mod worker;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use self::answer_cache::{CachedAnswer, RecipientAnswerCache};
pub use self::connection::RecipientQueryConnection;
use self::failure_log::LookupFailureLog;
use self::worker::{RecipientQuestion, start_workers};
use super::settings::MySqlSettings;
use crate::metrics::{Metrics, RecipientLookupAnswer};
use crate::smtp::{RecipientCheck, RecipientHook};

/// The settings of the recipients' query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientQuerySettings {
    /// The database: hosts, account and default database.
    pub database: MySqlSettings,
    /// A SELECT with one placeholder, which returns a row if the recipient exists.
    pub query: String,
    /// How long answers are kept; zero means not at all.
    pub cache_time: Duration,
}

/// What the sessions and the threads that ask the database share.
struct SharedLookupState {
    settings: RecipientQuerySettings,
    cache: RecipientAnswerCache,
    failures: LookupFailureLog,
    metrics: Arc<Metrics>,
}

/// Answers which recipients exist, from the cache or by a question to the database.
struct RecipientLookup {
    shared: Arc<SharedLookupState>,
    questions: Sender<RecipientQuestion>,
}

/// Starts the threads that ask the database; returns the hook for sessions. The threads end after the last clone of the hook is
/// dropped.
///
/// # Errors
/// A thread cannot be started.
pub fn start_recipient_lookup(
    settings: RecipientQuerySettings,
    metrics: &Arc<Metrics>,
) -> io::Result<RecipientHook> {
    let shared = Arc::new(SharedLookupState {
        cache: RecipientAnswerCache::new(settings.cache_time),
        settings,
        failures: LookupFailureLog::default(),
        metrics: Arc::clone(metrics),
    });
    let questions = start_workers(&shared)?;
    let lookup = RecipientLookup { shared, questions };
    Ok(RecipientHook::with_time_limit(move |address| {
        lookup.check(address)
    }))
}

impl RecipientLookup {
    fn check(&self, address: &str) -> RecipientCheck {
        let cached = self.shared.cache.cached_answer(address);
        let (check, answer) = match cached {
            CachedAnswer::Yes => (RecipientCheck::Accept, RecipientLookupAnswer::CachedYes),
            CachedAnswer::No => (RecipientCheck::Reject, RecipientLookupAnswer::CachedNo),
            CachedAnswer::ExpiredYes | CachedAnswer::Unknown => match self.ask_database(address) {
                Some(true) => (RecipientCheck::Accept, RecipientLookupAnswer::Yes),
                Some(false) => (RecipientCheck::Reject, RecipientLookupAnswer::No),
                None if cached == CachedAnswer::ExpiredYes => {
                    (RecipientCheck::Accept, RecipientLookupAnswer::ExpiredYes)
                }
                None => (RecipientCheck::Defer, RecipientLookupAnswer::Unavailable),
            },
        };
        self.shared.metrics.recipient_lookups.count(answer);
        check
    }

    /// Returns whether the database has the recipient; `None` if it does not answer in time or returns an error.
    fn ask_database(&self, address: &str) -> Option<bool> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let (reply, answer) = bounded(1);
        let question = RecipientQuestion {
            address: address.to_owned(),
            deadline,
            reply,
        };
        let sent = self.questions.send_deadline(question, deadline).is_ok();
        let outcome = sent.then(|| answer.recv_deadline(deadline).ok()).flatten();
        if outcome.is_none() {
            self.shared.failures.record_failure(NO_ANSWER);
        }
        // The thread that asked has recorded the failure if the answer is `None`.
        outcome.flatten()
    }
}

/// Maximum time for an answer about a recipient, including the wait for a free connection; after it the recipient is deferred.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of connections for the recipients' query, each with its own thread.
pub const RECIPIENT_CONNECTIONS: usize = 4;
const NO_ANSWER: &str = "the database did not answer within 2 s";
