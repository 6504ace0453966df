//! The default store: one SQLite file beside the program, no server needed.
//!
//! WAL with `synchronous=FULL`: each COMMIT is synced before anybody hears 250. The file may be moved or removed under
//! us: that is noticed before and after each batch, what was acknowledged is first written into the moved file, and then
//! a new one is begun.

use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ffi, params};

use super::reading::{ListedMail, ListedSize, MAX_MAIL_OCTETS, ReadError, ReadMail};
use super::row::Row;
use super::split::{PartError, save_split};
use super::table::{TableName, TableShape};
use super::{SaveError, SaveMail, SavedId};
use crate::mail::{Mail, NoMemory, inflate};

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

struct Companion {
    file: PathBuf,
    identity: Option<FileIdentity>,
    /// It was when last looked at.
    is_large: bool,
}

/// What tells a file from another of the same name: device and inode.
type FileIdentity = (u64, u64);

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
        if !self.file.exists() && octets_in(&log_file) > 0 {
            // SQLite would delete it together with all that was not in the file yet.
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
                    mail.zlib_body(delivery).map_err(no_memory)?,
                    0.0,
                    delivery.hash.as_str(),
                    row.content_type,
                    delivery.recipient,
                    row.has_attach as i64,
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

impl Companion {
    fn new(file: PathBuf) -> Companion {
        let identity = file_identity(&file).ok();
        Companion {
            file,
            identity,
            is_large: false,
        }
    }

    /// Whether the name still stands for what it stood for when the file was opened.
    fn is_ours(&self) -> bool {
        self.identity.is_some() && file_identity(&self.file).ok() == self.identity
    }

    /// A reader that never ends keeps the log from being written back; it then grows without bound. Said once each time.
    fn warn_when_large(&mut self) {
        let octets = octets_in(&self.file);
        let was_large = mem::replace(&mut self.is_large, octets > LARGE_LOG_OCTETS);
        if self.is_large && !was_large {
            log::warn!(file:% = self.file.display(), octets = octets, fix = "end the program that reads for so long"; "large_log");
        }
    }
}

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

fn file_identity(file: &Path) -> io::Result<FileIdentity> {
    let metadata = fs::metadata(file)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Keeps the log of a file that is elsewhere: what it holds was promised.
///
/// # Errors
/// [`SaveError`]: it is still in its place, and no other file may be begun there.
fn put_log_aside(log_file: &Path) -> Result<(), SaveError> {
    let inode = file_identity(log_file).map_or(0, |(_, inode)| inode);
    let aside = with_ending(log_file, &format!(".moved-{inode}"));
    fs::rename(log_file, &aside).map_err(|error| {
        SaveError::Unavailable(format!(
            "{}: holds mails of a file that was moved, and cannot be renamed to {}: {error}; move it elsewhere, name it \
             like that file with -wal, and open that file",
            log_file.display(),
            aside.display()
        ))
    })?;
    let fix = "it holds mails of the file that was moved: name it like that file with -wal, and open that file";
    log::error!(file:% = aside.display(), fix = fix; "log_put_aside");
    Ok(())
}

/// The write-ahead log of a file.
fn log_of(file: &Path) -> PathBuf {
    with_ending(&behind_links(file), "-wal")
}

/// The file that a link stands for: SQLite names what it keeps beside it after that one.
fn behind_links(file: &Path) -> PathBuf {
    let mut file = file.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&file) else {
            break;
        };
        file = file.with_file_name(target);
    }
    file
}

fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn octets_in(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

fn not_open(file: &Path) -> PartError {
    let text = format!(
        "{}: moved or removed under us; it is opened anew",
        file.display()
    );
    PartError::Store(SaveError::Unavailable(text))
}

fn read_error(file: &Path, error: &rusqlite::Error) -> ReadError {
    ReadError(format!("{}: {}", file.display(), words_of(error)))
}

/// What an error says, in one line; of a statement that does not fit without its text.
fn words_of(error: &rusqlite::Error) -> String {
    let other_table = "a table of that name with other columns may be there: rename it, or name another one in GM_MAIL_TABLE";
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => format!("{msg}; {other_table}"),
        error if error.sqlite_error_code() == Some(ErrorCode::Unknown) => {
            format!("{error}; {other_table}")
        }
        error => error.to_string(),
    }
}

/// Of one row. At COMMIT it would be the store's.
fn no_memory(error: NoMemory) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

/// What an SQLite error means for the batch and for the file.
struct Sorted {
    error: PartError,
    reopen: bool,
}

fn sort_error(file: &Path, error: &rusqlite::Error) -> Sorted {
    let text = |fix: &str| format!("{}: {}{fix}", file.display(), words_of(error));
    let rights = || {
        let user = nix::unistd::geteuid();
        text(&format!(
            "; user {user} needs the right to write this file and its folder"
        ))
    };
    let unavailable = |text: String| PartError::Store(SaveError::Unavailable(text));
    let code = error.sqlite_error_code();
    let (error, reopen) = match code {
        // A large mail may have no memory where its neighbours have.
        None if matches!(error, rusqlite::Error::ToSqlConversionFailure(_)) => {
            (PartError::Content(SaveError::Full(text(""))), false)
        }
        Some(ErrorCode::DiskFull) => (
            PartError::Store(SaveError::Full(text("; make room"))),
            false,
        ),
        Some(ErrorCode::OutOfMemory) => (PartError::Store(SaveError::Full(text(""))), true),
        Some(ErrorCode::SystemIoFailure) if is_out_of_memory(error) => {
            let text = text("; out of memory");
            (PartError::Store(SaveError::Full(text)), true)
        }
        Some(ErrorCode::SystemIoFailure) if is_at_size_limit(error) => {
            let text = text("; the limit of file sizes is met");
            (PartError::Store(SaveError::Full(text)), true)
        }
        // The index of the log could not grow: SQLite says FULL only of the other two files.
        Some(ErrorCode::SystemIoFailure) if has_code(error, ffi::SQLITE_IOERR_SHMSIZE) => {
            (PartError::Store(SaveError::Full(text("; make room"))), true)
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (unavailable(text("; another program holds it")), false)
        }
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            (unavailable(rights()), true)
        }
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::SchemaChanged
            | ErrorCode::Unknown
            | ErrorCode::FileLockingProtocolFailed,
        ) => (unavailable(text("")), true),
        Some(_) => (PartError::Content(SaveError::Refused(text(""))), false),
        None => (unavailable(text("")), true),
    };
    Sorted { error, reopen }
}

/// Whether what failed is the index of the log, which is mapped, or a buffer for a file, which SQLite reports like a broken
/// disk.
fn is_out_of_memory(error: &rusqlite::Error) -> bool {
    has_code(error, ffi::SQLITE_IOERR_SHMMAP) || has_code(error, ffi::SQLITE_IOERR_NOMEM)
}

/// Whether a failed write met RLIMIT_FSIZE, which SQLite reports like a broken disk.
fn is_at_size_limit(error: &rusqlite::Error) -> bool {
    has_code(error, ffi::SQLITE_IOERR_WRITE)
        && getrlimit(Resource::RLIMIT_FSIZE).is_ok_and(|(soft, _)| soft != RLIM_INFINITY)
}

fn has_code(error: &rusqlite::Error, extended_code: i32) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == extended_code)
}

/// How long another program may hold the file's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Links from one to the next, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// A log this large means that some reader does not end.
const LARGE_LOG_OCTETS: u64 = 1 << 30;
