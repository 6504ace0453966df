//! Classification of SQLite's errors.

use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rusqlite::{ErrorCode, ffi};

use crate::mail::CompressAllocError;
use crate::store::SaveError;
use crate::store::queue::bisect::BatchError;

/// The consequences of an SQLite error for the batch and for the open database file.
pub struct ClassifiedSqliteError {
    /// The error of the batch.
    pub error: BatchError,
    /// Whether the database file must be closed and opened again.
    pub reopen: bool,
}

impl BatchError {
    /// Returns the error of either variant.
    pub fn into_save_error(self) -> SaveError {
        match self {
            BatchError::Store(error) | BatchError::Mail(error) => error,
        }
    }
}

/// Classifies an error that occurred with the database `file`.
pub fn classify_sqlite_error(file: &Path, error: &rusqlite::Error) -> ClassifiedSqliteError {
    let text = |fix: &str| format!("{}: {}{fix}", file.display(), describe_error(error));
    let rights = || {
        let user = nix::unistd::geteuid();
        text(&format!(
            "; user {user} needs the right to write this file and its folder"
        ))
    };
    let unavailable = |text: String| BatchError::Store(SaveError::unavailable(text));
    let code = error.sqlite_error_code();
    let (error, reopen) = match code {
        // There was not enough memory for one mail. Smaller mails of the batch may succeed, so only this mail fails.
        None if matches!(error, rusqlite::Error::ToSqlConversionFailure(_)) => {
            (BatchError::Mail(SaveError::full(text(""))), false)
        }
        None if matches!(error, rusqlite::Error::StatementChangedRows(_)) => {
            (BatchError::Mail(SaveError::refused(text(""))), false)
        }
        Some(ErrorCode::DiskFull) => (
            BatchError::Store(SaveError::full(text("; free disk space"))),
            false,
        ),
        Some(ErrorCode::OutOfMemory) => (BatchError::Store(SaveError::full(text(""))), true),
        Some(ErrorCode::SystemIoFailure) if is_hidden_out_of_memory(error) => {
            let text = text("; out of memory");
            (BatchError::Store(SaveError::full(text)), true)
        }
        Some(ErrorCode::SystemIoFailure) if is_write_error_with_size_limit(error) => {
            let text = text("; the file size limit (RLIMIT_FSIZE) is reached");
            (BatchError::Store(SaveError::full(text)), true)
        }
        // The `-shm` file could not grow. SQLite reports SQLITE_FULL only for the database file and the `-wal`.
        Some(ErrorCode::SystemIoFailure) if has_sqlite_code(error, ffi::SQLITE_IOERR_SHMSIZE) => (
            BatchError::Store(SaveError::full(text("; free disk space"))),
            true,
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let locked = SaveError::store_locked(text("; another program holds its lock"));
            (BatchError::Store(locked), false)
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
        Some(_) => (BatchError::Mail(SaveError::refused(text(""))), false),
        None => (unavailable(text("")), true),
    };
    ClassifiedSqliteError { error, reopen }
}

/// Returns the error in one line, without the text of the SQL statement.
pub fn describe_error(error: &rusqlite::Error) -> String {
    let other_table = "a table of that name with other columns may be there: rename it, or name another one in GM_MAIL_TABLE";
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => format!("{msg}; {other_table}"),
        rusqlite::Error::StatementChangedRows(_) => {
            "INSERT stored no row: a trigger of the table ignores it with RAISE(IGNORE); drop or change that trigger".to_owned()
        }
        error if error.sqlite_error_code() == Some(ErrorCode::Unknown) => {
            format!("{error}; {other_table}")
        }
        error => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => {
                format!("{error}; name another file, or move this one away")
            }
            Some(ErrorCode::DatabaseCorrupt) => format!("{error}; {RECOVERY_FIX}"),
            _ => error.to_string(),
        },
    }
}

/// Returns an out-of-memory error that fails one mail. Out of memory at COMMIT is another error, which fails the batch.
pub fn single_mail_out_of_memory_error(error: CompressAllocError) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(error.into())
}

/// Returns whether SQLite failed to map the `-shm` file or to allocate a file buffer. SQLite reports both like a disk error.
fn is_hidden_out_of_memory(error: &rusqlite::Error) -> bool {
    has_sqlite_code(error, ffi::SQLITE_IOERR_SHMMAP)
        || has_sqlite_code(error, ffi::SQLITE_IOERR_NOMEM)
}

/// Returns whether a write failed while RLIMIT_FSIZE is set. SQLite reports a file at this size limit like a disk error.
fn is_write_error_with_size_limit(error: &rusqlite::Error) -> bool {
    has_sqlite_code(error, ffi::SQLITE_IOERR_WRITE)
        && getrlimit(Resource::RLIMIT_FSIZE).is_ok_and(|(soft, _)| soft != RLIM_INFINITY)
}

fn has_sqlite_code(error: &rusqlite::Error, extended_code: i32) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == extended_code)
}

/// Fix for a damaged database file. `.recover` is a command of SQLite's command-line program.
const RECOVERY_FIX: &str = "stop the server, move the file and its -wal away, and copy the readable rows into a new file: \
                       sqlite3 OLD .recover | sqlite3 NEW";
