//! The default store: one SQLite file beside the program, no server needed.
//!
//! WAL with `synchronous=FULL`: each COMMIT is synced before anybody hears 250. That the file is still the one that was opened
//! is checked before and after each batch.

pub(crate) mod database_file;
pub(crate) mod error;
mod reader;
pub(crate) mod wal_files;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

pub use self::database_file::DatabaseFile;
use self::error::{classify_error, no_memory};
pub use self::reader::SqliteReader;
use self::wal_files::{SidecarFile, file_len, index_of, wal_path};
use super::row::Row;
use super::table::{TableColumns, TableName};
use super::{SaveError, SaveMail, SavedId};
use crate::mail::{Mail, NoMemory};
use crate::metrics;
use crate::store::queue::bisect::{BatchError, save_bisecting};

/// An SQLite file that mails are saved to.
pub struct SqliteStore {
    file: DatabaseFile,
    table: TableName,
    open: Option<OpenFile>,
}

struct OpenFile {
    connection: Connection,
    /// The write-ahead log and its index, which SQLite keeps under the file's name with these endings.
    log: SidecarFile,
    index: SidecarFile,
    insert: String,
}

impl SqliteStore {
    /// Opens the file, and makes its table when it is missing. The file itself is made only where this process has not opened it
    /// before.
    ///
    /// # Errors
    /// [`SaveError`] that names the file and what is wrong with it.
    pub fn open(file: &DatabaseFile, table: &TableName) -> Result<SqliteStore, SaveError> {
        let mut store = SqliteStore {
            file: file.clone(),
            table: table.clone(),
            open: None,
        };
        store.reopen()?;
        Ok(store)
    }

    fn reopen(&mut self) -> Result<(), SaveError> {
        self.file.prepare()?;
        let path = self.file.path();
        let open = OpenFile::open(path, &self.table);
        self.open =
            Some(open.map_err(|error| classify_error(path, &error).error.into_save_error())?);
        self.refuse_displaced()
    }

    /// Fails while a file is not where SQLite opened it. The connection stays open: what is in the log needs it no less than the
    /// file, and both may come back.
    fn refuse_displaced(&mut self) -> Result<(), SaveError> {
        let displaced = (self.open.as_ref()).and_then(|open| open.displaced(&self.file));
        let Some(displaced) = displaced else {
            self.file.found_in_place();
            return Ok(());
        };
        self.cancel_batch();
        if let Some(open) = &self.open {
            // Waits for no reader. Another program that opens what is under the old name now may delete the log.
            open.write_log_back(&self.file, "PASSIVE");
        }
        Err(self.file.displaced(&displaced))
    }

    fn begin(&mut self) -> Result<(), BatchError> {
        if self.open.is_none() {
            self.reopen().map_err(BatchError::Store)?;
        }
        if self.opened()?.connection.is_autocommit() {
            self.refuse_displaced().map_err(BatchError::Store)?;
            // IMMEDIATE: a read that turns into a write may get SQLITE_BUSY at once.
            let begun = self.opened()?.connection.execute_batch("BEGIN IMMEDIATE");
            begun.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// Commits all of `part` or nothing.
    fn save_part(&mut self, part: &[Mail]) -> Result<(), BatchError> {
        self.begin()?;
        let open = self.opened()?;
        let saved = open
            .insert_all(part)
            .and_then(|()| open.connection.execute_batch("COMMIT"));
        saved.map_err(|error| self.failed(&error))?;
        // Committed, but perhaps into a file that was moved or removed meanwhile.
        self.refuse_displaced().map_err(BatchError::Store)?;
        if let Some(open) = &mut self.open {
            open.log.warn_when_large();
            let last_id = u64::try_from(open.connection.last_insert_rowid());
            metrics::MAIL_ID_USED.set_ratio(last_id.unwrap_or_default(), i64::MAX as u64);
        }
        Ok(())
    }

    fn opened(&self) -> Result<&OpenFile, BatchError> {
        let not_open =
            || SaveError::Unavailable(format!("{}: not open", self.file.path().display()));
        self.open
            .as_ref()
            .ok_or_else(|| BatchError::Store(not_open()))
    }

    /// After any failure nothing of the transaction remains; after one of the file itself it is opened anew, since a
    /// second sync of the same pages would prove nothing.
    fn failed(&mut self, error: &rusqlite::Error) -> BatchError {
        let sorted = classify_error(self.file.path(), error);
        self.cancel_batch();
        if sorted.reopen {
            self.close();
        }
        sorted.error
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            open.close(&self.file);
        }
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl SaveMail for SqliteStore {
    fn prepare_batch(&mut self) -> Result<(), SaveError> {
        self.begin().map_err(BatchError::into_save_error)
    }

    fn cancel_batch(&mut self) {
        let ends_transaction = |open: &OpenFile| {
            open.connection.is_autocommit() || open.connection.execute_batch("ROLLBACK").is_ok()
        };
        if !self.open.as_ref().is_none_or(ends_transaction) {
            self.close();
        }
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let saved = self.save_part(std::slice::from_ref(mail));
        saved.map_err(BatchError::into_save_error)?;
        Ok(SavedId::from(mail.hash()))
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        save_bisecting(batch, &mut |part| self.save_part(part))
    }
}

impl OpenFile {
    fn open(file: &Path, table: &TableName) -> rusqlite::Result<OpenFile> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16384;
             PRAGMA journal_size_limit=67108864;",
        )?;
        connection.execute_batch(&table.sqlite_schema())?;
        let insert = insert_statement(table);
        // A table that was there already has to have our columns.
        connection.prepare_cached(&insert)?;
        // SQLite would delete the log by its name; `close` permits that where it is safe.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let mut log = SidecarFile::new(wal_path(file));
        log.warn_when_large();
        Ok(OpenFile {
            connection,
            log,
            index: SidecarFile::new(index_of(file)),
            insert,
        })
    }

    /// The first file that is not where SQLite opened it.
    fn displaced(&self, file: &DatabaseFile) -> Option<PathBuf> {
        if !file.is_in_place() || file.is_emptied() {
            return Some(file.path().to_owned());
        }
        let mut companions = [&self.log, &self.index].into_iter();
        let displaced = companions.find(|companion| !companion.is_in_place())?;
        Some(displaced.file.clone())
    }

    /// Closes the connection. SQLite then writes the log into the file and deletes it, by its name: only where each name still
    /// stands for what was opened.
    fn close(self, file: &DatabaseFile) {
        match self.displaced(file) {
            None => {
                let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
                // Where this fails the log stays and the next start reads it.
                let _ = self.connection.set_db_config(config, false);
            }
            Some(_) => self.leave_displaced(file),
        }
    }

    /// Leaves the log empty under the old name: the next file of that name must not begin with it. Nothing is renamed or deleted.
    fn leave_displaced(&self, file: &DatabaseFile) {
        let _ = self.connection.execute_batch("ROLLBACK");
        let _ = self.connection.busy_timeout(LEAVE_TIMEOUT);
        let is_written = self.write_log_back(file, "TRUNCATE");
        if is_written == Some(false) && file_len(&self.log.file) > 0 {
            let fix = "it holds mails of the file that was moved: name it like that file with -wal before either is opened";
            log::error!(file:% = self.log.file.display(), fix = fix; "wal_preserved");
        }
    }

    /// Writes the log into the file, both by their open descriptors, and returns whether all of it is there. Returns `None` where the
    /// log has to stay as it is: when it was moved as well, and so belongs to the file again, and when the file was deleted or emptied
    /// and its log is all that is left.
    fn write_log_back(&self, file: &DatabaseFile, mode: &str) -> Option<bool> {
        let belongs_to_nothing = file.is_removed() && !file.path().exists();
        let is_in_place = file.is_in_place();
        if is_in_place && file.is_emptied()
            || !is_in_place && (!self.log.is_in_place() || belongs_to_nothing)
        {
            return None;
        }
        let checkpoint = format!("PRAGMA wal_checkpoint({mode})");
        let is_busy = self.connection.query_row(&checkpoint, [], |row| row.get(0));
        Some(is_busy == Ok(0))
    }

    fn insert_all(&self, mails: &[Mail]) -> rusqlite::Result<()> {
        let mut insert = self.connection.prepare_cached(&self.insert)?;
        let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        for mail in mails {
            let row = Row::new(mail, &TableColumns::DEFAULT);
            for delivery in mail.recipients() {
                let inserted = insert.execute(params![
                    now,
                    row.from,
                    delivery.to,
                    row.subject,
                    "gzencode",
                    row.charset,
                    mail.zlib_body(delivery).map_err(no_memory)?.as_slice(),
                    0.0,
                    delivery.hash.as_str(),
                    row.content_type,
                    delivery.recipient,
                    i64::try_from(row.has_attach).unwrap_or(i64::MAX),
                    row.ip_addr,
                    0,
                    row.attach_info,
                ]);
                inserted.map_err(|error| match error.sqlite_error_code() {
                    Some(ErrorCode::OutOfMemory) => no_memory(NoMemory),
                    _ => error,
                })?;
            }
        }
        Ok(())
    }
}

pub(crate) fn insert_statement(table: &TableName) -> String {
    format!(
        "INSERT INTO {table} (`date`, `from`, `to`, `subject`, `body`, `charset`, `mail`, `spam_score`, `hash`,
         `content_type`, `recipient`, `has_attach`, `ip_addr`, `delivered`, `attach_info`, `dkim_valid`)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
    )
}

/// How long another program may hold the file's lock.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a reader may keep a log from being written into a file that was moved.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
