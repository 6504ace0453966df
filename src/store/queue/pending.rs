//! One mail between its connection and the writer: queued, claimed, answered, or withdrawn.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::mail::Mail;
use crate::store::{SaveError, SavedId};
use crate::sync;

/// The writer's side of a pending save. If dropped without an answer, the client gets 451.
pub struct QueuedMail {
    pending: Arc<Pending>,
}

/// The connection's side of a pending save.
pub struct SaveWaiter {
    fate: Arc<Pending>,
}

struct Pending {
    state: Mutex<PendingState>,
    changed: Condvar,
}

enum PendingState {
    /// Holds the mail, so that withdrawing it frees its memory at once, however long the queue is.
    Queued(Box<Mail>),
    Withdrawn,
    Claimed,
    /// Returns the mail to the thread that allocated it, whose allocator can reuse the memory for the next mail.
    Answered(Result<SavedId, SaveError>, Option<Box<Mail>>),
}

/// Returns both sides of a pending save.
pub fn pending_save(mail: Mail) -> (QueuedMail, SaveWaiter) {
    let fate = Arc::new(Pending {
        state: Mutex::new(PendingState::Queued(Box::new(mail))),
        changed: Condvar::new(),
    });
    let ticket = QueuedMail {
        pending: Arc::clone(&fate),
    };
    (ticket, SaveWaiter { fate })
}

impl QueuedMail {
    /// Takes the mail to store it; `None` if its connection has withdrawn it.
    pub fn claim(&self) -> Option<Mail> {
        let mut state = self.pending.lock();
        match std::mem::replace(&mut *state, PendingState::Claimed) {
            PendingState::Queued(mail) => Some(*mail),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Sets the outcome; returns the mail to its connection if it was claimed.
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
        let reason = "the mail was dropped on its way";
        self.set_outcome(Err(SaveError::unavailable(reason)), None);
    }
}

impl SaveWaiter {
    /// Waits for the outcome, for about a minute at most.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is unknown whether it is.
    pub fn wait(
        self,
        waiting: &WaiterRegistry,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let started = Instant::now();
        let _place = waiting.register(&self.fate, started);
        let mut state = self.fate.lock();
        loop {
            let waited = started.elapsed();
            match &mut *state {
                PendingState::Answered(outcome, mail) => {
                    let (outcome, mail) = (outcome.clone(), mail.take());
                    drop(state);
                    // Freed before the reply, after which the client may send the next mail.
                    drop(mail);
                    return outcome;
                }
                PendingState::Queued(_) if waited >= MAX_QUEUE_TIME => {
                    *state = PendingState::Withdrawn;
                    return Err(SaveError::unavailable("the store did not get round to it"));
                }
                PendingState::Queued(_) if waited >= DISCONNECT_CHECK_AFTER && client_left() => {
                    *state = PendingState::Withdrawn;
                    return Err(SaveError::unavailable(
                        "the client left before its mail's turn",
                    ));
                }
                PendingState::Claimed if waited >= MAX_QUEUE_TIME + MAX_SAVE_TIME => {
                    // It is unknown whether the mail is stored: 451, never 250.
                    return Err(SaveError::unavailable(
                        "the store took it and did not answer",
                    ));
                }
                PendingState::Queued(_) | PendingState::Claimed | PendingState::Withdrawn => {}
            }
            let changed = self.fate.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The connections that wait for an outcome. A ticker thread wakes those that have waited for more than [`TRUST`], because
/// a timed wait of each connection would cost a kernel timer per mail, a twentieth of its CPU.
#[derive(Default)]
pub struct WaiterRegistry {
    fates: Mutex<HashMap<usize, (Instant, Arc<Pending>)>>,
}

/// Keeps one connection registered until dropped.
struct WaiterGuard<'a> {
    waiting: &'a WaiterRegistry,
    fate: &'a Arc<Pending>,
}

impl WaiterRegistry {
    /// Starts the ticker, which ends when the registry is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<Arc<WaiterRegistry>> {
        let waiting = Arc::<WaiterRegistry>::default();
        let ticked = Arc::downgrade(&waiting);
        let tick = move || {
            while let Some(waiting) = ticked.upgrade() {
                waiting.wake_overdue(Instant::now());
                drop(waiting);
                thread::sleep(TICK);
            }
        };
        let builder = thread::Builder::new().name("save-ticker".to_owned());
        builder.stack_size(TICKER_STACK_BYTES).spawn(tick)?;
        Ok(waiting)
    }

    fn register<'a>(&'a self, fate: &'a Arc<Pending>, now: Instant) -> WaiterGuard<'a> {
        sync::lock(&self.fates).insert(pending_key(fate), (now, Arc::clone(fate)));
        WaiterGuard {
            waiting: self,
            fate,
        }
    }

    /// Wakes the connections that have waited for long. One that is about to block misses this wake-up and gets the next.
    fn wake_overdue(&self, now: Instant) {
        for (since, fate) in sync::lock(&self.fates).values() {
            if now.saturating_duration_since(*since) >= DISCONNECT_CHECK_AFTER {
                fate.changed.notify_one();
            }
        }
    }
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        sync::lock(&self.waiting.fates).remove(&pending_key(self.fate));
    }
}

/// Returns the address, which identifies a fate as long as it exists.
fn pending_key(fate: &Arc<Pending>) -> usize {
    Arc::as_ptr(fate).addr()
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, PendingState> {
        sync::lock(&self.state)
    }
}

/// Longest time in the queue. Clients wait ten minutes (RFC 5321 §4.5.3.2.6), but hold a connection slot meanwhile.
const MAX_QUEUE_TIME: Duration = Duration::from_secs(30);
/// Longest time that a store may take for a batch: twenty seconds of retries with MySQL, and a COMMIT that was begun at
/// their end.
const MAX_SAVE_TIME: Duration = Duration::from_secs(32);
/// A wait up to this long does not check whether the client is still connected.
const DISCONNECT_CHECK_AFTER: Duration = Duration::from_secs(1);
/// Interval at which a longer wait checks its time limit and its client.
const TICK: Duration = Duration::from_millis(500);
/// The ticker's stack; it only walks the registry.
const TICKER_STACK_BYTES: usize = 64 << 10;
