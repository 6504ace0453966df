//! The states of one mail between its connection and the writer: queued, claimed by the writer, answered by the writer, or
//! withdrawn by the connection.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::hold::{HeldMailGuard, HoldLimit};
use crate::mail::Mail;
use crate::store::{SaveError, SavedId, StoreHealth};
use crate::sync;

/// Handle with which a writer takes the mail and answers. If the handle is dropped without an answer, the client gets 451.
pub struct UnansweredMail {
    pending: Arc<SharedPendingSave>,
}

/// Handle with which a connection waits for the outcome of its save.
pub struct SaveWaiter {
    pending: Arc<SharedPendingSave>,
}

struct SharedPendingSave {
    queued_at: Instant,
    /// The limit when the mail was queued. The connection reads the current one, but only each time it wakes up.
    first_limit: HoldLimit,
    state: Mutex<PendingSaveState>,
    changed: Condvar,
}

enum PendingSaveState {
    /// The mail is kept here and not in the queue, so its memory is freed as soon as the connection withdraws the mail. The
    /// error is that of the last attempt that failed while the mail was queued.
    Queued(Box<Mail>, Option<SaveError>),
    Withdrawn,
    /// The writer has the mail, since this time.
    Claimed(Instant),
    /// The outcome, and the mail. The connection's thread allocated the mail and frees it, so that the memory can be reused for
    /// the next mail of that thread.
    Answered(Result<SavedId, SaveError>, Option<Box<Mail>>),
}

/// Returns the writer's handle and the connection's handle for saving `mail`. `limit` is the current one.
pub fn new_pending_save(mail: Mail, limit: HoldLimit) -> (UnansweredMail, SaveWaiter) {
    let pending = Arc::new(SharedPendingSave {
        queued_at: Instant::now(),
        first_limit: limit,
        state: Mutex::new(PendingSaveState::Queued(Box::new(mail), None)),
        changed: Condvar::new(),
    });
    let queued = UnansweredMail {
        pending: Arc::clone(&pending),
    };
    (queued, SaveWaiter { pending })
}

impl UnansweredMail {
    /// Takes the mail in order to save it; `None` if its connection has withdrawn it.
    pub fn claim_mail(&self) -> Option<Mail> {
        let mut state = self.pending.lock();
        match std::mem::replace(&mut *state, PendingSaveState::Claimed(Instant::now())) {
            PendingSaveState::Queued(mail, _) => Some(*mail),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Sets the outcome and returns `mail` to its connection. `mail` is `None` if it was not claimed.
    pub fn set_save_outcome(self, outcome: Result<SavedId, SaveError>, mail: Option<Mail>) {
        self.set_outcome(outcome, mail);
    }

    /// Records that an attempt to save failed with `error` while the mail was queued. Returns whether the mail goes on waiting.
    /// Otherwise its connection has withdrawn it, or its time is over and it gets the error.
    pub fn record_failure(&self, error: &SaveError) -> bool {
        if self.is_time_over(error) {
            self.set_outcome(Err(error.clone()), None);
            return false;
        }
        let mut state = self.pending.lock();
        let PendingSaveState::Queued(_, failure) = &mut *state else {
            return false;
        };
        let is_first = failure.replace(error.clone()).is_none();
        drop(state);
        // After the first failure the ticker wakes the connection.
        if is_first {
            self.pending.changed.notify_one();
        }
        true
    }

    /// Returns the claimed `mail`, which was not saved because of `error`, to the state of a queued mail. Returns whether the
    /// mail goes on waiting. Otherwise its connection has given up, or its time is over and it gets the error.
    pub fn return_to_queue(&self, mail: Mail, error: SaveError) -> bool {
        if self.is_time_over(&error) {
            self.set_outcome(Err(error), Some(mail));
            return false;
        }
        let mut state = self.pending.lock();
        if !matches!(*state, PendingSaveState::Claimed(_)) {
            return false;
        }
        *state = PendingSaveState::Queued(Box::new(mail), Some(error));
        drop(state);
        self.pending.changed.notify_one();
        true
    }

    /// Returns whether the mail has waited long enough for a store that failed with `error`. The writer asks too, and not only
    /// the connection, so that a mail whose time is over gets no further attempt before its connection wakes up.
    fn is_time_over(&self, error: &SaveError) -> bool {
        self.pending.queued_at.elapsed() >= self.pending.first_limit.time_after_failure(error)
    }

    fn set_outcome(&self, outcome: Result<SavedId, SaveError>, mail: Option<Mail>) {
        let mut state = self.pending.lock();
        if matches!(
            *state,
            PendingSaveState::Queued(..) | PendingSaveState::Claimed(_)
        ) {
            *state = PendingSaveState::Answered(outcome, mail.map(Box::new));
            drop(state);
            self.pending.changed.notify_one();
        }
    }
}

impl Drop for UnansweredMail {
    fn drop(&mut self) {
        let reason = "the mail was dropped before it was saved";
        self.set_outcome(Err(SaveError::unavailable(reason)), None);
    }
}

impl SaveWaiter {
    /// Waits for the outcome. Withdraws the mail if it is still queued when `client_left` returns true, when the time of `hold`
    /// has passed while the store is unavailable, or else after 30 seconds. A writer that has taken the mail has 32 seconds.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is unknown whether the mail is saved.
    pub fn wait_for_save_outcome(
        self,
        registry: &SaveWaiterRegistry,
        health: &StoreHealth,
        hold: &dyn Fn() -> HoldLimit,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let started_at = self.pending.queued_at;
        let _guard = registry.register_save_waiter(&self.pending, started_at);
        let mut held = None;
        let mut state = self.pending.lock();
        loop {
            let waited = started_at.elapsed();
            let given_up = match &mut *state {
                PendingSaveState::Answered(outcome, mail) => {
                    let (outcome, mail) = (outcome.clone(), mail.take());
                    drop(state);
                    // The mail is freed before the reply, because the client may send its next mail right after the reply.
                    drop(mail);
                    return outcome;
                }
                // Usually the mail is claimed soon, and nothing is to be decided.
                PendingSaveState::Queued(_, failure)
                    if failure.is_some() || waited >= DISCONNECT_CHECK_AFTER =>
                {
                    let limit = hold();
                    let failure =
                        (failure.clone()).or_else(|| reason_if_unavailable(health, limit));
                    if failure.is_some() && held.is_none() {
                        held = Some(HeldMailGuard::count(health.metrics()));
                    }
                    end_of_wait_in_queue(waited, limit, failure).or_else(|| {
                        let has_left = waited >= DISCONNECT_CHECK_AFTER && client_left();
                        let reason = "the client disconnected before its mail was saved";
                        has_left.then(|| SaveError::unavailable(reason))
                    })
                }
                // The mail may or may not be stored, so the client gets 451, never 250.
                PendingSaveState::Claimed(since)
                    if waited >= MAX_QUEUE_TIME + MAX_TIME_AFTER_CLAIM
                        && since.elapsed() >= MAX_TIME_AFTER_CLAIM =>
                {
                    Some(SaveError::unavailable(
                        "the store took the mail and did not answer in time",
                    ))
                }
                PendingSaveState::Queued(..)
                | PendingSaveState::Claimed(_)
                | PendingSaveState::Withdrawn => None,
            };
            if let Some(error) = given_up {
                // A mail that the writer returns to the queue later is not saved either.
                *state = PendingSaveState::Withdrawn;
                return Err(error);
            }
            let changed = self.pending.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Returns why the store is unavailable for a mail that was queued after the last failed attempt; `None` if the store is ready,
/// or if the configured time is 0: the mail then gets an attempt of its own. Needed because a writer records the failure of an
/// attempt in the queued mails only after the attempt.
fn reason_if_unavailable(health: &StoreHealth, limit: HoldLimit) -> Option<SaveError> {
    let reason = limit
        .is_configured()
        .then(|| health.store_unready_reason())
        .flatten();
    reason.map(SaveError::unavailable)
}

/// Returns the error of a queued mail whose time is over; `failure` says why the store is unavailable, if it is.
fn end_of_wait_in_queue(
    waited: Duration,
    limit: HoldLimit,
    failure: Option<SaveError>,
) -> Option<SaveError> {
    let (time, error) = match failure {
        Some(error) => (limit.time_after_failure(&error), error),
        None => {
            let reason = "the mail waited in the queue for too long";
            (MAX_QUEUE_TIME, SaveError::unavailable(reason))
        }
    };
    (waited >= time).then_some(error)
}

/// The connections that wait for an outcome. A ticker thread wakes those that have waited longer than
/// `DISCONNECT_CHECK_AFTER`. A timed wait in each connection would need a kernel timer per mail, which costs 5 % of the CPU
/// time of a mail.
#[derive(Default)]
pub struct SaveWaiterRegistry {
    waiters: Mutex<HashMap<usize, (Instant, Arc<SharedPendingSave>)>>,
}

/// Keeps one connection registered as waiting for the outcome of its save, until this guard is dropped.
struct SaveWaiterGuard<'a> {
    registry: &'a SaveWaiterRegistry,
    pending: &'a Arc<SharedPendingSave>,
}

impl SaveWaiterRegistry {
    /// Creates the registry and starts the ticker thread, which ends after the registry is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<Arc<SaveWaiterRegistry>> {
        let registry = Arc::<SaveWaiterRegistry>::default();
        let weak = Arc::downgrade(&registry);
        let tick = move || {
            while let Some(registry) = weak.upgrade() {
                registry.wake_connections_waiting_long_for_save(Instant::now());
                drop(registry);
                thread::sleep(TICK);
            }
        };
        let builder = thread::Builder::new().name("save-ticker".to_owned());
        builder.stack_size(TICKER_STACK_BYTES).spawn(tick)?;
        Ok(registry)
    }

    fn register_save_waiter<'a>(
        &'a self,
        pending: &'a Arc<SharedPendingSave>,
        now: Instant,
    ) -> SaveWaiterGuard<'a> {
        sync::lock(&self.waiters).insert(
            pending_save_memory_address(pending),
            (now, Arc::clone(pending)),
        );
        SaveWaiterGuard {
            registry: self,
            pending,
        }
    }

    /// Wakes the connections that have waited for at least `DISCONNECT_CHECK_AFTER`. A connection that is about to block misses
    /// this wake-up and gets the next one.
    fn wake_connections_waiting_long_for_save(&self, now: Instant) {
        for (since, pending) in sync::lock(&self.waiters).values() {
            if now.saturating_duration_since(*since) >= DISCONNECT_CHECK_AFTER {
                pending.changed.notify_one();
            }
        }
    }
}

impl Drop for SaveWaiterGuard<'_> {
    fn drop(&mut self) {
        sync::lock(&self.registry.waiters).remove(&pending_save_memory_address(self.pending));
    }
}

/// Returns the memory address of a pending save, which identifies the save as long as the save exists.
fn pending_save_memory_address(pending: &Arc<SharedPendingSave>) -> usize {
    Arc::as_ptr(pending).addr()
}

impl SharedPendingSave {
    fn lock(&self) -> MutexGuard<'_, PendingSaveState> {
        sync::lock(&self.state)
    }
}

/// Maximum time that a mail waits in the queue of a store that is available; after that its client gets 451. A client would
/// wait ten minutes for the reply (RFC 5321 §4.5.3.2.6), but a waiting client occupies one of the server's connections.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(30);
/// Minimum time that a writer has for a mail that it has taken; after that, and after `MAX_QUEUE_TIME` in addition to it, the
/// client gets 451. A COMMIT in doubt is looked up for 20 seconds, and the last attempt may take the other 12 seconds.
const MAX_TIME_AFTER_CLAIM: Duration = Duration::from_secs(32);
/// Time since the start of a save after which the server checks whether the client has disconnected.
const DISCONNECT_CHECK_AFTER: Duration = Duration::from_secs(1);
/// Interval between checks of a save that takes longer than a second: whether its time limit has passed and whether the
/// client is still connected.
const TICK: Duration = Duration::from_millis(500);
/// Stack size of the ticker thread, in bytes. The thread only iterates over the registry, so a small stack suffices.
const TICKER_STACK_BYTES: usize = 64 << 10;
