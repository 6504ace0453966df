//! The files that SQLite keeps next to a database file: the write-ahead log (`-wal`) and its index (`-shm`).

use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The write-ahead log or its index, as it was when SQLite opened it.
pub struct OpenedWalOrShmFile {
    /// Path of the `-wal` or `-shm` file.
    pub file: PathBuf,
    identity: Option<FileIdentity>,
    /// Whether the file was larger than `LARGE_WAL_OCTETS` at the last check.
    is_large: bool,
}

/// Device and inode number, which distinguish a file from another one of the same name.
pub type FileIdentity = (u64, u64);

impl OpenedWalOrShmFile {
    /// Returns the sidecar file at the path `file` with its current identity; without an identity if the file does not exist.
    pub fn new(file: PathBuf) -> OpenedWalOrShmFile {
        let identity = file_identity(&file).ok();
        OpenedWalOrShmFile {
            file,
            identity,
            is_large: false,
        }
    }

    /// Returns whether the path still refers to the file that SQLite opened. Also true if the file did not exist at `new`.
    pub fn is_in_place(&self) -> bool {
        self.identity.is_none() || file_identity(&self.file).ok() == self.identity
    }

    /// Logs a warning when the write-ahead log has become too large. A read transaction that never ends keeps SQLite from
    /// resetting the write-ahead log, which then grows without limit.
    pub fn warn_when_wal_is_large(&mut self) {
        let octets = file_len(&self.file);
        let was_large = mem::replace(&mut self.is_large, octets > LARGE_WAL_OCTETS);
        if self.is_large && !was_large {
            log::warn!(file:% = self.file.display(), octets = octets, fix = "end the program whose read transaction lasts this long"; "wal_large");
        }
    }
}

/// Returns the identity of the file at the path `file`.
///
/// # Errors
/// The file does not exist or its metadata cannot be read.
pub fn file_identity(file: &Path) -> io::Result<FileIdentity> {
    fs::metadata(file).map(|metadata| device_and_inode_of(&metadata))
}

/// Returns the device and inode number, which identify a file, from its metadata.
pub fn device_and_inode_of(metadata: &fs::Metadata) -> FileIdentity {
    (metadata.dev(), metadata.ino())
}

/// Returns the path of a database file's write-ahead log.
pub fn wal_path(file: &Path) -> PathBuf {
    path_with_suffix(&resolve_final_symlink(file), "-wal")
}

/// Returns the path of the index of a database file's write-ahead log.
pub fn shm_path(file: &Path) -> PathBuf {
    path_with_suffix(&resolve_final_symlink(file), "-shm")
}

/// Returns the path of a database file's rollback journal, which SQLite uses without WAL mode.
pub fn journal_path(file: &Path) -> PathBuf {
    path_with_suffix(&resolve_final_symlink(file), "-journal")
}

/// Returns the target of a symbolic link, or `file` itself. SQLite names the WAL files after the target.
pub fn resolve_final_symlink(file: &Path) -> PathBuf {
    let mut file = file.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&file) else {
            break;
        };
        file = file.with_file_name(target);
    }
    file
}

/// Returns the path `file` with `suffix` appended.
fn path_with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the length of a file; 0 if it does not exist.
pub fn file_len(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

/// Maximum number of symbolic links to follow, the same as Linux's limit; further links are not resolved.
const MAX_LINKS: usize = 40;
/// Size of the `-wal` in octets above which `wal_large` is logged: a read transaction has probably not ended.
const LARGE_WAL_OCTETS: u64 = 1 << 30;
