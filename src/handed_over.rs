//! Files that are opened while we may still be root, and given to whom we become.
//!
//! They may stand in a folder of that user's, who could have put something else in their place: root must neither write
//! to nor give away what is not plainly meant.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::{AccessFlags, Gid, Uid, access, geteuid};

/// Opens a file with `options`, without ever waiting for a pipe's other end. Root follows no symbolic link in its place,
/// and takes no file that has a second name.
///
/// # Errors
/// When the system refuses, or when the file is not plainly meant.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let is_root = geteuid().is_root();
    let no_links = if is_root {
        OFlag::O_NOFOLLOW
    } else {
        OFlag::empty()
    };
    options.custom_flags((OFlag::O_NONBLOCK | no_links).bits());
    let file = options
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) if is_root => {
                io::Error::other("it is a symbolic link, which root does not follow here")
            }
            Some(libc::ENXIO) => io::Error::other("it is a pipe that nobody reads"),
            _ => error,
        })?;
    let metadata = file.metadata()?;
    if is_root && metadata.is_file() && metadata.nlink() != 1 {
        return Err(io::Error::other(
            "it has another name elsewhere, and root does not write to such a file here",
        ));
    }
    // Writing may wait, as the writer of the log does for its reader.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// Why a file could not be opened for writing, or made where there is none; changes nothing.
pub fn why_not_writable(path: &Path) -> Option<io::Error> {
    if path.symlink_metadata().is_ok() {
        return open(path, OpenOptions::new().append(true)).err();
    }
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        .err()
        .map(io::Error::from)
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
