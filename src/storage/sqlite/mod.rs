//! The default store: one SQLite file beside the program, no server needed.
//!
//! WAL with `synchronous=FULL`: each COMMIT is synced before anybody hears 250. The file may be moved or removed under
//! us: that is noticed before and after each batch, what was acknowledged is first written into the moved file, and then
//! a new one is begun.

mod beside;
mod error;
mod reader;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, params};

use self::beside::{
    Companion, FileIdentity, behind_links, file_identity, log_of, octets_in, put_log_aside,
    with_ending,
};
use self::error::{no_memory, sort_error};
pub use self::reader::SqliteReader;
use super::row::Row;
use super::split::{PartError, save_split};
use super::table::{TableName, TableShape};
use super::{SaveError, SaveMail, SavedId};
use crate::mail::{Mail, NoMemory};
use crate::metrics;

/// An SQLite file that mails are saved to.
pub struct SqliteStore {
    file: PathBuf,
    table: TableName,
    open: Option<OpenFile>,
}

struct OpenFile {
    connection: Connection,
    identity: FileIdentity,
    /// The write-ahead log and its index, which SQLite keeps under the file's name with these endings.
    log: Companion,
    index: Companion,
    insert: String,
}

impl SqliteStore {
    /// Opens the file, and makes it and its table when they are missing.
    ///
    /// # Errors
    /// [`SaveError`] that names the file and what is wrong with it.
    pub fn open(file: &Path, table: &TableName) -> Result<SqliteStore, SaveError> {
        let mut store = SqliteStore {
            file: file.to_owned(),
            table: table.clone(),
            open: None,
        };
        store.reopen()?;
        Ok(store)
    }

    fn reopen(&mut self) -> Result<(), SaveError> {
        let log_file = log_of(&self.file);
        if octets_in(&self.file) == 0 && octets_in(&log_file) > 0 {
            // Beside no file, or an empty one, SQLite would delete it together with all that was not in the file yet.
            put_log_aside(&log_file)?;
        }
        let open = OpenFile::open(&self.file, &self.table);
        let open = open.map_err(|error| sort_error(&self.file, &error).error.into_save_error())?;
        self.open = Some(open);
        Ok(())
    }

    /// Leaves a file that is no longer the one our name stands for.
    ///
    /// # Errors
    /// [`SaveError`] while what was acknowledged is safe in it only as long as it stays open.
    fn leave_moved_file(&mut self) -> Result<(), SaveError> {
        let Some(moved) = &self.open else {
            return Ok(());
        };
        log::error!(file:% = self.file.display(); "moved_away");
        let _ = moved.connection.execute_batch("ROLLBACK");
        // Its log stays behind under the old name: what it holds has to go into the file itself now.
        let is_busy =
            (moved.connection).query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        let is_complete = matches!(is_busy, Ok(0));
        // Whoever still has the moved file open keeps both; a new file must not begin with either of them.
        if moved.log.is_ours() && !is_complete {
            put_log_aside(&moved.log.file)?;
        }
        let Some(OpenFile {
            connection,
            log,
            index,
            ..
        }) = self.open.take()
        else {
            return Ok(());
        };
        drop(connection);
        for companion in [log, index] {
            if companion.is_ours()
                && let Err(error) = fs::remove_file(&companion.file)
            {
                log::error!(file:% = companion.file.display(), reason:% = error; "not_removed");
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), PartError> {
        match &self.open {
            Some(open) if file_identity(&self.file).ok() == Some(open.identity) => {}
            Some(_) => {
                self.leave_moved_file().map_err(PartError::Store)?;
                self.reopen().map_err(PartError::Store)?;
            }
            None => self.reopen().map_err(PartError::Store)?,
        }
        let file = &self.file;
        let open = self.open.as_ref().ok_or_else(|| not_open(file))?;
        if open.connection.is_autocommit() {
            // IMMEDIATE: a read that turns into a write may get SQLITE_BUSY at once.
            let begun = open.connection.execute_batch("BEGIN IMMEDIATE");
            begun.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// Commits all of `part` or nothing.
    fn save_part(&mut self, part: &[Mail]) -> Result<(), PartError> {
        self.begin()?;
        let file = &self.file;
        let open = self.open.as_ref().ok_or_else(|| not_open(file))?;
        let saved = open
            .insert_all(part)
            .and_then(|()| open.connection.execute_batch("COMMIT"));
        saved.map_err(|error| self.failed(&error))?;
        // Committed, but perhaps into a file that somebody removed meanwhile.
        if file_identity(&self.file).ok() != self.open.as_ref().map(|open| open.identity) {
            self.leave_moved_file().map_err(PartError::Store)?;
            return Err(not_open(&self.file));
        }
        if let Some(open) = &mut self.open {
            open.log.warn_when_large();
            let last_id = u64::try_from(open.connection.last_insert_rowid());
            metrics::MAIL_ID_USED.set_ratio(last_id.unwrap_or_default(), i64::MAX as u64);
        }
        Ok(())
    }

    /// After any failure nothing of the transaction remains; after one of the file itself it is opened anew, since a
    /// second sync of the same pages would prove nothing.
    fn failed(&mut self, error: &rusqlite::Error) -> PartError {
        let sorted = sort_error(&self.file, error);
        let is_clean = self.open.as_ref().is_none_or(|open| {
            open.connection.is_autocommit() || open.connection.execute_batch("ROLLBACK").is_ok()
        });
        if sorted.reopen || !is_clean {
            self.open = None;
        }
        sorted.error
    }
}

/// A file that was moved after its last batch would otherwise leave its log behind, under a name where it is lost.
impl Drop for SqliteStore {
    fn drop(&mut self) {
        let is_moved = |open: &OpenFile| file_identity(&self.file).ok() != Some(open.identity);
        if self.open.as_ref().is_some_and(is_moved)
            && let Err(error) = self.leave_moved_file()
        {
            log::error!(reason:% = error; "not_left");
        }
    }
}

impl SaveMail for SqliteStore {
    fn ready(&mut self) -> Result<(), SaveError> {
        self.begin().map_err(PartError::into_save_error)
    }

    fn stand_down(&mut self) {
        let ends_transaction = |open: &OpenFile| {
            open.connection.is_autocommit() || open.connection.execute_batch("ROLLBACK").is_ok()
        };
        self.open = self.open.take().filter(ends_transaction);
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let saved = self.save_part(std::slice::from_ref(mail));
        saved.map_err(PartError::into_save_error)?;
        Ok(SavedId::from(mail.hash()))
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        save_split(batch, &mut |part| self.save_part(part))
    }
}

impl OpenFile {
    fn open(file: &Path, table: &TableName) -> rusqlite::Result<OpenFile> {
        let connection = Connection::open(file)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16384;
             PRAGMA journal_size_limit=67108864;",
        )?;
        connection.execute_batch(&table.sqlite_schema())?;
        let insert = insert_statement(table);
        // A table that was there already has to have our columns.
        connection.prepare_cached(&insert)?;
        let identity =
            file_identity(file).map_err(|_| rusqlite::Error::InvalidPath(file.to_owned()))?;
        let mut log = Companion::new(log_of(file));
        log.warn_when_large();
        Ok(OpenFile {
            connection,
            identity,
            log,
            index: Companion::new(with_ending(&behind_links(file), "-shm")),
            insert,
        })
    }

    fn insert_all(&self, mails: &[Mail]) -> rusqlite::Result<()> {
        let mut insert = self.connection.prepare_cached(&self.insert)?;
        let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        for mail in mails {
            let row = Row::new(mail, &TableShape::PRINTED);
            for delivery in mail.deliveries() {
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

/// Whether mail could be saved to `file` now; makes nothing.
///
/// # Errors
/// [`SaveError`] that names the file and what is wrong.
pub fn check(file: &Path, table: &TableName) -> Result<(), SaveError> {
    if file.exists() {
        let mut store = SqliteStore::open(file, table)?;
        store.ready()?;
        // Dropped with an open transaction, SQLite rolls it back.
        return Ok(());
    }
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let writable = nix::unistd::access(
        folder,
        nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK,
    );
    writable.map_err(|error| {
        SaveError::Unavailable(format!(
            "{}: cannot be made in {}: {error}; give user {} the right to write there",
            file.display(),
            folder.display(),
            nix::unistd::geteuid()
        ))
    })
}

fn insert_statement(table: &TableName) -> String {
    format!(
        "INSERT INTO {table} (`date`, `from`, `to`, `subject`, `body`, `charset`, `mail`, `spam_score`, `hash`,
         `content_type`, `recipient`, `has_attach`, `ip_addr`, `delivered`, `attach_info`, `dkim_valid`)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)"
    )
}

fn not_open(file: &Path) -> PartError {
    let text = format!(
        "{}: moved or removed under us; it is opened anew",
        file.display()
    );
    PartError::Store(SaveError::Unavailable(text))
}

/// How long another program may hold the file's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
