//! Reads files that the configuration names, completely and up to a limit.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// Reads a regular file of at most `max_octets`. Returns its content, and its metadata from before it was read.
///
/// # Errors
/// The file cannot be opened or read, is not a regular file, or is too long ([`io::ErrorKind::FileTooLarge`]).
pub fn read_regular_file(path: &Path, max_octets: u64) -> io::Result<(Vec<u8>, Metadata)> {
    // Without O_NONBLOCK, opening a pipe would wait for a program that writes to it.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    let octets = read_up_to(&file, max_octets)?;
    Ok((octets, metadata))
}

fn read_up_to(file: &File, max_octets: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    file.take(max_octets + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > max_octets {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file is longer than {max_octets} octets"),
        ));
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "12345").unwrap();
        assert_eq!(read_regular_file(&file, 5).unwrap().0, b"12345");
        let error = read_regular_file(&file, 4).unwrap_err();
        assert_eq!(error.to_string(), "the file is longer than 4 octets");
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for path in [folder.path(), &pipe, Path::new("/dev/zero")] {
            let error = read_regular_file(path, 5).unwrap_err();
            assert_eq!(error.to_string(), "this is not a regular file");
        }
        let missing = read_regular_file(&folder.path().join("missing"), 5);
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
