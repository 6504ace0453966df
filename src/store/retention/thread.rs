//! The thread of the server that runs a round from time to time.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::clock::StartTime;
use super::{OldRowsOpener, RetentionError, RoundEnd, RoundHooks, RoundOutcome, run_round};
use crate::metrics::{Component, Metrics};
use crate::panics;
use crate::store::SaveQueue;

/// The rows that the thread removes, and the queue of the writers: while mails are queued, the thread pauses.
pub struct RetentionPlan {
    /// How long rows are kept (GM_KEEP_DAYS).
    pub keep: Duration,
    /// Begins a round.
    pub open: OldRowsOpener,
    /// The queue of mails for the same store.
    pub queue: SaveQueue,
}

/// A running thread. It ends when this value is dropped, after the transaction that it is in.
pub struct RetentionThread {
    /// Dropping the sender stops the thread; nothing is ever sent.
    _stop: Sender<()>,
}

impl RetentionThread {
    /// Starts the thread. Its first round begins after `FIRST_ROUND_AFTER`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(plan: RetentionPlan) -> io::Result<RetentionThread> {
        let (stop, stopped) = bounded(0);
        let builder = thread::Builder::new().name("retention".to_owned());
        builder.spawn(move || run(&plan, &stopped))?;
        Ok(RetentionThread { _stop: stop })
    }
}

fn run(plan: &RetentionPlan, stopped: &Receiver<()>) {
    let metrics = Arc::clone(plan.queue.health().metrics());
    let started = StartTime::now();
    let mut pause = FIRST_ROUND_AFTER;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let hooks = &mut ThreadHooks {
            plan,
            stopped,
            metrics: &metrics,
        };
        let round = panics::catch_and_count_panic(&metrics, Component::Retention, || {
            let started_at = Instant::now();
            let outcome = open_and_run_round(plan, started, hooks);
            log_round(&outcome, started_at.elapsed());
            outcome
        });
        pause = match round {
            Ok(RoundOutcome {
                end: RoundEnd::Failed(_),
                ..
            })
            | Err(_) => round_interval(plan.keep).min(RETRY_AFTER),
            Ok(_) => round_interval(plan.keep),
        };
    }
}

fn open_and_run_round(
    plan: &RetentionPlan,
    started: StartTime,
    hooks: &mut ThreadHooks,
) -> RoundOutcome {
    let opened = match started.step_forward() {
        None => (plan.open)(plan.keep),
        Some(step) => Err(RetentionError::Failed(format!(
            "the clock was set forward by {} s, so the age of a row is not known, and no row is removed; if the clock is right now, \
             send SIGHUP",
            step.as_secs()
        ))),
    };
    match opened {
        Ok(mut old_rows) => run_round(&mut *old_rows, hooks),
        Err(error) => RoundOutcome {
            rows: 0,
            end: RoundEnd::Failed(error),
        },
    }
}

/// Logs one line about a round.
fn log_round(outcome: &RoundOutcome, took: Duration) {
    let (rows, ms) = (outcome.rows, took.as_millis() as u64);
    match &outcome.end {
        RoundEnd::Complete => log::info!(rows = rows, ms = ms; "pruned"),
        RoundEnd::Stopped => {
            log::info!(rows = rows, ms = ms, note = "stopped before all old rows were removed"; "pruned")
        }
        RoundEnd::Failed(error @ RetentionError::RemovedElsewhere) => {
            log::info!(rows = rows, ms = ms, note:% = error; "pruned");
        }
        RoundEnd::Failed(error) => {
            log::warn!(rows = rows, ms = ms, reason:% = error; "prune_failed")
        }
    }
}

/// Returns the pause between two rounds: short enough that no row stays longer than a twenty-fourth of the time too long, an
/// hour at most.
fn round_interval(keep: Duration) -> Duration {
    (keep / 24).clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

struct ThreadHooks<'a> {
    plan: &'a RetentionPlan,
    stopped: &'a Receiver<()>,
    metrics: &'a Metrics,
}

impl RoundHooks for ThreadHooks<'_> {
    fn wait(&mut self, time: Duration) -> bool {
        self.stopped.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }

    fn are_mails_queued(&self) -> bool {
        self.plan.queue.has_queued_mails()
    }

    fn add_removed_rows(&mut self, rows: u64) {
        // The number of rows of one step fits into usize on the 64-bit platforms of this crate.
        self.metrics.pruned_rows.add((), rows as usize);
    }
}

/// Time from the start or a reload to the first round: a server that is stopped again soon, because a key is wrong, removes
/// nothing.
const FIRST_ROUND_AFTER: Duration = Duration::from_secs(60);
/// Pause after a round that failed, at most.
const RETRY_AFTER: Duration = Duration::from_secs(300);
/// Shortest pause between two rounds, for a GM_KEEP_DAYS of minutes.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(60);
/// Longest pause between two rounds.
const LONGEST_INTERVAL: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_between_rounds_is_between_a_minute_and_an_hour() {
        let day = Duration::from_secs(86_400);
        assert_eq!(round_interval(Duration::from_secs(1)), SHORTEST_INTERVAL);
        assert_eq!(round_interval(day / 2), Duration::from_secs(1_800));
        assert_eq!(round_interval(day * 30), LONGEST_INTERVAL);
    }
}
