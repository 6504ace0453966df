//! Load levels by the share of connection slots that are taken; timeouts and minimum data rate at each level.

use std::time::Duration;

/// The load level of the server. Timeouts are shortened in two steps as connection slots run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LoadLevel {
    /// Less than half of the connection slots are taken: full timeouts.
    Normal,
    /// At least half of the connection slots are taken: timeouts are halved, but not below five seconds.
    HalfFull,
    /// At least 90 % of the connection slots are taken: timeouts of at most five seconds, and a higher minimum data rate.
    NearlyFull,
}

impl LoadLevel {
    /// All levels in order of increasing load.
    pub const ALL: [LoadLevel; 3] = [
        LoadLevel::Normal,
        LoadLevel::HalfFull,
        LoadLevel::NearlyFull,
    ];

    /// Returns the load level for `active` connections and `limit` connection slots.
    pub fn load_level_of_slots(active: usize, limit: usize) -> LoadLevel {
        if active.saturating_mul(10) >= limit.saturating_mul(9) {
            LoadLevel::NearlyFull
        } else if active.saturating_mul(2) >= limit {
            LoadLevel::HalfFull
        } else {
            LoadLevel::Normal
        }
    }

    /// Returns `timeout` shortened for this level: at `HalfFull` to half, but not below five seconds; at `NearlyFull` to five
    /// seconds. A timeout is never lengthened.
    pub fn shorten_timeout(self, timeout: Duration) -> Duration {
        let shortened = match self {
            LoadLevel::Normal => timeout,
            LoadLevel::HalfFull => (timeout / 2).max(NEARLY_FULL_TIMEOUT),
            LoadLevel::NearlyFull => NEARLY_FULL_TIMEOUT,
        };
        timeout.min(shortened)
    }

    /// Returns `timeout` shortened for a client whose mail was saved and that has no transaction open: like
    /// [`shorten_timeout`](LoadLevel::shorten_timeout), but to two seconds at `NearlyFull`.
    pub fn shorten_idle_after_delivery(self, timeout: Duration) -> Duration {
        match self {
            LoadLevel::Normal | LoadLevel::HalfFull => self.shorten_timeout(timeout),
            LoadLevel::NearlyFull => timeout.min(NEARLY_FULL_IDLE_TIMEOUT),
        }
    }

    /// Returns the minimum average data rate of mail content at this load level, in octets per second.
    pub fn min_data_rate(self) -> u64 {
        match self {
            LoadLevel::Normal | LoadLevel::HalfFull => MIN_DATA_RATE,
            LoadLevel::NearlyFull => NEARLY_FULL_MIN_DATA_RATE,
        }
    }
}

/// Client timeout while at least 90 % of the connection slots are taken: enough for a working client, even with high latency.
pub const NEARLY_FULL_TIMEOUT: Duration = Duration::from_secs(5);
/// Client timeout while at least 90 % of the connection slots are taken, for a client whose mail was saved and that has no
/// transaction open. Such a client loses no mail if its connection ends.
const NEARLY_FULL_IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Minimum average data rate of mail content in octets per second; a slower client is disconnected.
pub const MIN_DATA_RATE: u64 = 500;
/// Minimum average data rate of mail content in octets per second while at least 90 % of the connection slots are taken. At
/// this rate a mail of 128 KiB takes 33 seconds.
pub const NEARLY_FULL_MIN_DATA_RATE: u64 = 4_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_levels_change_at_50_and_90_percent_of_the_slots() {
        for (active, limit, load) in [
            (0, 100, LoadLevel::Normal),
            (49, 100, LoadLevel::Normal),
            (50, 100, LoadLevel::HalfFull),
            (89, 100, LoadLevel::HalfFull),
            (90, 100, LoadLevel::NearlyFull),
            (100, 100, LoadLevel::NearlyFull),
            (101, 100, LoadLevel::NearlyFull),
            (1, 3, LoadLevel::Normal),
            (2, 3, LoadLevel::HalfFull),
            (1, 1, LoadLevel::NearlyFull),
            (usize::MAX, usize::MAX, LoadLevel::NearlyFull),
        ] {
            assert_eq!(
                LoadLevel::load_level_of_slots(active, limit),
                load,
                "{active} of {limit}"
            );
        }
        assert!(LoadLevel::ALL.is_sorted());
    }

    #[test]
    fn timeouts_shorten_at_each_load_level() {
        let seconds = Duration::from_secs;
        // A timeout, its value at each load level, and the same for a client that is idle after a delivery.
        for (timeout, left, left_idle) in [
            (100, [100, 50, 5], [100, 50, 2]),
            (8, [8, 5, 5], [8, 5, 2]),
            (5, [5, 5, 5], [5, 5, 2]),
            (1, [1, 1, 1], [1, 1, 1]),
        ] {
            assert_eq!(
                LoadLevel::ALL.map(|load| load.shorten_timeout(seconds(timeout))),
                left.map(seconds)
            );
            assert_eq!(
                LoadLevel::ALL.map(|load| load.shorten_idle_after_delivery(seconds(timeout))),
                left_idle.map(seconds)
            );
        }
    }
}
