//! Opens files that the server writes, and changes their owner. The process may still be root at that time.
//!
//! The folder may belong to the unprivileged user of the server, who could replace a file by a link. Therefore root does not
//! follow a symbolic link, and does not write to a file with several hard links.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, geteuid};

/// Opens a file with `options`. Fails, instead of waiting, if the file is a pipe that no program reads. If the process is
/// root, rejects a symbolic link and a file with several hard links.
///
/// # Errors
/// The system call fails, or the file is rejected.
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
            Some(libc::ELOOP) if is_root => io::Error::other(SYMLINK),
            Some(libc::ENXIO) => io::Error::other("the file is a pipe without a reader"),
            _ => error,
        })?;
    let metadata = file.metadata()?;
    if is_root && metadata.is_file() && metadata.nlink() != 1 {
        return Err(io::Error::other(HARD_LINKED));
    }
    // Only opening must not block. A write may block, because the log has its own writing thread.
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// Returns the reason why the file cannot be opened for writing or created, if any. Does not open the file: if it is a pipe,
/// closing it again would end the input of the program that reads from it.
pub fn check_writable(path: &Path) -> Option<io::Error> {
    let is_root = geteuid().is_root();
    let is_link = (path.symlink_metadata()).is_ok_and(|metadata| metadata.is_symlink());
    if is_root && is_link {
        return Some(io::Error::other(SYMLINK));
    }
    let access = |path: &Path, rights| {
        let outcome = faccessat(AT_FDCWD, path, rights, AtFlags::AT_EACCESS);
        outcome.err().map(io::Error::from)
    };
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Some(io::Error::from_raw_os_error(libc::EISDIR)),
        Ok(metadata) if is_root && metadata.is_file() && metadata.nlink() != 1 => {
            Some(io::Error::other(HARD_LINKED))
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

/// Changes the owner and group of the file, so that the next start can write to it. Pipes and devices are left unchanged.
///
/// # Errors
/// The system call fails, or the owner is neither root nor `user`.
pub fn chown_to(file: &File, user: Uid, group: Gid) -> io::Result<()> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(());
    }
    let owner = metadata.uid();
    if ![0, user.as_raw()].contains(&owner) {
        return Err(io::Error::other(format!(
            "expected a file owned by root or by user {user}, but its owner is user {owner}; chown or remove the file"
        )));
    }
    fchown(file, Some(user.as_raw()), Some(group.as_raw()))
}

const SYMLINK: &str = "the file is a symbolic link, which root does not follow here";
const HARD_LINKED: &str = "the file has several hard links, and root does not write to such a file";
