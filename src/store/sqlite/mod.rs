//! The default store: one SQLite file, without a database server.
//!
//! WAL with `synchronous=FULL`: each COMMIT is synced before the client gets reply 250. Before and after each batch, the store
//! checks that the names of the database file, its `-wal` and its `-shm` still refer to the files that were opened.

pub(crate) mod database_file;
pub(crate) mod error;
mod free_space;
mod new_file;
mod reader;
pub(crate) mod wal_files;
mod wal_state;

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};

pub use self::database_file::DatabaseFile;
use self::error::{classify_sqlite_error, single_mail_out_of_memory_error};
pub use self::free_space::low_space_reason;
pub use self::reader::{SqliteMailReader, reason_that_file_cannot_be_found};
use self::wal_files::{OpenedWalOrShmFile, file_len, shm_path, wal_path};
use super::row::Row;
use super::table::{TableColumns, TableName, inserted_column_list};
use super::{SaveError, SaveMail, SavedId};
use crate::mail::{CompressAllocError, Mail};
use crate::metrics::Metrics;
use crate::store::queue::bisect::{BatchError, save_bisecting};

/// A store that saves mails to an SQLite file.
pub struct SqliteStore {
    file: DatabaseFile,
    table: TableName,
    metrics: Arc<Metrics>,
    open: Option<OpenSqliteDatabase>,
    /// Whether a connection was left open because its `-shm` was truncated. A new connection would share its memory map.
    has_leaked: bool,
}

struct OpenSqliteDatabase {
    connection: Connection,
    /// The write-ahead log (`-wal`).
    log: OpenedWalOrShmFile,
    /// The index of the write-ahead log (`-shm`).
    index: OpenedWalOrShmFile,
    insert: String,
}

impl SqliteStore {
    /// Opens the database file and creates the table if the table is missing. Creates a missing database file only if this
    /// process has not opened it before. `metrics` are those of the server.
    ///
    /// # Errors
    /// [`SaveError`], which names the file and the cause.
    pub fn open(
        file: &DatabaseFile,
        table: &TableName,
        metrics: &Arc<Metrics>,
    ) -> Result<SqliteStore, SaveError> {
        let mut store = SqliteStore {
            file: file.clone(),
            table: table.clone(),
            metrics: Arc::clone(metrics),
            open: None,
            has_leaked: false,
        };
        store.reopen()?;
        Ok(store)
    }

    fn reopen(&mut self) -> Result<(), SaveError> {
        self.file.create_or_verify_database_file()?;
        let path = self.file.path();
        if self.has_leaked && self.file.is_wal_index_truncated() {
            return Err(self.file.moved_database_error(&shm_path(path)));
        }
        let open = OpenSqliteDatabase::open(path, &self.table);
        self.open = Some(
            open.map_err(|error| classify_sqlite_error(path, &error).error.into_save_error())?,
        );
        self.check_files_are_in_place()
    }

    /// Returns an error while the database file, its `-wal` or its `-shm` is not where SQLite opened it, or was truncated. The
    /// connection stays open, because the files may be moved back, and because only this connection can write the `-wal` back
    /// into the moved database file.
    fn check_files_are_in_place(&mut self) -> Result<(), SaveError> {
        let displaced =
            (self.open.as_ref()).and_then(|open| open.first_moved_or_truncated_file(&self.file));
        let Some(displaced) = displaced else {
            self.file.log_database_back();
            return Ok(());
        };
        self.cancel_batch();
        if let Some(open) = &self.open {
            // PASSIVE does not wait for readers. The `-wal` is written back now, because a program that opens the new database
            // file of this name may delete the `-wal`.
            open.checkpoint_wal_if_safe(&self.file, "PASSIVE");
        }
        Err(self.file.moved_database_error(&displaced))
    }

    fn begin(&mut self) -> Result<(), BatchError> {
        if self.open.is_none() {
            self.reopen().map_err(BatchError::Store)?;
        }
        if self.opened_database_or_error()?.connection.is_autocommit() {
            self.check_files_are_in_place().map_err(BatchError::Store)?;
            if let Some(reason) = low_space_reason(self.file.path()) {
                return Err(BatchError::Store(SaveError::full(reason)));
            }
            // IMMEDIATE waits for the write lock and takes it; a deferred transaction could get SQLITE_BUSY at its first write.
            let begun = self
                .opened_database_or_error()?
                .connection
                .execute_batch("BEGIN IMMEDIATE");
            begun.map_err(|error| self.roll_back_and_classify_error(&error))?;
        }
        Ok(())
    }

    /// Commits all mails of `part` or none.
    fn commit_batch_part(&mut self, part: &[Mail]) -> Result<(), BatchError> {
        self.begin()?;
        let open = self.opened_database_or_error()?;
        let inserted = open.insert_all(part);
        inserted.map_err(|error| self.roll_back_and_classify_error(&error))?;
        let committed = self
            .opened_database_or_error()?
            .connection
            .execute_batch("COMMIT");
        // After a failed sync the `-wal` may hold the transaction, and the next connection then reads it. So the batch is not
        // tried again.
        committed.map_err(|error| match self.roll_back_and_classify_error(&error) {
            BatchError::Store(error) if error.may_be_tried_again() && !error.is_store_locked() => {
                BatchError::Store(SaveError::with_unknown_outcome(&error))
            }
            other => other,
        })?;
        // The COMMIT succeeded, but perhaps into a database file that was moved or removed during the transaction.
        self.check_files_are_in_place()
            .map_err(|error| BatchError::Store(SaveError::with_unknown_outcome(&error)))?;
        if let Some(open) = &mut self.open {
            open.log.warn_when_wal_is_large();
            let last_id = u64::try_from(open.connection.last_insert_rowid());
            self.metrics
                .mail_id_used
                .set_ratio(last_id.unwrap_or_default(), i64::MAX as u64);
        }
        Ok(())
    }

    fn opened_database_or_error(&self) -> Result<&OpenSqliteDatabase, BatchError> {
        let not_open =
            || SaveError::unavailable(format!("{}: not open", self.file.path().display()));
        self.open
            .as_ref()
            .ok_or_else(|| BatchError::Store(not_open()))
    }

    /// Rolls the transaction back and classifies the error. After an error of the database file itself, the file is closed, and
    /// the next batch opens it again: a second fsync through the same connection may succeed although the first one lost pages.
    fn roll_back_and_classify_error(&mut self, error: &rusqlite::Error) -> BatchError {
        let classified = classify_sqlite_error(self.file.path(), error);
        self.cancel_batch();
        if classified.reopen {
            self.close();
        }
        classified.error
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.has_leaked |= self.file.is_wal_index_truncated();
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
        let ends_transaction = |open: &OpenSqliteDatabase| {
            open.connection.is_autocommit() || open.connection.execute_batch("ROLLBACK").is_ok()
        };
        if self.file.is_wal_index_truncated() || !self.open.as_ref().is_none_or(ends_transaction) {
            self.close();
        }
    }

    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        let saved = self.commit_batch_part(std::slice::from_ref(mail));
        saved.map_err(BatchError::into_save_error)?;
        Ok(SavedId::from(mail.hash()))
    }

    fn save_batch(&mut self, batch: &[Mail]) -> Vec<Result<SavedId, SaveError>> {
        save_bisecting(batch, &mut |part| self.commit_batch_part(part))
    }
}

impl OpenSqliteDatabase {
    fn open(file: &Path, table: &TableName) -> rusqlite::Result<OpenSqliteDatabase> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        new_file::set_options_of_empty_file(&connection)?;
        connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16384;
             PRAGMA journal_size_limit=67108864;",
        )?;
        connection.execute_batch(&table.sqlite_schema())?;
        let insert = insert_statement(table);
        // Fails if an existing table does not have these columns.
        connection.prepare_cached(&insert)?;
        // On close, SQLite would delete the `-wal` by its name, even if another file now has that name.
        // `OpenSqliteDatabase::close` allows the deletion if the name still refers to the same file.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(ATTEMPT_BUSY_TIMEOUT)?;
        let mut log = OpenedWalOrShmFile::new(wal_path(file));
        log.warn_when_wal_is_large();
        Ok(OpenSqliteDatabase {
            connection,
            log,
            index: OpenedWalOrShmFile::new(shm_path(file)),
            insert,
        })
    }

    /// Returns the first of the database file, its `-wal` and its `-shm` that was moved, replaced, removed or truncated since
    /// SQLite opened it; `None` if all three are intact.
    fn first_moved_or_truncated_file(&self, file: &DatabaseFile) -> Option<PathBuf> {
        if !file.is_in_place() || file.is_database_file_empty() {
            return Some(file.path().to_owned());
        }
        let mut sidecars = [&self.log, &self.index].into_iter();
        let displaced = sidecars.find(|sidecar| !sidecar.is_in_place());
        displaced
            .map(|sidecar| sidecar.file.clone())
            .or_else(|| self.truncated_file(file))
    }

    /// Returns the `-shm`, `-wal` or database file that was truncated; `None` if none was, or if the name of the `-wal` or
    /// `-shm` no longer refers to the file that SQLite opened.
    fn truncated_file(&self, file: &DatabaseFile) -> Option<PathBuf> {
        let are_in_place = self.log.is_in_place() && self.index.is_in_place();
        if are_in_place {
            file.truncated_file()
        } else {
            None
        }
    }

    /// Closes the connection. SQLite is allowed to write the `-wal` into the database file and to delete the `-wal` by its name
    /// only if the names of the database file, the `-wal` and the `-shm` still refer to the opened files.
    fn close(self, file: &DatabaseFile) {
        if file.is_wal_index_truncated() {
            // The connection is not closed: SQLite would read the truncated `-shm` file, and SIGBUS would end the process.
            mem::forget(self.connection);
            return;
        }
        match self.first_moved_or_truncated_file(file) {
            None => {
                let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
                // If this fails, the `-wal` stays, and SQLite reads it at the next start.
                let _ = self.connection.set_db_config(config, false);
            }
            Some(_) => self.truncate_wal_of_moved_database(file),
        }
    }

    /// Writes the `-wal` back into the moved database file and truncates the `-wal`, so that the next database file of the old
    /// name does not start with this `-wal`. Renames and deletes nothing.
    fn truncate_wal_of_moved_database(&self, file: &DatabaseFile) {
        let _ = self.connection.execute_batch("ROLLBACK");
        let _ = self.connection.busy_timeout(CHECKPOINT_TIMEOUT);
        let is_written = self.checkpoint_wal_if_safe(file, "TRUNCATE");
        let is_kept = is_written == Some(false) || file.is_database_file_removed();
        if is_kept && self.log.is_in_place() && file_len(&self.log.file) > 0 {
            let fix = "it holds mails of the moved database file: rename it to that file's name plus -wal before either is opened";
            log::error!(file:% = self.log.file.display(), fix = fix; "wal_preserved");
        }
    }

    /// Writes the `-wal` into the database file through the open descriptors. Returns whether the whole `-wal` was written.
    /// `mode` is PASSIVE or TRUNCATE.
    ///
    /// Returns `None` and does not change the `-wal` in three cases: the `-wal` was moved together with the database file, to
    /// which it still belongs; the opened database file was deleted, so that only the `-wal` holds the last mails; or one of
    /// the files was truncated, so that a checkpoint would damage the database.
    fn checkpoint_wal_if_safe(&self, file: &DatabaseFile, mode: &str) -> Option<bool> {
        if file.is_wal_index_truncated() {
            // SQLite would read the truncated `-shm` file, and SIGBUS would end the process.
            return None;
        }
        let is_in_place = file.is_in_place();
        let is_damaged =
            is_in_place && (file.is_database_file_empty() || self.truncated_file(file).is_some());
        let is_only_copy = !self.log.is_in_place() || file.is_database_file_removed();
        if is_damaged || !is_in_place && is_only_copy {
            return None;
        }
        let pragma = format!("PRAGMA wal_checkpoint({mode})");
        let is_busy = self.connection.query_row(&pragma, [], |row| row.get(0));
        Some(is_busy == Ok(0))
    }

    fn insert_all(&self, mails: &[Mail]) -> rusqlite::Result<()> {
        let mut insert = self.connection.prepare_cached(&self.insert)?;
        let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        for mail in mails {
            let row = Row::new(mail, &TableColumns::DEFAULT);
            for delivery in mail.recipients() {
                let changes = self.connection.total_changes();
                let inserted = insert.execute(params![
                    now,
                    row.from,
                    delivery.to,
                    row.subject,
                    "gzencode",
                    row.charset,
                    mail.compressed_body(delivery)
                        .map_err(single_mail_out_of_memory_error)?
                        .as_slice(),
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
                    Some(ErrorCode::OutOfMemory) => {
                        single_mail_out_of_memory_error(CompressAllocError)
                    }
                    _ => error,
                })?;
                // A trigger may ignore a row without an error. The changes of triggers count too, because a view counts none.
                if self.connection.total_changes() == changes {
                    return Err(rusqlite::Error::StatementChangedRows(0));
                }
            }
        }
        Ok(())
    }
}

/// Returns the INSERT of one row; its parameters are the values of [`INSERTED_COLUMNS`](crate::store::INSERTED_COLUMNS), except
/// the last one, which is NULL.
pub(crate) fn insert_statement(table: &TableName) -> String {
    format!(
        "INSERT INTO {table} ({}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        inserted_column_list()
    )
}

/// Longest time that one attempt to save waits for a lock that another connection holds. The queue tries again (`queue::hold`);
/// meanwhile each mail gets 451 when its own time is over.
const ATTEMPT_BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest time to wait for a lock when the file is opened, read or checked; after this time SQLite reports SQLITE_BUSY.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time to wait for readers before the `-wal` of a moved database file is truncated; after this time the `-wal` is
/// kept.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(1);
