//! Whose turn it is, where several writers serve one store, and when a batch is worth a commit.
//!
//! A commit costs much the same for one mail as for fifty, but while one is under way the next mails arrive. Two batches at
//! a time, each of half of those that are sending, keep both the store and the connections busy; smaller ones would cost
//! more than they bring.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ticket::Ticket;
use crate::locks;

/// Who saves now. One writer at a time waits for mail, and then for more of it; the others wait for their turn.
#[derive(Default)]
pub struct Turns {
    next: Mutex<()>,
    batches: Mutex<Batches>,
    changed: Condvar,
    /// So many mails in the queue end the wait for more; 0 while nobody waits.
    awaited: AtomicUsize,
}

#[derive(Default)]
struct Batches {
    in_hand: usize,
    /// Mails of the last two.
    last_two: [usize; 2],
}

/// A batch in hand, until dropped.
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// The first mail of a batch, once it is worth beginning. `queued` tells how many more there are.
    pub fn next(
        &self,
        first: impl FnOnce() -> Option<Ticket>,
        queued: impl Fn() -> usize,
    ) -> Option<(Ticket, Turn<'_>)> {
        let _next = locks::lock(&self.next);
        let first = first()?;
        let began_at = Instant::now();
        let mut batches = locks::lock(&self.batches);
        loop {
            let (enough, patience) = batches.worth_waiting_for();
            let Some(left) = patience.checked_sub(began_at.elapsed()) else {
                break;
            };
            // Said before the queue is looked at, so that a mail that is missed here does not miss it.
            self.awaited.store(enough, Ordering::SeqCst);
            if queued() >= enough {
                break;
            }
            let changed = self.changed.wait_timeout(batches, left);
            batches = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.awaited.store(0, Ordering::SeqCst);
        batches.in_hand += 1;
        Some((first, Turn(self)))
    }

    /// So many mails are queued now; said after each that is.
    pub fn has_queued(&self, mails: usize) {
        let awaited = self.awaited.load(Ordering::SeqCst);
        if awaited > 0 && mails >= awaited {
            // Under its lock whoever waits either sees the mail or is woken.
            let _batches = locks::lock(&self.batches);
            self.changed.notify_one();
        }
    }
}

impl Turn<'_> {
    /// How many mails it has come to.
    pub fn took(&mut self, mails: usize) {
        let mut batches = locks::lock(&self.0.batches);
        batches.last_two = [batches.last_two[1], mails];
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        locks::lock(&self.0.batches).in_hand -= 1;
        self.0.changed.notify_one();
    }
}

impl Batches {
    /// How many mails have to queue up behind the first one, and how long to wait for them.
    fn worth_waiting_for(&self) -> (usize, Duration) {
        let half = self.last_two.iter().sum::<usize>() / 4;
        match self.in_hand {
            // A mail that is alone, or has few neighbours, waits for nobody.
            0 if half < FEW => (0, Duration::ZERO),
            0 => (half.min(MANY), FOR_MORE),
            1 => (half.clamp(FEW, MANY), FOR_OTHERS),
            _ => (MANY, FOR_OTHERS),
        }
    }
}

/// Not worth a wait, nor a commit beside another one.
const FEW: usize = 8;
/// Worth a commit of their own, whatever other writers do.
const MANY: usize = 64;
/// How long a writer waits for as many mails as usual.
const FOR_MORE: Duration = Duration::from_millis(1);
/// How long it waits while others are at work: one of them may hang.
const FOR_OTHERS: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(in_hand: usize, last_two: [usize; 2]) -> Batches {
        Batches { in_hand, last_two }
    }

    #[test]
    fn a_mail_with_few_neighbours_waits_for_nobody() {
        for last_two in [[0, 0], [1, 1], [20, 1], [15, 15]] {
            let (enough, patience) = batches(0, last_two).worth_waiting_for();
            assert_eq!((enough, patience), (0, Duration::ZERO), "{last_two:?}");
        }
    }

    #[test]
    fn half_of_a_usual_batch_is_waited_for_and_no_more_than_many() {
        for (in_hand, last_two, want) in [
            (0, [40, 60], 25),
            (0, [500, 500], MANY),
            (1, [40, 60], 25),
            // Beside another batch, few are not worth a commit of their own.
            (1, [1, 1], FEW),
            (1, [500, 500], MANY),
            // Beside two of them only many are.
            (2, [40, 60], MANY),
        ] {
            let (enough, _) = batches(in_hand, last_two).worth_waiting_for();
            assert_eq!(enough, want, "{in_hand} in hand, {last_two:?}");
        }
    }
}
