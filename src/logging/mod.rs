//! The log: one event, one line, in key=value text or JSON, written by a thread of its own.

mod format;
mod gathered;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use jiff::Timestamp;
use log::{LevelFilter, Log, Metadata, Record};
use nix::unistd::{Gid, Uid};

pub use self::format::{is_harmless, push_escaped};
use self::gathered::{Gathered, Target};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log of this process. Clones share it.
///
/// Lines are gathered for a moment and written together by a thread of their own: mail waits neither for a slow
/// disk nor for a reader of our output that has stopped reading.
#[derive(Clone)]
pub struct LogFile {
    gathered: Arc<Gathered>,
}

impl LogFile {
    /// Opens `file` for appending; `/dev/stdout` and `/dev/stderr` mean the streams themselves, empty means stderr.
    /// From now on lines are gathered; [`start_writing`](LogFile::start_writing) writes them.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(file: &Path, format: LogFormat) -> io::Result<LogFile> {
        let gathered = Arc::new(Gathered::new(Target::open(file)?, format));
        let logger = Logger(Arc::clone(&gathered));
        if log::set_boxed_logger(Box::new(logger)).is_ok() {
            log::set_max_level(LevelFilter::Info);
        }
        Ok(LogFile { gathered })
    }

    /// Starts the thread that writes. Separate, because no thread may exist before privileges are dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start_writing(&self) -> io::Result<()> {
        let gathered = Arc::clone(&self.gathered);
        let writer = thread::Builder::new().name("log".to_owned());
        writer.spawn(move || gathered.write_for_ever())?;
        self.gathered.has_writer();
        Ok(())
    }

    /// Goes on in `file`, opened anew: what logrotate asks for. Lines so far end in the old one.
    ///
    /// # Errors
    /// When the file cannot be opened; the old one is kept.
    pub fn reopen(&self, file: &Path, format: LogFormat) -> io::Result<()> {
        self.gathered.turn_to(Target::open(file)?, format)
    }

    /// Gives the file to the user we are about to become, so that the next start may append to it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hand_to(&self, user: Uid, group: Gid) -> io::Result<()> {
        self.gathered.hand_to(user, group)
    }
}

struct Logger(Arc<Gathered>);

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::with_capacity(USUAL_LINE_OCTETS);
        match self.0.format() {
            LogFormat::Text => format::write_text(&mut line, record, Timestamp::now()),
            LogFormat::Json => format::write_json(&mut line, record, Timestamp::now()),
        }
        line.push('\n');
        self.0.push(&line);
    }

    /// Has all lines so far written; gives up where the file stalls.
    fn flush(&self) {
        self.0.flush();
    }
}

/// Spares most lines a second allocation.
const USUAL_LINE_OCTETS: usize = 256;
