//! Lines on their way to the file: gathered for a moment, written together, dropped rather than waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::unistd::{Gid, Uid};

use super::LogFormat;
use crate::metrics;
use crate::os::secure_open;
use crate::sync;

/// Lines on their way to the file.
pub struct LogBuffer {
    lines: Mutex<Lines>,
    /// There are lines, or somebody waits for them to be written.
    not_empty: Condvar,
    /// All lines so far have been written.
    written: Condvar,
    target: Mutex<Target>,
    as_json: AtomicBool,
    /// The last write failed, perhaps in the middle of a line.
    partial_line: AtomicBool,
}

#[derive(Default)]
struct Lines {
    octets: Vec<u8>,
    dropped: u64,
    /// A thread writes them; nobody else does then, for the file may stall.
    have_writer: bool,
    /// How often they were taken to be written, and how often that is done.
    taken: u64,
    written: u64,
    /// Somebody waits.
    flush_requested: bool,
}

impl LogBuffer {
    /// No lines yet, and nobody who writes them.
    pub fn new(target: Target, format: LogFormat) -> LogBuffer {
        LogBuffer {
            lines: Mutex::new(Lines::default()),
            not_empty: Condvar::new(),
            written: Condvar::new(),
            target: Mutex::new(target),
            as_json: AtomicBool::new(format == LogFormat::Json),
            partial_line: AtomicBool::new(false),
        }
    }

    /// How lines are written now.
    pub fn format(&self) -> LogFormat {
        match self.as_json.load(Ordering::Relaxed) {
            true => LogFormat::Json,
            false => LogFormat::Text,
        }
    }

    /// A thread is there that calls [`write_for_ever`](Gathered::write_for_ever).
    pub fn set_has_writer(&self) {
        self.lock_lines().have_writer = true;
    }

    /// Goes on in another file. Lines so far end in the old one.
    ///
    /// # Errors
    /// When whoever writes to the old one is stuck there.
    pub fn reopen(&self, target: Target, format: LogFormat) -> io::Result<()> {
        self.flush();
        let mut current = self.target().ok_or(io::ErrorKind::TimedOut)?;
        *current = target;
        self.partial_line.store(false, Ordering::Relaxed);
        self.as_json
            .store(format == LogFormat::Json, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the file to another user.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn chown_to(&self, user: Uid, group: Gid) -> io::Result<()> {
        match &*sync::lock(&self.target) {
            Target::File(file) => secure_open::chown_to(file, user, group),
            Target::Stdout | Target::Stderr => Ok(()),
        }
    }

    /// One line more, which ends in LF; dropped and counted where too many wait.
    pub fn push(&self, line: &str) {
        let mut lines = self.lock_lines();
        if lines.octets.len() + line.len() > MAX_BUFFERED_OCTETS {
            lines.dropped += 1;
            metrics::LOG_LINES_DROPPED.count(());
            return;
        }
        let was_empty = lines.octets.is_empty();
        lines.octets.extend_from_slice(line.as_bytes());
        drop(lines);
        if was_empty {
            self.not_empty.notify_one();
        }
    }

    /// The one wait without a deadline, for lines and for whoever reads them: nobody waits for this thread for long.
    pub fn run(&self) {
        loop {
            let lines = self.lock_lines();
            let some = self
                .not_empty
                .wait_while(lines, |lines| lines.octets.is_empty());
            let lines = some.unwrap_or_else(PoisonError::into_inner);
            let gathered = (self.not_empty)
                .wait_timeout_while(lines, WRITE_DELAY, |lines| !lines.flush_requested);
            drop(gathered.unwrap_or_else(PoisonError::into_inner).0);
            self.write_to(&mut sync::lock(&self.target));
        }
    }

    /// Waits until all lines so far are written, but not for long.
    pub fn flush(&self) {
        let mut lines = self.lock_lines();
        if !lines.have_writer {
            drop(lines);
            self.write_to(&mut sync::lock(&self.target));
            return;
        }
        lines.flush_requested = true;
        self.not_empty.notify_one();
        // What comes after them is not waited for.
        let last = lines.taken + u64::from(!lines.octets.is_empty());
        let are_left = |lines: &mut Lines| lines.written < last;
        let written = (self.written).wait_timeout_while(lines, FLUSH_TIMEOUT, are_left);
        drop(written.unwrap_or_else(PoisonError::into_inner));
    }

    /// The file, unless whoever is writing to it is stuck there.
    fn target(&self) -> Option<MutexGuard<'_, Target>> {
        let give_up_at = Instant::now() + FLUSH_TIMEOUT;
        loop {
            match self.target.try_lock() {
                Ok(target) => return Some(target),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() > give_up_at => return None,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Whoever holds the target takes the lines, so they reach it in their order.
    fn write_to(&self, target: &mut Target) {
        let (mut octets, dropped) = self.take_lines();
        if dropped > 0 {
            let now = Timestamp::now();
            let line = match self.format() {
                LogFormat::Json => format!(
                    "{{\"time\":\"{now:.3}\",\"level\":\"warn\",\"event\":\"log_lines_dropped\",\"count\":\"{dropped}\"}}\n"
                ),
                LogFormat::Text => format!("{now:.3} warn - log_lines_dropped count={dropped}\n"),
            };
            octets.extend_from_slice(line.as_bytes());
        }
        if !octets.is_empty() {
            // Where a full disk cut a line short, the next one begins on a line of its own.
            if self.partial_line.load(Ordering::Relaxed) {
                octets.insert(0, b'\n');
            }
            // There is nobody left to tell of a full disk or a closed pipe, and mail goes on.
            self.partial_line
                .store(target.write(&octets).is_err(), Ordering::Relaxed);
        }
        self.lock_lines().written += 1;
        self.written.notify_all();
    }

    fn take_lines(&self) -> (Vec<u8>, u64) {
        let mut lines = self.lock_lines();
        lines.taken += 1;
        lines.flush_requested = false;
        (mem::take(&mut lines.octets), mem::take(&mut lines.dropped))
    }

    fn lock_lines(&self) -> MutexGuard<'_, Lines> {
        sync::lock(&self.lines)
    }
}

/// Where lines go.
pub enum Target {
    Stdout,
    Stderr,
    File(File),
}

impl Target {
    /// `/dev/stdout` and `/dev/stderr` mean the streams themselves, empty means stderr.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(file: &Path) -> io::Result<Target> {
        Ok(match file.to_str() {
            Some("/dev/stdout") => Target::Stdout,
            Some("/dev/stderr" | "") => Target::Stderr,
            _ => Target::File(secure_open::open(
                file,
                OpenOptions::new().append(true).create(true).mode(LOG_MODE),
            )?),
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines).and_then(|()| stdout.flush())
            }
            Target::Stderr => io::stderr().lock().write_all(lines),
            Target::File(file) => file.write_all(lines),
        }
    }
}

/// Of a log file that is made: it holds addresses of clients and senders. The umask may take more away.
const LOG_MODE: u32 = 0o640;
/// How long lines wait for company.
const WRITE_DELAY: Duration = Duration::from_millis(50);
/// Lines that wait while the file or its reader stalls; beyond it they are dropped and counted.
const MAX_BUFFERED_OCTETS: usize = 4 << 20;
/// How long the last lines of all may take to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
