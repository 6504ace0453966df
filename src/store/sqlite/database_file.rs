//! The database file that this process opened, and whether GM_SQLITE_FILE still names it.
//!
//! If the file was moved, removed or replaced, no more mail is saved, and nothing is renamed, deleted or created: only the
//! administrator knows which file is meant.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::fcntl::OFlag;

use super::wal_files::{
    FileIdentity, device_and_inode_of, file_identity, file_len, journal_path,
    resolve_final_symlink, wal_path,
};
use super::wal_state::{self, DatabaseTruncationDetector};
use crate::store::SaveError;

/// A database file, identified by its path. Clones share the state of the opened file.
#[derive(Clone)]
pub struct DatabaseFile {
    shared: Arc<SharedDatabaseFileState>,
}

struct SharedDatabaseFileState {
    path: PathBuf,
    opened: OnceLock<OpenedDatabaseFile>,
    wal_state: DatabaseTruncationDetector,
    /// Whether `database_moved` was logged and `database_back` was not logged since.
    is_moved: AtomicBool,
}

struct OpenedDatabaseFile {
    /// Keeps the inode number from being reused. Opened with O_PATH: if a descriptor opened without O_PATH is closed,
    /// the kernel releases the POSIX locks that SQLite holds on the file.
    handle: File,
    identity: FileIdentity,
}

impl DatabaseFile {
    /// Returns the database file at `path` without opening it.
    pub fn new(path: &Path) -> DatabaseFile {
        let shared = SharedDatabaseFileState {
            path: path.to_owned(),
            opened: OnceLock::new(),
            wal_state: DatabaseTruncationDetector::default(),
            is_moved: AtomicBool::new(false),
        };
        DatabaseFile {
            shared: Arc::new(shared),
        }
    }

    /// Returns the path of the database file as configured.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Checks that opening the database file with SQLite damages nothing. The first call creates a missing file; later calls
    /// fail if the path does not refer to the file of the first call.
    ///
    /// # Errors
    /// [`SaveError`], which names the file and the fix.
    pub fn create_or_verify_database_file(&self) -> Result<(), SaveError> {
        let path = self.path();
        if self.shared.opened.get().is_none() {
            reject_unsafe_database_path(path)?;
            create_database_if_missing(path)
                .map_err(|error| database_creation_error(path, &error))?;
            let opened = OpenedDatabaseFile::new(path)
                .map_err(|error| database_creation_error(path, &error))?;
            // If another thread was first, the file that it opened is kept; both threads opened the same path.
            let _ = self.shared.opened.set(opened);
        }
        match self.is_in_place() {
            true => Ok(()),
            false => Err(self.moved_database_error(path)),
        }
    }

    /// Returns whether the configured path still refers to the opened database file.
    pub fn is_in_place(&self) -> bool {
        let opened = self.shared.opened.get();
        opened.is_some_and(|opened| file_identity(self.path()).ok() == Some(opened.identity))
    }

    /// Returns whether the database file is empty. If SQLite has opened the file, this means that another program truncated it.
    pub fn is_database_file_empty(&self) -> bool {
        fs::metadata(self.path()).is_ok_and(|metadata| metadata.len() == 0)
    }

    /// Returns the file that was truncated: the database file, its `-wal` or its `-shm`; `None` if none of them was.
    pub fn truncated_file(&self) -> Option<PathBuf> {
        self.shared.wal_state.find_truncated_file(self.path())
    }

    /// Returns why mail cannot be saved: the path does not refer to the opened database file, or the file is empty. Returns
    /// `None` in all other cases.
    pub fn unready_reason(&self) -> Option<String> {
        let is_ready = self.is_in_place() && !self.is_database_file_empty();
        (!is_ready).then(|| format!("{}: {DISPLACED_REASON}", self.path().display()))
    }

    /// Returns whether the index of the write-ahead log (`-shm`) was truncated.
    pub fn is_wal_index_truncated(&self) -> bool {
        wal_state::is_wal_index_truncated(self.path())
    }

    /// Returns whether the opened database file was removed, that is, has no name left.
    pub fn is_database_file_removed(&self) -> bool {
        let metadata = (self.shared.opened.get()).and_then(|opened| opened.handle.metadata().ok());
        metadata.is_some_and(|metadata| metadata.nlink() == 0)
    }

    /// Returns the error for mails while `file`, which is the database file, its `-wal` or its `-shm`, is not where it was
    /// opened. Logs the error the first time.
    pub fn moved_database_error(&self, file: &Path) -> SaveError {
        let fix = match file == self.path() {
            true => {
                "move it back to this name, or restart the server, which begins a new file; keep a -wal that was left here \
                 with the file that was moved"
            }
            false => "move it back to this name, or restart the server",
        };
        if !self.shared.is_moved.swap(true, Ordering::SeqCst) {
            log::error!(file:% = file.display(), reason = DISPLACED_REASON, fix = fix; "database_moved");
        }
        SaveError::unavailable(format!("{}: {DISPLACED_REASON}; {fix}", file.display()))
    }

    /// Records that the database file, its `-wal` and its `-shm` are where they were opened. Logs `database_back` if
    /// `database_moved` was logged before.
    pub fn log_database_back(&self) {
        if self.shared.is_moved.load(Ordering::Relaxed)
            && self.shared.is_moved.swap(false, Ordering::SeqCst)
        {
            log::warn!(file:% = self.path().display(); "database_back");
        }
    }
}

impl OpenedDatabaseFile {
    fn new(path: &Path) -> io::Result<OpenedDatabaseFile> {
        let mut options = OpenOptions::new();
        let handle = options
            .read(true)
            .custom_flags(OFlag::O_PATH.bits())
            .open(path)?;
        let identity = device_and_inode_of(&handle.metadata()?);
        Ok(OpenedDatabaseFile { handle, identity })
    }
}

/// Rejects a path that SQLite must not open for writing.
///
/// # Errors
/// [`SaveError`]: the path is a folder, pipe or device, or its write-ahead log or rollback journal exists while the database
/// file is missing or empty. SQLite would delete the log or the journal, and with the log all mails that are only in the log.
pub fn reject_unsafe_database_path(file: &Path) -> Result<(), SaveError> {
    let is_unusual = fs::metadata(file).is_ok_and(|metadata| !metadata.is_file());
    if is_unusual {
        return Err(SaveError::unavailable(format!(
            "{}: expected a database file, but found a folder, pipe or device; name another file",
            file.display()
        )));
    }
    let logs = [wal_path(file), journal_path(file)];
    let log_file = logs.into_iter().find(|log_file| file_len(log_file) > 0);
    if let Some(log_file) = log_file
        && file_len(file) == 0
    {
        let suffix = if log_file == wal_path(file) {
            "-wal"
        } else {
            "-journal"
        };
        return Err(SaveError::unavailable(format!(
            "{}: holds mails of a database file that is not at {}; move that file back, or move this log next to it and rename it to \
             that file's name plus {suffix}, or, if that file is lost, move this log away",
            log_file.display(),
            file.display()
        )));
    }
    Ok(())
}

/// Creates a missing database file with `DATABASE_MODE`. If SQLite created the file, its mode would depend on the umask alone.
/// SQLite gives the `-wal` and the `-shm` the mode of the database file.
fn create_database_if_missing(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(DATABASE_MODE);
    match options.open(resolve_final_symlink(file)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn database_creation_error(file: &Path, error: &io::Error) -> SaveError {
    let file = file.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            SaveError::full(format!("{file}: {error}; free disk space"))
        }
        _ => SaveError::unavailable(format!(
            "{file}: cannot be created: {error}; user {} needs the right to write this file and its folder",
            nix::unistd::geteuid()
        )),
    }
}

/// Permissions of a new database file: read and write for the user, read for the group; the umask may remove some.
const DATABASE_MODE: u32 = 0o640;
const DISPLACED_REASON: &str =
    "moved, removed, replaced or truncated while it or its -wal or -shm was open";
