//! `goguerrilla prune`: removes old rows, next to a running server or without one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::{CommandFailure, print_stdout};
use crate::config::{Config, EXPECTED_DAYS, parse_days};
use crate::os::signals;
use crate::server;
use crate::store::retention::{OldRows, RoundEnd, RoundHooks, run_round};

/// Removes the rows that are older than `keep`, or only counts them, and prints their number.
///
/// # Errors
/// [`CommandFailure`]: not all of the rows could be removed. Those that were removed are counted on standard output.
pub fn prune(config: &Config, keep: Duration, is_dry_run: bool) -> Result<(), CommandFailure> {
    let interrupted = signals::interrupt_flag().map_err(|error| format!("signals: {error}"))?;
    let store = server::store_factory_of_kind(config.store).map_err(|error| error.to_string())?;
    let opened = store.open_old_rows(config, keep);
    let mut old_rows = opened.map_err(|error| error.to_string())?;
    if is_dry_run {
        let rows = old_rows.count().map_err(|error| error.to_string())?;
        let text = format!(
            "{rows} rows were saved before {}; none was removed\n",
            old_rows.cut_off()
        );
        return print_stdout(text.as_bytes());
    }
    let mut hooks = CommandHooks {
        progress: Progress::start(|| count_for_progress(&mut *old_rows)),
        interrupted,
    };
    let outcome = run_round(&mut *old_rows, &mut hooks);
    drop(hooks);
    let text = format!(
        "{} rows removed, which were saved before {}\n",
        outcome.rows,
        old_rows.cut_off()
    );
    print_stdout(text.as_bytes())?;
    match outcome.end {
        RoundEnd::Complete => Ok(()),
        RoundEnd::Stopped => Err(
            "interrupted: older rows remain; run `goguerrilla prune` again"
                .to_owned()
                .into(),
        ),
        RoundEnd::Failed(error) => Err(error.to_string().into()),
    }
}

/// Parses the value of `--days`.
///
/// # Errors
/// The text names the expected values.
pub fn parse_days_option(text: &str) -> Result<Duration, String> {
    parse_days(text).ok_or_else(|| format!("expected {EXPECTED_DAYS}"))
}

/// Returns the number of rows to remove; `None` if they cannot be counted, which does not prevent removing them.
fn count_for_progress(old_rows: &mut dyn OldRows) -> Option<u64> {
    old_rows.count().ok()
}

struct CommandHooks {
    progress: Progress,
    interrupted: Arc<AtomicBool>,
}

impl RoundHooks for CommandHooks {
    fn wait(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            if self.interrupted.load(Ordering::SeqCst) {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(INTERRUPT_CHECK_INTERVAL));
        }
    }

    /// Returns false: the queue of a server is not visible from another process. The server saves its mail in the pauses
    /// between the transactions.
    fn are_mails_queued(&self) -> bool {
        false
    }

    fn add_removed_rows(&mut self, rows: u64) {
        self.progress.add(rows);
    }
}

/// Interval at which a pause checks whether a signal arrived.
const INTERRUPT_CHECK_INTERVAL: Duration = Duration::from_millis(50);
