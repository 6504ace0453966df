//! Log lines about failed questions, limited in number because every client can cause them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Logs failures of the recipients' query, and its recovery.
#[derive(Default)]
pub struct LookupFailureLog {
    /// Whether a failure was logged and no answer came since; an answer reads this without taking the lock.
    is_failing: AtomicBool,
    logged_at: Mutex<Option<Instant>>,
}

impl LookupFailureLog {
    /// Logs a failure, unless one was logged within [`REPEAT_AFTER`].
    pub fn record_failure(&self, reason: &str) {
        let mut logged_at = lock(&self.logged_at);
        if logged_at.is_some_and(|at| at.elapsed() < REPEAT_AFTER) {
            return;
        }
        *logged_at = Some(Instant::now());
        self.is_failing.store(true, Ordering::Relaxed);
        log::error!(reason = reason; "recipient_lookup_failed");
    }

    /// Records an answer. Logs it if it is the first one after a logged failure.
    pub fn record_answer(&self) {
        if self.is_failing.load(Ordering::Relaxed) && self.is_failing.swap(false, Ordering::Relaxed)
        {
            log::warn!("recipient_lookup_recovered");
        }
    }
}

/// Time in which no second failure is logged.
const REPEAT_AFTER: Duration = Duration::from_secs(30);
