//! What time remains, and what moved octets add to it. All on the monotonic clock.

use std::time::{Duration, Instant};

/// When a wait ends.
///
/// A command has one deadline for the whole line, however its octets trickle in. For content, octets buy time: at
/// 500 octets a second a client may go on for ever, below it the first patience runs out; no single silence may be longer
/// than that patience either.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    patience: Duration,
    started_at: Instant,
    silent_since: Instant,
    earned: Duration,
    paced: bool,
}

impl Deadline {
    /// For one command: `patience` in all.
    pub fn for_command(now: Instant, patience: Duration) -> Deadline {
        Deadline {
            patience,
            started_at: now,
            silent_since: now,
            earned: Duration::ZERO,
            paced: false,
        }
    }

    /// For content: `patience` at a time, and a minimum pace over all.
    pub fn for_content(now: Instant, patience: Duration) -> Deadline {
        Deadline {
            paced: true,
            ..Deadline::for_command(now, patience)
        }
    }

    /// What it began with.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Says that `octets` have moved.
    pub fn moved(&mut self, now: Instant, octets: usize) {
        if self.paced {
            self.silent_since = now;
            self.earned += Duration::from_millis(octets as u64 * 1_000 / MINIMUM_PACE);
        }
    }

    /// What remains, or `None` when time is up.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let by_pace = self.patience + self.earned;
        let by_pace = by_pace.checked_sub(now.saturating_duration_since(self.started_at))?;
        let silence = now.saturating_duration_since(self.silent_since);
        let by_silence = self.patience.checked_sub(silence)?;
        Some(by_pace.min(by_silence)).filter(|remaining| !remaining.is_zero())
    }
}

/// Octets a second below which content comes too slowly; the field's usual figure.
const MINIMUM_PACE: u64 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_command_has_one_deadline_however_it_trickles() {
        let start = Instant::now();
        let mut deadline = Deadline::for_command(start, PATIENCE);
        deadline.moved(after(start, 9), 1_000_000);
        assert_eq!(
            deadline.remaining(after(start, 9)),
            Some(Duration::from_secs(1))
        );
        assert_eq!(deadline.remaining(after(start, 10)), None);
    }

    #[test]
    fn content_below_the_pace_runs_out_and_above_it_does_not() {
        let start = Instant::now();
        let mut slow = Deadline::for_content(start, PATIENCE);
        let mut brisk = Deadline::for_content(start, PATIENCE);
        for second in 1..=100 {
            slow.moved(after(start, second), 10);
            brisk.moved(after(start, second), 600);
        }
        assert_eq!(slow.remaining(after(start, 13)), None);
        assert_eq!(brisk.remaining(after(start, 100)), Some(PATIENCE));
    }

    #[test]
    fn no_silence_is_longer_than_the_patience() {
        let start = Instant::now();
        let mut deadline = Deadline::for_content(start, PATIENCE);
        deadline.moved(after(start, 1), 1_000_000);
        assert!(deadline.remaining(after(start, 10)).is_some());
        assert_eq!(deadline.remaining(after(start, 11)), None);
    }

    #[test]
    fn a_clock_that_stood_still_is_no_panic() {
        let now = Instant::now() + Duration::from_secs(5);
        let deadline = Deadline::for_command(now, PATIENCE);
        assert!(deadline.remaining(Instant::now()).is_some());
    }
}
