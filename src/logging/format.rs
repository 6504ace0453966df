//! Formats each event as one line of key=value text or JSON.
//!
//! In text, a value is quoted as a JSON string if it is empty or contains a space, `=`, a quote, a backslash or anything
//! but printable ASCII. A client therefore cannot start a new line or forge a key with the text that it sends.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};

/// Appends `time level session event key=value …`. For a message of a library, the event is `library` and the value of the
/// key `message` is the text.
pub fn append_log_line_as_text(line: &mut String, record: &Record, now: Timestamp) {
    let session = record.key_values().get(Key::from_str("session"));
    let _ = write!(line, "{now:.3} {} ", level_name(record.level()));
    match session {
        Some(session) => drop(write!(line, "{session} ")),
        None => line.push_str("- "),
    }
    let put = |line: &mut String, key: &str, value: &str| {
        line.push(' ');
        line.push_str(key);
        line.push('=');
        if log_value_needs_no_quotes(value) {
            line.push_str(value);
        } else {
            push_quoted(line, value);
        }
    };
    append_event_and_pairs(line, record, |line, event| line.push_str(event), put);
}

/// Appends the same data as [`append_log_line_as_text`], as one JSON object; all values are strings.
pub fn append_log_line_as_json(line: &mut String, record: &Record, now: Timestamp) {
    let _ = write!(
        line,
        "{{\"time\":\"{now:.3}\",\"level\":\"{}\"",
        level_name(record.level())
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
    append_event_and_pairs(line, record, |line, event| put(line, "event", event), put);
    line.push('}');
}

fn append_event_and_pairs(
    line: &mut String,
    record: &Record,
    put_event: impl Fn(&mut String, &str),
    put: impl Fn(&mut String, &str, &str),
) {
    let is_own_event = record.target().starts_with("goguerrilla");
    match record.args().as_str() {
        Some(event) if is_own_event => put_event(line, event),
        _ if is_own_event => put_event(line, &record.args().to_string()),
        _ => {
            put_event(line, "library");
            put(line, "target", record.target());
            put(
                line,
                "message",
                truncate_log_value(&record.args().to_string()).as_ref(),
            );
        }
    }
    let mut pairs = LogKeyValueWriter {
        line,
        put,
        value: String::new(),
    };
    // `LogKeyValueWriter::visit_pair` never returns an error.
    let _ = record.key_values().visit(&mut pairs);
}

struct LogKeyValueWriter<'l, P> {
    line: &'l mut String,
    put: P,
    value: String,
}

impl<'kvs, P: Fn(&mut String, &str, &str)> VisitSource<'kvs> for LogKeyValueWriter<'_, P> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        if key.as_str() != "session" {
            self.value.clear();
            let _ = write!(self.value, "{value}");
            (self.put)(
                self.line,
                key.as_str(),
                truncate_log_value(&self.value).as_ref(),
            );
        }
        Ok(())
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

fn truncate_log_value(value: &str) -> Cow<'_, str> {
    let end = value.char_indices().nth(MAX_VALUE_CHARS);
    match end.and_then(|(end, _)| value.split_at_checked(end)) {
        Some((beginning, _)) => format!("{beginning}…").into(),
        None => value.into(),
    }
}

fn log_value_needs_no_quotes(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|octet| octet.is_ascii_graphic() && !matches!(octet, b'"' | b'\\' | b'='))
}

/// Appends a JSON string. Escapes characters that are not printable or that change the writing direction.
fn push_quoted(line: &mut String, value: &str) {
    line.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                line.push('\\');
                line.push(c);
            }
            c if is_printable(c) => line.push(c),
            c => push_json_unicode_escape(line, c),
        }
    }
    line.push('"');
}

/// Appends a character as a JSON escape.
pub fn push_json_unicode_escape(text: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(text, "\\u{unit:04x}");
    }
}

/// Returns whether a character is printable and does not change the writing direction.
pub fn is_printable(c: char) -> bool {
    let is_invisible_or_turns = matches!(
        c,
        '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    );
    !c.is_control() && !is_invisible_or_turns
}

/// Maximum length of a value in characters; longer values are truncated. Enough for an address and most error texts.
const MAX_VALUE_CHARS: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    fn text_and_json_line(pairs: &[(&str, &str)]) -> (String, String) {
        let record = Record::builder()
            .level(Level::Info)
            .target("goguerrilla::x")
            .args(format_args!("saved"))
            .key_values(&pairs)
            .build();
        let (mut text, mut json) = (String::new(), String::new());
        append_log_line_as_text(&mut text, &record, Timestamp::UNIX_EPOCH);
        append_log_line_as_json(&mut json, &record, Timestamp::UNIX_EPOCH);
        (text, json)
    }

    #[test]
    fn event_is_one_line_in_text_and_json_format() {
        let (text, json) =
            text_and_json_line(&[("session", "7f3a"), ("from", "a@b"), ("line", "x y")]);
        assert_eq!(
            text,
            "1970-01-01T00:00:00.000Z info 7f3a saved from=a@b line=\"x y\""
        );
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["event"], "saved");
        assert_eq!(json["line"], "x y");
    }

    #[test]
    fn client_chosen_value_cannot_forge_a_log_line() {
        let hostile = "a\r\nb \u{1b}[2J \u{202e} \u{85} \u{e0041} \"=\\ 😀";
        let (text, json) = text_and_json_line(&[("helo", hostile)]);
        assert!(text.chars().all(is_printable), "{text}");
        let quoted = text.split_once("helo=").unwrap().1;
        assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), hostile);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["helo"], hostile);
    }

    #[test]
    fn long_log_values_are_truncated() {
        let (text, _) = text_and_json_line(&[("helo", &"ü".repeat(5_000))]);
        assert!(text.len() < 1_000);
    }
}
