//! What becomes of one mail between its connection and the writer: queued, claimed, answered, or withdrawn in time.

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
    Answered(Result<SavedId, SaveError>),
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

    /// Tells the connection how its mail fared.
    pub fn answer(self, outcome: Result<SavedId, SaveError>) {
        self.settle(outcome);
    }

    fn settle(&self, outcome: Result<SavedId, SaveError>) {
        let mut state = self.fate.lock();
        if matches!(*state, FateState::Queued(_) | FateState::Claimed) {
            *state = FateState::Answered(outcome);
            drop(state);
            self.fate.changed.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle(Err(SaveError::unavailable(
            "the mail was dropped on its way",
        )));
    }
}

impl Receipt {
    /// Waits for the outcome, for a minute at most.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is not known whether it is.
    pub fn wait(self, client_left: &mut dyn FnMut() -> bool) -> Result<SavedId, SaveError> {
        let started = Instant::now();
        let mut state = self.fate.lock();
        loop {
            let waited = started.elapsed();
            match &*state {
                FateState::Answered(outcome) => return outcome.clone(),
                FateState::Queued(_) if waited >= MAX_QUEUED => {
                    *state = FateState::Withdrawn;
                    return Err(SaveError::unavailable("the store did not get round to it"));
                }
                FateState::Queued(_) if waited >= HEARTBEAT && client_left() => {
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
            let wait = self.fate.changed.wait_timeout(state, HEARTBEAT);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
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
/// How often a waiting connection looks after its client.
const HEARTBEAT: Duration = Duration::from_secs(1);
