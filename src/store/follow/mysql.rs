//! Follows the rows of a MySQL or MariaDB table.

use std::time::Duration;

use mysql::Value;

use super::{FollowedRows, IdOrder, MailIdRange};
use crate::store::mysql::MySqlReader;
use crate::store::{ListedMail, StoreReadError};

/// The rows of a table over one connection, with the bodies in Redis for the sizes.
pub struct MySqlFollowedRows {
    reader: MySqlReader,
    filter: String,
    filter_parameters: Vec<Value>,
}

impl MySqlFollowedRows {
    /// Follows the rows that `reader` reads. If `to` is given, only those whose column `to` or `recipient` equals it, ignoring
    /// case.
    ///
    /// # Errors
    /// [`StoreReadError`]: the columns of the table cannot be read.
    pub fn open(
        mut reader: MySqlReader,
        to: Option<&str>,
    ) -> Result<MySqlFollowedRows, StoreReadError> {
        let (filter, filter_parameters) = match to {
            Some(to) => {
                let (condition, parameters) = reader.recipient_filter(to)?;
                (format!("AND ({condition})"), parameters)
            }
            None => (String::new(), Vec::new()),
        };
        Ok(MySqlFollowedRows {
            reader,
            filter,
            filter_parameters,
        })
    }
}

impl FollowedRows for MySqlFollowedRows {
    fn newest_id(&mut self) -> Result<u64, StoreReadError> {
        self.reader.set_time_limit(Some(POLL_TIMEOUT));
        let sql = format!("SELECT MAX(`mail_id`) FROM {}", self.reader.table());
        let ids = self.reader.select_ids(&sql, Vec::new())?;
        Ok(ids.first().copied().unwrap_or_default())
    }

    fn ids(
        &mut self,
        range: MailIdRange,
        order: IdOrder,
        limit: usize,
    ) -> Result<Vec<u64>, StoreReadError> {
        let sql = format!(
            "SELECT `mail_id` FROM {} WHERE `mail_id` > ? AND `mail_id` <= ? {}
             ORDER BY `mail_id` {} LIMIT {limit}",
            self.reader.table(),
            self.filter,
            order.as_sql()
        );
        // The newest mails of a recipient may be few, so that finding them reads the whole table. Later ranges are short, and a
        // server that does not answer must be noticed.
        self.reader.set_time_limit(match order {
            IdOrder::NewestFirst => None,
            IdOrder::OldestFirst => Some(POLL_TIMEOUT),
        });
        let mut parameters = vec![range.after.into(), range.up_to.into()];
        parameters.extend(self.filter_parameters.iter().cloned());
        self.reader.select_ids(&sql, parameters)
    }

    fn mails(&mut self, ids: &[u64]) -> Result<Vec<ListedMail>, StoreReadError> {
        // A Redis that failed or was restarted is connected again.
        self.reader.close_redis();
        self.reader.set_time_limit(Some(POLL_TIMEOUT));
        // Numbers need no quotes, and their count is limited by the caller.
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let rest = format!("WHERE `mail_id` IN ({}) ORDER BY `mail_id`", ids.join(","));
        self.reader.select_mails(&rest, Vec::new())
    }

    /// Several writers, also of other receivers, commit in another order than they were assigned ids.
    fn may_appear_out_of_order(&self) -> bool {
        true
    }

    fn warning(&self) -> Option<StoreReadError> {
        self.reader.unknown_sizes()
    }
}

/// Time limit for a query after the first mails: long enough for some hundred large mails over a slow network.
const POLL_TIMEOUT: Duration = Duration::from_secs(30);
