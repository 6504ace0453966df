//! PID_FILE: the process id of the running server, for scripts that send it a signal.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use crate::os::secure_open;

/// A file that holds this process's id. Dropping it removes the file if it still holds that id.
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Writes the id of this process. The caller may still be root and has bound all ports: a server that was started by
    /// mistake has failed before this.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(path: &Path) -> io::Result<PidFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o644);
        let mut tries = 0..MAX_TRIES;
        loop {
            let mut file = secure_open::open(path, &mut options)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other(NOT_PLAIN));
            }
            lock(&file);
            // A server that stops holds the lock while it removes the file. What was opened may be that file.
            if tries.next().is_some() && !is_same_file(path, &file) {
                continue;
            }
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            // Also unlocked when it is closed.
            let _ = file.unlock();
            let path = path.to_owned();
            return Ok(PidFile { path, file });
        }
    }

    /// Returns why [`write`](PidFile::write) would fail; changes nothing.
    pub fn why_not_writable(path: &Path) -> Option<io::Error> {
        let is_unusual = |metadata: &fs::Metadata| !metadata.is_file() && !metadata.is_dir();
        match path.metadata() {
            Ok(metadata) if is_unusual(&metadata) => Some(io::Error::other(NOT_PLAIN)),
            _ => secure_open::check_writable(path),
        }
    }

    /// Returns the open file, to hand it to the user that the server becomes.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes the file, or empties it where the folder does not permit that. Changes nothing when it holds another process id:
    /// the server that was started during our drain has written its own.
    fn remove(&mut self) -> io::Result<()> {
        // Through a symbolic link the file itself is removed; the link stays for the next start.
        let path = match fs::canonicalize(&self.path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The folder is closed to the user that the server has become.
            Err(_) => return self.empty(),
        };
        if is_same_file(&path, &self.file) {
            lock(&self.file);
            return match is_same_file(&path, &self.file) && holds_our_id(&mut self.file)? {
                true => fs::remove_file(&path).or_else(|_| self.file.set_len(0)),
                false => Ok(()),
            };
        }
        // Another file of that name, which a backup or an editor may have made of ours.
        let mut options = OpenOptions::new();
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = options.read(true).custom_flags(flags.bits()).open(&path)?;
        if !file.metadata()?.is_file() {
            return Ok(());
        }
        lock(&file);
        match is_same_file(&path, &file) && holds_our_id(&mut file)? {
            true => fs::remove_file(&path),
            false => Ok(()),
        }
    }

    /// Empties the file by its open descriptor, which can write where the folder is not writable.
    fn empty(&mut self) -> io::Result<()> {
        lock(&self.file);
        match holds_our_id(&mut self.file)? {
            true => self.file.set_len(0),
            false => Ok(()),
        }
    }
}

impl Drop for PidFile {
    /// Also runs after a start that failed.
    fn drop(&mut self) {
        // The stop does not depend on it.
        let _ = self.remove();
    }
}

/// Locks the file against another server that writes or removes it. Goes on without the lock after a moment: another user may
/// hold it for ever.
fn lock(file: &File) {
    let give_up_at = Instant::now() + LOCK_TIMEOUT;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if Instant::now() >= give_up_at {
            return;
        }
        thread::sleep(LOCK_TICK);
    }
}

/// Tells whether `path` names the file that is open.
fn is_same_file(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

fn holds_our_id(file: &mut File) -> io::Result<bool> {
    file.rewind()?;
    let mut octets = Vec::new();
    file.take(MAX_OCTETS).read_to_end(&mut octets)?;
    let text = String::from_utf8_lossy(&octets);
    Ok(text.trim_ascii() == std::process::id().to_string())
}

const NOT_PLAIN: &str = "it is no plain file";
/// How long another server may take to write or remove the file.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
const LOCK_TICK: Duration = Duration::from_millis(5);
/// How often a file that was removed meanwhile is opened again.
const MAX_TRIES: usize = 5;
/// More than any process id with its line end.
const MAX_OCTETS: u64 = 64;
