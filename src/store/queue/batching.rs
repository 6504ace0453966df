//! Decides the size of batches when several writers serve one store.
//!
//! A COMMIT costs nearly the same for one mail as for fifty, and the next mails arrive while it runs. One writer at a time
//! takes the first mail of a batch and then waits, at most `LINGER` or `LINGER_BUSY`, until the target number of
//! further mails is queued:
//!
//! ```text
//! half = half of the average size of the last two batches
//! MIN  = MIN_MAILS_WORTH_WAITING, MAX = MAX_MAILS_WAITED_FOR
//!
//! batches in flight       target                              longest wait
//! 0, half <  MIN          0                                   0
//! 0, half >= MIN          min(half, MAX)                      LINGER
//! 1                       clamp(half, MIN, MAX)               LINGER_BUSY
//! 2 or more               MAX                                 LINGER_BUSY
//! ```
//!
//! A single writer has no batch in flight when it starts the next one. With two batches in flight, each with the mails of half
//! of the sending connections, the store and the connections are both busy.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::pending::UnansweredMail;
use crate::sync;

/// Decides when a writer starts a batch. One writer at a time collects mails; the others wait for the lock `acquiring`.
#[derive(Default)]
pub struct BatchScheduler {
    acquiring: Mutex<()>,
    batches: Mutex<BatchesInFlight>,
    changed: Condvar,
    /// Number of queued mails at which the waiting writer starts its batch; 0 while no writer waits.
    wake_at: AtomicUsize,
}

#[derive(Default)]
struct BatchesInFlight {
    in_flight: usize,
    /// Number of mails in each of the last two batches.
    last_sizes: [usize; 2],
}

/// Counts one batch as in flight until this value is dropped.
pub struct BatchPermit<'a>(&'a BatchScheduler);

impl BatchScheduler {
    /// Takes the first mail of a batch with `first` and blocks until the batch may start. `queued` returns the number of mails
    /// in the queue. Returns `None` if `first` returns no mail.
    pub fn acquire_batch_permit(
        &self,
        first: impl FnOnce() -> Option<UnansweredMail>,
        queued: impl Fn() -> usize,
    ) -> Option<(UnansweredMail, BatchPermit<'_>)> {
        let _guard = sync::lock(&self.acquiring);
        let first = first()?;
        let started_at = Instant::now();
        let mut batches = sync::lock(&self.batches);
        loop {
            let (target, timeout) = batches.mails_to_wait_for_and_max_wait();
            let Some(remaining) = timeout.checked_sub(started_at.elapsed()) else {
                break;
            };
            // The writer stores `wake_at` before it reads the queue length; a connection queues its mail before it reads
            // `wake_at` (`wake_writer_if_batch_is_ready`). So at least one of them sees the other's change.
            self.wake_at.store(target, Ordering::SeqCst);
            if queued() >= target {
                break;
            }
            let changed = self.changed.wait_timeout(batches, remaining);
            batches = changed.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.wake_at.store(0, Ordering::SeqCst);
        batches.in_flight += 1;
        Some((first, BatchPermit(self)))
    }

    /// Wakes the waiting writer if the queue has reached the writer's target. A connection calls this after it has queued a
    /// mail; `mails` is the new queue length.
    pub fn wake_writer_if_batch_is_ready(&self, mails: usize) {
        let target = self.wake_at.load(Ordering::SeqCst);
        if target > 0 && mails >= target {
            // The waiting writer holds this lock from before it stores `wake_at` until it blocks, so the writer cannot miss the
            // wake-up.
            let _batches = sync::lock(&self.batches);
            self.changed.notify_one();
        }
    }
}

impl BatchPermit<'_> {
    /// Records that this batch has `mails` mails.
    pub fn record_size_for_scheduling(&mut self, mails: usize) {
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

impl BatchesInFlight {
    /// Returns how many further mails should be queued and how long to wait for them (see the table in the module doc).
    fn mails_to_wait_for_and_max_wait(&self) -> (usize, Duration) {
        let half = self.last_sizes.iter().sum::<usize>() / 4;
        match self.in_flight {
            // Under light load no mail waits for others.
            0 if half < MIN_MAILS_WORTH_WAITING => (0, Duration::ZERO),
            0 => (half.min(MAX_MAILS_WAITED_FOR), LINGER),
            1 => (
                half.clamp(MIN_MAILS_WORTH_WAITING, MAX_MAILS_WAITED_FOR),
                LINGER_BUSY,
            ),
            _ => (MAX_MAILS_WAITED_FOR, LINGER_BUSY),
        }
    }
}

/// Smallest number of mails that is worth a wait or a second COMMIT in flight.
const MIN_MAILS_WORTH_WAITING: usize = 8;
/// Number of queued mails at which a batch starts without a further wait, even if other batches are in flight.
const MAX_MAILS_WAITED_FOR: usize = 64;
/// Longest wait for more mails while no batch is in flight.
const LINGER: Duration = Duration::from_millis(1);
/// Longest wait for more mails while other batches are in flight. The wait is limited because another batch may hang.
const LINGER_BUSY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn test_batch_state(in_flight: usize, last_sizes: [usize; 2]) -> BatchesInFlight {
        BatchesInFlight {
            in_flight,
            last_sizes,
        }
    }

    #[test]
    fn small_batch_does_not_wait_for_more_mails() {
        for last_sizes in [[0, 0], [1, 1], [20, 1], [15, 15]] {
            let (target, timeout) =
                test_batch_state(0, last_sizes).mails_to_wait_for_and_max_wait();
            assert_eq!((target, timeout), (0, Duration::ZERO), "{last_sizes:?}");
        }
    }

    #[test]
    fn writer_waits_for_half_of_a_typical_batch_up_to_the_maximum() {
        for (in_flight, last_sizes, want) in [
            (0, [40, 60], 25),
            (0, [500, 500], MAX_MAILS_WAITED_FOR),
            (1, [40, 60], 25),
            // With one batch in flight, fewer than MIN_MAILS_WORTH_WAITING mails are not worth a COMMIT of their own.
            (1, [1, 1], MIN_MAILS_WORTH_WAITING),
            (1, [500, 500], MAX_MAILS_WAITED_FOR),
            // With two batches in flight, fewer than MAX_MAILS_WAITED_FOR mails are not worth a COMMIT of their own.
            (2, [40, 60], MAX_MAILS_WAITED_FOR),
        ] {
            let (target, _) =
                test_batch_state(in_flight, last_sizes).mails_to_wait_for_and_max_wait();
            assert_eq!(target, want, "{in_flight} in flight, {last_sizes:?}");
        }
    }
}
