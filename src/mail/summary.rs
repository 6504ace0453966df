//! What the columns beside a mail say about it: subject, charset, content type, attachments.
//!
//! Reads the structure without decoding bodies, in time linear in the content: nesting, parts and field lengths each
//! have a ceiling, and what lies beyond one is simply not described. MIME is RFC 2045–2049, file names RFC 2183 and 2231.

use memchr::memmem;

use super::header::{self, Fields};
use super::parameters::Structured;
use super::words;

/// What a mail is about, as far as its columns tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Decoded to UTF-8 on one line; empty when there is none.
    pub subject: String,
    /// The charset of the text as its sender wrote it, `UTF-8` when none is named.
    pub charset: String,
    /// The top-level media type in lower case, `text/plain` when absent.
    pub content_type: String,
    /// Leaf parts that somebody would save to a file, in order, at most 4,096.
    pub attachments: Vec<Attachment>,
}

/// A part with a file name, or with disposition `attachment`, or that is not text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Decoded file name, empty when there is none.
    pub name: String,
    /// Media type in lower case.
    pub media_type: String,
    /// Octets behind base64 or quoted-printable.
    pub octets: usize,
}

impl Summary {
    /// Describes message content.
    pub fn of(content: &[u8]) -> Summary {
        let (fields, body) = header::split(content);
        let media = Media::of(&fields);
        let declared = media.charset.clone();
        let mut walk = Walk::default();
        let content_type = media.media_type.clone();
        walk.visit(&fields, media, body, 0);
        if !walk.text_seen && content_type.starts_with("text/") {
            // All there is has a file name, and is the text all the same.
            walk.charset.clone_from(&declared);
        }
        Summary {
            subject: fields
                .subject
                .map(|value| words::decode(value, declared.as_deref()))
                .unwrap_or_default(),
            charset: walk.charset.unwrap_or_else(|| "UTF-8".to_owned()),
            content_type,
            attachments: walk.attachments,
        }
    }
}

#[derive(Default)]
struct Walk {
    parts: usize,
    text_seen: bool,
    charset: Option<String>,
    attachments: Vec<Attachment>,
}

impl Walk {
    fn visit(&mut self, fields: &Fields, media: Media, body: &[u8], depth: usize) {
        if media.media_type.starts_with("multipart/") {
            if let Some(boundary) = &media.boundary
                && depth < MAX_DEPTH
            {
                for part in parts(body, boundary) {
                    let (fields, body) = header::split(part);
                    self.visit(&fields, Media::of(&fields), body, depth + 1);
                }
            }
            return;
        }
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return;
        }
        let is_text = media.media_type.starts_with("text/");
        let (disposition, filename) = disposition(fields);
        let name = filename.or(media.name);
        if disposition.eq_ignore_ascii_case("attachment") || name.is_some() || !is_text {
            let octets = decoded_octets(body, fields.transfer_encoding);
            self.attachments.push(Attachment {
                name: name.unwrap_or_default(),
                media_type: media.media_type,
                octets,
            });
        } else if !self.text_seen {
            self.text_seen = true;
            self.charset = media.charset;
        }
    }
}

/// What a Content-Type field says.
struct Media {
    media_type: String,
    charset: Option<String>,
    boundary: Option<Vec<u8>>,
    name: Option<String>,
}

impl Media {
    fn of(fields: &Fields) -> Media {
        let field = fields
            .content_type
            .map(Structured::parse)
            .unwrap_or_default();
        let media_type = field.value.to_lowercase();
        Media {
            media_type: if is_media_type(&media_type) {
                media_type
            } else {
                "text/plain".to_owned()
            },
            charset: field.text("charset"),
            boundary: field.octets("boundary"),
            name: field.text("name"),
        }
    }
}

fn is_media_type(text: &str) -> bool {
    let is_pair = |(kind, subtype): (&str, &str)| !kind.is_empty() && !subtype.is_empty();
    text.split_once('/').is_some_and(is_pair) && !text.contains(char::is_control)
}

fn disposition(fields: &Fields) -> (String, Option<String>) {
    let field = fields
        .disposition
        .map(Structured::parse)
        .unwrap_or_default();
    let filename = field.text("filename");
    (field.value, filename)
}

/// The parts between boundary lines; the last one may lack its end (RFC 2046 §5.1.1).
#[expect(
    clippy::indexing_slicing,
    reason = "a boundary line begins and ends within the body"
)]
fn parts<'a>(body: &'a [u8], boundary: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let delimiter = [b"--", boundary].concat();
    let mut next = find_boundary(body, &delimiter, 0);
    std::iter::from_fn(move || {
        let opening = next.take().filter(|line| !line.closes)?;
        let start = opening.behind;
        next = find_boundary(body, &delimiter, start);
        let end = next.as_ref().map_or(body.len(), |line| line.start);
        Some(without_line_end(&body[start..end.max(start)]))
    })
}

struct BoundaryLine {
    start: usize,
    behind: usize,
    closes: bool,
}

#[expect(
    clippy::indexing_slicing,
    reason = "places that were found in the body, or its end"
)]
fn find_boundary(body: &[u8], delimiter: &[u8], from: usize) -> Option<BoundaryLine> {
    let mut from = from;
    while let Some(start) = memmem::find(&body[from..], delimiter).map(|found| from + found) {
        from = start + delimiter.len();
        if start > 0 && body[start - 1] != b'\n' {
            continue;
        }
        let line_end = memchr::memchr(b'\n', &body[from..]).map_or(body.len(), |at| from + at);
        let rest = &body[from..line_end];
        let closes = rest.starts_with(b"--");
        if closes || rest.iter().all(u8::is_ascii_whitespace) {
            return Some(BoundaryLine {
                start,
                behind: (line_end + 1).min(body.len()),
                closes,
            });
        }
    }
    None
}

/// The line end before a boundary belongs to the boundary.
fn without_line_end(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

/// How many octets a body holds once its transfer encoding is undone, counted without undoing it.
fn decoded_octets(body: &[u8], transfer_encoding: Option<&[u8]>) -> usize {
    let encoding = transfer_encoding.unwrap_or_default().trim_ascii();
    if encoding.eq_ignore_ascii_case(b"base64") {
        let digits = body
            .iter()
            .take_while(|octet| **octet != b'=')
            .filter(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/'))
            .count();
        return digits / 4 * 3 + (digits % 4).saturating_sub(1);
    }
    if encoding.eq_ignore_ascii_case(b"quoted-printable") {
        return quoted_printable_octets(body);
    }
    body.len()
}

fn quoted_printable_octets(body: &[u8]) -> usize {
    let mut octets = 0;
    let mut rest = body;
    while let Some((first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'=', [b'\r', b'\n', behind @ ..] | [b'\n', behind @ ..]) => behind,
            (b'=', [high, low, behind @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                octets += 1;
                behind
            }
            _ => {
                octets += 1;
                behind
            }
        };
    }
    octets
}

/// Real mail nests three or four deep; each level reads its region once more.
const MAX_DEPTH: usize = 10;
/// More parts than any list of attachments shows.
const MAX_PARTS: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_mail_without_fields_is_plain_text() {
        let summary = Summary::of(b"");
        assert_eq!(summary.content_type, "text/plain");
        assert_eq!(summary.charset, "UTF-8");
        assert_eq!(summary.subject, "");
        assert!(summary.attachments.is_empty());
    }

    #[test]
    fn a_media_type_that_is_none_counts_as_absent() {
        for (field, want) in [
            ("TEXT/Html; x=y", "text/html"),
            ("text", "text/plain"),
            ("/html", "text/plain"),
            ("\u{1d}multipart/mixed", "text/plain"),
            ("a/b\0", "text/plain"),
            ("a/\u{85}", "text/plain"),
        ] {
            let summary = Summary::of(format!("Content-Type: {field}\r\n\r\n").as_bytes());
            assert_eq!(summary.content_type, want, "{field:?}");
        }
    }

    #[test]
    fn a_text_with_a_file_name_names_the_charset_where_it_is_all_there_is() {
        let named = "Content-Type: text/plain; charset=koi8-r; name=\"a.txt\"\r\n\r\n";
        let summary = Summary::of(named.as_bytes());
        assert_eq!(summary.charset, "koi8-r");
        assert_eq!(summary.attachments.len(), 1);
    }

    #[test]
    fn hostile_structure_costs_little_time() {
        let levels: String = (0..800)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
            .collect();
        let same: String =
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n".repeat(20_000);
        let fields = "X-Field: value\r\n".repeat(60_000);
        let words = format!("Subject: {}\r\n\r\n", "=?utf-8?Q?a?=\r\n ".repeat(100_000));
        let openings = format!("Subject: {}\r\n\r\n", "=?".repeat(500_000));
        let attachments = format!(
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n{}",
            "--b\r\nContent-Type: a/b; name=\"x\"\r\n\r\n\r\n".repeat(20_000)
        );
        for content in [levels, same, fields, words, openings, attachments] {
            let started = Instant::now();
            let summary = Summary::of(content.as_bytes());
            assert!(
                started.elapsed() < Duration::from_secs(1),
                "{}",
                &content[..40]
            );
            assert!(summary.attachments.len() <= MAX_PARTS);
        }
    }

    #[test]
    fn octets_are_counted_behind_their_encoding() {
        for (encoding, body, want) in [
            ("base64", "aGVsbG8=\r\n", 5),
            ("BASE64", "aGVs\r\nbG8h", 6),
            ("base64", "", 0),
            ("quoted-printable", "a=3Db=\r\nc\r\n", 6),
            ("quoted-printable", "=ZZ", 3),
            ("8bit", "a\r\n", 3),
        ] {
            let counted = decoded_octets(body.as_bytes(), Some(encoding.as_bytes()));
            assert_eq!(counted, want, "{encoding} {body:?}");
        }
    }
}
