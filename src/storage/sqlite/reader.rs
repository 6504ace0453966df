//! Mail read back from an SQLite file.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::BUSY_TIMEOUT;
use super::database_file::refuse_unusual;
use super::error::words_of;
use crate::mail::inflate;
use crate::storage::TableName;
use crate::storage::reading::{ListedMail, ListedSize, MAX_MAIL_OCTETS, ReadError, ReadMail};

/// Reads mail from an SQLite file; never makes one.
pub struct SqliteReader {
    connection: Connection,
    table: TableName,
}

impl SqliteReader {
    /// Opens a file that exists.
    ///
    /// # Errors
    /// [`ReadError`] that names the file.
    pub fn open(file: &Path, table: &TableName) -> Result<SqliteReader, ReadError> {
        if !file.exists() {
            return Err(ReadError(format!(
                "{}: no such file; no mail was saved there yet, or GM_SQLITE_FILE names another one",
                file.display()
            )));
        }
        refuse_unusual(file).map_err(|error| ReadError(error.to_string()))?;
        // Readers of a WAL file write to its -shm.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags).and_then(|connection| {
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(connection)
        });
        let connection = connection.map_err(|error| read_error(file, &error))?;
        Ok(SqliteReader {
            connection,
            table: table.clone(),
        })
    }
}

impl ReadMail for SqliteReader {
    fn list(&mut self, to: Option<&str>, limit: u32) -> Result<Vec<ListedMail>, ReadError> {
        let filter = match to {
            Some(_) => "WHERE `to` = ?2 OR `recipient` = ?2 COLLATE NOCASE",
            None => "WHERE ?2 IS NULL",
        };
        let sql = format!(
            "SELECT `hash`, `date`, `from`, `to`, `recipient`, `mail`, `subject` FROM {} {filter}
             ORDER BY `mail_id` DESC LIMIT ?1",
            self.table
        );
        let rows = self.connection.prepare(&sql).and_then(|mut select| {
            let rows = select.query_map(params![limit, to], |row| {
                let stream: Vec<u8> = row.get(5)?;
                Ok(ListedMail {
                    hash: row.get(0)?,
                    date: row.get(1)?,
                    from: row.get(2)?,
                    to: row.get(3)?,
                    recipient: row.get(4)?,
                    size: ListedSize::of(&stream),
                    subject: row.get(6)?,
                })
            })?;
            rows.collect()
        });
        rows.map_err(|error| self.error(&error))
    }

    fn show(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let sql = format!("SELECT `mail` FROM {} WHERE `hash` = ?1", self.table);
        let stream: Option<Vec<u8>> = self
            .connection
            .query_row(&sql, [hash], |row| row.get(0))
            .optional()
            .map_err(|error| self.error(&error))?;
        let mail = stream
            .map(|stream| inflate(&stream, MAX_MAIL_OCTETS))
            .transpose();
        mail.map_err(|error| ReadError(format!("{hash}: column `mail`: {error}")))
    }
}

impl SqliteReader {
    fn error(&self, error: &rusqlite::Error) -> ReadError {
        read_error(Path::new(self.connection.path().unwrap_or_default()), error)
    }
}

fn read_error(file: &Path, error: &rusqlite::Error) -> ReadError {
    ReadError(format!("{}: {}", file.display(), words_of(error)))
}
