//! The database file that this process opened, and whether GM_SQLITE_FILE still names it.
//!
//! A file that was moved, removed or replaced takes no more mail, and nothing is renamed, deleted or begun in its place: only
//! the administrator knows which file is meant.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::fcntl::OFlag;

use super::wal_files::{
    FileIdentity, file_identity, file_len, identity_of, resolve_symlinks, wal_path,
};
use crate::store::SaveError;

/// A database file by its name. Clones share what was opened under it.
#[derive(Clone)]
pub struct DatabaseFile {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    opened: OnceLock<Opened>,
    /// Logged, and not yet logged to be back.
    is_moved: AtomicBool,
}

struct Opened {
    /// Keeps the inode from being given to another file. Opened with O_PATH, because closing any other descriptor of the file
    /// would release the locks that SQLite holds on it.
    handle: File,
    identity: FileIdentity,
}

impl DatabaseFile {
    /// Opens nothing yet.
    pub fn new(path: &Path) -> DatabaseFile {
        let shared = Shared {
            path: path.to_owned(),
            opened: OnceLock::new(),
            is_moved: AtomicBool::new(false),
        };
        DatabaseFile {
            shared: Arc::new(shared),
        }
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Prepares for SQLite to open the file: the first time it is made when it is missing, later it has to be the same one.
    ///
    /// # Errors
    /// [`SaveError`] that names the file and the cure.
    pub fn prepare(&self) -> Result<(), SaveError> {
        let path = self.path();
        if self.shared.opened.get().is_none() {
            reject_unusual_file(path)?;
            make(path).map_err(|error| not_made(path, &error))?;
            let opened = Opened::new(path).map_err(|error| not_made(path, &error))?;
            // Another thread may have been first; both opened the same name.
            let _ = self.shared.opened.set(opened);
        }
        match self.is_in_place() {
            true => Ok(()),
            false => Err(self.displaced(path)),
        }
    }

    /// Tells whether the name stands for the file that was opened.
    pub fn is_in_place(&self) -> bool {
        let opened = self.shared.opened.get();
        opened.is_some_and(|opened| file_identity(self.path()).ok() == Some(opened.identity))
    }

    /// Tells whether the file was emptied since SQLite opened it, which leaves its pages in the log alone.
    pub fn is_emptied(&self) -> bool {
        fs::metadata(self.path()).is_ok_and(|metadata| metadata.len() == 0)
    }

    /// Tells whether the opened file has no name any more.
    pub fn is_removed(&self) -> bool {
        let metadata = (self.shared.opened.get()).and_then(|opened| opened.handle.metadata().ok());
        metadata.is_some_and(|metadata| metadata.nlink() == 0)
    }

    /// Returns the error for mail while `file`, the database file or one that belongs to it, is not where it was opened. Logs it
    /// the first time.
    pub fn displaced(&self, file: &Path) -> SaveError {
        let fix = match file == self.path() {
            true => {
                "move it back to this name, or restart the server, which begins a new file; keep a -wal that was left here \
                 with the file that was moved"
            }
            false => "move it back to this name, or restart the server",
        };
        if !self.shared.is_moved.swap(true, Ordering::SeqCst) {
            log::error!(file:% = file.display(), reason = MOVED, fix = fix; "database_moved");
        }
        SaveError::Unavailable(format!("{}: {MOVED}; {fix}", file.display()))
    }

    /// Notes that all files are where they were opened.
    pub fn found_in_place(&self) {
        if self.shared.is_moved.load(Ordering::Relaxed)
            && self.shared.is_moved.swap(false, Ordering::SeqCst)
        {
            log::warn!(file:% = self.path().display(); "database_back");
        }
    }
}

impl Opened {
    fn new(path: &Path) -> io::Result<Opened> {
        let mut options = OpenOptions::new();
        let handle = options
            .read(true)
            .custom_flags(OFlag::O_PATH.bits())
            .open(path)?;
        let identity = identity_of(&handle.metadata()?);
        Ok(Opened { handle, identity })
    }
}

/// Refuses what is no database file that SQLite may open for writing.
///
/// # Errors
/// [`SaveError`] for a folder, pipe or device, and for a log whose database file is missing or empty: SQLite would delete it
/// together with all mail that was not in the file yet.
pub fn reject_unusual_file(file: &Path) -> Result<(), SaveError> {
    let is_unusual = fs::metadata(file).is_ok_and(|metadata| !metadata.is_file());
    if is_unusual {
        return Err(SaveError::Unavailable(format!(
            "{}: expected a database file, but found a folder, pipe or device; name another file",
            file.display()
        )));
    }
    let log_file = wal_path(file);
    if file_len(file) == 0 && file_len(&log_file) > 0 {
        return Err(SaveError::Unavailable(format!(
            "{}: holds mails of a database file that is not at {}; move that file back, or move this log next to it and name it \
             like that file with -wal, or move it away where that file is gone for good",
            log_file.display(),
            file.display()
        )));
    }
    Ok(())
}

/// Makes the file where there is none, before SQLite would: then its mode does not depend on the umask alone. SQLite gives the
/// log and its index the mode of the file.
fn make(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(DATABASE_MODE);
    match options.open(resolve_symlinks(file)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn not_made(file: &Path, error: &io::Error) -> SaveError {
    let file = file.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            SaveError::Full(format!("{file}: {error}; make room"))
        }
        _ => SaveError::Unavailable(format!(
            "{file}: cannot be made: {error}; user {} needs the right to write this file and its folder",
            nix::unistd::geteuid()
        )),
    }
}

/// Of a database file that is made.
const DATABASE_MODE: u32 = 0o640;
const MOVED: &str = "moved, removed, replaced or emptied while it was open";
