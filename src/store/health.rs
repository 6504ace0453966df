//! Whether a store can be reached and saves mail.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::host_status::HostStatus;
use super::rejected_batches::RejectedBatchCount;
use super::table::TableColumns;
use crate::metrics::Metrics;
use crate::sync::lock;

/// The state of a store, and the metrics of its server. The connections and writers of the store update the state; savers and
/// /readyz read it. Clones share one state.
///
/// While a store is down, mail waits for GM_HOLD_SECONDS and then gets 451; if that is 0, it gets 451 immediately.
#[derive(Clone, Debug)]
pub struct StoreHealth {
    metrics: Arc<Metrics>,
    shared: Arc<SharedHealthState>,
}

#[derive(Debug, Default)]
struct SharedHealthState {
    was_reached: AtomicBool,
    is_down: AtomicBool,
    reason: Mutex<String>,
    stalled: AtomicBool,
    stalled_reason: Mutex<String>,
    /// Why none of several hosts takes mail; `None` while at least one takes mail.
    no_host: Mutex<Option<String>>,
    /// Whether a failure was recorded since the last success. `record_store_success` reads this first, so that it usually takes
    /// no lock.
    is_failing: AtomicBool,
    failures: Mutex<LastFailureAndRejections>,
    pending: Mutex<UnansweredStoreRequests>,
    /// Which resource the store has run out of, such as mail ids, and how to get more.
    shortage: Mutex<Option<String>>,
    /// The state of each server if the store has several.
    hosts: Mutex<Vec<HostStatus>>,
    readiness_check: OnceLock<StoreReadinessCheck>,
    /// The columns of the table, for the entries of the feed; unset until they are known.
    columns: Mutex<Option<TableColumns>>,
}

/// A function that returns the reason if the store cannot save mail, else `None`. The function must not block.
struct StoreReadinessCheck(Box<dyn Fn() -> Option<String> + Send + Sync>);

impl fmt::Debug for StoreReadinessCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadinessCheck")
    }
}

#[derive(Debug, Default)]
struct LastFailureAndRejections {
    /// Time and reason of the last batch of which no mail was saved.
    last: Option<(Instant, String)>,
    rejected_batches: RejectedBatchCount,
}

/// The requests that the store has not answered yet: start time and description of each.
#[derive(Debug, Default)]
struct UnansweredStoreRequests {
    next: u64,
    requests: HashMap<u64, (Instant, &'static str)>,
}

/// A request that the store has not answered yet. It ends when this value is dropped.
#[derive(Debug)]
pub struct UnansweredRequestGuard {
    health: StoreHealth,
    key: u64,
}

impl StoreHealth {
    /// Returns the health of a store that was not reached yet. Its errors and batches are counted in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> StoreHealth {
        let shared = Arc::default();
        StoreHealth { metrics, shared }
    }

    /// Returns the health of a store that was reached already. The store counts in `metrics`.
    pub fn new_of_reached_store(metrics: Arc<Metrics>) -> StoreHealth {
        let health = StoreHealth::new(metrics);
        health.record_store_reached();
        health
    }

    /// Returns the metrics of the server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Sets the columns of the table, which decide how much of a text is stored.
    pub fn set_table_columns(&self, columns: &TableColumns) {
        *lock(&self.shared.columns) = Some(columns.clone());
    }

    /// Returns the columns of the table; those of the table that `schema` prints until they are known.
    pub fn table_columns(&self) -> TableColumns {
        let known = lock(&self.shared.columns).clone();
        known.unwrap_or(TableColumns::DEFAULT)
    }

    /// Sets a check that every call of [`store_unready_reason`](StoreHealth::store_unready_reason) runs, so that a failure is
    /// found even if no mail arrives. The check must not block.
    pub fn set_readiness_check(&self, check: impl Fn() -> Option<String> + Send + Sync + 'static) {
        let _ = self
            .shared
            .readiness_check
            .set(StoreReadinessCheck(Box::new(check)));
    }

    /// Records that the store was reached. Logs `store_recovered` if the store was down before.
    pub fn record_store_reached(&self) {
        self.shared.was_reached.store(true, Ordering::SeqCst);
        if self.shared.is_down.swap(false, Ordering::SeqCst) {
            // Failures from before the outage are out of date.
            self.record_store_success();
            log::warn!("store_recovered");
        }
    }

    /// Records that the store cannot be reached. Logs `reason` once per outage.
    pub fn record_store_unreachable(&self, reason: &str) {
        *lock(&self.shared.reason) = reason.to_owned();
        if !self.shared.is_down.swap(true, Ordering::SeqCst) {
            log::error!(reason = reason; "store_unavailable");
        }
    }

    /// Marks the store as stalled for the given reason, or as no longer stalled (`None`). A stalled store counts as
    /// down, although it can be reached.
    pub fn set_stalled_reason(&self, reason: Option<String>) {
        let is_stalled = reason.is_some();
        *lock(&self.shared.stalled_reason) = reason.unwrap_or_default();
        self.shared.stalled.store(is_stalled, Ordering::SeqCst);
    }

    /// Sets the reason why none of several hosts takes mail; `None` while at least one takes mail. The reason affects only
    /// /readyz: the server still tries to save each mail.
    pub fn set_no_host_reason(&self, reason: Option<String>) {
        *lock(&self.shared.no_host) = reason;
    }

    /// Returns the reason if the store is known to be down or stalled, else `None`.
    pub fn store_down_reason(&self) -> Option<String> {
        if self.shared.stalled.load(Ordering::SeqCst) {
            return Some(lock(&self.shared.stalled_reason).clone());
        }
        let is_down = self.shared.is_down.load(Ordering::SeqCst);
        is_down.then(|| lock(&self.shared.reason).clone())
    }

    /// Records that a request was sent to the store. The request counts as unanswered until the returned value is dropped.
    /// `description` names the request in the reason that /readyz shows.
    pub fn begin_store_request(&self, description: &'static str) -> UnansweredRequestGuard {
        let mut pending = lock(&self.shared.pending);
        let key = pending.next;
        pending.next += 1;
        pending.requests.insert(key, (Instant::now(), description));
        UnansweredRequestGuard {
            health: self.clone(),
            key,
        }
    }

    /// Records that the store saved no mail of a batch.
    pub fn record_failed_batch_in_health(&self, reason: &str) {
        lock(&self.shared.failures).last = Some((Instant::now(), reason.to_owned()));
        self.shared.is_failing.store(true, Ordering::SeqCst);
    }

    /// Records that the store rejected every mail of a batch, which came from these clients. The store counts as failing only
    /// after several such batches in a row, from several clients.
    pub fn record_rejected_batch_in_health(
        &self,
        clients: impl Iterator<Item = IpAddr>,
        reason: &str,
    ) {
        let mut failures = lock(&self.shared.failures);
        if failures
            .rejected_batches
            .add_batch_and_check_if_failing(clients)
        {
            failures.last = Some((Instant::now(), reason.to_owned()));
        }
        self.shared.is_failing.store(true, Ordering::SeqCst);
    }

    /// Records that the store saved a mail.
    pub fn record_store_success(&self) {
        // Usually no failure is recorded, and then the lock is not taken.
        if self.shared.is_failing.load(Ordering::Relaxed) {
            *lock(&self.shared.failures) = LastFailureAndRejections::default();
            self.shared.is_failing.store(false, Ordering::SeqCst);
        }
    }

    /// Sets which resource the store has run out of; `None` if it has run out of none. Unlike a failure, a shortage does not
    /// expire and is not cleared by a success.
    pub fn set_store_resource_shortage(&self, shortage: Option<String>) {
        *lock(&self.shared.shortage) = shortage;
    }

    /// Returns whether the store has run out of a resource.
    pub fn has_resource_shortage(&self) -> bool {
        lock(&self.shared.shortage).is_some()
    }

    /// Sets the state of each of the store's servers.
    pub fn set_host_status(&self, hosts: Vec<HostStatus>) {
        *lock(&self.shared.hosts) = hosts;
    }

    /// Returns the state of each of the store's servers; empty if the store does not say or has only one.
    pub fn host_status(&self) -> Vec<HostStatus> {
        lock(&self.shared.hosts).clone()
    }

    /// Returns why a load balancer should send mail elsewhere; `None` if the store was reached and saves mail.
    ///
    /// A failure counts for ten seconds only: while the load balancer sends no mail, no success can clear the failure.
    pub fn store_unready_reason(&self) -> Option<String> {
        if let Some(reason) = self.store_down_reason() {
            return Some(reason);
        }
        if !self.shared.was_reached.load(Ordering::SeqCst) {
            return Some("not reached yet".to_owned());
        }
        let no_host = lock(&self.shared.no_host).clone();
        no_host
            .or_else(|| lock(&self.shared.shortage).clone())
            .or_else(|| self.describe_slow_request())
            .or_else(|| (self.shared.readiness_check.get()?.0)())
            .or_else(|| self.recent_failure())
    }

    fn describe_slow_request(&self) -> Option<String> {
        let pending = lock(&self.shared.pending);
        let (started_at, description) = pending.requests.values().min()?;
        let waited = started_at.elapsed();
        (waited > SLOW_REQUEST_AFTER)
            .then(|| format!("{description} has taken {} s", waited.as_secs()))
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

impl Drop for UnansweredRequestGuard {
    fn drop(&mut self) {
        let mut pending = lock(&self.health.shared.pending);
        pending.requests.remove(&self.key);
    }
}

/// Time after a failed batch during which the store counts as not ready, if no mail is saved meanwhile.
const FAILURE_WINDOW: Duration = Duration::from_secs(10);
/// Longest time for one request to the store, such as a COMMIT. After that, the store counts as not ready.
pub const SLOW_REQUEST_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_is_ready_after_the_first_connection_until_a_save_fails() {
        let health = StoreHealth::new(Arc::default());
        assert_eq!(health.store_down_reason(), None);
        assert_eq!(
            health.store_unready_reason().as_deref(),
            Some("not reached yet")
        );
        health.record_store_reached();
        assert_eq!(health.store_unready_reason(), None);
        health.record_failed_batch_in_health("full");
        assert_eq!(health.store_unready_reason().as_deref(), Some("full"));
        assert_eq!(health.store_down_reason(), None, "the next mail is tried");
        health.record_store_success();
        assert_eq!(health.store_unready_reason(), None);
        health.record_store_unreachable("gone");
        assert_eq!(health.store_unready_reason().as_deref(), Some("gone"));
        health.record_store_reached();
        health.record_failed_batch_in_health("full");
        health.record_store_reached();
        assert!(
            health.store_unready_reason().is_some(),
            "another connection was made"
        );
        health.record_store_unreachable("gone");
        health.record_store_reached();
        assert_eq!(
            health.store_unready_reason(),
            None,
            "it was down in between"
        );
        health.set_store_resource_shortage(Some("no ids".to_owned()));
        assert_eq!(health.store_unready_reason().as_deref(), Some("no ids"));
        health.record_store_success();
        assert!(health.has_resource_shortage() && health.store_down_reason().is_none());
        health.set_store_resource_shortage(None);
        assert_eq!(health.store_unready_reason(), None);
        lock(&health.shared.failures).last = Instant::now()
            .checked_sub(FAILURE_WINDOW)
            .map(|failed_at| (failed_at, "full".to_owned()));
        health.shared.is_failing.store(true, Ordering::SeqCst);
        assert_eq!(health.store_unready_reason(), None, "the failure is old");
    }

    #[test]
    fn stalled_store_is_unavailable_although_it_is_reachable() {
        let health = StoreHealth::new_of_reached_store(Arc::default());
        health.set_stalled_reason(Some("a COMMIT hangs".to_owned()));
        health.record_store_reached();
        assert_eq!(
            health.store_down_reason().as_deref(),
            Some("a COMMIT hangs")
        );
        assert_eq!(
            health.store_unready_reason().as_deref(),
            Some("a COMMIT hangs")
        );
        health.set_stalled_reason(None);
        assert_eq!(health.store_down_reason(), None);
        health.set_no_host_reason(Some("no host".to_owned()));
        assert_eq!(health.store_unready_reason().as_deref(), Some("no host"));
        assert_eq!(health.store_down_reason(), None, "the next mail is tried");
    }

    #[test]
    fn store_is_not_ready_while_a_request_takes_too_long() {
        let health = StoreHealth::new_of_reached_store(Arc::default());
        let (first, second) = (
            health.begin_store_request("a batch"),
            health.begin_store_request("a batch"),
        );
        assert_eq!(health.store_unready_reason(), None);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(7)).unwrap();
        lock(&health.shared.pending)
            .requests
            .insert(first.key, (long_ago, "a batch"));
        assert_eq!(
            health.store_unready_reason().as_deref(),
            Some("a batch has taken 7 s")
        );
        drop(first);
        assert_eq!(health.store_unready_reason(), None);
        drop(second);
        assert!(lock(&health.shared.pending).requests.is_empty());
    }

    #[test]
    fn store_is_not_ready_after_many_rejected_batches_of_several_clients() {
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let health = StoreHealth::new_of_reached_store(Arc::default());
        let refuse = |last| {
            health.record_rejected_batch_in_health(std::iter::once(address(last)), "refused")
        };
        for _ in 0..100 {
            refuse(1);
        }
        assert_eq!(health.store_unready_reason(), None, "one client's mails");
        refuse(2);
        assert_eq!(health.store_unready_reason().as_deref(), Some("refused"));
        health.record_store_success();
        assert_eq!(health.store_unready_reason(), None);
        (1..10).for_each(refuse);
        health.record_store_success();
        (1..10).for_each(refuse);
        assert_eq!(health.store_unready_reason(), None, "not in a row");
        refuse(3);
        assert_eq!(health.store_unready_reason().as_deref(), Some("refused"));
    }
}
