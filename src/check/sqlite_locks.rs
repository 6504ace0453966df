//! Whether another program holds a database file, asked without taking a lock and without opening it in SQLite.
//!
//! The bytes are those of SQLite's file format: `PENDING_BYTE` and its neighbours in the file (os.h), `UNIX_SHM_BASE` in the
//! index of the log (os_unix.c).

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::store::sqlite::wal_files::index_of;

/// Returns the id of a process that keeps mail from being saved to `file` for all of `timeout`; `None` when there is none.
/// `is_wal` tells whether the file is in WAL mode already: if not, readers are in the way of that as well.
pub fn holder(file: &Path, is_wal: bool, timeout: Duration) -> Option<i32> {
    // Readers of a WAL file hold a shared lock all the time.
    let kind = if is_wal { libc::F_RDLCK } else { libc::F_WRLCK };
    let locks = [
        (File::open(file).ok(), kind, LOCK_BYTES),
        (
            File::open(index_of(file)).ok(),
            libc::F_WRLCK,
            WAL_WRITE_LOCK,
        ),
    ];
    let give_up_at = Instant::now() + timeout;
    loop {
        let mut holders = locks.iter().filter_map(|(file, kind, bytes)| {
            // A file that cannot be opened has no lock that could be seen.
            lock_holder(file.as_ref()?, *kind, *bytes)
        });
        let holder = holders.next();
        if holder.is_none() || Instant::now() >= give_up_at {
            return holder;
        }
        thread::sleep(TICK);
    }
}

/// The process whose lock stands in the way of one of this kind.
fn lock_holder(file: &File, kind: i32, (start, length): (i64, i64)) -> Option<i32> {
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

/// PENDING, RESERVED and the 510 bytes of SHARED.
const LOCK_BYTES: (i64, i64) = (0x4000_0000, 512);
/// The lock of the connection that writes to the log.
const WAL_WRITE_LOCK: (i64, i64) = (120, 1);
/// Between two looks: a server under load is between two transactions for a moment only.
const TICK: Duration = Duration::from_millis(1);
