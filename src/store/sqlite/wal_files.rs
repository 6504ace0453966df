//! The files that SQLite keeps next to a database file: the write-ahead log and its index.

use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The write-ahead log or its index, which SQLite keeps under the file's name with these endings.
pub struct SidecarFile {
    /// Its name.
    pub file: PathBuf,
    identity: Option<FileIdentity>,
    /// It was when last looked at.
    is_large: bool,
}

/// What tells a file from another of the same name: device and inode.
pub type FileIdentity = (u64, u64);

impl SidecarFile {
    /// As it is now, if it is.
    pub fn new(file: PathBuf) -> SidecarFile {
        let identity = file_identity(&file).ok();
        SidecarFile {
            file,
            identity,
            is_large: false,
        }
    }

    /// Tells whether the name still stands for the file that SQLite opened. True where SQLite needed none.
    pub fn is_in_place(&self) -> bool {
        self.identity.is_none() || file_identity(&self.file).ok() == self.identity
    }

    /// A reader that never ends keeps the log from being written back; it then grows without bound. Said once each time.
    pub fn warn_when_large(&mut self) {
        let octets = file_len(&self.file);
        let was_large = mem::replace(&mut self.is_large, octets > LARGE_WAL_OCTETS);
        if self.is_large && !was_large {
            log::warn!(file:% = self.file.display(), octets = octets, fix = "end the program that reads for so long"; "wal_large");
        }
    }
}

/// Which file a name stands for.
///
/// # Errors
/// When there is none, or it may not be looked at.
pub fn file_identity(file: &Path) -> io::Result<FileIdentity> {
    fs::metadata(file).map(|metadata| identity_of(&metadata))
}

/// The identity in what the system tells about a file.
pub fn identity_of(metadata: &fs::Metadata) -> FileIdentity {
    (metadata.dev(), metadata.ino())
}

/// The write-ahead log of a file.
pub fn wal_path(file: &Path) -> PathBuf {
    with_suffix(&resolve_symlinks(file), "-wal")
}

/// The index of a file's write-ahead log.
pub fn index_of(file: &Path) -> PathBuf {
    with_suffix(&resolve_symlinks(file), "-shm")
}

/// The file that a link stands for: SQLite names what it keeps beside it after that one.
pub fn resolve_symlinks(file: &Path) -> PathBuf {
    let mut file = file.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&file) else {
            break;
        };
        file = file.with_file_name(target);
    }
    file
}

/// A file whose name goes on so.
fn with_suffix(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// How large a file is; 0 where there is none.
pub fn file_len(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

/// Links from one to the next, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// A log this large means that some reader does not end.
const LARGE_WAL_OCTETS: u64 = 1 << 30;
