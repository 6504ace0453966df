//! The share of connection slots that are taken, and the timeouts and the data rate that hold at each step of it.

use std::time::Duration;

/// How many of the connection slots are taken. Timeouts shorten in two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Load {
    /// Less than half of them: timeouts hold in full.
    Normal,
    /// At least half of them: timeouts are halved.
    HalfFull,
    /// At least nine of ten: timeouts are a few seconds, and slow clients are closed.
    NearlyFull,
}

impl Load {
    /// Every step, in ascending order.
    pub const ALL: [Load; 3] = [Load::Normal, Load::HalfFull, Load::NearlyFull];

    /// Returns the step for `active` connections of at most `limit`.
    pub fn of(active: usize, limit: usize) -> Load {
        if active.saturating_mul(10) >= limit.saturating_mul(9) {
            Load::NearlyFull
        } else if active.saturating_mul(2) >= limit {
            Load::HalfFull
        } else {
            Load::Normal
        }
    }

    /// Returns what is left of a timeout: half of it, then five seconds. A shorter timeout keeps its own length.
    pub fn shorten(self, timeout: Duration) -> Duration {
        let shortened = match self {
            Load::Normal => timeout,
            Load::HalfFull => (timeout / 2).max(NEARLY_FULL_TIMEOUT),
            Load::NearlyFull => NEARLY_FULL_TIMEOUT,
        };
        timeout.min(shortened)
    }

    /// Returns the same for a client that has delivered a mail and has nothing under way: half, then two seconds.
    pub fn shorten_idle_after_delivery(self, timeout: Duration) -> Duration {
        match self {
            Load::Normal | Load::HalfFull => self.shorten(timeout),
            Load::NearlyFull => timeout.min(NEARLY_FULL_IDLE_TIMEOUT),
        }
    }

    /// Returns the octets a second that content has to keep on average.
    pub fn min_data_rate(self) -> u64 {
        match self {
            Load::Normal | Load::HalfFull => MIN_DATA_RATE,
            Load::NearlyFull => NEARLY_FULL_MIN_DATA_RATE,
        }
    }
}

/// The timeout while slots run out: enough for a client that works, also over a long distance.
pub const NEARLY_FULL_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that has delivered loses nothing when its connection ends.
const NEARLY_FULL_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// The figure that other mail servers use.
const MIN_DATA_RATE: u64 = 500;
/// A mail of 128 KiB then holds its slot for half a minute at most.
const NEARLY_FULL_MIN_DATA_RATE: u64 = 4_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_levels_change_at_50_and_90_percent_of_the_slots() {
        for (active, limit, load) in [
            (0, 100, Load::Normal),
            (49, 100, Load::Normal),
            (50, 100, Load::HalfFull),
            (89, 100, Load::HalfFull),
            (90, 100, Load::NearlyFull),
            (100, 100, Load::NearlyFull),
            (101, 100, Load::NearlyFull),
            (1, 3, Load::Normal),
            (2, 3, Load::HalfFull),
            (1, 1, Load::NearlyFull),
            (usize::MAX, usize::MAX, Load::NearlyFull),
        ] {
            assert_eq!(Load::of(active, limit), load, "{active} of {limit}");
        }
        assert!(Load::ALL.is_sorted());
    }

    #[test]
    fn timeouts_shorten_at_each_load_level() {
        let seconds = Duration::from_secs;
        // A timeout; what is left of it at each step; the same for a client that idles after a delivery.
        for (timeout, left, left_idle) in [
            (100, [100, 50, 5], [100, 50, 2]),
            (8, [8, 5, 5], [8, 5, 2]),
            (5, [5, 5, 5], [5, 5, 2]),
            (1, [1, 1, 1], [1, 1, 1]),
        ] {
            assert_eq!(
                Load::ALL.map(|load| load.shorten(seconds(timeout))),
                left.map(seconds)
            );
            assert_eq!(
                Load::ALL.map(|load| load.shorten_idle_after_delivery(seconds(timeout))),
                left_idle.map(seconds)
            );
        }
    }
}
