//! Batch sizes when several writers serve one store.
//!
//! A COMMIT costs nearly the same for one mail as for fifty, and the next mails arrive while it runs. One writer at a time
//! collects a batch and waits, at most [`FOR_MORE`] or [`FOR_OTHERS`], until `target` mails are queued:
//!
//! ```text
//! half = half of the average size of the last two batches
//!
//! batches in flight   target              wait at most
//! 0, half < FEW       0                   0            (also the rule for a single writer that is alone)
//! 0                   min(half, MANY)     FOR_MORE
//! 1                   clamp(half, FEW, MANY)  FOR_OTHERS
//! 2 or more           MANY                FOR_OTHERS
//! ```
//!
//! Two batches in flight, each with half of the sending connections, keep both the store and the connections busy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::pending::QueuedMail;
use crate::sync;

/// Decides when a writer may start a batch. One writer at a time collects mail; the others wait for the lock.
#[derive(Default)]
pub struct BatchScheduler {
    acquiring: Mutex<()>,
    batches: Mutex<BatchState>,
    changed: Condvar,
    /// Queue length that ends the wait; 0 while no writer waits.
    wake_at: AtomicUsize,
}

#[derive(Default)]
struct BatchState {
    in_flight: usize,
    /// Sizes of the last two batches in mails.
    last_sizes: [usize; 2],
}

/// The permit for one batch in flight, released on drop.
pub struct BatchPermit<'a>(&'a BatchScheduler);

impl BatchScheduler {
    /// Returns the first mail of a batch once the batch may start. `queued` returns the length of the queue.
    pub fn acquire(
        &self,
        first: impl FnOnce() -> Option<QueuedMail>,
        queued: impl Fn() -> usize,
    ) -> Option<(QueuedMail, BatchPermit<'_>)> {
        let _next = sync::lock(&self.acquiring);
        let first = first()?;
        let began_at = Instant::now();
        let mut batches = sync::lock(&self.batches);
        loop {
            let (enough, patience) = batches.target();
            let Some(left) = patience.checked_sub(began_at.elapsed()) else {
                break;
            };
            // Publish the target before reading the queue length, so that a concurrent enqueue sees it.
            self.wake_at.store(enough, Ordering::SeqCst);
            if queued() >= enough {
                break;
            }
            let changed = self.changed.wait_timeout(batches, left);
            batches = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.wake_at.store(0, Ordering::SeqCst);
        batches.in_flight += 1;
        Some((first, BatchPermit(self)))
    }

    /// Wakes the waiting writer if `mails` reaches its target. Called after each enqueue with the new queue length.
    pub fn notify_queued(&self, mails: usize) {
        let awaited = self.wake_at.load(Ordering::SeqCst);
        if awaited > 0 && mails >= awaited {
            // The waiting writer holds this lock between publishing its target and blocking, so the wake-up is not lost.
            let _batches = sync::lock(&self.batches);
            self.changed.notify_one();
        }
    }
}

impl BatchPermit<'_> {
    /// Records the size of this batch.
    pub fn record_size(&mut self, mails: usize) {
        let mut batches = sync::lock(&self.0.batches);
        batches.last_sizes = [batches.last_sizes[1], mails];
    }
}

impl Drop for BatchPermit<'_> {
    fn drop(&mut self) {
        sync::lock(&self.0.batches).in_flight -= 1;
        self.0.changed.notify_one();
    }
}

impl BatchState {
    /// Returns how many further mails should be queued, and how long to wait for them (see the module's table).
    fn target(&self) -> (usize, Duration) {
        let half = self.last_sizes.iter().sum::<usize>() / 4;
        match self.in_flight {
            // Under light load a mail never waits for others.
            0 if half < MIN_BATCH => (0, Duration::ZERO),
            0 => (half.min(MAX_BATCH), LINGER),
            1 => (half.clamp(MIN_BATCH, MAX_BATCH), LINGER_BUSY),
            _ => (MAX_BATCH, LINGER_BUSY),
        }
    }
}

/// Smallest batch that is worth a wait or a second COMMIT in flight.
const MIN_BATCH: usize = 8;
/// A batch of this size starts whatever other writers do.
const MAX_BATCH: usize = 64;
/// Longest wait for more mails while no batch is in flight.
const LINGER: Duration = Duration::from_millis(1);
/// Longest wait while other batches are in flight; bounded, because one of those may hang.
const LINGER_BUSY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(in_hand: usize, last_two: [usize; 2]) -> BatchState {
        BatchState {
            in_flight: in_hand,
            last_sizes: last_two,
        }
    }

    #[test]
    fn small_batch_does_not_wait_for_more_mails() {
        for last_two in [[0, 0], [1, 1], [20, 1], [15, 15]] {
            let (enough, patience) = batches(0, last_two).target();
            assert_eq!((enough, patience), (0, Duration::ZERO), "{last_two:?}");
        }
    }

    #[test]
    fn writer_waits_for_half_of_a_typical_batch_up_to_the_maximum() {
        for (in_hand, last_two, want) in [
            (0, [40, 60], 25),
            (0, [500, 500], MAX_BATCH),
            (1, [40, 60], 25),
            // With one batch in flight, fewer than FEW mails are not worth a COMMIT of their own.
            (1, [1, 1], MIN_BATCH),
            (1, [500, 500], MAX_BATCH),
            // With two batches in flight only MANY are.
            (2, [40, 60], MAX_BATCH),
        ] {
            let (enough, _) = batches(in_hand, last_two).target();
            assert_eq!(enough, want, "{in_hand} in hand, {last_two:?}");
        }
    }
}
