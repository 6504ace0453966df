//! How long a mail waits for a store that is unavailable (GM_HOLD_SECONDS), before its client gets 451.
//!
//! After an attempt that failed because the store is unavailable, the mails stay queued and keep the error. Each connection
//! decides by itself how long its mail goes on waiting ([`HoldLimit`]); a mail that it withdraws is not saved. Meanwhile the
//! writer tries again, after a pause of at most [`MAX_PAUSE`]. A COMMIT in doubt is not tried again here (`in_doubt`).

use std::time::{Duration, Instant};

use crate::metrics::Metrics;
use crate::store::SaveError;

/// How long a mail may wait for an unavailable store, counted from its end. The load of the server changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldLimit {
    /// GM_HOLD_SECONDS.
    configured: Duration,
    /// `configured`, shortened by the load and by a shutdown.
    shortened: Duration,
}

impl HoldLimit {
    /// Returns the limit of GM_HOLD_SECONDS 0: no mail waits for an unavailable store.
    pub fn none() -> HoldLimit {
        HoldLimit::default()
    }

    /// Returns the limit for the configured time and a number of taken connection slots: the whole time until half of them are
    /// taken, then less, and 0 from three quarters on, so that waiting mails alone never take all slots. During a shutdown the
    /// limit is at most [`SHUTDOWN_HOLD`].
    pub fn new(configured: Duration, taken: usize, slots: usize, is_draining: bool) -> HoldLimit {
        // (3/4 - taken/slots) / (3/4 - 1/2), without a division by 0.
        let left = slots
            .saturating_mul(3)
            .saturating_sub(taken.saturating_mul(4)) as f64;
        let share = (left / slots.max(1) as f64).min(1.0);
        let shortened = configured.mul_f64(share);
        HoldLimit {
            configured,
            shortened: match is_draining {
                true => shortened.min(SHUTDOWN_HOLD),
                false => shortened,
            },
        }
    }

    /// Returns whether no mail waits now.
    pub fn is_zero(self) -> bool {
        self.shortened.is_zero()
    }

    /// Returns whether GM_HOLD_SECONDS is more than 0.
    pub fn is_configured(self) -> bool {
        !self.configured.is_zero()
    }

    /// Returns how long a mail waits after an attempt that failed with `error`.
    pub fn time_after_failure(self, error: &SaveError) -> Duration {
        match self.is_configured() {
            false if error.is_store_locked() => MAX_LOCK_WAIT,
            _ => self.shortened,
        }
    }
}

/// Counts one mail in the metric `goguerrilla_mails_held` until this value is dropped.
pub struct HeldMailGuard<'a>(&'a Metrics);

impl HeldMailGuard<'_> {
    /// Counts one mail.
    pub fn count(metrics: &Metrics) -> HeldMailGuard<'_> {
        metrics.mails_held.increment();
        HeldMailGuard(metrics)
    }
}

impl Drop for HeldMailGuard<'_> {
    fn drop(&mut self) {
        self.0.mails_held.decrement();
    }
}

/// The failed attempts of one writer since its last success: the pause before the next attempt, and which are logged.
#[derive(Default)]
pub struct FailedAttempts {
    pause: Duration,
    logged: Option<(Instant, String)>,
}

impl FailedAttempts {
    /// Returns the pause before the next attempt.
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Records an attempt of which no mail was saved because the store is unavailable.
    pub fn add(&mut self) {
        self.pause = (self.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
    }

    /// Records an attempt that the store answered.
    pub fn end(&mut self) {
        *self = FailedAttempts::default();
    }

    /// Returns whether a failure is to be logged: its reason is not the one that was logged in the last [`LOG_INTERVAL`].
    pub fn is_to_be_logged(&mut self, reason: &str) -> bool {
        let is_repeated = self
            .logged
            .as_ref()
            .is_some_and(|(at, logged)| logged == reason && at.elapsed() < LOG_INTERVAL);
        if !is_repeated {
            self.logged = Some((Instant::now(), reason.to_owned()));
        }
        !is_repeated
    }
}

/// Longest hold of a mail during a shutdown (GM_HOLD_SECONDS may be longer), so that it ends within the 30 seconds of the
/// shutdown.
const SHUTDOWN_HOLD: Duration = Duration::from_secs(10);
/// Time for which a mail waits for a lock that another program holds, if GM_HOLD_SECONDS is 0.
const MAX_LOCK_WAIT: Duration = Duration::from_secs(5);
/// First pause of a writer after a failed attempt. It is doubled after each further one, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause of a writer after a failed attempt: a store that is back is used within this time.
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Interval at which a writer logs the same failure again.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hold_shrinks_from_half_of_the_slots_to_nothing_at_three_quarters() {
        for (taken, slots, want) in [
            (0, 100, 10.0),
            (1, 100, 10.0),
            (50, 100, 10.0),
            (60, 100, 6.0),
            (70, 100, 2.0),
            (75, 100, 0.0),
            (100, 100, 0.0),
            (101, 100, 0.0),
            (1, 2, 10.0),
            (2, 2, 0.0),
            (1, 1, 0.0),
            (1, 0, 0.0),
        ] {
            let limit = HoldLimit::new(Duration::from_secs(10), taken, slots, false);
            let found = limit.shortened.as_secs_f64();
            assert!((found - want).abs() < 0.001, "{taken} of {slots}: {found}");
        }
    }

    #[test]
    fn hold_during_a_shutdown_is_ten_seconds_at_most() {
        for (configured, want) in [(0, 0), (3, 3), (10, 10), (300, 10)] {
            let limit = HoldLimit::new(Duration::from_secs(configured), 1, 100, true);
            assert_eq!(limit.shortened, Duration::from_secs(want), "{configured}");
        }
    }

    #[test]
    fn mail_waits_only_for_a_lock_if_the_configured_time_is_zero() {
        let locked = SaveError::store_locked("locked".to_owned());
        let down = SaveError::unavailable("down");
        let never = HoldLimit::none();
        assert_eq!(never.time_after_failure(&locked), MAX_LOCK_WAIT);
        assert_eq!(never.time_after_failure(&down), Duration::ZERO);
        let short = HoldLimit::new(Duration::from_secs(2), 1, 100, false);
        for error in [locked, down] {
            assert_eq!(short.time_after_failure(&error), Duration::from_secs(2));
        }
    }

    #[test]
    fn pause_grows_to_its_maximum_and_repeated_reasons_are_logged_once() {
        let mut failed = FailedAttempts::default();
        assert_eq!(failed.pause(), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..4 {
            failed.add();
            pauses.push(failed.pause().as_millis());
        }
        assert_eq!(pauses, [50, 100, 200, 250]);
        assert!(failed.is_to_be_logged("gone") && !failed.is_to_be_logged("gone"));
        assert!(failed.is_to_be_logged("locked") && failed.is_to_be_logged("gone"));
        failed.end();
        assert!(failed.is_to_be_logged("gone") && failed.pause().is_zero());
    }
}
