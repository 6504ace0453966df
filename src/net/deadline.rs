//! Deadlines of blocking reads and writes for each load level, on the monotonic clock.

use std::time::{Duration, Instant};

use super::load::{LoadLevel, MIN_DATA_RATE, NEARLY_FULL_MIN_DATA_RATE, NEARLY_FULL_TIMEOUT};

/// The deadline for one input from a client or one output to it.
///
/// A command, a batch of replies or a handshake has a fixed deadline, however slowly its octets arrive. For mail content the
/// deadline moves: each octet extends it according to the minimum data rate, and no pause may be longer than the timeout.
/// While connection slots run out, the deadline is earlier ([`LoadLevel`]).
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    timeout: Duration,
    started_at: Instant,
    kind: DeadlineKind,
}

#[derive(Clone, Copy, Debug)]
enum DeadlineKind {
    Whole {
        /// Start of the period in which the client has sent commands but no mail was saved.
        commands_since: Instant,
        /// Whether a mail of the client was saved and no transaction is open.
        is_idle_after_delivery: bool,
    },
    Content {
        silent_since: Instant,
        octets: u64,
        /// Time beyond [`MAX_RATE_CREDIT`] that octets above the minimum data rate would have bought: at the usual minimum
        /// rate, and at the one while slots run out.
        forfeited: [Duration; 2],
        /// When the server began to discard the content; `None` if the content is not discarded.
        discarded_since: Option<Instant>,
    },
}

impl Deadline {
    /// Returns a deadline for one command, one batch of replies or one handshake: all its octets together may take `timeout`.
    pub fn new_command_deadline(now: Instant, timeout: Duration) -> Deadline {
        Deadline {
            timeout,
            started_at: now,
            kind: DeadlineKind::Whole {
                commands_since: now,
                is_idle_after_delivery: false,
            },
        }
    }

    /// Returns a deadline for mail content: no pause may be longer than `timeout`, and the average data rate has a minimum. A
    /// client that was faster may be slower later, but only for [`MAX_RATE_CREDIT`].
    pub fn new_content_deadline(now: Instant, timeout: Duration) -> Deadline {
        Deadline {
            timeout,
            started_at: now,
            kind: DeadlineKind::Content {
                silent_since: now,
                octets: 0,
                forfeited: [Duration::ZERO; 2],
                discarded_since: None,
            },
        }
    }

    /// Sets `since` as the start of the period in which the client has sent commands but no mail was saved. While at least 90 %
    /// of the connection slots are taken, the deadline is at most five seconds after `since`.
    #[must_use]
    pub fn with_command_period_start(mut self, since: Instant) -> Deadline {
        if let DeadlineKind::Whole { commands_since, .. } = &mut self.kind {
            *commands_since = since;
        }
        self
    }

    /// Sets whether a mail of the client was saved and no transaction is open.
    #[must_use]
    pub fn with_idle_after_delivery_flag(mut self, is_idle: bool) -> Deadline {
        if let DeadlineKind::Whole {
            is_idle_after_delivery,
            ..
        } = &mut self.kind
        {
            *is_idle_after_delivery = is_idle;
        }
        self
    }

    /// Records that octets of content arrived at `now`: the time limit for a pause restarts. Changes only deadlines for
    /// content.
    pub fn restart_content_pause_limit(&mut self, now: Instant) {
        let DeadlineKind::Content {
            silent_since,
            octets,
            forfeited,
            ..
        } = &mut self.kind
        else {
            return;
        };
        *silent_since = now;
        let elapsed = now.saturating_duration_since(self.started_at);
        for (rate, lost) in [MIN_DATA_RATE, NEARLY_FULL_MIN_DATA_RATE]
            .into_iter()
            .zip(forfeited)
        {
            let credit = time_at_rate(*octets, rate).saturating_sub(*lost + elapsed);
            *lost += credit.saturating_sub(MAX_RATE_CREDIT);
        }
    }

    /// Sets the number of octets of content received so far. Changes only deadlines for content.
    pub fn set_content_octets_for_deadline(&mut self, octets: u64) {
        if let DeadlineKind::Content { octets: so_far, .. } = &mut self.kind {
            *so_far = octets;
        }
    }

    /// Marks the content as discarded. The first call stores the result of `now` as the start of discarding. Changes only
    /// deadlines for content.
    pub fn mark_content_as_discarded(&mut self, now: impl FnOnce() -> Instant) {
        if let DeadlineKind::Content {
            discarded_since, ..
        } = &mut self.kind
        {
            discarded_since.get_or_insert_with(now);
        }
    }

    /// Returns whether the content has been discarded for at least ten minutes, the maximum time.
    pub fn is_max_discard_time_over(&self, now: Instant) -> bool {
        match self.kind {
            DeadlineKind::Content {
                discarded_since: Some(since),
                ..
            } => now.saturating_duration_since(since) >= MAX_DISCARD_TIME,
            DeadlineKind::Content { .. } | DeadlineKind::Whole { .. } => false,
        }
    }

    /// Returns when this deadline passes at the load level `load`.
    pub fn deadline_passes_at(&self, load: LoadLevel) -> Instant {
        let allowance = load.shorten_timeout(self.timeout);
        match self.kind {
            DeadlineKind::Whole {
                commands_since,
                is_idle_after_delivery,
            } => {
                let limit = match is_idle_after_delivery {
                    true => load.shorten_idle_after_delivery(self.timeout),
                    false => allowance,
                };
                let ends_at = self.started_at + limit;
                match load {
                    LoadLevel::Normal | LoadLevel::HalfFull => ends_at,
                    LoadLevel::NearlyFull => ends_at.min(commands_since + NEARLY_FULL_TIMEOUT),
                }
            }
            DeadlineKind::Content {
                silent_since,
                octets,
                forfeited: [usual, nearly_full],
                discarded_since,
            } => {
                let forfeited = match load {
                    LoadLevel::Normal | LoadLevel::HalfFull => usual,
                    LoadLevel::NearlyFull => nearly_full,
                };
                let paid = time_at_rate(octets, load.min_data_rate()).saturating_sub(forfeited);
                let by_rate = self.started_at + allowance + paid;
                let ends_at = by_rate.min(silent_since + allowance);
                match (discarded_since, load) {
                    (None, _) => ends_at,
                    (Some(since), LoadLevel::NearlyFull) => since,
                    (Some(since), _) => ends_at.min(since + MAX_DISCARD_TIME),
                }
            }
        }
    }
}

/// Returns the time in which `octets` arrive at `rate` octets per second.
fn time_at_rate(octets: u64, rate: u64) -> Duration {
    Duration::from_millis(octets.saturating_mul(1_000) / rate)
}

/// How long a client whose content arrived faster than the minimum data rate may be slower afterwards. Without this limit, a
/// client that sends 50 MB at once could hold its connection slot and the memory for hours with an octet now and then.
const MAX_RATE_CREDIT: Duration = Duration::from_secs(60);
/// Maximum time for discarding rejected content. Content is read and discarded, because a sender reads the rejection reply
/// only after it has sent all its content.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn plus_seconds(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// Returns the seconds from `start` to the deadline at each load level, rounded down.
    fn seconds_to_deadline_per_load(deadline: Deadline, start: Instant) -> [u64; 3] {
        LoadLevel::ALL.map(|load| (deadline.deadline_passes_at(load) - start).as_secs())
    }

    #[test]
    fn command_deadline_is_not_extended_by_octets_that_trickle_in() {
        let start = Instant::now();
        let mut deadline = Deadline::new_command_deadline(start, Duration::from_secs(100));
        deadline.restart_content_pause_limit(plus_seconds(start, 9));
        deadline.set_content_octets_for_deadline(1_000_000);
        assert_eq!(seconds_to_deadline_per_load(deadline, start), [100, 50, 5]);
    }

    #[test]
    fn while_slots_run_out_all_commands_together_have_five_seconds() {
        let start = Instant::now();
        // The start of the last command, the timeout of a single command, and the expected deadlines.
        for (began, timeout, expected) in
            [(4, 100, [104, 54, 5]), (4, 2, [6, 6, 5]), (2, 2, [4, 4, 4])]
        {
            let deadline = Deadline::new_command_deadline(
                plus_seconds(start, began),
                Duration::from_secs(timeout),
            );
            assert_eq!(
                seconds_to_deadline_per_load(deadline.with_command_period_start(start), start),
                expected
            );
        }
    }

    #[test]
    fn deadline_is_shortest_for_a_client_idle_after_a_delivery() {
        let start = Instant::now();
        let deadline = Deadline::new_command_deadline(start, Duration::from_secs(100));
        assert_eq!(
            seconds_to_deadline_per_load(deadline.with_idle_after_delivery_flag(true), start),
            [100, 50, 2]
        );
    }

    #[test]
    fn content_deadline_expires_below_the_minimum_data_rate_only() {
        let start = Instant::now();
        for (octets_a_second, expected) in [
            (10, [12, 7, 5]),
            (600, [110, 105, 20]),
            (1_000, [110, 105, 30]),
            (5_000, [110, 105, 105]),
        ] {
            let mut deadline = Deadline::new_content_deadline(start, TIMEOUT);
            deadline.restart_content_pause_limit(plus_seconds(start, 100));
            deadline.set_content_octets_for_deadline(100 * octets_a_second);
            assert_eq!(
                seconds_to_deadline_per_load(deadline, start),
                expected,
                "{octets_a_second}"
            );
        }
    }

    #[test]
    fn content_deadline_never_allows_silence_beyond_the_timeout() {
        let start = Instant::now();
        let mut deadline = Deadline::new_content_deadline(start, TIMEOUT);
        deadline.restart_content_pause_limit(plus_seconds(start, 1));
        deadline.set_content_octets_for_deadline(1_000_000);
        assert_eq!(seconds_to_deadline_per_load(deadline, start), [11, 6, 6]);
    }

    #[test]
    fn octets_sent_at_once_buy_at_most_a_minute_for_a_slower_rest() {
        let start = Instant::now();
        let timeout = Duration::from_secs(100);
        let mut deadline = Deadline::new_content_deadline(start, timeout);
        let mut octets = 50_000_000;
        // One octet each four seconds, which is within the limit for a pause.
        for second in (0..80).step_by(4) {
            deadline.set_content_octets_for_deadline(octets);
            deadline.restart_content_pause_limit(plus_seconds(start, second));
            octets += 1;
        }
        assert_eq!(
            seconds_to_deadline_per_load(deadline, start),
            [160, 110, 65]
        );
        // Content that then arrives at the minimum data rate extends the deadline again.
        deadline.set_content_octets_for_deadline(octets + 20_000);
        deadline.restart_content_pause_limit(plus_seconds(start, 120));
        assert_eq!(
            seconds_to_deadline_per_load(deadline, start),
            [200, 150, 70]
        );
    }

    #[test]
    fn discarding_content_ends_after_10_minutes_or_when_slots_run_out() {
        let start = Instant::now();
        let mut deadline = Deadline::new_content_deadline(start, TIMEOUT);
        deadline.mark_content_as_discarded(|| plus_seconds(start, 200));
        deadline.restart_content_pause_limit(plus_seconds(start, 795));
        deadline.set_content_octets_for_deadline(2_000_000);
        deadline.mark_content_as_discarded(|| plus_seconds(start, 795));
        assert_eq!(
            seconds_to_deadline_per_load(deadline, start),
            [800, 800, 200]
        );
        assert!(!deadline.is_max_discard_time_over(plus_seconds(start, 799)));
        assert!(deadline.is_max_discard_time_over(plus_seconds(start, 800)));
    }

    #[test]
    fn deadline_with_a_start_time_in_the_future_does_not_panic() {
        let now = Instant::now() + Duration::from_secs(5);
        let deadline = Deadline::new_command_deadline(now, TIMEOUT);
        assert!(deadline.deadline_passes_at(LoadLevel::Normal) > Instant::now());
        let mut deadline = Deadline::new_content_deadline(now, TIMEOUT);
        deadline.set_content_octets_for_deadline(u64::MAX);
        deadline.mark_content_as_discarded(|| now);
        assert!(!deadline.is_max_discard_time_over(Instant::now()));
        assert!(deadline.deadline_passes_at(LoadLevel::HalfFull) > Instant::now());
    }
}
