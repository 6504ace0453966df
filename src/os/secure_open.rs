//! Files that are opened while we may still be root, and given to whom we become.
//!
//! They may stand in a folder of that user's, who could have put something else in their place: root must neither write
//! to nor give away what is not plainly meant.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, geteuid};

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
            Some(libc::ELOOP) if is_root => io::Error::other(LINK),
            Some(libc::ENXIO) => io::Error::other("it is a pipe that nobody reads"),
            _ => error,
        })?;
    let metadata = file.metadata()?;
    if is_root && metadata.is_file() && metadata.nlink() != 1 {
        return Err(io::Error::other(SECOND_NAME));
    }
    // Writing may wait, as the writer of the log does for its reader.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// Returns why a file could not be opened for writing, or made where there is none. Looks at it without opening it: closing it
/// would end the input of a program that reads from a pipe.
pub fn check_writable(path: &Path) -> Option<io::Error> {
    let is_root = geteuid().is_root();
    let is_link = (path.symlink_metadata()).is_ok_and(|metadata| metadata.is_symlink());
    if is_root && is_link {
        return Some(io::Error::other(LINK));
    }
    let access = |path: &Path, rights| {
        let outcome = faccessat(AT_FDCWD, path, rights, AtFlags::AT_EACCESS);
        outcome.err().map(io::Error::from)
    };
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Some(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(metadata) if is_root && metadata.is_file() && metadata.nlink() != 1 => {
            Some(io::Error::other(SECOND_NAME))
        }
        Ok(_) => access(path, AccessFlags::W_OK),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let target = match is_link {
                true => path.with_file_name(std::fs::read_link(path).ok()?),
                false => path.to_owned(),
            };
            let folder = match target.parent() {
                Some(folder) if folder != Path::new("") => folder,
                _ => Path::new("."),
            };
            access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
        }
        Err(error) => Some(error),
    }
}

/// Gives the file to a user and a group, so that the next start may write to it. A pipe or a device stays whose it is.
///
/// # Errors
/// When the system refuses, or when the file belongs to somebody else than root and that user.
pub fn chown_to(file: &File, user: Uid, group: Gid) -> io::Result<()> {
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

const LINK: &str = "it is a symbolic link, which root does not follow here";
const SECOND_NAME: &str =
    "it has another name elsewhere, and root does not write to such a file here";
