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
pub struct QueuedMail {
    pending: Arc<Pending>,
}

/// Handle with which a connection waits for the outcome of its save.
pub struct SaveWaiter {
    pending: Arc<Pending>,
}

struct Pending {
    state: Mutex<PendingState>,
    changed: Condvar,
}

enum PendingState {
    /// The mail is held here and not in the queue, so its memory is freed as soon as the connection withdraws the mail.
    Queued(Box<Mail>),
    Withdrawn,
    Claimed,
    /// The outcome, and the mail. The connection's thread allocated the mail and frees it, so that the memory can be reused for
    /// the next mail of that thread.
    Answered(Result<SavedId, SaveError>, Option<Box<Mail>>),
}

/// Returns the writer's handle and the connection's handle for saving `mail`.
pub fn pending_save(mail: Mail) -> (QueuedMail, SaveWaiter) {
    let pending = Arc::new(Pending {
        state: Mutex::new(PendingState::Queued(Box::new(mail))),
        changed: Condvar::new(),
    });
    let queued = QueuedMail {
        pending: Arc::clone(&pending),
    };
    (queued, SaveWaiter { pending })
}

impl QueuedMail {
    /// Takes the mail in order to save it; `None` if its connection has withdrawn it.
    pub fn claim_mail(&self) -> Option<Mail> {
        let mut state = self.pending.lock();
        match std::mem::replace(&mut *state, PendingState::Claimed) {
            PendingState::Queued(mail) => Some(*mail),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Sets the outcome and returns `mail` to its connection. `mail` is `None` if it was not claimed.
    pub fn answer(self, outcome: Result<SavedId, SaveError>, mail: Option<Mail>) {
        self.set_outcome(outcome, mail);
    }

    fn set_outcome(&self, outcome: Result<SavedId, SaveError>, mail: Option<Mail>) {
        let mut state = self.pending.lock();
        if matches!(*state, PendingState::Queued(_) | PendingState::Claimed) {
            *state = PendingState::Answered(outcome, mail.map(Box::new));
            drop(state);
            self.pending.changed.notify_one();
        }
    }
}

impl Drop for QueuedMail {
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
    pub fn wait(
        self,
        registry: &WaiterRegistry,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let started_at = Instant::now();
        let _guard = registry.register(&self.pending, started_at);
        let mut state = self.pending.lock();
        loop {
            let waited = started_at.elapsed();
            match &mut *state {
                PendingState::Answered(outcome, mail) => {
                    let (outcome, mail) = (outcome.clone(), mail.take());
                    drop(state);
                    // The mail is freed before the reply, because the client may send its next mail right after the reply.
                    drop(mail);
                    return outcome;
                }
                PendingState::Queued(_) if waited >= MAX_QUEUE_TIME => {
                    *state = PendingState::Withdrawn;
                    return Err(SaveError::unavailable(
                        "the mail waited in the queue for too long",
                    ));
                }
                PendingState::Queued(_) if waited >= DISCONNECT_CHECK_AFTER && client_left() => {
                    *state = PendingState::Withdrawn;
                    return Err(SaveError::unavailable(
                        "the client disconnected before its mail was saved",
                    ));
                }
                PendingState::Claimed if waited >= MAX_QUEUE_TIME + EXTRA_TIME_AFTER_CLAIM => {
                    // The mail may or may not be stored, so the client gets 451, never 250.
                    return Err(SaveError::unavailable(
                        "the store took the mail and did not answer in time",
                    ));
                }
                PendingState::Queued(_) | PendingState::Claimed | PendingState::Withdrawn => {}
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
pub struct WaiterRegistry {
    waiters: Mutex<HashMap<usize, (Instant, Arc<Pending>)>>,
}

/// Keeps one connection registered as waiting for the outcome of its save, until this guard is dropped.
struct WaiterGuard<'a> {
    registry: &'a WaiterRegistry,
    pending: &'a Arc<Pending>,
}

impl WaiterRegistry {
    /// Creates the registry and starts the ticker thread, which ends after the registry is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<Arc<WaiterRegistry>> {
        let registry = Arc::<WaiterRegistry>::default();
        let weak = Arc::downgrade(&registry);
        let tick = move || {
            while let Some(registry) = weak.upgrade() {
                registry.wake_overdue(Instant::now());
                drop(registry);
                thread::sleep(TICK);
            }
        };
        let builder = thread::Builder::new().name("save-ticker".to_owned());
        builder.stack_size(TICKER_STACK_BYTES).spawn(tick)?;
        Ok(registry)
    }

    fn register<'a>(&'a self, pending: &'a Arc<Pending>, now: Instant) -> WaiterGuard<'a> {
        sync::lock(&self.waiters).insert(registry_key(pending), (now, Arc::clone(pending)));
        WaiterGuard {
            registry: self,
            pending,
        }
    }

    /// Wakes the connections that have waited for at least `DISCONNECT_CHECK_AFTER`. A connection that is about to block misses
    /// this wake-up and gets the next one.
    fn wake_overdue(&self, now: Instant) {
        for (since, pending) in sync::lock(&self.waiters).values() {
            if now.saturating_duration_since(*since) >= DISCONNECT_CHECK_AFTER {
                pending.changed.notify_one();
            }
        }
    }
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        sync::lock(&self.registry.waiters).remove(&registry_key(self.pending));
    }
}

/// Returns the memory address of a pending save, which identifies the save as long as the save exists.
fn registry_key(pending: &Arc<Pending>) -> usize {
    Arc::as_ptr(pending).addr()
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, PendingState> {
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
