//! The size of a transaction that removes rows, adapted to the time that it takes.

use std::time::Duration;

/// The number of rows of the next transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepSize {
    rows: usize,
    max_rows: usize,
    target: Duration,
}

impl StepSize {
    /// Returns a size that begins at `rows`, changes until a transaction takes about the time `target`, and never exceeds
    /// `max_rows` and [`MAX_ROWS`].
    pub fn new(rows: usize, max_rows: usize, target: Duration) -> StepSize {
        StepSize {
            rows,
            max_rows: max_rows.min(MAX_ROWS),
            target,
        }
    }

    /// Returns the number of rows of the next transaction.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Adapts the size to the time that a transaction of this size took: halves it after one that took longer than the target,
    /// and raises it by a quarter after one that took less than half of it.
    pub fn adapt(&mut self, took: Duration) {
        if took > self.target {
            self.rows /= 2;
        } else if took < self.target / 2 {
            self.rows += self.rows / 4 + 1;
        }
        self.rows = self.rows.min(self.max_rows).max(1);
    }
}

/// Maximum number of rows of one transaction, whatever time it takes: a larger one would hold many row locks, and a Galera
/// cluster certifies it as a whole.
pub const MAX_ROWS: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_size_follows_the_time_of_a_transaction_and_has_limits() {
        let target = Duration::from_millis(2);
        let mut size = StepSize::new(8, 2_000, target);
        size.adapt(Duration::from_millis(3));
        assert_eq!(size.rows(), 4);
        size.adapt(Duration::from_micros(1_500));
        assert_eq!(size.rows(), 4);
        size.adapt(Duration::from_micros(900));
        assert_eq!(size.rows(), 6);
        for _ in 0..100 {
            size.adapt(Duration::ZERO);
        }
        assert_eq!(size.rows(), MAX_ROWS);
        for _ in 0..100 {
            size.adapt(Duration::from_secs(1));
        }
        assert_eq!(size.rows(), 1);
    }
}
