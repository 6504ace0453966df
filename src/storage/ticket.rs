//! One mail between its connection and the writer: queued, claimed, answered, or withdrawn.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{SaveError, SavedId};
use crate::locks;
use crate::mail::Mail;

/// The writer's side of a pending save. If dropped without an answer, the client gets 451.
pub struct Ticket {
    fate: Arc<Fate>,
}

/// The connection's side of a pending save.
pub struct Receipt {
    fate: Arc<Fate>,
}

struct Fate {
    state: Mutex<FateState>,
    changed: Condvar,
}

enum FateState {
    /// Holds the mail, so that withdrawing it frees its memory at once, however long the queue is.
    Queued(Box<Mail>),
    Withdrawn,
    Claimed,
    /// Returns the mail to the thread that allocated it, whose allocator can reuse the memory for the next mail.
    Answered(Result<SavedId, SaveError>, Option<Box<Mail>>),
}

/// Returns both sides of a pending save.
pub fn ticket(mail: Mail) -> (Ticket, Receipt) {
    let fate = Arc::new(Fate {
        state: Mutex::new(FateState::Queued(Box::new(mail))),
        changed: Condvar::new(),
    });
    let ticket = Ticket {
        fate: Arc::clone(&fate),
    };
    (ticket, Receipt { fate })
}

impl Ticket {
    /// Takes the mail to store it; `None` if its connection has withdrawn it.
    pub fn claim(&self) -> Option<Mail> {
        let mut state = self.fate.lock();
        match std::mem::replace(&mut *state, FateState::Claimed) {
            FateState::Queued(mail) => Some(*mail),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Sets the outcome; returns the mail to its connection if it was claimed.
    pub fn answer(self, outcome: Result<SavedId, SaveError>, mail: Option<Mail>) {
        self.settle(outcome, mail);
    }

    fn settle(&self, outcome: Result<SavedId, SaveError>, mail: Option<Mail>) {
        let mut state = self.fate.lock();
        if matches!(*state, FateState::Queued(_) | FateState::Claimed) {
            *state = FateState::Answered(outcome, mail.map(Box::new));
            drop(state);
            self.fate.changed.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let reason = "the mail was dropped on its way";
        self.settle(Err(SaveError::unavailable(reason)), None);
    }
}

impl Receipt {
    /// Waits for the outcome, for about a minute at most.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is unknown whether it is.
    pub fn wait(
        self,
        waiting: &Waiting,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let started = Instant::now();
        let _place = waiting.enter(&self.fate, started);
        let mut state = self.fate.lock();
        loop {
            let waited = started.elapsed();
            match &mut *state {
                FateState::Answered(outcome, mail) => {
                    let (outcome, mail) = (outcome.clone(), mail.take());
                    drop(state);
                    // Freed before the reply, after which the client may send the next mail.
                    drop(mail);
                    return outcome;
                }
                FateState::Queued(_) if waited >= MAX_QUEUED => {
                    *state = FateState::Withdrawn;
                    return Err(SaveError::unavailable("the store did not get round to it"));
                }
                FateState::Queued(_) if waited >= TRUST && client_left() => {
                    *state = FateState::Withdrawn;
                    return Err(SaveError::unavailable(
                        "the client left before its mail's turn",
                    ));
                }
                FateState::Claimed if waited >= MAX_QUEUED + MAX_CLAIMED => {
                    // It is unknown whether the mail is stored: 451, never 250.
                    return Err(SaveError::unavailable(
                        "the store took it and did not answer",
                    ));
                }
                FateState::Queued(_) | FateState::Claimed | FateState::Withdrawn => {}
            }
            let changed = self.fate.changed.wait(state);
            state = changed.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The connections that wait for an outcome. A ticker thread wakes those that have waited for more than [`TRUST`], because
/// a timed wait of each connection would cost a kernel timer per mail, a twentieth of its CPU.
#[derive(Default)]
pub struct Waiting {
    fates: Mutex<HashMap<usize, (Instant, Arc<Fate>)>>,
}

/// Keeps one connection registered until dropped.
struct Place<'a> {
    waiting: &'a Waiting,
    fate: &'a Arc<Fate>,
}

impl Waiting {
    /// Starts the ticker, which ends when the registry is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start() -> io::Result<Arc<Waiting>> {
        let waiting = Arc::<Waiting>::default();
        let ticked = Arc::downgrade(&waiting);
        let tick = move || {
            while let Some(waiting) = ticked.upgrade() {
                waiting.wake_overdue(Instant::now());
                drop(waiting);
                thread::sleep(HEARTBEAT);
            }
        };
        let builder = thread::Builder::new().name("save-ticker".to_owned());
        builder.stack_size(TICKER_STACK_BYTES).spawn(tick)?;
        Ok(waiting)
    }

    fn enter<'a>(&'a self, fate: &'a Arc<Fate>, now: Instant) -> Place<'a> {
        locks::lock(&self.fates).insert(key_of(fate), (now, Arc::clone(fate)));
        Place {
            waiting: self,
            fate,
        }
    }

    /// Wakes the connections that have waited for long. One that is about to block misses this wake-up and gets the next.
    fn wake_overdue(&self, now: Instant) {
        for (since, fate) in locks::lock(&self.fates).values() {
            if now.saturating_duration_since(*since) >= TRUST {
                fate.changed.notify_one();
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        locks::lock(&self.waiting.fates).remove(&key_of(self.fate));
    }
}

/// Returns the address, which identifies a fate as long as it exists.
fn key_of(fate: &Arc<Fate>) -> usize {
    Arc::as_ptr(fate).addr()
}

impl Fate {
    fn lock(&self) -> MutexGuard<'_, FateState> {
        locks::lock(&self.state)
    }
}

/// Longest time in the queue. Clients wait ten minutes (RFC 5321 §4.5.3.2.6), but hold a connection slot meanwhile.
const MAX_QUEUED: Duration = Duration::from_secs(30);
/// Longest time that a store may take for a batch: twenty seconds of retries with MySQL, and a COMMIT that was begun at
/// their end.
const MAX_CLAIMED: Duration = Duration::from_secs(32);
/// A wait up to this long does not check whether the client is still connected.
const TRUST: Duration = Duration::from_secs(1);
/// Interval at which a longer wait checks its time limit and its client.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The ticker's stack; it only walks the registry.
const TICKER_STACK_BYTES: usize = 64 << 10;
