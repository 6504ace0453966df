//! Removes rows that are older than GM_KEEP_DAYS, in small transactions, while the writers save mail.
//!
//! A round ([`run_round`]) removes everything that is older than a cut-off time, which the database's clock gives when the
//! round begins. The server runs rounds in a thread of their own ([`RetentionThread`]); `goguerrilla prune` runs one round. How
//! rows are found and removed depends on the store ([`OldRows`]).

mod clock;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "mysql")]
mod mysql_table;
#[cfg(any(feature = "sqlite", feature = "mysql"))]
mod pace;
#[cfg(feature = "mysql")]
mod partitions;
mod round;
#[cfg(feature = "sqlite")]
mod sqlite;
mod thread;

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "mysql")]
pub use self::mysql::{MySqlOldRows, RoundCaller};
#[cfg(feature = "mysql")]
pub use self::mysql_table::{delete_statement, why_rows_stay};
#[cfg(feature = "mysql")]
pub use self::partitions::{
    DayPartitions, PartitionChange, PartitionRow, drop_partition_statement,
    make_partitions_statement,
};
pub use self::round::{RoundEnd, RoundHooks, RoundOutcome, run_round};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteOldRows;
pub use self::thread::{RetentionPlan, RetentionThread};

/// The rows of one table that are older than a cut-off time.
pub trait OldRows {
    /// Returns the cut-off time, as the database writes it.
    fn cut_off(&self) -> &str;

    /// Returns the number of rows that are older than the cut-off time.
    ///
    /// # Errors
    /// [`RetentionError`].
    fn count(&mut self) -> Result<u64, RetentionError>;

    /// Removes some of the rows in one transaction.
    ///
    /// # Errors
    /// [`RetentionError`].
    fn remove_some(&mut self) -> Result<RemovalStep, RetentionError>;
}

/// What one call of [`OldRows::remove_some`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovalStep {
    /// The number of removed rows.
    pub rows: u64,
    /// Whether nothing is left to do.
    pub is_last: bool,
}

/// Begins a round with the cut-off time of now minus the given time.
pub type OldRowsOpener =
    Arc<dyn Fn(Duration) -> Result<Box<dyn OldRows>, RetentionError> + Send + Sync>;

/// Returns the time in seconds, rounded up, so that no row is removed too early.
#[cfg(any(feature = "sqlite", feature = "mysql"))]
fn seconds_rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Why rows were not removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// A lock or a deadlock prevented the step; the same step may succeed later.
    #[error("{0}")]
    Busy(String),
    /// Another receiver on the same database removes the rows.
    #[error("another receiver removes old rows now")]
    RemovedElsewhere,
    /// The round cannot go on.
    #[error("{0}")]
    Failed(String),
}
