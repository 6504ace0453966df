//! Summaries of messages for the columns of the table: subject, charset, content type and attachments.
//!
//! The parser does not decode bodies, and its time is linear in the length of the content. The depth of nesting, the
//! number of parts and the length of fields are limited; parts beyond the limits are not in the summary. References: RFC
//! 2045–2049, RFC 2183 and RFC 2231 (file names).

use serde_json::json;

use super::charset::Charset;
use super::content_type::ContentType;
use super::header::{self, RawSubjectAndMimeFields};
use super::parameter_value::MimeParameterValue;
use super::parameters::ParameterizedField;
use super::{encoded_word, multipart, transfer_encoding};

/// Subject, charset, content type and attachments of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MimeSummary {
    /// The subject, decoded to one line of UTF-8; empty if there is no Subject field.
    pub subject: String,
    /// The charset of the text in the sender's spelling; `UTF-8` if the sender names no charset.
    pub charset: String,
    /// The top-level media type in lower case; `text/plain` if there is no Content-Type field.
    pub content_type: String,
    /// The attachments in the order of the message, at most 4,096.
    pub attachments: Vec<Attachment>,
}

/// A part, other than a multipart, that has a file name, disposition `attachment`, or a media type other than `text/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attachment {
    /// The decoded file name; empty if there is none.
    pub name: String,
    /// The media type in lower case.
    pub media_type: String,
    /// The size in octets after decoding of base64 or quoted-printable.
    pub octets: usize,
}

impl Attachment {
    /// Returns the entry for this attachment in column `attach_info`: a JSON object.
    pub(crate) fn to_json(&self) -> String {
        format!(
            "{{\"name\":{},\"type\":{},\"size\":{}}}",
            json!(self.name),
            json!(self.media_type),
            self.octets
        )
    }
}

impl MimeSummary {
    /// Parses the content of a message. Malformed content is not an error: fields that cannot be parsed get default values.
    pub fn parse(content: &[u8]) -> MimeSummary {
        let (fields, body) = header::split_entity_into_fields_and_body(content);
        let media = ContentType::parse(fields.content_type, "text/plain");
        let declared = media.charset.clone();
        let declared_for_raw_text = media.raw_text_charset();
        let is_text = media.is_text_media_type();
        let mut walker = MimeSummaryCollector::default();
        let content_type = media.media_type.clone();
        walker.add_mime_part_to_summary(&fields, media, body, 0);
        if !walker.has_text_part && is_text {
            // The only part is text with a file name. It is an attachment and also the text of the message.
            walker.charset = declared;
        }
        let named = walker
            .raw_text_charset
            .or(declared_for_raw_text)
            .or_else(|| {
                walker
                    .attachments
                    .iter()
                    .find_map(|attachment| attachment.charset)
            });
        MimeSummary {
            subject: fields
                .subject
                .map(|value| encoded_word::decode(value, named))
                .unwrap_or_default(),
            charset: walker.charset.unwrap_or_else(|| "UTF-8".to_owned()),
            content_type,
            attachments: walker
                .attachments
                .into_iter()
                .map(|attachment| attachment.decode(named))
                .collect(),
        }
    }
}

/// Collects the charset and the attachments from the parts of a message.
#[derive(Default)]
struct MimeSummaryCollector {
    leaf_parts: usize,
    has_text_part: bool,
    /// The charset that the first text part names. Attachments are not text parts here.
    charset: Option<String>,
    /// The charset for raw 8-bit text in header fields: the first suitable charset that a text part names.
    raw_text_charset: Option<Charset>,
    attachments: Vec<AttachmentWithUndecodedName>,
}

/// An attachment whose name is not decoded yet, because a later text part may name its charset.
struct AttachmentWithUndecodedName {
    name: Option<MimeParameterValue>,
    charset: Option<Charset>,
    media_type: String,
    octets: usize,
}

impl AttachmentWithUndecodedName {
    fn decode(self, named: Option<Charset>) -> Attachment {
        let name = self.name.map(|name| name.decode(self.charset.or(named)));
        Attachment {
            name: name.unwrap_or_default(),
            media_type: self.media_type,
            octets: self.octets,
        }
    }
}

impl MimeSummaryCollector {
    fn add_mime_part_to_summary(
        &mut self,
        fields: &RawSubjectAndMimeFields,
        media: ContentType,
        body: &[u8],
        depth: usize,
    ) {
        if media.is_multipart() {
            if let Some(boundary) = &media.boundary
                && depth < MAX_DEPTH
            {
                for part in multipart::split_parts(body, boundary) {
                    let (fields, body) = header::split_entity_into_fields_and_body(part);
                    let part = ContentType::parse(fields.content_type, media.default_part_type());
                    self.add_mime_part_to_summary(&fields, part, body, depth + 1);
                }
            }
            return;
        }
        self.leaf_parts += 1;
        if self.leaf_parts > MAX_PARTS {
            return;
        }
        let disposition = fields
            .disposition
            .map(ParameterizedField::parse)
            .unwrap_or_default();
        let is_text = media.is_text_media_type();
        let charset = media.raw_text_charset();
        let name = disposition
            .parameter_value_unless_empty("filename")
            .or(media.name);
        if has_attachment_disposition(&disposition.value) || name.is_some() || !is_text {
            self.attachments.push(AttachmentWithUndecodedName {
                name,
                charset,
                media_type: media.media_type,
                octets: transfer_encoding::decoded_size(body, fields.transfer_encoding),
            });
            return;
        }
        self.raw_text_charset = self.raw_text_charset.or(charset);
        if !self.has_text_part {
            self.has_text_part = true;
            self.charset = media.charset;
        }
    }
}

/// Returns whether the first word of a Content-Disposition field is `attachment`. The word may be quoted.
fn has_attachment_disposition(disposition: &[u8]) -> bool {
    let word = disposition.trim_ascii_start();
    let word = word.strip_prefix(b"\"").unwrap_or(word);
    let mut words = word.split(|octet| !octet.is_ascii_alphanumeric() && *octet != b'-');
    words
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case(b"attachment"))
}

/// Maximum depth of nested multiparts; deeper parts are ignored. The parsing time grows with the depth, because the octets
/// of a part are searched for delimiter lines once for each multipart around the part. Mails rarely exceed four levels.
const MAX_DEPTH: usize = 10;
/// Maximum number of leaf parts (parts that are not multiparts) that are examined; further leaf parts are ignored.
const MAX_PARTS: usize = 4_096;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn mail_without_header_fields_is_summarized_as_text_plain() {
        let summary = MimeSummary::parse(b"");
        assert_eq!(summary.content_type, "text/plain");
        assert_eq!(summary.charset, "UTF-8");
        assert_eq!(summary.subject, "");
        assert!(summary.attachments.is_empty());
    }

    #[test]
    fn single_text_attachment_provides_the_charset() {
        let named = "Content-Type: text/plain; charset=koi8-r; name=\"a.txt\"\r\n\r\n";
        let summary = MimeSummary::parse(named.as_bytes());
        assert_eq!(summary.charset, "koi8-r");
        assert_eq!(summary.attachments.len(), 1);
    }

    #[test]
    fn blank_file_name_counts_as_missing() {
        for name in ["", " ", "=?utf-8?Q??=", "=?utf-8?Q??= \0"] {
            let content = format!(
                "Content-Type: a/b; name=x\r\nContent-Disposition: inline; filename=\"{name}\"\r\n\r\n"
            );
            let summary = MimeSummary::parse(content.as_bytes());
            assert_eq!(summary.attachments[0].name, "x", "{name:?}");
            let content = format!("Content-Type: text/plain; name=\"{name}\"\r\n\r\n");
            let summary = MimeSummary::parse(content.as_bytes());
            assert!(summary.attachments.is_empty(), "{name:?}");
        }
    }

    #[test]
    fn hostile_mime_structures_are_summarized_in_linear_time() {
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
        let multipart = |boundary: &str, line: &str| {
            let lines = line.repeat(1_000_000 / line.len());
            format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"\r\n\r\n{lines}")
        };
        let encoded = |encoding: &str, text: &str| {
            let text = text.repeat(1_000_000 / text.len());
            format!("Content-Type: a/b\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{text}")
        };
        let boundary = "b".repeat(70);
        let prefix_lines = format!("--{}\r\n", &boundary[1..]);
        let nested_boundaries: String = (0..MAX_DEPTH)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
            .collect();
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
            multipart(&boundary, &prefix_lines),
            multipart("b", "--b"),
            multipart("b", "--bx\r\n"),
            multipart("b", "--b--x\n"),
            multipart("-", "-"),
            multipart("-", "\r"),
            nested_boundaries.clone() + &"--b0x\n".repeat(160_000),
            nested_boundaries + &"--\n".repeat(330_000),
            encoded("base64", "\r"),
            encoded("base64", "-"),
            encoded("quoted-printable", "="),
            encoded("quoted-printable", "=\r"),
            encoded("quoted-printable", "=\n"),
        ];
        for content in contents {
            let started = Instant::now();
            let summary = MimeSummary::parse(content.as_bytes());
            // Each content takes less than 1 s on an idle machine.
            testkit::assert_took(started.elapsed(), Duration::from_secs(1));
            assert!(summary.attachments.len() <= MAX_PARTS);
        }
    }
}
