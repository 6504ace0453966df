//! The log: one event, one line, in key=value text or JSON.
//!
//! Shape of a text line: `time level session event key=value …`; the same names in JSON. Values with anything but plain
//! characters are quoted as JSON strings, so text that a client chose can neither begin a line nor forge a key.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log to `file`; `/dev/stdout` and `/dev/stderr` mean the streams themselves, empty means stderr.
///
/// # Errors
/// When the file cannot be opened for appending.
pub fn start(file: &Path, format: LogFormat) -> io::Result<()> {
    let target = Target::open(file)?;
    let logger = Box::new(Logger {
        format,
        target: Mutex::new(target),
    });
    if log::set_boxed_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    Ok(())
}

struct Logger {
    format: LogFormat,
    target: Mutex<Target>,
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
            _ => Target::File(OpenOptions::new().append(true).create(true).open(file)?),
        })
    }

    fn write_line(&mut self, line: &[u8]) {
        // A full disk or a closed pipe must not stop mail, and there is nobody left to tell.
        let _ = match self {
            Target::Stdout => io::stdout().lock().write_all(line),
            Target::Stderr => io::stderr().lock().write_all(line),
            Target::File(file) => file.write_all(line),
        };
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = match self.format {
            LogFormat::Text => text_line(record, Timestamp::now()),
            LogFormat::Json => json_line(record, Timestamp::now()),
        };
        line.push('\n');
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        target.write_line(line.as_bytes());
    }

    fn flush(&self) {}
}

/// A record's event and its pairs: our own lines name their event, those of libraries are prose.
struct Event {
    session: Option<String>,
    name: String,
    pairs: Vec<(String, String)>,
}

impl Event {
    fn of(record: &Record) -> Event {
        let mut pairs = Pairs(Vec::new());
        // The visitor below has no errors of its own.
        let _ = record.key_values().visit(&mut pairs);
        let mut pairs = pairs.0;
        let at = pairs.iter().position(|(key, _)| key == "session");
        let session = at.map(|at| pairs.remove(at).1);
        let message = record.args().to_string();
        if record.target().starts_with("goguerrilla") {
            return Event {
                session,
                name: message,
                pairs,
            };
        }
        pairs.push(("target".to_owned(), record.target().to_owned()));
        pairs.push(("message".to_owned(), cut(&message)));
        Event {
            session,
            name: "library".to_owned(),
            pairs,
        }
    }
}

struct Pairs(Vec<(String, String)>);

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        self.0.push((key.to_string(), cut(&value.to_string())));
        Ok(())
    }
}

fn text_line(record: &Record, now: Timestamp) -> String {
    let event = Event::of(record);
    let session = event.session.as_deref().unwrap_or("-");
    let mut line = format!(
        "{now:.3} {} {session} {}",
        level(record.level()),
        event.name
    );
    for (key, value) in &event.pairs {
        let _ = write!(line, " {key}=");
        if is_plain(value) {
            line.push_str(value);
        } else {
            push_quoted(&mut line, value);
        }
    }
    line
}

fn json_line(record: &Record, now: Timestamp) -> String {
    let event = Event::of(record);
    let mut line = format!(
        "{{\"time\":\"{now:.3}\",\"level\":\"{}\"",
        level(record.level())
    );
    let first = [
        ("session", event.session.as_deref()),
        ("event", Some(&event.name)),
    ];
    let first = first
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    let pairs = event
        .pairs
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in first.chain(pairs) {
        let _ = write!(line, ",\"{key}\":");
        push_quoted(&mut line, value);
    }
    line.push('}');
    line
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

fn cut(value: &str) -> String {
    match value.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
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
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(line, "\\u{unit:04x}");
                }
            }
        }
    }
    line.push('"');
}

/// Whether a character shows as itself and leaves the line as it is.
pub fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What one value may take of a line: an address with room, and most reasons.
const MAX_VALUE_CHARS: usize = 400;

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
        let now = Timestamp::UNIX_EPOCH;
        (text_line(&record, now), json_line(&record, now))
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
