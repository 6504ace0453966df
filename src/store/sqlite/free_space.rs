//! Whether the file system of the database file is nearly full.
//!
//! Mail gets 452 before the file system is full, so that there is still space to remove old rows, and for other programs.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Returns why no mail is saved: the file system of `file` has too little free space. Returns `None` in all other cases, also
/// if the space is unknown.
pub fn low_space_reason(file: &Path) -> Option<String> {
    let found = statvfs(file).ok()?;
    let unit = found.fragment_size();
    let free = found.blocks_available().saturating_mul(unit);
    let needed = min_free_octets(found.blocks().saturating_mul(unit));
    (free < needed).then(|| {
        format!(
            "{}: its file system has {free} octets left, less than {needed}; free disk space",
            file.display()
        )
    })
}

/// Returns the free space that a file system of `size` octets must have.
fn min_free_octets(size: u64) -> u64 {
    (size / SHARE).min(MAX_RESERVE_OCTETS)
}

/// One in this many octets stays free on a small file system.
const SHARE: u64 = 20;
/// Free space on a large file system: what the `-wal` grows to before it is truncated (`journal_size_limit`).
const MAX_RESERVE_OCTETS: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_is_a_twentieth_of_a_small_file_system_and_64_mib_of_a_large_one() {
        assert_eq!(min_free_octets(20 << 20), 1 << 20);
        assert_eq!(min_free_octets(1_280 << 20), 64 << 20);
        assert_eq!(min_free_octets(1 << 40), 64 << 20);
        assert_eq!(min_free_octets(0), 0);
    }
}
