//! One round: removes all old rows, step by step, with pauses for the writers.

use std::time::{Duration, Instant};

use super::{OldRows, RetentionError};

/// What a round needs from its caller: the server's thread or `goguerrilla prune`.
pub trait RoundHooks {
    /// Waits for the given time, or until the round must stop. Returns whether it must stop.
    fn wait(&mut self, time: Duration) -> bool;

    /// Returns whether mails are queued for the writers.
    fn are_mails_queued(&self) -> bool;

    /// Records rows that a transaction removed.
    fn add_removed_rows(&mut self, rows: u64);
}

/// The result of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundOutcome {
    /// The number of removed rows.
    pub rows: u64,
    /// How the round ended.
    pub end: RoundEnd,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundEnd {
    /// All old rows are removed.
    Complete,
    /// The caller stopped the round.
    Stopped,
    /// The rest of the rows could not be removed.
    Failed(RetentionError),
}

/// Removes all rows of `old_rows`. Each transaction is followed by a pause of `PAUSE_FACTOR` times its duration, and waits
/// until no mail is queued, for `LONGEST_WAIT_FOR_MAILS` at most.
pub fn run_round(old_rows: &mut dyn OldRows, hooks: &mut dyn RoundHooks) -> RoundOutcome {
    let mut rows = 0;
    let end = remove_all(old_rows, hooks, &mut rows);
    RoundOutcome { rows, end }
}

fn remove_all(old_rows: &mut dyn OldRows, hooks: &mut dyn RoundHooks, rows: &mut u64) -> RoundEnd {
    let mut busy_since = None;
    loop {
        if wait_while_mails_queue(hooks) {
            return RoundEnd::Stopped;
        }
        let started_at = Instant::now();
        let pause = match old_rows.remove_some() {
            Ok(step) => {
                *rows += step.rows;
                hooks.add_removed_rows(step.rows);
                if step.is_last {
                    return RoundEnd::Complete;
                }
                busy_since = None;
                (started_at.elapsed() * PAUSE_FACTOR).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
            }
            Err(error @ RetentionError::Busy(_)) => {
                let since = *busy_since.get_or_insert(started_at);
                if since.elapsed() > LONGEST_BUSY_TIME {
                    return RoundEnd::Failed(error);
                }
                LONGEST_PAUSE
            }
            Err(error) => return RoundEnd::Failed(error),
        };
        if hooks.wait(pause) {
            return RoundEnd::Stopped;
        }
    }
}

/// Waits while mails are queued. Returns whether the round must stop.
fn wait_while_mails_queue(hooks: &mut dyn RoundHooks) -> bool {
    let give_up_at = Instant::now() + LONGEST_WAIT_FOR_MAILS;
    while hooks.are_mails_queued() && Instant::now() < give_up_at {
        if hooks.wait(QUEUE_CHECK_INTERVAL) {
            return true;
        }
    }
    false
}

/// A transaction is followed by a pause of this many times its duration, so that removing takes an eighth of the time at most.
const PAUSE_FACTOR: u32 = 7;
/// Shortest pause between two transactions.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
/// Longest pause between two transactions, and the pause after one that a lock prevented.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a round ends if locks prevent every transaction.
const LONGEST_BUSY_TIME: Duration = Duration::from_secs(60);
/// Longest time that a transaction waits for an empty queue. At full load the queue is never empty; without a limit no row
/// would then be removed, and the disk would fill.
const LONGEST_WAIT_FOR_MAILS: Duration = Duration::from_millis(50);
/// Interval at which the queue is checked.
const QUEUE_CHECK_INTERVAL: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::super::RemovalStep;
    use super::*;

    /// Returns the given results one after another.
    struct Steps(Vec<Result<RemovalStep, RetentionError>>);

    impl OldRows for Steps {
        fn cut_off(&self) -> &str {
            ""
        }

        fn count(&mut self) -> Result<u64, RetentionError> {
            Ok(0)
        }

        fn remove_some(&mut self) -> Result<RemovalStep, RetentionError> {
            self.0.remove(0)
        }
    }

    #[derive(Default)]
    struct RecordingHooks {
        counted: u64,
        waits: Vec<Duration>,
        stops_after: Option<usize>,
        is_queued: bool,
    }

    impl RoundHooks for RecordingHooks {
        fn wait(&mut self, time: Duration) -> bool {
            // No wait is carried out; those for an empty queue are too many to be recorded.
            if time != QUEUE_CHECK_INTERVAL {
                self.waits.push(time);
            }
            self.stops_after == Some(self.waits.len())
        }

        fn are_mails_queued(&self) -> bool {
            self.is_queued
        }

        fn add_removed_rows(&mut self, rows: u64) {
            self.counted += rows;
        }
    }

    fn removed(rows: u64, is_last: bool) -> Result<RemovalStep, RetentionError> {
        Ok(RemovalStep { rows, is_last })
    }

    #[test]
    fn round_counts_rows_and_goes_on_after_a_lock() {
        let busy = Err(RetentionError::Busy("locked".to_owned()));
        let mut steps = Steps(vec![
            removed(7, false),
            busy,
            removed(3, false),
            removed(0, true),
        ]);
        let mut hooks = RecordingHooks::default();
        let outcome = run_round(&mut steps, &mut hooks);
        let end = RoundEnd::Complete;
        assert_eq!(outcome, RoundOutcome { rows: 10, end });
        assert_eq!(hooks.counted, 10);
        assert_eq!(hooks.waits.len(), 3);
        assert_eq!(hooks.waits[1], LONGEST_PAUSE);
    }

    #[test]
    fn round_ends_when_it_is_stopped_or_cannot_go_on() {
        let failure = RetentionError::Failed("no right".to_owned());
        let mut steps = Steps(vec![removed(7, false), Err(failure.clone())]);
        let outcome = run_round(&mut steps, &mut RecordingHooks::default());
        let end = RoundEnd::Failed(failure);
        assert_eq!(outcome, RoundOutcome { rows: 7, end });
        let mut hooks = RecordingHooks {
            stops_after: Some(1),
            ..RecordingHooks::default()
        };
        let outcome = run_round(&mut Steps(vec![removed(7, false)]), &mut hooks);
        let end = RoundEnd::Stopped;
        assert_eq!(outcome, RoundOutcome { rows: 7, end });
    }

    #[test]
    fn transaction_waits_while_mails_queue_but_not_for_ever() {
        let mut hooks = RecordingHooks {
            is_queued: true,
            ..RecordingHooks::default()
        };
        let started_at = Instant::now();
        let outcome = run_round(&mut Steps(vec![removed(1, true)]), &mut hooks);
        assert_eq!(outcome.rows, 1);
        assert!(started_at.elapsed() >= LONGEST_WAIT_FOR_MAILS);
    }
}
