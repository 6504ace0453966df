//! The log: one event per line, as key=value text or JSON. A dedicated thread writes the lines.

mod format;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::unistd::{Gid, Uid};

pub use self::format::{is_printable, push_json_unicode_escape};
use self::writer::{LogBuffer, LogOutput};
use crate::metrics::Metrics;

/// Format of the log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, session and event, then pairs `key=value`.
    Text,
    /// One JSON object per line.
    Json,
}

/// The log of this process. Clones share one buffer and one output.
///
/// A dedicated thread writes the lines in groups, so that mail never waits for a slow disk or for a reader that has
/// stopped reading the output.
#[derive(Clone)]
pub struct LogFile {
    buffer: Arc<LogBuffer>,
}

impl LogFile {
    /// Opens `file` for appending. `/dev/stdout` and `/dev/stderr` mean these streams; an empty name means stderr.
    /// Lines are buffered until [`start_log_writer`](LogFile::start_log_writer). Dropped lines are counted in `metrics`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: &Path, format: LogFormat, metrics: &Arc<Metrics>) -> io::Result<LogFile> {
        let buffer = Arc::new(LogBuffer::new(
            LogOutput::open(file)?,
            format,
            Arc::clone(metrics),
        ));
        let logger = Logger(Arc::clone(&buffer));
        if log::set_boxed_logger(Box::new(logger)).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
        Ok(LogFile { buffer })
    }

    /// Starts the writing thread. [`open`](LogFile::open) does not start it, because no thread may exist before privileges are
    /// dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_log_writer(&self) -> io::Result<()> {
        let buffer = Arc::clone(&self.buffer);
        let writer = thread::Builder::new().name("log".to_owned());
        writer.spawn(move || buffer.run())?;
        self.buffer.set_has_log_thread();
        Ok(())
    }

    /// Opens `file` again and switches to it, for example after logrotate renamed the old file. Earlier lines are written to
    /// the old file.
    ///
    /// # Errors
    /// The file cannot be opened, or a write to the old file blocks. The old file stays in use.
    pub fn reopen(&self, file: &Path, format: LogFormat) -> io::Result<()> {
        self.buffer.reopen(LogOutput::open(file)?, format)
    }

    /// Changes the owner of the log file to the user that the server will run as, so that a later start can append to the file.
    ///
    /// # Errors
    /// The system call fails, or the owner of the log file is neither root nor `user`.
    pub fn chown_to(&self, user: Uid, group: Gid) -> io::Result<()> {
        self.buffer.chown_to(user, group)
    }
}

struct Logger(Arc<LogBuffer>);

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        // What rustls warns of is chosen by clients; the reason of each failed handshake is logged as `tls_failed`.
        let is_of_rustls = metadata.target().starts_with("rustls");
        metadata.level() <= log::max_level() && (!is_of_rustls || metadata.level() == Level::Error)
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::with_capacity(LINE_CAPACITY);
        match self.0.log_format() {
            LogFormat::Text => format::append_log_line_as_text(&mut line, record, Timestamp::now()),
            LogFormat::Json => format::append_log_line_as_json(&mut line, record, Timestamp::now()),
        }
        line.push('\n');
        self.0.push(&line);
    }

    /// Waits until all buffered lines are written, for at most 2 seconds if the writing thread runs.
    fn flush(&self) {
        self.0.wait_until_lines_are_written();
    }
}

/// Initial capacity of a line in octets. Most lines need no second allocation.
const LINE_CAPACITY: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_cannot_cause_a_warning_of_rustls() {
        log::set_max_level(LevelFilter::Info);
        let output = LogOutput::open(Path::new("/dev/null")).unwrap();
        let metrics = Arc::new(Metrics::default());
        let logger = Logger(Arc::new(LogBuffer::new(output, LogFormat::Text, metrics)));
        let enabled = |target, level| {
            let metadata = Metadata::builder().target(target).level(level).build();
            logger.enabled(&metadata)
        };
        assert!(!enabled("rustls::check", Level::Warn));
        assert!(enabled("rustls::check", Level::Error));
        assert!(enabled("goguerrilla::net::tls", Level::Warn));
        assert!(!enabled("goguerrilla::net::tls", Level::Debug));
    }
}
