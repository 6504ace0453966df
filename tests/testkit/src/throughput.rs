//! The rate of acknowledged mails before and after a failure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::let_time_pass;
use super::load::Load;

/// A rate without failures, in mails per second.
#[derive(Clone, Copy, Debug)]
pub struct Rate(f64);

impl Rate {
    /// Measures the rate for three seconds.
    pub fn measure(load: &Load) -> Rate {
        let window = WINDOW * 3;
        Rate(acknowledged_in(load, window) as f64 / window.as_secs_f64())
    }

    /// Returns the time from `lost_at` to the start of the first whole second with at least half of this rate.
    pub fn recovery_time(self, load: &Load, lost_at: Instant, time_limit: Duration) -> Duration {
        // The time and count of each sample within the last second.
        let mut samples = VecDeque::from([(Instant::now(), load.acknowledged())]);
        loop {
            let_time_pass(SAMPLE_INTERVAL, "the interval between samples of a rate");
            let (now, seen) = (Instant::now(), load.acknowledged());
            while let Some((at, before)) = samples.front().copied()
                && now - at >= WINDOW
            {
                let rate = (seen - before) as f64 / (now - at).as_secs_f64();
                if rate >= self.0 / 2.0 {
                    return at - lost_at;
                }
                samples.pop_front();
            }
            samples.push_back((now, seen));
            assert!(
                now - lost_at < time_limit + WINDOW,
                "{} mails in {time_limit:?}; the usual rate is {} a second",
                seen - samples.front().map_or(0, |(_, first)| *first),
                self.0
            );
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} mails a second", self.0)
    }
}

fn acknowledged_in(load: &Load, window: Duration) -> usize {
    let before = load.acknowledged();
    let_time_pass(window, "the time over which a rate is measured");
    load.acknowledged() - before
}

/// The minimum time over which a rate is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// The sampling interval.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);
