//! Reads mail from an SQLite file.

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, params};

use super::BUSY_TIMEOUT;
use super::database_file::reject_unsafe_database_path;
use super::error::describe_error;
use crate::mail::inflate;
use crate::store::TableName;
use crate::store::reader::{
    ListedMail, ListedMailSize, MAX_SHOWN_OCTETS, StoreReadError, StoredMailReader,
};
use crate::store::stored_text::column_octets_to_text;

/// Reads mail from an SQLite file. Never creates a file.
pub struct SqliteMailReader {
    connection: Connection,
    table: TableName,
}

impl SqliteMailReader {
    /// Opens an existing database file.
    ///
    /// # Errors
    /// [`StoreReadError`], which names the file.
    pub fn open(file: &Path, table: &TableName) -> Result<SqliteMailReader, StoreReadError> {
        // Not read-only: a reader in WAL mode writes to the `-shm` file.
        SqliteMailReader::open_with_access(file, table, OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    /// Opens an existing database file whose content is never changed: unlike the last connection of [`open`](Self::open), this
    /// one does not write the `-wal` back when it is closed. SQLite still creates the `-wal` and `-shm` if they are missing.
    ///
    /// # Errors
    /// [`StoreReadError`], which names the file.
    pub fn open_read_only(
        file: &Path,
        table: &TableName,
    ) -> Result<SqliteMailReader, StoreReadError> {
        SqliteMailReader::open_with_access(file, table, OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    fn open_with_access(
        file: &Path,
        table: &TableName,
        access: OpenFlags,
    ) -> Result<SqliteMailReader, StoreReadError> {
        if let Some(reason) = reason_that_file_cannot_be_found(file) {
            return Err(StoreReadError(reason));
        }
        reject_unsafe_database_path(file).map_err(|error| StoreReadError(error.to_string()))?;
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags).and_then(|connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(connection)
        });
        let connection = connection.map_err(|error| read_error(file, &error))?;
        Ok(SqliteMailReader {
            connection,
            table: table.clone(),
        })
    }
}

impl StoredMailReader for SqliteMailReader {
    fn list_newest_mails(
        &mut self,
        to: Option<&str>,
        limit: u32,
    ) -> Result<Vec<ListedMail>, StoreReadError> {
        let order = match self.has_column_or_no_table("mail_id") {
            Ok(true) => "mail_id",
            Ok(false) => "date",
            Err(error) => return Err(self.error(&error)),
        };
        let filter = match to {
            Some(_) => "WHERE `to` = ?2 COLLATE NOCASE OR `recipient` = ?2 COLLATE NOCASE",
            None => "WHERE ?2 IS NULL",
        };
        let rest = format!("{filter} ORDER BY `{order}` DESC LIMIT ?1");
        self.select_mails(&rest, params![limit, to])
    }

    fn read_mail_by_hash(&mut self, hash: &str) -> Result<Option<Vec<u8>>, StoreReadError> {
        let sql = format!("SELECT `mail` FROM {} WHERE `hash` = ?1", self.table);
        let stream: Option<Option<Vec<u8>>> = self
            .connection
            .query_row(&sql, [hash], |row| {
                Ok(text_or_blob_octets(row.get_ref(0)?).map(<[u8]>::to_vec))
            })
            .optional()
            .map_err(|error| self.error(&error))?;
        let Some(stream) = stream else {
            return Ok(None);
        };
        let stream = stream.ok_or_else(|| {
            StoreReadError(format!(
                "{hash}: column `mail` holds NULL or a number, so the body is missing"
            ))
        })?;
        let mail = inflate(&stream, MAX_SHOWN_OCTETS).map(Some);
        mail.map_err(|error| StoreReadError(format!("{hash}: column `mail`: {error}")))
    }
}

/// Returns why there is nothing to open: the file does not exist, or a folder of its path cannot be searched.
pub fn reason_that_file_cannot_be_found(file: &Path) -> Option<String> {
    let reason = match file.try_exists() {
        Ok(true) => return None,
        Ok(false) => "no such file; no mail was saved there yet, or another file is meant: see -config and GM_SQLITE_FILE"
            .to_owned(),
        Err(error) => error.to_string(),
    };
    Some(format!("{}: {reason}", file.display()))
}

/// Returns a value of any type as text; `None` for NULL.
fn sqlite_value_as_text(value: ValueRef) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(octets) | ValueRef::Blob(octets) => {
            Some(column_octets_to_text(octets.to_vec()))
        }
    }
}

fn text_or_blob_octets(value: ValueRef<'_>) -> Option<&[u8]> {
    match value {
        ValueRef::Text(octets) | ValueRef::Blob(octets) => Some(octets),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    }
}

impl SqliteMailReader {
    /// Returns the mails that a query selects. `rest` follows the name of the table in it.
    ///
    /// # Errors
    /// [`StoreReadError`]: the table cannot be read.
    pub fn select_mails(
        &self,
        rest: &str,
        parameters: impl Params,
    ) -> Result<Vec<ListedMail>, StoreReadError> {
        let sql = format!(
            "SELECT `hash`, `date`, `from`, `to`, `recipient`, `mail`, `subject` FROM {} {rest}",
            self.table
        );
        let rows = self.connection.prepare(&sql).and_then(|mut select| {
            let rows = select.query_map(parameters, |row| {
                let stream = text_or_blob_octets(row.get_ref(5)?);
                Ok(ListedMail {
                    hash: sqlite_value_as_text(row.get_ref(0)?).unwrap_or_default(),
                    date: sqlite_value_as_text(row.get_ref(1)?),
                    from: sqlite_value_as_text(row.get_ref(2)?),
                    to: sqlite_value_as_text(row.get_ref(3)?),
                    recipient: sqlite_value_as_text(row.get_ref(4)?),
                    size: stream.map_or(ListedMailSize::Expired, ListedMailSize::of),
                    subject: sqlite_value_as_text(row.get_ref(6)?),
                })
            })?;
            rows.collect()
        });
        rows.map_err(|error| self.error(&error))
    }

    /// Returns the first column of each row, which is a `mail_id`; rows with another value are left out.
    ///
    /// # Errors
    /// [`StoreReadError`]: the table cannot be read.
    pub fn select_ids(
        &self,
        sql: &str,
        parameters: impl Params,
    ) -> Result<Vec<u64>, StoreReadError> {
        let ids = self.connection.prepare(sql).and_then(|mut select| {
            let ids = select.query_map(parameters, |row| match row.get_ref(0)? {
                ValueRef::Integer(id) => Ok(u64::try_from(id).ok()),
                _ => Ok(None),
            })?;
            ids.collect::<rusqlite::Result<Vec<Option<u64>>>>()
        });
        let ids = ids.map_err(|error| self.error(&error))?;
        Ok(ids.into_iter().flatten().collect())
    }

    /// Returns whether the table has the column `name`. Also returns true if the table is missing, because the query that uses
    /// the column then reports the missing table.
    fn has_column_or_no_table(&self, name: &str) -> rusqlite::Result<bool> {
        let schema = self.table.database_in_table_name().unwrap_or("main");
        let counted = self.connection.query_row(
            "SELECT count(*), count(CASE lower(name) WHEN ?3 THEN 1 END) FROM pragma_table_info(?1, ?2)",
            [self.table.table_part(), schema, name],
            |row| Ok((row.get(0)?, row.get(1)?)),
        );
        counted.map(|(all, named): (i64, i64)| all == 0 || named > 0)
    }

    fn error(&self, error: &rusqlite::Error) -> StoreReadError {
        read_error(Path::new(self.connection.path().unwrap_or_default()), error)
    }
}

fn read_error(file: &Path, error: &rusqlite::Error) -> StoreReadError {
    StoreReadError(format!("{}: {}", file.display(), describe_error(error)))
}
