//! Detects that another program has truncated the database file, its write-ahead log or the log's index.
//!
//! SQLite trusts its index, which is mapped into memory: it would commit into a truncated `-wal` without an error, write a
//! damaged `-wal` back into the database file, and cause SIGBUS if the index itself is too short. This module therefore reads
//! the index as a file before and after each transaction (<https://www.sqlite.org/walformat.html#the_wal_index_file_format>).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::wal_files::{
    FileIdentity, device_and_inode_of, file_identity, file_len, shm_path, wal_path,
};
use crate::sync;

/// The opened index (`-shm`) and the length of the database file at the last check.
#[derive(Default)]
pub struct DatabaseTruncationDetector {
    inner: Mutex<ShmDescriptorAndDatabaseLen>,
}

#[derive(Default)]
struct ShmDescriptorAndDatabaseLen {
    /// The index (`-shm`). Closing a descriptor releases the POSIX locks that SQLite holds on the same file, so this descriptor
    /// stays open until the name of the index refers to another file.
    index: Option<(FileIdentity, File)>,
    /// Length of the database file at the last check.
    database_len: u64,
}

/// The fields of the `-shm` header that show how long the `-wal` and the database file must be.
struct WalIndexHeader {
    page_size: u64,
    /// Number of valid frames (page copies) in the `-wal`.
    frames: u64,
    /// Number of pages of the database.
    pages: u64,
    /// Number of frames that a checkpoint has already written into the database file.
    written_back: u64,
}

/// Returns whether the index (`-shm`) is too short, so that SIGBUS would end the process when SQLite reads the index.
pub fn is_wal_index_truncated(database: &Path) -> bool {
    let index = shm_path(database);
    file_identity(&index).is_ok() && file_len(&index) < INDEX_MIN_OCTETS
}

impl DatabaseTruncationDetector {
    /// Returns the file that was truncated: the `-shm`, or the `-wal` or the database file if it is shorter than the `-shm`
    /// says. Returns `None` if no file was truncated or the `-shm` cannot be read.
    pub fn find_truncated_file(&self, database: &Path) -> Option<PathBuf> {
        let (index, log) = (shm_path(database), wal_path(database));
        if is_wal_index_truncated(database) {
            return Some(index);
        }
        let mut inner = sync::lock(&self.inner);
        for _ in 0..READ_TRIES {
            let (before, written_back) = inner.read_wal_index_header(&index)?;
            let (log_len, database_len) = (file_len(&log), file_len(database));
            // Another program may have written or reset the `-wal` while the lengths were read.
            if inner.read_wal_index_header(&index)?.0 != before {
                continue;
            }
            let header = parse_wal_index_header(&before, written_back)?;
            let log_octets = match header.frames {
                0 => 0,
                frames => LOG_HEADER_OCTETS + frames * (FRAME_HEADER_OCTETS + header.page_size),
            };
            if log_len < log_octets {
                return Some(log);
            }
            // A checkpoint after VACUUM shortens the database file. Later transactions may add pages that are only in the
            // `-wal`: at most one for each frame that is not written back.
            let frames_only = header.frames.saturating_sub(header.written_back);
            let needed_len = header.pages.saturating_sub(frames_only) * header.page_size;
            if database_len < inner.database_len.min(needed_len) {
                return Some(database.to_owned());
            }
            inner.database_len = database_len;
            return None;
        }
        None
    }
}

impl ShmDescriptorAndDatabaseLen {
    /// Reads the header of the `-shm` and the number of frames that are written back. Returns `None` if the file cannot be
    /// read or the two copies of the header stay different.
    fn read_wal_index_header(&mut self, index: &Path) -> Option<([u8; HEADER_OCTETS], [u8; 4])> {
        let identity = file_identity(index).ok()?;
        if self
            .index
            .as_ref()
            .is_none_or(|(known, _)| *known != identity)
        {
            self.index = Some((identity, File::open(index).ok()?));
        }
        let (_, file) = self.index.as_ref()?;
        if device_and_inode_of(&file.metadata().ok()?) != identity {
            return None;
        }
        // A writer changes the second copy of the header first, so a header is complete if its two copies are equal.
        for _ in 0..READ_TRIES {
            let mut octets = [0; 2 * HEADER_OCTETS + 4];
            file.read_exact_at(&mut octets, 0).ok()?;
            let (first, rest) = octets.split_first_chunk::<HEADER_OCTETS>()?;
            let (second, written_back) = rest.split_first_chunk::<HEADER_OCTETS>()?;
            if first == second {
                return Some((*first, written_back.try_into().ok()?));
            }
        }
        None
    }
}

/// Returns the fields of a `-shm` header; `None` if SQLite has not initialized the header.
fn parse_wal_index_header(
    octets: &[u8; HEADER_OCTETS],
    written_back: [u8; 4],
) -> Option<WalIndexHeader> {
    let field = |at: usize| -> Option<u64> {
        let octets = octets.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_ne_bytes(octets)))
    };
    let is_initialized = *octets.get(12)? == 1;
    let page_size = u16::from_ne_bytes(octets.get(14..16)?.try_into().ok()?);
    is_initialized.then_some(())?;
    Some(WalIndexHeader {
        // The field has only 16 bits, so 1 stands for a page size of 65,536 octets.
        page_size: if page_size == 1 {
            65_536
        } else {
            page_size.into()
        },
        frames: field(16)?,
        pages: field(20)?,
        written_back: u32::from_ne_bytes(written_back).into(),
    })
}

/// Size of one copy of the `-shm` header in octets; the file begins with two copies.
const HEADER_OCTETS: usize = 48;
/// Minimum length of the `-shm` in octets. SQLite maps the `-shm` in pieces of this size, so a shorter one was truncated.
const INDEX_MIN_OCTETS: u64 = 32_768;
/// Size of the header of the `-wal`, in octets.
const LOG_HEADER_OCTETS: u64 = 32;
/// Size of the header before each page in the `-wal`, in octets.
const FRAME_HEADER_OCTETS: u64 = 24;
/// Number of attempts to read a consistent state while other programs write; after the last one no truncation is reported.
const READ_TRIES: usize = 100;
