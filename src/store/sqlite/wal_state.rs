//! Detects that another program has truncated the database file, its write-ahead log or the log's index.
//!
//! SQLite trusts its index, which is mapped into memory: it would commit into a truncated log without an error, write a
//! damaged log back into the database file, and cause SIGBUS if the index itself is too short. The index is therefore
//! read as a file before and after each transaction (<https://www.sqlite.org/walformat.html#the_wal_index_file_format>).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::wal_files::{FileIdentity, file_identity, file_len, identity_of, shm_path, wal_path};
use crate::sync;

/// What was seen of the files at the last check.
#[derive(Default)]
pub struct WalState {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The index. Closing a descriptor releases the POSIX locks that SQLite holds on the same file, so this one stays open
    /// until the name refers to another file.
    index: Option<(FileIdentity, File)>,
    /// Length of the database file at the last check.
    database_len: u64,
}

/// The fields of the index header that are needed here.
struct WalIndexHeader {
    page_size: u64,
    /// Number of valid frames in the log.
    frames: u64,
    /// Number of pages of the database.
    pages: u64,
}

/// Returns whether the log index is too short: SIGBUS would end the process when SQLite reads it.
pub fn is_index_truncated(database: &Path) -> bool {
    let index = shm_path(database);
    file_identity(&index).is_ok() && file_len(&index) < INDEX_MIN_OCTETS
}

impl WalState {
    /// Returns the file that was truncated: the log index, or the log or database file if it is shorter than its contents
    /// according to the index.
    pub fn truncated(&self, database: &Path) -> Option<PathBuf> {
        let (index, log) = (shm_path(database), wal_path(database));
        if is_index_truncated(database) {
            return Some(index);
        }
        let mut inner = sync::lock(&self.inner);
        for _ in 0..READ_TRIES {
            let before = inner.read_header(&index)?;
            let (log_len, database_len) = (file_len(&log), file_len(database));
            // Another program may have written or truncated the log while the lengths were read.
            if inner.read_header(&index)? != before {
                continue;
            }
            let header = parse_header(&before)?;
            let log_octets = match header.frames {
                0 => 0,
                frames => LOG_HEADER_OCTETS + frames * (FRAME_HEADER_OCTETS + header.page_size),
            };
            if log_len < log_octets {
                return Some(log);
            }
            // A checkpoint after VACUUM shortens the database file, but never below the number of pages in the header.
            if database_len < inner.database_len.min(header.pages * header.page_size) {
                return Some(database.to_owned());
            }
            inner.database_len = database_len;
            return None;
        }
        None
    }
}

impl Inner {
    /// Reads the header of the index; `None` if there is no index.
    fn read_header(&mut self, index: &Path) -> Option<[u8; HEADER_OCTETS]> {
        let identity = file_identity(index).ok()?;
        if self
            .index
            .as_ref()
            .is_none_or(|(known, _)| *known != identity)
        {
            let file = File::open(index).ok()?;
            let identity = identity_of(&file.metadata().ok()?);
            self.index = Some((identity, file));
        }
        let (_, file) = self.index.as_ref()?;
        // A writer changes the second copy first, so equal copies are consistent.
        for _ in 0..READ_TRIES {
            let mut octets = [0; 2 * HEADER_OCTETS];
            file.read_exact_at(&mut octets, 0).ok()?;
            let (first, second) = octets.split_at(HEADER_OCTETS);
            if first == second {
                return first.try_into().ok();
            }
        }
        None
    }
}

/// Returns the fields of a header; `None` if SQLite has not initialized it.
fn parse_header(octets: &[u8]) -> Option<WalIndexHeader> {
    let field = |at: usize| -> Option<u64> {
        let octets = octets.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_ne_bytes(octets)))
    };
    let is_initialized = *octets.get(12)? == 1;
    let page_size = u16::from_ne_bytes(octets.get(14..16)?.try_into().ok()?);
    is_initialized.then_some(())?;
    Some(WalIndexHeader {
        // The field has 16 bits, and 1 stands for 65,536.
        page_size: if page_size == 1 {
            65_536
        } else {
            page_size.into()
        },
        frames: field(16)?,
        pages: field(20)?,
    })
}

/// Size of the index header, which is stored twice.
const HEADER_OCTETS: usize = 48;
/// Minimum length of the index. SQLite maps it in pieces of this size, so a shorter index was truncated.
const INDEX_MIN_OCTETS: u64 = 32_768;
const LOG_HEADER_OCTETS: u64 = 32;
const FRAME_HEADER_OCTETS: u64 = 24;
/// Attempts to read a consistent state while other programs write.
const READ_TRIES: usize = 100;
