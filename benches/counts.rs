//! How many rounds, messages and seconds each measurement takes: enough for reproducible figures, or few, to try the benchmark.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

/// The counts and durations of all measurements.
pub struct Counts {
    /// The number of rounds. Each server runs once in each round, and the median of its runs is reported.
    pub rounds: usize,
    /// The number of messages of the warm-up run, which fills caches, opens the store, and determines the number of
    /// messages per run.
    pub warm_up: usize,
    /// The intended duration of one run.
    pub run_time: Duration,
    /// The duration of one run under an open load.
    pub open_load_time: Duration,
    /// The handshakes of one run.
    pub handshakes: usize,
}

/// The counts of this run: small ones if the environment has [`QUICK`].
pub static COUNTS: LazyLock<Counts> = LazyLock::new(|| match is_quick() {
    false => Counts {
        rounds: 3,
        warm_up: 500,
        run_time: Duration::from_millis(1_500),
        open_load_time: Duration::from_secs(8),
        handshakes: 2_000,
    },
    true => Counts {
        rounds: 1,
        warm_up: 50,
        run_time: Duration::from_millis(100),
        open_load_time: Duration::from_millis(500),
        handshakes: 100,
    },
});

/// Returns whether the figures of this run are only a trial.
pub fn is_quick() -> bool {
    env::var_os(QUICK).is_some()
}

/// Returns the median of figures.
pub fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

const QUICK: &str = "GOGUERRILLA_BENCH_QUICK";
