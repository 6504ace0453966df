//! What SQLite keeps beside its file, and what becomes of it when the file is moved.

use std::fs;
use std::io;
use std::mem;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::storage::SaveError;

/// The write-ahead log or its index, which SQLite keeps under the file's name with these endings.
pub struct Companion {
    /// Its name.
    pub file: PathBuf,
    identity: Option<FileIdentity>,
    /// It was when last looked at.
    is_large: bool,
}

/// What tells a file from another of the same name: device and inode.
pub type FileIdentity = (u64, u64);

impl Companion {
    /// As it is now, if it is.
    pub fn new(file: PathBuf) -> Companion {
        let identity = file_identity(&file).ok();
        Companion {
            file,
            identity,
            is_large: false,
        }
    }

    /// Whether the name still stands for what it stood for when the file was opened.
    pub fn is_ours(&self) -> bool {
        self.identity.is_some() && file_identity(&self.file).ok() == self.identity
    }

    /// A reader that never ends keeps the log from being written back; it then grows without bound. Said once each time.
    pub fn warn_when_large(&mut self) {
        let octets = octets_in(&self.file);
        let was_large = mem::replace(&mut self.is_large, octets > LARGE_LOG_OCTETS);
        if self.is_large && !was_large {
            log::warn!(file:% = self.file.display(), octets = octets, fix = "end the program that reads for so long"; "large_log");
        }
    }
}

/// Which file a name stands for.
///
/// # Errors
/// When there is none, or it may not be looked at.
pub fn file_identity(file: &Path) -> io::Result<FileIdentity> {
    let metadata = fs::metadata(file)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Keeps the log of a file that is elsewhere: what it holds was promised.
///
/// # Errors
/// [`SaveError`]: it is still in its place, and no other file may be begun there.
pub fn put_log_aside(log_file: &Path) -> Result<(), SaveError> {
    let inode = file_identity(log_file).map_or(0, |(_, inode)| inode);
    let aside = with_ending(log_file, &format!(".moved-{inode}"));
    fs::rename(log_file, &aside).map_err(|error| {
        SaveError::Unavailable(format!(
            "{}: holds mails of a file that was moved, and cannot be renamed to {}: {error}; move it elsewhere, name it \
             like that file with -wal, and open that file",
            log_file.display(),
            aside.display()
        ))
    })?;
    let fix = "it holds mails of the file that was moved: name it like that file with -wal, and open that file";
    log::error!(file:% = aside.display(), fix = fix; "log_put_aside");
    Ok(())
}

/// The write-ahead log of a file.
pub fn log_of(file: &Path) -> PathBuf {
    with_ending(&behind_links(file), "-wal")
}

/// The file that a link stands for: SQLite names what it keeps beside it after that one.
pub fn behind_links(file: &Path) -> PathBuf {
    let mut file = file.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&file) else {
            break;
        };
        file = file.with_file_name(target);
    }
    file
}

/// A file whose name goes on so.
pub fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// How large a file is; 0 where there is none.
pub fn octets_in(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}

/// Links from one to the next, as many as Linux follows.
const MAX_LINKS: usize = 40;
/// A log this large means that some reader does not end.
const LARGE_LOG_OCTETS: u64 = 1 << 30;
