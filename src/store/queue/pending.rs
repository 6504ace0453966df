//! The states of one mail between its connection and the writer: queued, claimed by the writer, answered by the writer, or
//! withdrawn by the connection.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::mail::Mail;
use crate::store::{SaveError, SavedId};
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
    state: Mutex<PendingSaveState>,
    changed: Condvar,
}

enum PendingSaveState {
    /// The mail is held here and not in the queue, so its memory is freed as soon as the connection withdraws the mail.
    Queued(Box<Mail>),
    Withdrawn,
    Claimed,
    /// The outcome, and the mail. The connection's thread allocated the mail and frees it, so that the memory can be reused for
    /// the next mail of that thread.
    Answered(Result<SavedId, SaveError>, Option<Box<Mail>>),
}

/// Returns the writer's handle and the connection's handle for saving `mail`.
pub fn new_pending_save(mail: Mail) -> (UnansweredMail, SaveWaiter) {
    let pending = Arc::new(SharedPendingSave {
        state: Mutex::new(PendingSaveState::Queued(Box::new(mail))),
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
        match std::mem::replace(&mut *state, PendingSaveState::Claimed) {
            PendingSaveState::Queued(mail) => Some(*mail),
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

    fn set_outcome(&self, outcome: Result<SavedId, SaveError>, mail: Option<Mail>) {
        let mut state = self.pending.lock();
        if matches!(
            *state,
            PendingSaveState::Queued(_) | PendingSaveState::Claimed
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
    /// Waits for the outcome, 62 seconds at most. Withdraws the mail if it is still queued after 30 seconds or when
    /// `client_left` returns true.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is unknown whether the mail is saved.
    pub fn wait_for_save_outcome(
        self,
        registry: &SaveWaiterRegistry,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let started_at = Instant::now();
        let _guard = registry.register_save_waiter(&self.pending, started_at);
        let mut state = self.pending.lock();
        loop {
            let waited = started_at.elapsed();
            match &mut *state {
                PendingSaveState::Answered(outcome, mail) => {
                    let (outcome, mail) = (outcome.clone(), mail.take());
                    drop(state);
                    // The mail is freed before the reply, because the client may send its next mail right after the reply.
                    drop(mail);
                    return outcome;
                }
                PendingSaveState::Queued(_) if waited >= MAX_QUEUE_TIME => {
                    *state = PendingSaveState::Withdrawn;
                    return Err(SaveError::unavailable(
                        "the mail waited in the queue for too long",
                    ));
                }
                PendingSaveState::Queued(_)
                    if waited >= DISCONNECT_CHECK_AFTER && client_left() =>
                {
                    *state = PendingSaveState::Withdrawn;
                    return Err(SaveError::unavailable(
                        "the client disconnected before its mail was saved",
                    ));
                }
                PendingSaveState::Claimed if waited >= MAX_QUEUE_TIME + EXTRA_TIME_AFTER_CLAIM => {
                    // The mail may or may not be stored, so the client gets 451, never 250.
                    return Err(SaveError::unavailable(
                        "the store took the mail and did not answer in time",
                    ));
                }
                PendingSaveState::Queued(_)
                | PendingSaveState::Claimed
                | PendingSaveState::Withdrawn => {}
            }
            let changed = self.pending.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }
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

/// Maximum time that a mail waits in the queue; after that its client gets 451. A client would wait ten minutes for the reply
/// (RFC 5321 §4.5.3.2.6), but a waiting client occupies one of the server's connections.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(30);
/// Time that a mail which a writer has taken may wait for its outcome in addition to `MAX_QUEUE_TIME`; after that its client
/// gets 451. The MySQL store retries for 20 seconds, and a COMMIT that starts at the end of them may take the other 12 seconds.
const EXTRA_TIME_AFTER_CLAIM: Duration = Duration::from_secs(32);
/// Time since the start of a save after which the server checks whether the client has disconnected.
const DISCONNECT_CHECK_AFTER: Duration = Duration::from_secs(1);
/// Interval between checks of a save that takes longer than a second: whether its time limit has passed and whether the
/// client is still connected.
const TICK: Duration = Duration::from_millis(500);
/// Stack size of the ticker thread, in bytes. The thread only iterates over the registry, so a small stack suffices.
const TICKER_STACK_BYTES: usize = 64 << 10;
