//! Whether a store can be reached, as far as anybody knows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::locks::lock;

/// Known by whoever tries to reach the store, asked by whoever has mail for it. Clones share one state.
///
/// While a store is down, mail is answered 451 at once instead of waiting for it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    reached: AtomicBool,
    down: AtomicBool,
    reason: Mutex<String>,
    failing: AtomicBool,
    /// When the store last took nothing of what it was given, and why.
    failure: Mutex<Option<(Instant, String)>>,
    /// What the store has run out of, and how to get more.
    shortage: Mutex<Option<String>>,
    /// A line for each server of a store that has several.
    parts: Mutex<Vec<String>>,
}

impl Health {
    /// Of a store that was reached already.
    pub fn up() -> Health {
        let health = Health::default();
        health.set_up();
        health
    }

    /// The store was reached. Said in the log when it had been down.
    pub fn set_up(&self) {
        self.shared.reached.store(true, Ordering::SeqCst);
        if self.shared.down.swap(false, Ordering::SeqCst) {
            // What failed before it was away tells nothing any more.
            self.worked();
            log::warn!("store_back");
        }
    }

    /// The store was not reached. Said in the log once.
    pub fn set_down(&self, reason: &str) {
        *lock(&self.shared.reason) = reason.to_owned();
        if !self.shared.down.swap(true, Ordering::SeqCst) {
            log::error!(reason = reason; "store_down");
        }
    }

    /// Why the store is down; `None` while it is not known to be.
    pub fn why_down(&self) -> Option<String> {
        let is_down = self.shared.down.load(Ordering::SeqCst);
        is_down.then(|| lock(&self.shared.reason).clone())
    }

    /// The store was given mails and took none of them.
    pub fn failed(&self, reason: &str) {
        *lock(&self.shared.failure) = Some((Instant::now(), reason.to_owned()));
        self.shared.failing.store(true, Ordering::SeqCst);
    }

    /// The store took a mail.
    pub fn worked(&self) {
        // Nearly always there is nothing to forget, and then this costs next to nothing.
        if self.shared.failing.load(Ordering::Relaxed) {
            self.shared.failing.store(false, Ordering::SeqCst);
        }
    }

    /// Sets what the store has run out of; unlike a failure it lasts until it is unset.
    pub fn set_shortage(&self, shortage: Option<String>) {
        *lock(&self.shared.shortage) = shortage;
    }

    /// Whether the store has run out of something.
    pub fn has_shortage(&self) -> bool {
        lock(&self.shared.shortage).is_some()
    }

    /// How each server of the store is, a line each.
    pub fn set_parts(&self, lines: Vec<String>) {
        *lock(&self.shared.parts) = lines;
    }

    /// How each server of the store is; nothing for a store that is one.
    pub fn parts(&self) -> Vec<String> {
        lock(&self.shared.parts).clone()
    }

    /// Why mail should rather go elsewhere; `None` while the store was reached and takes what it is given.
    ///
    /// A failure counts for ten seconds only: whoever sends no mail because of it would never learn that it has
    /// passed.
    pub fn why_not_ready(&self) -> Option<String> {
        if let Some(reason) = self.why_down() {
            return Some(reason);
        }
        if !self.shared.reached.load(Ordering::SeqCst) {
            return Some("not reached yet".to_owned());
        }
        if let Some(shortage) = lock(&self.shared.shortage).clone() {
            return Some(shortage);
        }
        if !self.shared.failing.load(Ordering::SeqCst) {
            return None;
        }
        let failure = lock(&self.shared.failure).clone();
        let recent = failure.filter(|(failed_at, _)| failed_at.elapsed() < FAILURE_COUNTS);
        recent.map(|(_, reason)| reason)
    }
}

/// How long a store that took nothing counts as not ready.
const FAILURE_COUNTS: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_ready_once_reached_and_while_it_takes_mail() {
        let health = Health::default();
        assert_eq!(health.why_down(), None);
        assert_eq!(health.why_not_ready().as_deref(), Some("not reached yet"));
        health.set_up();
        assert_eq!(health.why_not_ready(), None);
        health.failed("full");
        assert_eq!(health.why_not_ready().as_deref(), Some("full"));
        assert_eq!(health.why_down(), None, "the next mail is tried");
        health.worked();
        assert_eq!(health.why_not_ready(), None);
        health.set_down("gone");
        assert_eq!(health.why_not_ready().as_deref(), Some("gone"));
        health.set_up();
        health.failed("full");
        health.set_up();
        assert!(health.why_not_ready().is_some(), "one more connection");
        health.set_down("gone");
        health.set_up();
        assert_eq!(health.why_not_ready(), None, "it was away meanwhile");
        health.set_shortage(Some("no ids".to_owned()));
        assert_eq!(health.why_not_ready().as_deref(), Some("no ids"));
        health.worked();
        assert!(health.has_shortage() && health.why_down().is_none());
        health.set_shortage(None);
        assert_eq!(health.why_not_ready(), None);
        *lock(&health.shared.failure) = Instant::now()
            .checked_sub(FAILURE_COUNTS)
            .map(|failed_at| (failed_at, "full".to_owned()));
        health.shared.failing.store(true, Ordering::SeqCst);
        assert_eq!(health.why_not_ready(), None, "it may have passed");
    }
}
