//! Finds a process that holds a lock on a database file, without taking a lock and without opening the file in SQLite.
//!
//! The positions of the locks are from SQLite's source: `PENDING_BYTE` in the database file (os.h), `UNIX_SHM_BASE` in the
//! `-shm` file (os_unix.c).

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::store::sqlite::wal_files::shm_path;

/// Waits until no lock keeps mail from being saved to `file`, and then returns `None`. After `timeout`, returns the id of a
/// process that holds such a lock. `is_wal` says whether the file is in WAL mode already; if it is not, a reader's lock counts
/// too, because it prevents the change to WAL mode.
pub fn wait_for_unlock_else_lock_holder(
    file: &Path,
    is_wal: bool,
    timeout: Duration,
) -> Option<i32> {
    // In WAL mode every open connection holds a shared lock, so only exclusive locks count; F_RDLCK conflicts only with those.
    let kind = if is_wal { libc::F_RDLCK } else { libc::F_WRLCK };
    let locks = [
        (File::open(file).ok(), kind, LOCK_BYTES),
        (
            File::open(shm_path(file)).ok(),
            libc::F_WRLCK,
            WAL_WRITE_LOCK,
        ),
    ];
    let deadline = Instant::now() + timeout;
    loop {
        let mut holders = locks.iter().filter_map(|(file, kind, bytes)| {
            // A file that cannot be opened is skipped, because its locks cannot be queried.
            pid_with_conflicting_lock(file.as_ref()?, *kind, *bytes)
        });
        let holder = holders.next();
        if holder.is_none() || Instant::now() >= deadline {
            return holder;
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Returns the id of a process whose lock conflicts with a lock of `kind` (F_RDLCK or F_WRLCK) on `length` bytes from `start`;
/// `None` if no process holds such a lock.
fn pid_with_conflicting_lock(file: &File, kind: i32, (start, length): (i64, i64)) -> Option<i32> {
    let mut lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

/// Offset and length, in bytes, of SQLite's locks PENDING (1 byte), RESERVED (1 byte) and SHARED (510 bytes) in the database
/// file.
const LOCK_BYTES: (i64, i64) = (0x4000_0000, 512);
/// Offset and length, in bytes, of the write lock in the `-shm` file. An SQLite connection holds this lock while it writes to
/// the `-wal` file.
const WAL_WRITE_LOCK: (i64, i64) = (120, 1);
/// Interval between two queries for a lock. It is short because a server under load releases its lock only for a moment.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
