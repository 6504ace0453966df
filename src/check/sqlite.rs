//! Diagnoses an SQLite file without changing any file, including the `-shm` file.
//!
//! The file is opened read-only. Its schema is copied into memory, and rows are inserted there with the server's statements.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat, geteuid};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use super::sqlite_locks;
use crate::store::sqlite::database_file::reject_unsafe_database_path;
use crate::store::sqlite::error::{classify_sqlite_error, describe_error};
use crate::store::sqlite::wal_files::{file_len, resolve_final_symlink, shm_path, wal_path};
use crate::store::sqlite::{BUSY_TIMEOUT, insert_statement, low_space_reason};
use crate::store::{Diagnostic, TableName};

/// Returns an error for a problem that would keep the server from saving mail to `file` now, and a warning for a problem that
/// may make the table refuse some mails.
pub fn check_sqlite_file(file: &Path, table: &TableName) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    let outcome = inspect_sqlite_file(file, table, &mut warnings);
    let named = |text: String| format!("GM_SQLITE_FILE: {text}");
    let errors = outcome.err().map(|text| Diagnostic::error(named(text)));
    let warnings = warnings
        .into_iter()
        .map(|text| Diagnostic::warning(named(text)));
    errors.into_iter().chain(warnings).collect()
}

fn inspect_sqlite_file(
    file: &Path,
    table: &TableName,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    reject_unsafe_database_path(file).map_err(|error| error.to_string())?;
    match fs::metadata(file) {
        Ok(_) => check_rights(file)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return check_creatable(file),
        Err(error) => return Err(missing_file_rights_text(file, &error)),
    }
    if file_len(file) > 0 {
        inspect_sqlite_tables(file, table, warnings)?;
    }
    low_space_reason(file).map_or(Ok(()), Err)
}

/// Checks that a missing file can be created. `file` may be a symbolic link to a missing target.
fn check_creatable(file: &Path) -> Result<(), String> {
    let target = resolve_final_symlink(file);
    let folder = folder_of(&target);
    check_effective_access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| {
        format!(
            "{}: cannot be created in {}: {error}; give user {} the right to write there",
            file.display(),
            folder.display(),
            geteuid()
        )
    })?;
    low_space_reason(folder).map_or(Ok(()), Err)
}

/// Checks that the database file is writable, and that its `-wal` and `-shm` files are writable or, if missing, can be created
/// in the folder of the database file.
fn check_rights(file: &Path) -> Result<(), String> {
    let refused = |error: nix::Error| missing_file_rights_text(file, &error.into());
    check_effective_access(file, AccessFlags::R_OK | AccessFlags::W_OK).map_err(refused)?;
    for sidecar in [wal_path(file), shm_path(file)] {
        match fs::metadata(&sidecar) {
            Ok(metadata) if metadata.is_file() => {
                check_effective_access(&sidecar, AccessFlags::R_OK | AccessFlags::W_OK)
                    .map_err(|error| missing_file_rights_text(&sidecar, &error.into()))?;
            }
            Ok(_) => {
                return Err(format!(
                    "{}: expected a regular file, but found a folder, pipe or device; move it away",
                    sidecar.display()
                ));
            }
            Err(_) => {
                let target = resolve_final_symlink(file);
                let rights = AccessFlags::W_OK | AccessFlags::X_OK;
                check_effective_access(folder_of(&target), rights).map_err(refused)?;
            }
        }
    }
    Ok(())
}

fn inspect_sqlite_tables(
    file: &Path,
    table: &TableName,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    let describe = |error: rusqlite::Error| {
        classify_sqlite_error(file, &error)
            .error
            .into_save_error()
            .to_string()
    };
    let mut header = Vec::new();
    let read = File::open(file).and_then(|file| file.take(20).read_to_end(&mut header));
    read.map_err(|error| missing_file_rights_text(file, &error))?;
    // Octet 18 of the header is the write version: 1 for a rollback journal, 2 for a write-ahead log. SQLite only reads a file
    // with a higher write version.
    if header.get(18).is_some_and(|version| *version > 2)
        && header.starts_with(b"SQLite format 3\0")
    {
        return Err(format!(
            "{}: a newer SQLite file format, which can only be read; name another file",
            file.display()
        ));
    }
    let is_wal = header.get(18) == Some(&2);
    match inspect_schema_and_newest_row(file, table, warnings) {
        Err((error, is_complete)) if is_complete || !is_damage(&error) => {
            return Err(describe(error));
        }
        // The pages that the -wal has, but the file does not have yet, may be the missing ones.
        Err(_) => warnings.push(format!(
            "{}: only readable together with its -wal file, which root does not open; start the server, which applies it",
            file.display()
        )),
        Ok(inspected) => inspected?,
    }
    match sqlite_locks::wait_for_unlock_else_lock_holder(file, is_wal, BUSY_TIMEOUT) {
        Some(process) => Err(format!(
            "{}: database is locked; another program holds its lock: process {process}",
            file.display()
        )),
        None => Ok(()),
    }
}

/// Returns what would refuse mails, or an SQLite error and whether all data was visible when it occurred.
fn inspect_schema_and_newest_row(
    file: &Path,
    table: &TableName,
    warnings: &mut Vec<String>,
) -> Result<Result<(), String>, (rusqlite::Error, bool)> {
    let has_no_log = file_len(&wal_path(file)) == 0;
    let database = ReadOnlySqliteDatabase::open(file).map_err(|error| (error, has_no_log))?;
    let is_complete = database.is_complete;
    let mut inspect = || {
        if is_complete {
            database.check_newest_row_is_readable(table)?;
        }
        match is_complete || database.has_table(table)? {
            true => try_statements_on_schema_copy(file, &database, table, warnings),
            false => Ok(Ok(())),
        }
    };
    inspect().map_err(|error| (error, is_complete))
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

/// A database that is opened for reading.
struct ReadOnlySqliteDatabase {
    connection: Connection,
    /// Whether all data is visible; false if the database has a non-empty `-wal` file that is not read.
    is_complete: bool,
}

impl ReadOnlySqliteDatabase {
    /// Opens the database file without writing to any file.
    ///
    /// If the `-wal` file has data and the `-shm` file can be used read-only, both are read too. In all other cases only the
    /// database file is read, as immutable; also if the user is root, because SQLite as root sets the owner of each `-wal` file
    /// that it opens (`robustFchown` in os_unix.c).
    fn open(file: &Path) -> rusqlite::Result<ReadOnlySqliteDatabase> {
        let has_log = file_len(&wal_path(file)) > 0;
        if has_log
            && !geteuid().is_root()
            && let Ok(connection) = open_sqlite_read_only(file, "mode=ro&readonly_shm=1")
        {
            let is_complete = true;
            return Ok(ReadOnlySqliteDatabase {
                connection,
                is_complete,
            });
        }
        let connection = open_sqlite_read_only(file, "mode=ro&immutable=1")?;
        let is_complete = !has_log;
        Ok(ReadOnlySqliteDatabase {
            connection,
            is_complete,
        })
    }

    fn has_table(&self, table: &TableName) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE lower(name) = lower(?)";
        let found = self
            .connection
            .query_row(sql, [table.table_part()], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }

    /// Reads the newest row, because damage near it would affect the next row too.
    fn check_newest_row_is_readable(&self, table: &TableName) -> rusqlite::Result<()> {
        let sql = format!("SELECT `hash` FROM {table} ORDER BY rowid DESC LIMIT 1");
        let read = self.connection.query_row(&sql, [], |_| Ok(()));
        match read.map_err(|error| (error.sqlite_error_code(), error)) {
            Err((
                Some(
                    ErrorCode::DatabaseCorrupt
                    | ErrorCode::NotADatabase
                    | ErrorCode::SystemIoFailure,
                ),
                error,
            )) => Err(error),
            // Missing columns are reported by `try_statements_on_schema_copy`.
            _ => Ok(()),
        }
    }

    /// Creates an empty database in memory with the same tables, indexes and triggers.
    fn open_in_memory_schema_copy(&self) -> rusqlite::Result<Connection> {
        let copy = Connection::open_in_memory()?;
        let mut select = self.connection.prepare(
            "SELECT sql FROM sqlite_schema WHERE sql LIKE 'CREATE %' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
             ORDER BY type = 'table' DESC, rowid LIMIT 10000",
        )?;
        let statements = select.query_map([], |row| row.get::<_, String>(0))?;
        for statement in statements {
            // Errors are ignored: a virtual table creates some of these tables itself, and a table of another program may need
            // an extension. `prepare` compiles only the first statement, which begins with CREATE.
            let _ = copy
                .prepare(&statement?)
                .and_then(|mut create| create.execute([]));
        }
        Ok(copy)
    }
}

/// Opens a database file read-only with these URI options and reads its schema.
fn open_sqlite_read_only(file: &Path, options: &str) -> rusqlite::Result<Connection> {
    let path = fs::canonicalize(file).map_err(|_| rusqlite::Error::InvalidPath(file.to_owned()))?;
    let mut uri = "file://".to_owned();
    for octet in path.as_os_str().as_bytes() {
        // Writing to a String cannot fail.
        let _ = match octet {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                write!(uri, "{}", char::from(*octet))
            }
            octet => write!(uri, "%{octet:02x}"),
        };
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(format!("{uri}?{options}"), flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

/// Executes the statements of the server's start and of its first mails on a copy of the schema in memory.
fn try_statements_on_schema_copy(
    file: &Path,
    database: &ReadOnlySqliteDatabase,
    table: &TableName,
    warnings: &mut Vec<String>,
) -> rusqlite::Result<Result<(), String>> {
    let copy = database.open_in_memory_schema_copy()?;
    copy.execute_batch(&table.sqlite_schema())?;
    let insert = insert_statement(table);
    copy.prepare(&insert)?;
    let rejected = |which: &str, error: &rusqlite::Error| {
        format!(
            "{}: {which} would be refused: {}; change the table, or name another one in GM_MAIL_TABLE",
            file.display(),
            describe_error(error)
        )
    };
    let rows = [
        ("every mail", "a", "0123456789abcdef0123456789abcdef"),
        (
            "every further mail",
            "b",
            "123456789abcdef0123456789abcdef0",
        ),
        (
            "a second mail like another one",
            "b",
            "23456789abcdef0123456789abcdef01",
        ),
    ];
    for (number, (which, name, hash)) in rows.into_iter().enumerate() {
        let Err(error) = insert_trial_row_into_copy(&copy, &insert, name, hash) else {
            continue;
        };
        // A trigger may depend on the rows of other tables, which are empty in the copy, so an error of a trigger is uncertain
        // if other tables exist.
        let is_certain = !is_trigger_error(&error) || !database.has_other_tables(table)?;
        let text = rejected(which, &error);
        if is_certain && number < 2 {
            return Ok(Err(text));
        }
        warnings.push(text);
        break;
    }
    Ok(Ok(()))
}

impl ReadOnlySqliteDatabase {
    fn has_other_tables(&self, table: &TableName) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND lower(name) <> lower(?)
                   AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' LIMIT 1";
        let found = self
            .connection
            .query_row(sql, [table.table_part()], |_| Ok(()));
        Ok(found.optional()?.is_some())
    }
}

fn is_trigger_error(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code == Some(rusqlite::ffi::SQLITE_CONSTRAINT_TRIGGER)
        || matches!(error, rusqlite::Error::StatementChangedRows(_))
}

/// Inserts the row of a mail from and to `name`. Rows with different names differ in every column in which mails may differ.
fn insert_trial_row_into_copy(
    copy: &Connection,
    insert: &str,
    name: &str,
    hash: &str,
) -> rusqlite::Result<()> {
    let address = format!("{name}@example.com");
    let (date, client) = match name {
        "a" => ("2026-01-01 00:00:01", "192.0.2.1"),
        _ => ("2026-01-01 00:00:02", "192.0.2.2"),
    };
    let mail = [name.as_bytes(), EMPTY_ZLIB_STREAM].concat();
    let attachments = format!(r#"[{{"name":"{name}","type":"text/plain","size":1}}]"#);
    let row = params![
        date,
        address,
        address,
        name,
        "gzencode",
        "UTF-8",
        mail,
        0.0,
        hash,
        "text/plain",
        address,
        1,
        client,
        0,
        attachments,
    ];
    match copy.prepare(insert)?.execute(row)? {
        0 => Err(rusqlite::Error::StatementChangedRows(0)),
        _ => Ok(()),
    }
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Checks access with the effective user and group, as the server's `open` does.
fn check_effective_access(file: &Path, rights: AccessFlags) -> nix::Result<()> {
    faccessat(AT_FDCWD, file, rights, AtFlags::AT_EACCESS)
}

fn missing_file_rights_text(file: &Path, error: &io::Error) -> String {
    format!(
        "{}: {error}; user {} needs the right to write this file and its folder",
        file.display(),
        geteuid()
    )
}

const EMPTY_ZLIB_STREAM: &[u8] = b"\x78\x01\x03\x00\x00\x00\x00\x01";
