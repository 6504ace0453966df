//! PID_FILE: who runs, for scripts that want to send a signal.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::handed_over;

/// A file with our process id, removed again when it is dropped: at the end.
pub struct PidFile {
    path: PathBuf,
    file: File,
}

impl PidFile {
    /// Writes our id. Done while we may still be root, after the ports are bound: whoever else runs has failed by then.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(path: &Path) -> io::Result<PidFile> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let mut file = handed_over::open(path, &mut options)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no plain file"));
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        let path = path.to_owned();
        Ok(PidFile { path, file })
    }

    /// The open file, to hand it to the user we become.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for PidFile {
    /// Removes the file, or empties it where the folder does not let us; also after a start that failed.
    fn drop(&mut self) {
        if fs::remove_file(&self.path).is_err() {
            // Ours to write even where the folder is not; nothing depends on it.
            let _ = self.file.set_len(0);
        }
    }
}
