//! Follows the rows of an SQLite file.

use std::path::{Path, PathBuf};

use super::{FollowedRows, IdOrder, MailIdRange};
use crate::store::sqlite::SqliteMailReader;
use crate::store::{ListedMail, StoreReadError, TableName};

/// The rows of an SQLite file, which is opened read-only for each query: the file may be replaced meanwhile, and a connection
/// that stays open would keep the server from removing the `-wal` when it stops.
pub struct SqliteFollowedRows {
    file: PathBuf,
    table: TableName,
    to: Option<String>,
}

impl SqliteFollowedRows {
    /// Checks that the file and its table can be read. If `to` is given, only the rows are followed whose column `to` or
    /// `recipient` equals it, ignoring case.
    ///
    /// # Errors
    /// [`StoreReadError`], which names the file.
    pub fn open(
        file: &Path,
        table: &TableName,
        to: Option<&str>,
    ) -> Result<SqliteFollowedRows, StoreReadError> {
        let mut rows = SqliteFollowedRows {
            file: file.to_owned(),
            table: table.clone(),
            to: to.map(str::to_owned),
        };
        rows.newest_id()?;
        Ok(rows)
    }

    fn reader(&self) -> Result<SqliteMailReader, StoreReadError> {
        SqliteMailReader::open_read_only(&self.file, &self.table)
    }
}

impl FollowedRows for SqliteFollowedRows {
    fn newest_id(&mut self) -> Result<u64, StoreReadError> {
        let sql = format!("SELECT coalesce(max(`mail_id`), 0) FROM {}", self.table);
        let ids = self.reader()?.select_ids(&sql, ())?;
        Ok(ids.first().copied().unwrap_or_default())
    }

    fn ids(
        &mut self,
        range: MailIdRange,
        order: IdOrder,
        limit: usize,
    ) -> Result<Vec<u64>, StoreReadError> {
        let filter = match self.to {
            Some(_) => "(`to` = ?3 COLLATE NOCASE OR `recipient` = ?3 COLLATE NOCASE)",
            None => "?3 IS NULL",
        };
        let sql = format!(
            "SELECT `mail_id` FROM {} WHERE `mail_id` > ?1 AND `mail_id` <= ?2 AND {filter}
             ORDER BY `mail_id` {} LIMIT {limit}",
            self.table,
            order.as_sql()
        );
        // An id of SQLite is at most i64::MAX.
        let [after, up_to] =
            [range.after, range.up_to].map(|id| i64::try_from(id).unwrap_or(i64::MAX));
        self.reader()?.select_ids(&sql, (after, up_to, &self.to))
    }

    fn mails(&mut self, ids: &[u64]) -> Result<Vec<ListedMail>, StoreReadError> {
        // Numbers need no quotes, and their count is limited by the caller.
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        let rest = format!("WHERE `mail_id` IN ({}) ORDER BY `mail_id`", ids.join(","));
        self.reader()?.select_mails(&rest, ())
    }

    /// SQLite has one writer at a time, and it assigns ids in ascending order (AUTOINCREMENT).
    fn may_appear_out_of_order(&self) -> bool {
        false
    }
}
