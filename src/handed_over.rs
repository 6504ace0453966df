//! Files that are opened while we may still be root, and given to whom we become.
//!
//! They may stand in a folder of that user's, who could have put something else in their place: root must neither write
//! to nor give away what is not plainly meant.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::{Gid, Uid, geteuid};

/// Opens a file with `options`. Root follows no symbolic link in its place, and takes no file that has a second name.
///
/// # Errors
/// When the system refuses, or when the file is not plainly meant.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    if !geteuid().is_root() {
        return options.open(path);
    }
    options.custom_flags(OFlag::O_NOFOLLOW.bits());
    let file = options
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => {
                io::Error::other("it is a symbolic link, which root does not follow here")
            }
            _ => error,
        })?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.nlink() != 1 {
        return Err(io::Error::other(
            "it has another name elsewhere, and root does not write to such a file here",
        ));
    }
    Ok(file)
}

/// Gives the file to a user and a group, so that the next start may write to it. A pipe or a device stays whose it is.
///
/// # Errors
/// When the system refuses, or when the file belongs to somebody else than root and that user.
pub fn give(file: &File, user: Uid, group: Gid) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let owner = metadata.uid();
    if ![0, user.as_raw()].contains(&owner) {
        return Err(io::Error::other(format!(
            "expected a file of root's or of user {user}'s, but found one of user {owner}'s; chown or remove it"
        )));
    }
    fchown(file, Some(user.as_raw()), Some(group.as_raw()))
}
