//! The buffer of log lines and the thread that writes them to the file.
//!
//! The writing thread writes several lines with one call. A thread that logs a line never waits for the file: if the file
//! stalls and the buffer is full, lines are dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::unistd::{Gid, Uid};

use super::LogFormat;
use crate::metrics::Metrics;
use crate::os::secure_open;
use crate::sync;

/// The log lines that are not yet written, and the log file.
pub struct LogBuffer {
    lines: Mutex<LogBufferState>,
    /// Wakes the writing thread if a line was added or a flush is requested.
    not_empty: Condvar,
    /// Wakes the threads that wait in [`LogBuffer::wait_until_lines_are_written`], after a write has ended.
    written: Condvar,
    target: Mutex<LogOutput>,
    as_json: AtomicBool,
    /// The last write failed, perhaps in the middle of a line.
    partial_line: AtomicBool,
    /// Counts the dropped lines.
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct LogBufferState {
    octets: Vec<u8>,
    dropped: u64,
    /// The writing thread runs. Then no other thread writes to the file, because a write may block.
    has_writer: bool,
    /// Number of writes that have begun. A write begins when its lines are removed from the buffer; `written` is the number of
    /// writes that have ended.
    taken: u64,
    written: u64,
    /// A thread waits in [`LogBuffer::wait_until_lines_are_written`].
    flush_requested: bool,
}

impl LogBuffer {
    /// Returns an empty buffer. Until [`set_has_log_thread`](LogBuffer::set_has_log_thread) is called, no thread writes the
    /// lines: they stay in the buffer until [`wait_until_lines_are_written`](LogBuffer::wait_until_lines_are_written) writes
    /// them.
    pub fn new(target: LogOutput, format: LogFormat, metrics: Arc<Metrics>) -> LogBuffer {
        LogBuffer {
            lines: Mutex::new(LogBufferState::default()),
            not_empty: Condvar::new(),
            written: Condvar::new(),
            target: Mutex::new(target),
            as_json: AtomicBool::new(format == LogFormat::Json),
            partial_line: AtomicBool::new(false),
            metrics,
        }
    }

    /// Returns the format of new lines.
    pub fn log_format(&self) -> LogFormat {
        match self.as_json.load(Ordering::Relaxed) {
            true => LogFormat::Json,
            false => LogFormat::Text,
        }
    }

    /// Records that a thread runs [`run`](LogBuffer::run).
    pub fn set_has_log_thread(&self) {
        self.lock_lines().has_writer = true;
    }

    /// Switches to another file. Earlier lines are written to the old file.
    ///
    /// # Errors
    /// The writing thread is blocked in a write to the old file.
    pub fn reopen(&self, target: LogOutput, format: LogFormat) -> io::Result<()> {
        self.wait_until_lines_are_written();
        let mut current = self
            .lock_output_within_timeout()
            .ok_or(io::ErrorKind::TimedOut)?;
        *current = target;
        self.partial_line.store(false, Ordering::Relaxed);
        self.as_json
            .store(format == LogFormat::Json, Ordering::Relaxed);
        Ok(())
    }

    /// Changes the owner and group of the log file. Does nothing if the log goes to stdout or stderr.
    ///
    /// # Errors
    /// The system call fails, or the owner of the log file is neither root nor `user`.
    pub fn chown_to(&self, user: Uid, group: Gid) -> io::Result<()> {
        match &*sync::lock(&self.target) {
            LogOutput::File(file) => secure_open::chown_to(file, user, group),
            LogOutput::Stdout | LogOutput::Stderr => Ok(()),
        }
    }

    /// Adds a line, which must end in LF. If the buffer is full, the line is dropped and counted.
    pub fn push(&self, line: &str) {
        let mut lines = self.lock_lines();
        if lines.octets.len() + line.len() > MAX_BUFFERED_OCTETS {
            lines.dropped += 1;
            self.metrics.log_lines_dropped.count(());
            return;
        }
        let was_empty = lines.octets.is_empty();
        lines.octets.extend_from_slice(line.as_bytes());
        drop(lines);
        if was_empty {
            self.not_empty.notify_one();
        }
    }

    /// Writes lines as they are added, and never returns. A write may block without a time limit if the reader of the output
    /// stalls. This is safe, because other threads wait for this thread for at most [`FLUSH_TIMEOUT`].
    pub fn run(&self) {
        loop {
            let lines = self.lock_lines();
            let ready = self
                .not_empty
                .wait_while(lines, |lines| lines.octets.is_empty());
            let lines = ready.unwrap_or_else(PoisonError::into_inner);
            let delayed = (self.not_empty)
                .wait_timeout_while(lines, WRITE_DELAY, |lines| !lines.flush_requested);
            drop(delayed.unwrap_or_else(PoisonError::into_inner).0);
            self.write_buffered_lines_to(&mut sync::lock(&self.target));
        }
    }

    /// Waits until all lines added so far are written, for at most [`FLUSH_TIMEOUT`]. If no writing thread runs, `flush` writes
    /// the lines without a time limit.
    pub fn wait_until_lines_are_written(&self) {
        let mut lines = self.lock_lines();
        if !lines.has_writer {
            drop(lines);
            self.write_buffered_lines_to(&mut sync::lock(&self.target));
            return;
        }
        lines.flush_requested = true;
        self.not_empty.notify_one();
        // The wait does not include lines that are added later.
        let last = lines.taken + u64::from(!lines.octets.is_empty());
        let is_pending = |lines: &mut LogBufferState| lines.written < last;
        let written = (self.written).wait_timeout_while(lines, FLUSH_TIMEOUT, is_pending);
        drop(written.unwrap_or_else(PoisonError::into_inner));
    }

    /// Locks `target`. Returns `None` if the writing thread still blocks in a write to the file after [`FLUSH_TIMEOUT`].
    fn lock_output_within_timeout(&self) -> Option<MutexGuard<'_, LogOutput>> {
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

    /// Takes all lines and writes them. The caller holds the lock of `target`, so lines are written in the order of the buffer.
    fn write_buffered_lines_to(&self, target: &mut LogOutput) {
        let (mut octets, dropped) = self.take_unwritten_lines();
        if dropped > 0 {
            let now = Timestamp::now();
            let line = match self.log_format() {
                LogFormat::Json => format!(
                    "{{\"time\":\"{now:.3}\",\"level\":\"warn\",\"event\":\"log_lines_dropped\",\"count\":\"{dropped}\"}}\n"
                ),
                LogFormat::Text => format!("{now:.3} warn - log_lines_dropped count={dropped}\n"),
            };
            octets.extend_from_slice(line.as_bytes());
        }
        if !octets.is_empty() {
            // The previous write failed, for example on a full disk, and may have written only the beginning of a line. A line
            // end separates that beginning from the next line.
            if self.partial_line.load(Ordering::Relaxed) {
                octets.insert(0, b'\n');
            }
            // A write error cannot be reported, because the log is the only place for reports. Mail is received nevertheless.
            self.partial_line
                .store(target.write(&octets).is_err(), Ordering::Relaxed);
        }
        self.lock_lines().written += 1;
        self.written.notify_all();
    }

    fn take_unwritten_lines(&self) -> (Vec<u8>, u64) {
        let mut lines = self.lock_lines();
        lines.taken += 1;
        lines.flush_requested = false;
        (mem::take(&mut lines.octets), mem::take(&mut lines.dropped))
    }

    fn lock_lines(&self) -> MutexGuard<'_, LogBufferState> {
        sync::lock(&self.lines)
    }
}

/// The output of the log.
pub enum LogOutput {
    Stdout,
    Stderr,
    File(File),
}

impl LogOutput {
    /// Opens `file` for appending. `/dev/stdout` and `/dev/stderr` mean these streams; an empty name means stderr.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: &Path) -> io::Result<LogOutput> {
        Ok(match file.to_str() {
            Some("/dev/stdout") => LogOutput::Stdout,
            Some("/dev/stderr" | "") => LogOutput::Stderr,
            _ => LogOutput::File(secure_open::open(
                file,
                OpenOptions::new().append(true).create(true).mode(LOG_MODE),
            )?),
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            LogOutput::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines).and_then(|()| stdout.flush())
            }
            LogOutput::Stderr => io::stderr().lock().write_all(lines),
            LogOutput::File(file) => file.write_all(lines),
        }
    }
}

/// Mode of a new log file, before the umask. Not all users may read it, because it holds addresses of clients and senders.
const LOG_MODE: u32 = 0o640;
/// How long the writing thread waits for further lines before a write, if no flush is requested.
const WRITE_DELAY: Duration = Duration::from_millis(50);
/// Maximum size of the unwritten lines in octets. A line that would exceed the limit is dropped and counted.
const MAX_BUFFERED_OCTETS: usize = 4 << 20;
/// Maximum time that [`LogBuffer::wait_until_lines_are_written`] waits for the writing thread, and that
/// [`LogBuffer::lock_output_within_timeout`] waits for the lock.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
