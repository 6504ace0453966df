//! PID_FILE holds the process id of the running server. Scripts read it to send signals to the server.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;

use crate::os::secure_open;

/// A file with the id of this process. Drop removes the file if it still contains that id.
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Writes the id of this process. Call it after binding all ports: if a second server is started by mistake, it fails to
    /// bind and does not overwrite the file.
    ///
    /// # Errors
    /// The file cannot be written, or holds more than a process id: the path may name a key or a database by mistake.
    pub fn write(path: &Path) -> io::Result<PidFile> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o644);
        let mut tries = 0..MAX_TRIES;
        loop {
            let mut file = secure_open::open(path, &mut options)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other(NOT_REGULAR));
            }
            lock_pid_file(&file);
            // A stopping server removes the file while it holds the lock. If the open file was removed, open the path again.
            if tries.next().is_some() && !is_same_file(path, &file) {
                continue;
            }
            if file.metadata()?.len() > MAX_OCTETS {
                return Err(io::Error::other(TOO_LONG));
            }
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            // If unlocking fails, closing the file unlocks it.
            let _ = file.unlock();
            let path = path.to_owned();
            return Ok(PidFile { path, file });
        }
    }

    /// Returns the error that [`write`](PidFile::write) would return, if any. Changes nothing.
    pub fn check_writable(path: &Path) -> Option<io::Error> {
        let is_special = |metadata: &fs::Metadata| !metadata.is_file() && !metadata.is_dir();
        match path.metadata() {
            Ok(metadata) if is_special(&metadata) => Some(io::Error::other(NOT_REGULAR)),
            Ok(metadata) if metadata.is_file() && metadata.len() > MAX_OCTETS => {
                Some(io::Error::other(TOO_LONG))
            }
            _ => secure_open::check_writable(path),
        }
    }

    /// Returns the open file, so that its owner can be changed.
    pub fn pid_file_handle(&self) -> &File {
        &self.file
    }

    /// Removes the file, or empties it if the folder does not permit removal. Changes nothing if the file contains another
    /// process id: another server that was started while this server drained has written its own id.
    fn remove_or_truncate_pid_file(&mut self) -> io::Result<()> {
        // If the path is a symbolic link, its target is removed; the link stays for the next start.
        let path = match fs::canonicalize(&self.path) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The folder may be inaccessible after the privilege drop.
            Err(_) => return self.truncate_own_pid_file(),
        };
        if is_same_file(&path, &self.file) {
            lock_pid_file(&self.file);
            return match is_same_file(&path, &self.file) && contains_own_process_id(&mut self.file)?
            {
                true => fs::remove_file(&path).or_else(|_| self.file.set_len(0)),
                false => Ok(()),
            };
        }
        // The path names a different file than the open one. A backup or an editor may have replaced the file by a copy.
        let mut options = OpenOptions::new();
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = options.read(true).custom_flags(flags.bits()).open(&path)?;
        if !file.metadata()?.is_file() {
            return Ok(());
        }
        lock_pid_file(&file);
        match is_same_file(&path, &file) && contains_own_process_id(&mut file)? {
            true => fs::remove_file(&path),
            false => Ok(()),
        }
    }

    /// Empties the file through its open descriptor, which does not need access to the folder.
    fn truncate_own_pid_file(&mut self) -> io::Result<()> {
        lock_pid_file(&self.file);
        match contains_own_process_id(&mut self.file)? {
            true => self.file.set_len(0),
            false => Ok(()),
        }
    }
}

impl Drop for PidFile {
    /// Removes the file. This also happens after a failed start.
    fn drop(&mut self) {
        // Shutdown succeeds even if the file cannot be removed.
        let _ = self.remove_or_truncate_pid_file();
    }
}

/// Locks the PID file against another server that writes or removes the file. Continues without the lock after
/// [`LOCK_TIMEOUT`], because another user could hold the lock for ever.
fn lock_pid_file(file: &File) {
    let give_up_at = Instant::now() + LOCK_TIMEOUT;
    while let Err(TryLockError::WouldBlock) = file.try_lock() {
        if Instant::now() >= give_up_at {
            return;
        }
        thread::sleep(LOCK_TICK);
    }
}

/// Returns whether `path` names the open file.
fn is_same_file(path: &Path, file: &File) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(named), Ok(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
        _ => false,
    }
}

fn contains_own_process_id(file: &mut File) -> io::Result<bool> {
    file.rewind()?;
    let mut octets = Vec::new();
    file.take(MAX_OCTETS).read_to_end(&mut octets)?;
    let text = String::from_utf8_lossy(&octets);
    Ok(text.trim_ascii() == std::process::id().to_string())
}

const NOT_REGULAR: &str = "not a regular file";
const TOO_LONG: &str = "the file holds more than a process id, and is left as it is";
/// How long to wait for the lock of another server that writes or removes the PID file.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
const LOCK_TICK: Duration = Duration::from_millis(5);
/// Maximum number of times that `write` opens the PID file again because another server has removed the open one. After
/// that, `write` uses the file that is open.
const MAX_TRIES: usize = 5;
/// Maximum number of octets to read from the PID file. A process id with its line end is shorter.
const MAX_OCTETS: u64 = 64;
