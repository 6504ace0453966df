//! Whose turn it is, where several writers serve one store.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::ticket::Ticket;
use crate::locks;

/// Who saves now. One writer at a time waits for mail, and for batches in hand to end; the others wait for their turn.
#[derive(Default)]
pub struct Turns {
    next: Mutex<()>,
    /// Batches in hand.
    busy: Mutex<usize>,
    ended: Condvar,
}

/// A batch in hand, until dropped.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// The first mail of a batch. What queues up while others save shall be one batch too, so their end is waited for; but
    /// not for long, and not when enough has queued up already.
    pub fn next(
        &self,
        first: impl FnOnce() -> Option<Ticket>,
        queued: impl FnOnce() -> usize,
    ) -> Option<(Ticket, Turn<'_>)> {
        let _next = locks::lock(&self.next);
        let first = first()?;
        let mut busy = locks::lock(&self.busy);
        if queued() < WORTH_A_COMMIT {
            let ended = (self.ended).wait_timeout_while(busy, MAX_LINGER, |busy| *busy > 0);
            busy = ended.unwrap_or_else(PoisonError::into_inner).0;
        }
        *busy += 1;
        Some((first, Turn(self)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *locks::lock(&self.0.busy) -= 1;
        self.0.ended.notify_one();
    }
}

/// Mails that are a batch of their own, whatever other writers do.
const WORTH_A_COMMIT: usize = 64;
/// How long a writer waits for the batch of another one.
const MAX_LINGER: Duration = Duration::from_millis(5);
