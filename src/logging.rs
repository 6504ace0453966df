//! The log: one event, one line, in key=value text or JSON.
//!
//! Shape of a text line: `time level session event key=value …`; the same names in JSON. Values with anything but plain
//! characters are quoted as JSON strings, so text that a client chose can neither begin a line nor forge a key.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::unistd::{Gid, Uid};

use crate::handed_over;
use crate::locks;
use crate::metrics;

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
        let gathered = Arc::new(Gathered {
            lines: Mutex::new(Lines::default()),
            some: Condvar::new(),
            written: Condvar::new(),
            target: Mutex::new(Target::open(file)?),
            as_json: AtomicBool::new(format == LogFormat::Json),
            torn: AtomicBool::new(false),
        });
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
        self.gathered.lock_lines().have_writer = true;
        Ok(())
    }

    /// Goes on in `file`, opened anew: what logrotate asks for. Lines so far end in the old one.
    ///
    /// # Errors
    /// When the file cannot be opened; the old one is kept.
    pub fn reopen(&self, file: &Path, format: LogFormat) -> io::Result<()> {
        let target = Target::open(file)?;
        self.gathered.flush();
        let mut current = self.gathered.target().ok_or(io::ErrorKind::TimedOut)?;
        *current = target;
        self.gathered.torn.store(false, Ordering::Relaxed);
        self.gathered
            .as_json
            .store(format == LogFormat::Json, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the file to the user we are about to become, so that the next start may append to it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn hand_to(&self, user: Uid, group: Gid) -> io::Result<()> {
        let target = locks::lock(&self.gathered.target);
        match &*target {
            Target::File(file) => handed_over::give(file, user, group),
            Target::Stdout | Target::Stderr => Ok(()),
        }
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
        if self.0.as_json.load(Ordering::Relaxed) {
            write_json(&mut line, record, Timestamp::now());
        } else {
            write_text(&mut line, record, Timestamp::now());
        }
        line.push('\n');
        self.0.push(&line);
    }

    /// Has all lines so far written; gives up where the file stalls.
    fn flush(&self) {
        self.0.flush();
    }
}

/// Lines on their way to the file.
struct Gathered {
    lines: Mutex<Lines>,
    /// There are lines, or somebody waits for them to be written.
    some: Condvar,
    /// All lines so far have been written.
    written: Condvar,
    target: Mutex<Target>,
    as_json: AtomicBool,
    /// The last write failed, perhaps in the middle of a line.
    torn: AtomicBool,
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
    are_urgent: bool,
}

impl Gathered {
    fn push(&self, line: &str) {
        let mut lines = self.lock_lines();
        if lines.octets.len() + line.len() > MAX_GATHERED_OCTETS {
            lines.dropped += 1;
            metrics::LOG_LINES_LOST.count(());
            return;
        }
        let was_empty = lines.octets.is_empty();
        lines.octets.extend_from_slice(line.as_bytes());
        drop(lines);
        if was_empty {
            self.some.notify_one();
        }
    }

    /// The one wait without a deadline, for lines and for whoever reads them: nobody waits for this thread for long.
    fn write_for_ever(&self) {
        loop {
            let lines = self.lock_lines();
            let some = self.some.wait_while(lines, |lines| lines.octets.is_empty());
            let lines = some.unwrap_or_else(PoisonError::into_inner);
            let gathered =
                (self.some).wait_timeout_while(lines, GATHERING, |lines| !lines.are_urgent);
            drop(gathered.unwrap_or_else(PoisonError::into_inner).0);
            self.write_to(&mut locks::lock(&self.target));
        }
    }

    /// Waits until all lines so far are written, but not for long.
    fn flush(&self) {
        let mut lines = self.lock_lines();
        if !lines.have_writer {
            drop(lines);
            self.write_to(&mut locks::lock(&self.target));
            return;
        }
        lines.are_urgent = true;
        self.some.notify_one();
        // What comes after them is not waited for.
        let last = lines.taken + u64::from(!lines.octets.is_empty());
        let are_left = |lines: &mut Lines| lines.written < last;
        let written = (self.written).wait_timeout_while(lines, FLUSH_PATIENCE, are_left);
        drop(written.unwrap_or_else(PoisonError::into_inner));
    }

    /// The file, unless whoever is writing to it is stuck there.
    fn target(&self) -> Option<MutexGuard<'_, Target>> {
        let give_up_at = Instant::now() + FLUSH_PATIENCE;
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
            let line = match self.as_json.load(Ordering::Relaxed) {
                true => format!(
                    "{{\"time\":\"{now:.3}\",\"level\":\"warn\",\"event\":\"log_lines_lost\",\"count\":\"{dropped}\"}}\n"
                ),
                false => format!("{now:.3} warn - log_lines_lost count={dropped}\n"),
            };
            octets.extend_from_slice(line.as_bytes());
        }
        if !octets.is_empty() {
            // Where a full disk cut a line short, the next one begins on a line of its own.
            if self.torn.load(Ordering::Relaxed) {
                octets.insert(0, b'\n');
            }
            // There is nobody left to tell of a full disk or a closed pipe, and mail goes on.
            self.torn
                .store(target.write(&octets).is_err(), Ordering::Relaxed);
        }
        self.lock_lines().written += 1;
        self.written.notify_all();
    }

    fn take_lines(&self) -> (Vec<u8>, u64) {
        let mut lines = self.lock_lines();
        lines.taken += 1;
        lines.are_urgent = false;
        (mem::take(&mut lines.octets), mem::take(&mut lines.dropped))
    }

    fn lock_lines(&self) -> MutexGuard<'_, Lines> {
        locks::lock(&self.lines)
    }
}

enum Target {
    Stdout,
    Stderr,
    File(File),
}

impl Target {
    fn open(file: &Path) -> io::Result<Target> {
        Ok(match file.to_str() {
            Some("/dev/stdout") => Target::Stdout,
            Some("/dev/stderr" | "") => Target::Stderr,
            _ => Target::File(handed_over::open(
                file,
                OpenOptions::new().append(true).create(true),
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

/// `time level session event key=value …`; prose of libraries becomes a value.
fn write_text(line: &mut String, record: &Record, now: Timestamp) {
    let session = record.key_values().get(Key::from_str("session"));
    let _ = write!(line, "{now:.3} {} ", level(record.level()));
    match session {
        Some(session) => drop(write!(line, "{session} ")),
        None => line.push_str("- "),
    }
    let put = |line: &mut String, key: &str, value: &str| {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        if is_plain(value) {
            line.push_str(value);
        } else {
            push_quoted(line, value);
        }
    };
    write_event(line, record, |line, event| line.push_str(event), put);
}

/// The same names as one JSON object; all values are strings.
fn write_json(line: &mut String, record: &Record, now: Timestamp) {
    let _ = write!(
        line,
        "{{\"time\":\"{now:.3}\",\"level\":\"{}\"",
        level(record.level())
    );
    let put = |line: &mut String, key: &str, value: &str| {
        line.push_str(",\"");
        line.push_str(key);
        line.push_str("\":");
        push_quoted(line, value);
    };
    if let Some(session) = record.key_values().get(Key::from_str("session")) {
        put(line, "session", &session.to_string());
    }
    write_event(line, record, |line, event| put(line, "event", event), put);
    line.push('}');
}

fn write_event(
    line: &mut String,
    record: &Record,
    put_event: impl Fn(&mut String, &str),
    put: impl Fn(&mut String, &str, &str),
) {
    let is_ours = record.target().starts_with("goguerrilla");
    match record.args().as_str() {
        Some(event) if is_ours => put_event(line, event),
        _ if is_ours => put_event(line, &record.args().to_string()),
        _ => {
            put_event(line, "library");
            put(line, "target", record.target());
            put(line, "message", cut(&record.args().to_string()).as_ref());
        }
    }
    let mut pairs = Pairs {
        line,
        put,
        value: String::new(),
    };
    // The visitor has no errors of its own.
    let _ = record.key_values().visit(&mut pairs);
}

struct Pairs<'l, P> {
    line: &'l mut String,
    put: P,
    value: String,
}

impl<'kvs, P: Fn(&mut String, &str, &str)> VisitSource<'kvs> for Pairs<'_, P> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if key.as_str() != "session" {
            self.value.clear();
            let _ = write!(self.value, "{value}");
            (self.put)(self.line, key.as_str(), cut(&self.value).as_ref());
        }
        Ok(())
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn cut(value: &str) -> Cow<'_, str> {
    let end = value.char_indices().nth(MAX_VALUE_CHARS);
    match end.and_then(|(end, _)| value.split_at_checked(end)) {
        Some((beginning, _)) => format!("{beginning}…").into(),
        None => value.into(),
    }
}

fn is_plain(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'"' | b'\\' | b'='))
}

/// A JSON string of visible characters: what is none, and what turns the direction of writing, is escaped.
fn push_quoted(line: &mut String, value: &str) {
    line.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                line.push('\\');
                line.push(c);
            }
            c if is_harmless(c) => line.push(c),
            c => push_escaped(line, c),
        }
    }
    line.push('"');
}

/// A character as JSON escapes it.
pub fn push_escaped(text: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(text, "\\u{unit:04x}");
    }
}

/// Whether a character shows as itself and leaves the line as it is.
pub fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What one value may take of a line: an address with room, and most reasons.
const MAX_VALUE_CHARS: usize = 400;
/// Spares most lines a second allocation.
const USUAL_LINE_OCTETS: usize = 256;
/// How long lines wait for company.
const GATHERING: Duration = Duration::from_millis(50);
/// Lines that wait while the file or its reader stalls; beyond it they are dropped and counted.
const MAX_GATHERED_OCTETS: usize = 4 << 20;
/// How long the last lines of all may take to be written.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pairs: &[(&str, &str)]) -> (String, String) {
        let record = Record::builder()
            .level(Level::Info)
            .target("goguerrilla::x")
            .args(format_args!("saved"))
            .key_values(&pairs)
            .build();
        let (mut text, mut json) = (String::new(), String::new());
        write_text(&mut text, &record, Timestamp::UNIX_EPOCH);
        write_json(&mut json, &record, Timestamp::UNIX_EPOCH);
        (text, json)
    }

    #[test]
    fn one_event_one_line_in_both_formats() {
        let (text, json) = lines(&[("session", "7f3a"), ("from", "a@b"), ("line", "x y")]);
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z info 7f3a saved from=a@b line=\"x y\""
        );
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["event"], "saved");
        assert_eq!(json["line"], "x y");
    }

    #[test]
    fn what_a_client_chose_cannot_forge_a_line() {
        let hostile = "a\r\nb \u{1b}[2J \u{202e} \u{85} \"=\\ 😀";
        let (text, json) = lines(&[("helo", hostile)]);
        assert!(text.chars().all(is_harmless), "{text}");
        let quoted = text.split_once("helo=").unwrap().1;
        assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), hostile);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["helo"], hostile);
    }

    #[test]
    fn long_values_are_cut() {
        let (text, _) = lines(&[("helo", &"ü".repeat(5_000))]);
        assert!(text.len() < 1_000);
    }
}
