//! Reads the configuration and the files that it names, completely and up to a limit.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Reads a regular file of at most `max_octets`. Returns its content, and its metadata from before it was read.
///
/// # Errors
/// The file cannot be opened or read, is not a regular file, or is too long ([`io::ErrorKind::FileTooLarge`]).
pub fn read_regular_file(path: &Path, max_octets: u64) -> io::Result<(Vec<u8>, Metadata)> {
    let file = open_without_waiting(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    let octets = read_up_to(&file, max_octets)?;
    Ok((octets, metadata))
}

/// Reads a regular file, or a pipe such as the one of the shell's `<(...)`, of at most `max_octets`.
///
/// # Errors
/// The file cannot be opened or read, is too long ([`io::ErrorKind::FileTooLarge`]), or is a pipe that has not ended after
/// `timeout`.
pub fn read_file_or_pipe(path: &Path, max_octets: u64, timeout: Duration) -> io::Result<Vec<u8>> {
    let file = open_without_waiting(path)?;
    if file.metadata()?.is_file() {
        return read_up_to(&file, max_octets);
    }
    let give_up_at = Instant::now() + timeout;
    let mut octets = Vec::new();
    loop {
        // Waits for octets or for the end. A pipe that no program has opened for writing yet is not at its end.
        let left = give_up_at.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => {
                let text = "no program has written to this pipe and closed it";
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            // Each signal interrupts the wait.
            Err(Errno::EINTR) => continue,
            polled => _ = polled?,
        }
        let read = (&file).take(max_octets + 1).read_to_end(&mut octets);
        octets = reject_longer_than(octets, max_octets)?;
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(octets),
        }
    }
}

/// Opens a file for reading. Without O_NONBLOCK, opening a pipe would wait for a program that writes to it.
fn open_without_waiting(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read_up_to(file: &File, max_octets: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    file.take(max_octets + 1).read_to_end(&mut octets)?;
    reject_longer_than(octets, max_octets)
}

fn reject_longer_than(octets: Vec<u8>, max_octets: u64) -> io::Result<Vec<u8>> {
    if octets.len() as u64 > max_octets {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file is longer than {max_octets} octets"),
        ));
    }
    Ok(octets)
}

/// How long to wait for the program that writes a configuration or a key into a pipe. A running server that reads it again
/// handles the first SIGTERM only afterwards.
pub const PIPE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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

    #[test]
    fn pipe_is_read_until_its_end_or_the_timeout() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        let short = Duration::from_millis(50);
        let read = || read_file_or_pipe(&pipe, 5, short);
        let error = read().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "no program writes");
        let options = OpenOptions::new().read(true).write(true).clone();
        let mut writer = options.open(&pipe).unwrap();
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::TimedOut);
        writer.write_all(b"123456").unwrap();
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let endless = read_file_or_pipe(Path::new("/dev/zero"), 5, short);
        assert_eq!(endless.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn pipe_is_read_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        // Opened for both directions, because opening for writing fails while no program reads.
        let both = OpenOptions::new().read(true).write(true).open(&pipe);
        let mut writer = both.unwrap();
        let reading = std::thread::spawn(move || {
            read_file_or_pipe(&pipe, 100_000, Duration::from_secs(60)).unwrap()
        });
        // Longer than a pipe holds, so that the reader has to read several times.
        writer.write_all(&[b'x'; 100_000]).unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap().len(), 100_000);
    }
}
