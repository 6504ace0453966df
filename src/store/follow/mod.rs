//! Finds the mails that arrive in a table, for `list --follow`, without a connection to the server that saves them.
//!
//! [`Follower`] polls the ids of the rows ([`FollowedRows`]) and reads each mail once. Several writers reserve ids in one order
//! and commit in another, so a row may appear below ids that were already read; [`Follower`] reads a bounded range of ids
//! again. How rows are read depends on the store.

mod follower;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use self::follower::{Follower, MAX_FIRST_MAILS};
#[cfg(feature = "mysql")]
pub use self::mysql::MySqlFollowedRows;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteFollowedRows;

use super::{ListedMail, StoreReadError};

/// The rows of one table, or only those of one recipient, by their `mail_id`.
pub trait FollowedRows {
    /// Returns the largest `mail_id` of the whole table; 0 if the table is empty.
    ///
    /// # Errors
    /// [`StoreReadError`].
    fn newest_id(&mut self) -> Result<u64, StoreReadError>;

    /// Returns ids of rows in the range, at most `limit`.
    ///
    /// # Errors
    /// [`StoreReadError`].
    fn ids(
        &mut self,
        range: MailIdRange,
        order: IdOrder,
        limit: usize,
    ) -> Result<Vec<u64>, StoreReadError>;

    /// Returns the mails with these ids in the order of their ids. A row that was removed meanwhile is left out.
    ///
    /// # Errors
    /// [`StoreReadError`].
    fn mails(&mut self, ids: &[u64]) -> Result<Vec<ListedMail>, StoreReadError>;

    /// Returns whether a row may become visible after a row with a larger id.
    fn may_appear_out_of_order(&self) -> bool;

    /// Returns why some sizes in the result of the last call of [`mails`](FollowedRows::mails) are unknown; `None` if all are
    /// known.
    fn warning(&self) -> Option<StoreReadError> {
        None
    }
}

/// The ids that are larger than `after` and at most `up_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailIdRange {
    /// The largest id below the range.
    pub after: u64,
    /// The last id of the range.
    pub up_to: u64,
}

/// Which ids of a range are returned if the range has more than the limit, and their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOrder {
    /// The smallest ids, in ascending order.
    OldestFirst,
    /// The largest ids, in descending order.
    NewestFirst,
}

#[cfg(any(feature = "sqlite", feature = "mysql"))]
impl IdOrder {
    /// Returns the keyword of ORDER BY.
    fn as_sql(self) -> &'static str {
        match self {
            IdOrder::OldestFirst => "ASC",
            IdOrder::NewestFirst => "DESC",
        }
    }
}
