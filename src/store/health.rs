//! Whether a store can be reached and takes what it is given.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::refusals::Refusals;
use crate::sync::lock;

/// The state of a store: connections to it and its writers update it, savers and /readyz read it. Clones share one state.
///
/// While a store is down, mail is answered 451 at once instead of waiting for it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    was_reached: AtomicBool,
    is_down: AtomicBool,
    reason: Mutex<String>,
    stalled: AtomicBool,
    stalled_reason: Mutex<String>,
    /// Why none of several hosts takes mail.
    no_host: Mutex<Option<String>>,
    /// There is something that a success would clear.
    is_failing: AtomicBool,
    failures: Mutex<Failures>,
    under_way: Mutex<UnderWay>,
    /// What the store has run out of, and how to get more.
    shortage: Mutex<Option<String>>,
    /// A line for each server of a store that has several.
    hosts: Mutex<Vec<String>>,
}

#[derive(Debug, Default)]
struct Failures {
    /// When the store last took nothing of what it was given, and why.
    last: Option<(Instant, String)>,
    refusals: Refusals,
}

/// What the store has not answered yet: when it was asked, and what for.
#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    questions: HashMap<u64, (Instant, &'static str)>,
}

/// Something that the store has not answered yet, until dropped.
#[derive(Debug)]
pub struct Question {
    health: Health,
    key: u64,
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
        self.shared.was_reached.store(true, Ordering::SeqCst);
        if self.shared.is_down.swap(false, Ordering::SeqCst) {
            // What failed before it was away tells nothing any more.
            self.record_success();
            log::warn!("store_recovered");
        }
    }

    /// The store was not reached. Said in the log once.
    pub fn set_down(&self, reason: &str) {
        *lock(&self.shared.reason) = reason.to_owned();
        if !self.shared.is_down.swap(true, Ordering::SeqCst) {
            log::error!(reason = reason; "store_unavailable");
        }
    }

    /// Stops mail from being given to the store, although it can be reached, or lets it go on.
    pub fn set_stalled(&self, reason: Option<String>) {
        let is_stalled = reason.is_some();
        *lock(&self.shared.stalled_reason) = reason.unwrap_or_default();
        self.shared.stalled.store(is_stalled, Ordering::SeqCst);
    }

    /// Sets why none of several hosts takes mail; `None` while one does. Mail is tried all the same.
    pub fn set_no_host(&self, reason: Option<String>) {
        *lock(&self.shared.no_host) = reason;
    }

    /// Why the store is down; `None` while it is not known to be.
    pub fn down_reason(&self) -> Option<String> {
        if self.shared.stalled.load(Ordering::SeqCst) {
            return Some(lock(&self.shared.stalled_reason).clone());
        }
        let is_down = self.shared.is_down.load(Ordering::SeqCst);
        is_down.then(|| lock(&self.shared.reason).clone())
    }

    /// Begins a question to the store, which lasts until the result is dropped.
    pub fn ask(&self, what: &'static str) -> Question {
        let mut under_way = lock(&self.shared.under_way);
        let key = under_way.next;
        under_way.next += 1;
        under_way.questions.insert(key, (Instant::now(), what));
        Question {
            health: self.clone(),
            key,
        }
    }

    /// The store was given mails and took none of them.
    pub fn record_failure(&self, reason: &str) {
        lock(&self.shared.failures).last = Some((Instant::now(), reason.to_owned()));
        self.shared.is_failing.store(true, Ordering::SeqCst);
    }

    /// The store refused all mails of a batch, which came from these clients. That says nothing of the store until it
    /// has happened several times in a row to several clients.
    pub fn refused(&self, clients: impl Iterator<Item = IpAddr>, reason: &str) {
        let mut failures = lock(&self.shared.failures);
        if failures.refusals.add(clients) {
            failures.last = Some((Instant::now(), reason.to_owned()));
        }
        self.shared.is_failing.store(true, Ordering::SeqCst);
    }

    /// The store took a mail.
    pub fn record_success(&self) {
        // Nearly always there is nothing to clear, and then this costs next to nothing.
        if self.shared.is_failing.load(Ordering::Relaxed) {
            *lock(&self.shared.failures) = Failures::default();
            self.shared.is_failing.store(false, Ordering::SeqCst);
        }
    }

    /// Sets what the store has run out of; unlike a failure it lasts until it is unset.
    pub fn set_shortage(&self, shortage: Option<String>) {
        *lock(&self.shared.shortage) = shortage;
    }

    /// Returns whether the store has run out of something.
    pub fn has_shortage(&self) -> bool {
        lock(&self.shared.shortage).is_some()
    }

    /// How each server of the store is, a line each.
    pub fn set_hosts(&self, lines: Vec<String>) {
        *lock(&self.shared.hosts) = lines;
    }

    /// How each server of the store is; nothing for a store that is one.
    pub fn hosts(&self) -> Vec<String> {
        lock(&self.shared.hosts).clone()
    }

    /// Why mail should rather go elsewhere; `None` while the store was reached and takes what it is given.
    ///
    /// A failure counts for ten seconds only: a balancer that sends no mail because of it would never learn that it
    /// has passed.
    pub fn unready_reason(&self) -> Option<String> {
        if let Some(reason) = self.down_reason() {
            return Some(reason);
        }
        if !self.shared.was_reached.load(Ordering::SeqCst) {
            return Some("not reached yet".to_owned());
        }
        let no_host = lock(&self.shared.no_host).clone();
        no_host
            .or_else(|| lock(&self.shared.shortage).clone())
            .or_else(|| self.slow_question())
            .or_else(|| self.recent_failure())
    }

    fn slow_question(&self) -> Option<String> {
        let under_way = lock(&self.shared.under_way);
        let (asked_at, what) = under_way.questions.values().min()?;
        let waited = asked_at.elapsed();
        (waited > ANSWER_EXPECTED).then(|| format!("{what} has taken {} s", waited.as_secs()))
    }

    fn recent_failure(&self) -> Option<String> {
        if !self.shared.is_failing.load(Ordering::SeqCst) {
            return None;
        }
        let failure = lock(&self.shared.failures).last.clone();
        let recent = failure.filter(|(failed_at, _)| failed_at.elapsed() < FAILURE_WINDOW);
        recent.map(|(_, reason)| reason)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut under_way = lock(&self.health.shared.under_way);
        under_way.questions.remove(&self.key);
    }
}

/// How long a store that took nothing counts as not ready.
const FAILURE_WINDOW: Duration = Duration::from_secs(10);
/// How long a store may take over a batch before mail should rather go elsewhere.
pub const ANSWER_EXPECTED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_is_ready_after_the_first_connection_until_a_save_fails() {
        let health = Health::default();
        assert_eq!(health.down_reason(), None);
        assert_eq!(health.unready_reason().as_deref(), Some("not reached yet"));
        health.set_up();
        assert_eq!(health.unready_reason(), None);
        health.record_failure("full");
        assert_eq!(health.unready_reason().as_deref(), Some("full"));
        assert_eq!(health.down_reason(), None, "the next mail is tried");
        health.record_success();
        assert_eq!(health.unready_reason(), None);
        health.set_down("gone");
        assert_eq!(health.unready_reason().as_deref(), Some("gone"));
        health.set_up();
        health.record_failure("full");
        health.set_up();
        assert!(health.unready_reason().is_some(), "one more connection");
        health.set_down("gone");
        health.set_up();
        assert_eq!(health.unready_reason(), None, "it was away meanwhile");
        health.set_shortage(Some("no ids".to_owned()));
        assert_eq!(health.unready_reason().as_deref(), Some("no ids"));
        health.record_success();
        assert!(health.has_shortage() && health.down_reason().is_none());
        health.set_shortage(None);
        assert_eq!(health.unready_reason(), None);
        lock(&health.shared.failures).last = Instant::now()
            .checked_sub(FAILURE_WINDOW)
            .map(|failed_at| (failed_at, "full".to_owned()));
        health.shared.is_failing.store(true, Ordering::SeqCst);
        assert_eq!(health.unready_reason(), None, "it may have passed");
    }

    #[test]
    fn stalled_store_is_unavailable_although_it_is_reachable() {
        let health = Health::up();
        health.set_stalled(Some("a COMMIT hangs".to_owned()));
        health.set_up();
        assert_eq!(health.down_reason().as_deref(), Some("a COMMIT hangs"));
        assert_eq!(health.unready_reason().as_deref(), Some("a COMMIT hangs"));
        health.set_stalled(None);
        assert_eq!(health.down_reason(), None);
        health.set_no_host(Some("no host".to_owned()));
        assert_eq!(health.unready_reason().as_deref(), Some("no host"));
        assert_eq!(health.down_reason(), None, "the next mail is tried");
    }

    #[test]
    fn store_is_not_ready_while_a_request_takes_too_long() {
        let health = Health::up();
        let (first, second) = (health.ask("a batch"), health.ask("a batch"));
        assert_eq!(health.unready_reason(), None);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(7)).unwrap();
        lock(&health.shared.under_way)
            .questions
            .insert(first.key, (long_ago, "a batch"));
        assert_eq!(
            health.unready_reason().as_deref(),
            Some("a batch has taken 7 s")
        );
        drop(first);
        assert_eq!(health.unready_reason(), None);
        drop(second);
        assert!(lock(&health.shared.under_way).questions.is_empty());
    }

    #[test]
    fn store_is_not_ready_after_many_rejected_batches_of_several_clients() {
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let health = Health::up();
        let refuse = |last| health.refused(std::iter::once(address(last)), "refused");
        for _ in 0..100 {
            refuse(1);
        }
        assert_eq!(health.unready_reason(), None, "one client's mails");
        refuse(2);
        assert_eq!(health.unready_reason().as_deref(), Some("refused"));
        health.record_success();
        assert_eq!(health.unready_reason(), None);
        (1..10).for_each(refuse);
        health.record_success();
        (1..10).for_each(refuse);
        assert_eq!(health.unready_reason(), None, "not in a row");
        refuse(3);
        assert_eq!(health.unready_reason().as_deref(), Some("refused"));
    }
}
