//! Removes old rows from an SQLite file, through a connection of its own.
//!
//! SQLite has one write lock for the file, so the writer waits while a transaction removes rows. A transaction therefore ends
//! after about `LOCK_TIME`. It is not synced (`synchronous=NORMAL`): the next COMMIT of the writer syncs the same `-wal`, and
//! rows that come back after a power failure are removed again.
//!
//! Removed rows change many pages. The `-wal` is therefore copied into the database file so often that each copy is short; the
//! writer would otherwise do it within a COMMIT, a thousand pages at once, and the disk would not sync its `-wal` meanwhile.
//!
//! A file with `auto_vacuum=INCREMENTAL` gives free pages back to the file system, in transactions as short. Any other file
//! keeps its size, and new mail uses the free pages.

use std::collections::VecDeque;
use std::mem;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::pace::{MAX_ROWS, StepSize};
use super::{OldRows, RemovalStep, RetentionError, seconds_rounded_up};
use crate::store::sqlite::DatabaseFile;
use crate::store::sqlite::error::describe_error;
use crate::store::{INSERTED_COLUMNS, TableName};

/// The old rows of a table in an SQLite file.
pub struct SqliteOldRows {
    file: DatabaseFile,
    table: TableName,
    /// `None` only in `drop`.
    connection: Option<Connection>,
    cut_off: String,
    /// Row ids that were found and are not removed yet.
    found: VecDeque<i64>,
    /// Date and row id of the last row that was found. The next query begins after it, because a trigger may keep rows. The date
    /// need not be valid UTF-8 if another program wrote it.
    last_found: (Vec<u8>, i64),
    size: StepSize,
    /// Number of calls of `remove_some` since the last copy of the `-wal`.
    steps_since_checkpoint: u32,
    /// Whether free pages are given back to the file system.
    shrinks: bool,
}

impl SqliteOldRows {
    /// Opens the database file, which must exist, and takes the cut-off time from SQLite's clock, which is this machine's.
    ///
    /// # Errors
    /// [`RetentionError`]: the file cannot be opened, or its table is not one that mail is saved to.
    pub fn open(
        file: &DatabaseFile,
        table: &TableName,
        keep: Duration,
    ) -> Result<SqliteOldRows, RetentionError> {
        check_file(file)?;
        let opened = open_connection(file, table, keep);
        let (connection, cut_off, shrinks) = opened.map_err(|error| classify(file, &error))?;
        let old_rows = SqliteOldRows {
            file: file.clone(),
            table: table.clone(),
            connection: Some(connection),
            cut_off,
            found: VecDeque::new(),
            last_found: (FIRST_DATE.into(), i64::MIN),
            size: StepSize::new(FIRST_ROWS, MAX_ROWS, LOCK_TIME),
            steps_since_checkpoint: 0,
            shrinks,
        };
        match old_rows.with(|connection| why_rows_stay(connection, table))? {
            None => Ok(old_rows),
            Some(reason) => {
                let file = file.path().display();
                Err(RetentionError::Failed(format!("{file}: {reason}")))
            }
        }
    }

    /// Runs `call` with the connection and classifies its error.
    fn with<T>(
        &self,
        call: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, RetentionError> {
        match &self.connection {
            Some(connection) => call(connection).map_err(|error| classify(&self.file, &error)),
            None => Err(RetentionError::Failed("closed".to_owned())),
        }
    }

    /// Runs `work` in a transaction. Returns its result and how long the write lock was held.
    fn in_transaction<T>(
        &self,
        work: impl FnOnce(&Connection, Instant) -> rusqlite::Result<T>,
    ) -> Result<(T, Duration), RetentionError> {
        self.with(|connection| {
            connection.execute_batch("BEGIN IMMEDIATE")?;
            let began_at = Instant::now();
            let done = work(connection, began_at).and_then(|done| {
                connection.execute_batch("COMMIT")?;
                Ok(done)
            });
            if done.is_err() && !connection.is_autocommit() {
                // If the ROLLBACK fails too, the connection is closed with the transaction open, which rolls it back.
                let _ = connection.execute_batch("ROLLBACK");
            }
            Ok((done?, began_at.elapsed()))
        })
    }

    fn find_rows(&mut self) -> Result<(), RetentionError> {
        let sql = format!(
            "SELECT CAST(`date` AS BLOB), rowid FROM {}
             WHERE (`date`, rowid) > (CAST(?1 AS TEXT), ?2) AND `date` < ?3
             ORDER BY `date`, rowid LIMIT {MAX_ROWS}",
            self.table
        );
        let (date, id) = &self.last_found;
        let found: Vec<(Vec<u8>, i64)> = self.with(|connection| {
            let mut select = connection.prepare_cached(&sql)?;
            let rows = select.query_map(params![date, id, self.cut_off], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            rows.collect()
        })?;
        self.found = found.iter().map(|(_, id)| *id).collect();
        if let Some(last) = found.into_iter().last() {
            self.last_found = last;
        }
        Ok(())
    }

    /// Removes rows that were found, until the step's number or time is reached.
    fn remove_found_rows(&mut self) -> Result<u64, RetentionError> {
        // The date is compared again, because another program may have changed the row meanwhile.
        let sql = format!(
            "DELETE FROM {} WHERE rowid = ?1 AND `date` >= ?2 AND `date` < ?3",
            self.table
        );
        let ((tried, rows), held) = self.in_transaction(|connection, began_at| {
            let mut delete = connection.prepare_cached(&sql)?;
            let (mut tried, mut rows) = (0, 0);
            for id in self.found.iter().take(self.size.rows()) {
                rows += delete.execute(params![id, FIRST_DATE, self.cut_off])?;
                tried += 1;
                if began_at.elapsed() > LOCK_TIME {
                    break;
                }
            }
            Ok((tried, rows))
        })?;
        self.found.drain(..tried);
        self.size.adapt(held);
        Ok(rows as u64)
    }

    /// Gives free pages back to the file system. Returns whether more should follow.
    fn give_pages_back(&self) -> Result<bool, RetentionError> {
        let free_pages = |connection: &Connection| -> rusqlite::Result<(i64, i64)> {
            let free = pragma(connection, "freelist_count")?;
            Ok((free, pragma(connection, "page_count")?))
        };
        let has_many = |(free, all): (i64, i64)| free > all / FREE_SHARE;
        if !self.shrinks || !has_many(self.with(free_pages)?) {
            return Ok(false);
        }
        let (left, _) = self.in_transaction(|connection, began_at| {
            let mut vacuum = connection.prepare_cached(&format!(
                "PRAGMA incremental_vacuum({PAGES_BETWEEN_TIME_CHECKS})"
            ))?;
            let mut left = free_pages(connection)?;
            while has_many(left) && began_at.elapsed() < LOCK_TIME / 2 {
                // Each row is one page; the statement must be stepped to its end.
                let mut pages = vacuum.query([])?;
                while pages.next()?.is_some() {}
                drop(pages);
                let before = mem::replace(&mut left, free_pages(connection)?);
                if left == before {
                    return Ok((0, 0));
                }
            }
            Ok(left)
        })?;
        Ok(has_many(left))
    }

    /// Copies the `-wal` into the database file, and lets the writer begin it anew.
    fn checkpoint(&mut self) -> Result<(), RetentionError> {
        self.steps_since_checkpoint = 0;
        let Some(connection) = &mut self.connection else {
            return Err(RetentionError::Failed("closed".to_owned()));
        };
        let copied = copy_wal(connection);
        let restored = connection.busy_timeout(BUSY_TIMEOUT);
        copied
            .and(restored)
            .map_err(|error| classify(&self.file, &error))
    }
}

/// Copies the `-wal` into the database file completely, unless a reader or the writer prevents it.
fn copy_wal(connection: &mut Connection) -> rusqlite::Result<()> {
    // SQLite restarts the `-wal` only after a checkpoint has copied all of it, which PASSIVE never does while mail arrives. But
    // PASSIVE copies without the write lock, so that FULL then holds this lock only for the pages of the last few milliseconds.
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
    // FULL holds the write lock while it waits for a reader, so it must not wait for long.
    connection.busy_handler(Some(wait_for_lock_briefly))?;
    connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))
}

/// Waits until a lock may be free, as the busy handler of SQLite. Returns false after `BRIEF_WAITS`.
fn wait_for_lock_briefly(waits_before: i32) -> bool {
    thread::sleep(BRIEF_WAIT);
    waits_before < BRIEF_WAITS
}

impl OldRows for SqliteOldRows {
    fn cut_off(&self) -> &str {
        &self.cut_off
    }

    fn count(&mut self) -> Result<u64, RetentionError> {
        let sql = format!(
            "SELECT count(*) FROM {} WHERE `date` >= ?1 AND `date` < ?2",
            self.table
        );
        let count: i64 = self.with(|connection| {
            connection.query_row(&sql, params![FIRST_DATE, self.cut_off], |row| row.get(0))
        })?;
        Ok(count.unsigned_abs())
    }

    fn remove_some(&mut self) -> Result<RemovalStep, RetentionError> {
        check_file(&self.file)?;
        if self.steps_since_checkpoint >= STEPS_BETWEEN_CHECKPOINTS {
            // A step of its own: the pause after it keeps the writer from waiting for two locks in a row.
            self.checkpoint()?;
            return Ok(RemovalStep {
                rows: 0,
                is_last: false,
            });
        }
        self.steps_since_checkpoint += 1;
        if self.found.is_empty() {
            self.find_rows()?;
        }
        if !self.found.is_empty() {
            let rows = self.remove_found_rows()?;
            return Ok(RemovalStep {
                rows,
                is_last: false,
            });
        }
        let is_last = !self.give_pages_back()?;
        if is_last {
            self.checkpoint()?;
        }
        Ok(RemovalStep { rows: 0, is_last })
    }
}

impl Drop for SqliteOldRows {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        if self.file.is_wal_index_truncated() {
            // The connection is not closed: SQLite would read the truncated `-shm` file, and SIGBUS would end the process.
            mem::forget(connection);
        } else if check_file(&self.file).is_ok() {
            // If this is the last connection, it deletes the `-wal`. If this call fails, SQLite reads the `-wal` later.
            let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        }
    }
}

/// Opens the file. Returns the connection, the cut-off time, and whether the file can give pages back.
fn open_connection(
    file: &DatabaseFile,
    table: &TableName,
    keep: Duration,
) -> rusqlite::Result<(Connection, String, bool)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file.path(), flags)?;
    // On close, SQLite would delete the `-wal` by its name, even if another file now has that name.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch("PRAGMA cache_size=-4096; PRAGMA wal_autocheckpoint=0;")?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode == "wal" {
        connection.execute_batch("PRAGMA synchronous=NORMAL")?;
    }
    let schema = table.database_in_table_name().unwrap_or("main");
    let vacuum: i64 =
        connection.query_row(&format!("PRAGMA `{schema}`.auto_vacuum"), [], |row| {
            row.get(0)
        })?;
    let age = format!("-{} seconds", seconds_rounded_up(keep));
    let cut_off = connection.query_row("SELECT datetime('now', ?1)", [age], |row| row.get(0))?;
    Ok((connection, cut_off, vacuum == INCREMENTAL))
}

/// Returns why no row may be removed from `table`; `None` if rows may be removed.
fn why_rows_stay(connection: &Connection, table: &TableName) -> rusqlite::Result<Option<String>> {
    let name = table.table_part();
    let kind: Option<String> = connection
        .query_row(
            "SELECT type FROM sqlite_schema WHERE lower(name) = lower(?1) AND type IN ('table', 'view')",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    if kind.as_deref() != Some("table") {
        let found = kind.unwrap_or_else(|| "nothing".to_owned());
        return Ok(Some(format!(
            "GM_MAIL_TABLE: expected {table} to be a table, but found {found}; no row is removed"
        )));
    }
    let mut select = connection.prepare("SELECT lower(name) FROM pragma_table_info(?1)")?;
    let columns: Vec<String> = select
        .query_map([name], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut needed = INSERTED_COLUMNS.into_iter().chain(["mail_id"]);
    if let Some(missing) = needed.find(|needed| !columns.iter().any(|column| column == needed)) {
        return Ok(Some(format!(
            "GM_MAIL_TABLE: {table} has no column `{missing}`, so it is not a table of this server; no row is removed"
        )));
    }
    let index: Option<String> = connection
        .query_row(
            "SELECT list.name FROM pragma_index_list(?1) AS list, pragma_index_info(list.name) AS part
             WHERE part.seqno = 0 AND lower(part.name) = 'date' AND list.partial = 0 LIMIT 1",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    Ok(index.is_none().then(|| {
        format!("GM_MAIL_TABLE: {table} has no index on `date`, which the server makes at its start; no row is removed")
    }))
}

/// Checks that the file is still the one that was opened, so that no transaction goes into a moved or truncated file.
fn check_file(file: &DatabaseFile) -> Result<(), RetentionError> {
    let reason = file.unready_reason().or_else(|| {
        let truncated = file.truncated_file()?;
        Some(format!("{}: was truncated", truncated.display()))
    });
    reason.map_or(Ok(()), |reason| Err(RetentionError::Failed(reason)))
}

fn classify(file: &DatabaseFile, error: &rusqlite::Error) -> RetentionError {
    let text = format!("{}: {}", file.path().display(), describe_error(error));
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => RetentionError::Busy(text),
        _ => RetentionError::Failed(text),
    }
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

/// Rows with an earlier date stay: the comparison as text excludes NULL, numbers, and dates in another notation. Not `1970`,
/// which the column's affinity would convert to a number.
const FIRST_DATE: &str = "1970-01-01";
/// Time after which a transaction ends. The writer waits for the write lock in steps of 1 ms and then 2 ms; the first step is
/// long enough for a transaction of this time.
const LOCK_TIME: Duration = Duration::from_micros(500);
/// Number of rows of the first transaction.
const FIRST_ROWS: usize = 8;
/// Pages given back between two checks of the time.
const PAGES_BETWEEN_TIME_CHECKS: u32 = 4;
/// Pages are given back until a tenth of the file is free. New mail uses the rest, so that the file does not always shrink
/// and grow.
const FREE_SHARE: i64 = 10;
/// Number of transactions after which the `-wal` is copied into the database file: a copy of some dozen pages is synced in half
/// a millisecond, one of a thousand pages in 16 ms.
const STEPS_BETWEEN_CHECKPOINTS: u32 = 2;
/// Pause of the busy handler while the `-wal` is copied, and how many there are at most.
const BRIEF_WAIT: Duration = Duration::from_micros(200);
const BRIEF_WAITS: i32 = 10;
/// Longest time to wait for the write lock; after it, the step is tried again later.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// The value of `PRAGMA auto_vacuum` for INCREMENTAL.
const INCREMENTAL: i64 = 2;
