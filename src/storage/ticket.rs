//! What becomes of one mail between its connection and the writer: queued, claimed, answered, or withdrawn in time.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{SaveError, SavedId};
use crate::locks;
use crate::mail::Mail;

/// The writer's end of a mail's fate. Dropped unanswered, it says 451 by itself.
pub struct Ticket {
    fate: Arc<Fate>,
}

/// The connection's end.
pub struct Receipt {
    fate: Arc<Fate>,
}

struct Fate {
    state: Mutex<FateState>,
    changed: Condvar,
}

enum FateState {
    /// The mail waits here, so that withdrawing it frees it at once, however long the queue is.
    Queued(Box<Mail>),
    Withdrawn,
    Claimed,
    /// With the mail, which is freed by the thread that made it: the allocator has its memory at hand there for the next.
    Answered(Result<SavedId, SaveError>, Option<Box<Mail>>),
}

/// Both ends of the fate of a mail that queues up.
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
    /// From now on the mail may be stored; `None` when its connection no longer wants that.
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

    /// Tells the connection how its mail fared, and gives it back where it was claimed.
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
    /// Waits for the outcome, for a minute at most.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is not known whether it is.
    pub fn wait(
        self,
        waiting: &Waiting,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let started = Instant::now();
        let place = waiting.enter(&self.fate, started);
        let mut state = self.fate.lock();
        loop {
            let waited = started.elapsed();
            match &mut *state {
                FateState::Answered(outcome, mail) => {
                    let (outcome, mail) = (outcome.clone(), mail.take());
                    drop(state);
                    // Before the client hears of it and may send the next one.
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
                    // It may be stored or not: 451, never 250 on doubt.
                    return Err(SaveError::unavailable(
                        "the store took it and did not answer",
                    ));
                }
                FateState::Queued(_) | FateState::Claimed | FateState::Withdrawn => {}
            }
            state = place.wait_for_change(state);
        }
    }
}

/// The connections that wait for an outcome. One of them has the others look at the clock: a time-out for each would cost
/// each mail a timer of the kernel's, a twentieth of all it costs.
#[derive(Default)]
pub struct Waiting {
    state: Mutex<WaitingState>,
}

#[derive(Default)]
struct WaitingState {
    since: HashMap<usize, (Instant, Arc<Fate>)>,
    /// Whose wait has a time-out; somebody's, as long as anybody waits.
    keeper: Option<usize>,
    /// Whoever is the keeper by then: under load they change all the time.
    next_beat: Option<Instant>,
}

/// A place among those that wait, until dropped.
struct Place<'a> {
    waiting: &'a Waiting,
    fate: &'a Arc<Fate>,
}

impl Waiting {
    fn enter<'a>(&'a self, fate: &'a Arc<Fate>, now: Instant) -> Place<'a> {
        let mut state = locks::lock(&self.state);
        let key = key_of(fate);
        state.since.insert(key, (now, Arc::clone(fate)));
        state.keeper.get_or_insert(key);
        Place {
            waiting: self,
            fate,
        }
    }

    /// How long the keeper may wait; once the time has come it has those look at the clock that have waited for long.
    /// `None` for everybody else.
    fn keep_time(&self, key: usize) -> Option<Duration> {
        let mut state = locks::lock(&self.state);
        if state.keeper != Some(key) {
            return None;
        }
        let now = Instant::now();
        let left = |until: Instant| until.saturating_duration_since(now);
        match state.next_beat.map(left) {
            Some(left) if !left.is_zero() => return Some(left),
            _ => state.next_beat = Some(now + HEARTBEAT),
        }
        for (since, fate) in state.since.values() {
            if left(*since + TRUST).is_zero() {
                // Whom this misses, for it is about to wait, the next beat will find.
                fate.changed.notify_one();
            }
        }
        Some(HEARTBEAT)
    }
}

impl Place<'_> {
    /// Until the state may be another one, or it is time to look at the clock.
    fn wait_for_change<'f>(&self, state: MutexGuard<'f, FateState>) -> MutexGuard<'f, FateState> {
        let changed = &self.fate.changed;
        match self.waiting.keep_time(key_of(self.fate)) {
            None => changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(left) => {
                let waited = changed.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = locks::lock(&self.waiting.state);
        let key = key_of(self.fate);
        state.since.remove(&key);
        if state.keeper != Some(key) {
            return;
        }
        let next = state.since.iter().next();
        let next = next.map(|(key, (_, fate))| (*key, Arc::clone(fate)));
        state.keeper = next.as_ref().map(|(key, _)| *key);
        drop(state);
        if let Some((_, fate)) = next {
            // Behind its lock it waits already, has yet to look who keeps the time, or has left.
            drop(fate.lock());
            fate.changed.notify_one();
        }
    }
}

/// No two fates are at the same place while both are held.
fn key_of(fate: &Arc<Fate>) -> usize {
    Arc::as_ptr(fate).addr()
}

impl Fate {
    fn lock(&self) -> MutexGuard<'_, FateState> {
        // A state is replaced whole, so a panic elsewhere cannot leave half of one.
        locks::lock(&self.state)
    }
}

/// How long a mail may wait for its turn; clients wait ten minutes (RFC 5321 §4.5.3.2.6), but hold a place meanwhile.
const MAX_QUEUED: Duration = Duration::from_secs(30);
/// How long a store may take over a batch before its mails count as not saved: twenty seconds of MySQL's trying, and a COMMIT
/// that was begun at their end.
const MAX_CLAIMED: Duration = Duration::from_secs(32);
/// How long a client counts as there without a look at it.
const TRUST: Duration = Duration::from_secs(1);
/// How often a connection that has waited for long looks at the clock, and after its client.
const HEARTBEAT: Duration = Duration::from_millis(500);
