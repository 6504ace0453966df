//! What the columns beside a mail say about it: subject, charset, content type, attachments.
//!
//! Reads the structure without decoding bodies, in time linear in the content: nesting, parts and field lengths each
//! have a ceiling, and what lies beyond one is simply not described. MIME is RFC 2045–2049, file names RFC 2183 and 2231.

use super::charset::Charset;
use super::header::{self, Fields};
use super::media::Media;
use super::parameter_value::Value;
use super::parameters::ParameterizedField;
use super::{encoded_word, multipart, transfer_encoding};

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
        let media = Media::of(fields.content_type, "text/plain");
        let declared = media.charset.clone();
        let declared_of_raw_text = media.charset_of_raw_text();
        let is_text = media.is_text();
        let mut walk = Walk::default();
        let content_type = media.media_type.clone();
        walk.visit(&fields, media, body, 0);
        if !walk.text_seen && is_text {
            // The only part has a file name, and is the text all the same.
            walk.charset = declared;
        }
        let named = walk
            .charset_of_raw_text
            .or(declared_of_raw_text)
            .or_else(|| walk.leaves.iter().find_map(|leaf| leaf.charset));
        Summary {
            subject: fields
                .subject
                .map(|value| encoded_word::decode(value, named))
                .unwrap_or_default(),
            charset: walk.charset.unwrap_or_else(|| "UTF-8".to_owned()),
            content_type,
            attachments: walk
                .leaves
                .into_iter()
                .map(|leaf| leaf.describe(named))
                .collect(),
        }
    }
}

#[derive(Default)]
struct Walk {
    parts: usize,
    text_seen: bool,
    /// The charset of the first text.
    charset: Option<String>,
    /// The first charset of a text that raw 8-bit octets of a field may be in.
    charset_of_raw_text: Option<Charset>,
    leaves: Vec<Leaf>,
}

/// An attachment. Raw octets of its name may be in the charset of a text that comes later.
struct Leaf {
    name: Option<Value>,
    charset: Option<Charset>,
    media_type: String,
    octets: usize,
}

impl Leaf {
    fn describe(self, named: Option<Charset>) -> Attachment {
        let name = self.name.map(|name| name.decode(self.charset.or(named)));
        Attachment {
            name: name.unwrap_or_default(),
            media_type: self.media_type,
            octets: self.octets,
        }
    }
}

impl Walk {
    fn visit(&mut self, fields: &Fields, media: Media, body: &[u8], depth: usize) {
        if media.is_multipart() {
            if let Some(boundary) = &media.boundary
                && depth < MAX_DEPTH
            {
                for part in multipart::parts(body, boundary) {
                    let (fields, body) = header::split(part);
                    let part = Media::of(fields.content_type, media.default_of_parts());
                    self.visit(&fields, part, body, depth + 1);
                }
            }
            return;
        }
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return;
        }
        let disposition = fields
            .disposition
            .map(ParameterizedField::parse)
            .unwrap_or_default();
        let is_text = media.is_text();
        let charset = media.charset_of_raw_text();
        let name = disposition.file_name("filename").or(media.name);
        if is_attachment(&disposition.value) || name.is_some() || !is_text {
            self.leaves.push(Leaf {
                name,
                charset,
                media_type: media.media_type,
                octets: transfer_encoding::decoded_octets(body, fields.transfer_encoding),
            });
            return;
        }
        self.charset_of_raw_text = self.charset_of_raw_text.or(charset);
        if !self.text_seen {
            self.text_seen = true;
            self.charset = media.charset;
        }
    }
}

/// Returns whether a Content-Disposition field has this word in front, perhaps in quotes.
fn is_attachment(disposition: &[u8]) -> bool {
    let word = disposition.trim_ascii_start();
    let word = word.strip_prefix(b"\"").unwrap_or(word);
    let mut words = word.split(|octet| !octet.is_ascii_alphanumeric() && *octet != b'-');
    words
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(b"attachment"))
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
    fn mail_without_header_fields_is_summarized_as_text_plain() {
        let summary = Summary::of(b"");
        assert_eq!(summary.content_type, "text/plain");
        assert_eq!(summary.charset, "UTF-8");
        assert_eq!(summary.subject, "");
        assert!(summary.attachments.is_empty());
    }

    #[test]
    fn single_text_attachment_provides_the_charset() {
        let named = "Content-Type: text/plain; charset=koi8-r; name=\"a.txt\"\r\n\r\n";
        let summary = Summary::of(named.as_bytes());
        assert_eq!(summary.charset, "koi8-r");
        assert_eq!(summary.attachments.len(), 1);
    }

    #[test]
    fn a_file_name_of_nothing_is_none() {
        for name in ["", " ", "=?utf-8?Q??=", "=?utf-8?Q??= \0"] {
            let content = format!(
                "Content-Type: a/b; name=x\r\nContent-Disposition: inline; filename=\"{name}\"\r\n\r\n"
            );
            let summary = Summary::of(content.as_bytes());
            assert_eq!(summary.attachments[0].name, "x", "{name:?}");
            let content = format!("Content-Type: text/plain; name=\"{name}\"\r\n\r\n");
            let summary = Summary::of(content.as_bytes());
            assert!(summary.attachments.is_empty(), "{name:?}");
        }
    }

    #[test]
    fn hostile_mime_structures_are_summarized_in_under_a_second() {
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
        let names = |name: &str| {
            let part = format!("--b\r\nContent-Type: a/b; {}\r\n\r\n", name.repeat(1_600));
            let parts = part.repeat(1_000_000 / part.len());
            format!("Content-Type: multipart/digest; boundary=b\r\n\r\n{parts}")
        };
        let hyphens = format!(
            "Content-Type: multipart/mixed; boundary=\"-\"\r\n\r\n{}{}",
            "-".repeat(500_000),
            "\r\n----".repeat(80_000)
        );
        let shifts = format!("Subject: {}\r\n\r\n", "\u{1b}$B\u{e}~{".repeat(100_000));
        let contents = [
            levels,
            same,
            fields,
            words,
            openings,
            attachments,
            names("name*1*=%C3"),
            names("; name*9=\"=?"),
            names("x name=\""),
            names("name=\\\";"),
            names("a=\"\u{1b}$"),
            names("a=\"\u{1b}$\";"),
            names(" , size"),
            names("=?big5?Q?"),
            names("(\\"),
            hyphens,
            shifts,
        ];
        for content in contents {
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
}
