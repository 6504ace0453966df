//! The Content-Type field (RFC 2045 §5), parsed leniently: many senders write it with wrong syntax.

use std::borrow::Cow;

use super::charset::Charset;
use super::parameter_value::MimeParameterValue;
use super::parameters::{self, ParameterizedField};

/// The media type and the parameters of a Content-Type field.
pub struct ContentType {
    /// The media type as `type/subtype` in lower case.
    pub media_type: String,
    /// The name of the charset in the sender's spelling.
    pub charset: Option<String>,
    /// The boundary of a multipart, without the two hyphens that precede it in a delimiter line.
    pub boundary: Option<Vec<u8>>,
    /// The file name from parameter `name`.
    pub name: Option<MimeParameterValue>,
}

impl ContentType {
    /// Parses the value of the field. The media type is `default` if there is no value, and `text/plain` if the value
    /// is malformed.
    pub fn parse(field: Option<&[u8]>, default: &str) -> ContentType {
        let field = field.filter(|value| !value.trim_ascii().is_empty());
        let parsed_field = field.map(ParameterizedField::parse).unwrap_or_default();
        let media_type = match field {
            Some(_) => {
                parse_media_type(&parsed_field.value).unwrap_or_else(|| TEXT_PLAIN.to_owned())
            }
            None => default.to_owned(),
        };
        ContentType {
            media_type,
            charset: parsed_field
                .mime_parameter_value("charset")
                .and_then(|value| trimmed_charset_name(&value)),
            boundary: parsed_field
                .mime_parameter_value("boundary")
                .and_then(boundary_octets),
            name: parsed_field.parameter_value_unless_empty("name"),
        }
    }

    /// Returns whether the media type is `text/*`.
    pub fn is_text_media_type(&self) -> bool {
        self.media_type.starts_with("text/")
    }

    /// Returns whether the media type is `multipart/*`.
    pub fn is_multipart(&self) -> bool {
        self.media_type.starts_with("multipart/")
    }

    /// Returns the media type of a part of this multipart if the part has no Content-Type field (RFC 2046 §5.1.5).
    pub fn default_part_type(&self) -> &'static str {
        match self.media_type.as_str() {
            "multipart/digest" => "message/rfc822",
            _ => TEXT_PLAIN,
        }
    }

    /// Returns the charset that the parameter `charset` names, if raw 8-bit text in header fields may be in this charset.
    /// Returns `None` for US-ASCII, UTF-7, UTF-8, UTF-16, UTF-32, an unknown name and a missing parameter.
    pub fn raw_text_charset(&self) -> Option<Charset> {
        let charset = Charset::from_name(self.charset.as_ref()?.as_bytes())?;
        let is_8_bit = charset != Charset::Ascii && charset.decode_raw_header_octets(b"").is_some();
        is_8_bit.then_some(charset)
    }
}

/// Returns `type/subtype` in lower case, without quotes, comments, white space and dots around the two tokens; `None` if
/// the value is malformed.
fn parse_media_type(value: &[u8]) -> Option<String> {
    let (top_level, rest) = split_mime_token(skip_separators_and_opening_quotes(value));
    let rest = parameters::skip_separators_and_comments(rest).strip_prefix(b"/")?;
    let (subtype, rest) = split_mime_token(parameters::skip_separators_and_comments(rest));
    let subtype = subtype.trim_ascii_end();
    let dots = subtype.iter().rev().take_while(|octet| **octet == b'.');
    let (subtype, _) = subtype.split_at_checked(subtype.len() - dots.count())?;
    let is_end = match rest.first() {
        None => true,
        Some(octet) => octet.is_ascii_whitespace() || b"\"',;:<>()".contains(octet),
    };
    if top_level.is_empty() || subtype.is_empty() || !is_end {
        return None;
    }
    let mut text = [top_level, b"/", subtype].concat();
    text.make_ascii_lowercase();
    String::from_utf8(text).ok()
}

fn skip_separators_and_opening_quotes(value: &[u8]) -> &[u8] {
    let value = parameters::skip_separators_and_comments(value);
    let quotes = value.iter().take_while(|octet| b"\"'< \t".contains(octet));
    value.get(quotes.count()..).unwrap_or_default()
}

/// Splits off a token (RFC 2045 §5.1). An apostrophe ends the token, because some senders use apostrophes as quotes.
fn split_mime_token(input: &[u8]) -> (&[u8], &[u8]) {
    let is_token = |octet: &&u8| octet.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?='".contains(octet);
    let length = input.iter().take_while(is_token).count();
    input.split_at_checked(length).unwrap_or((input, b""))
}

/// Returns the name of a charset without the quotes and separators that some senders write around it; `None` if nothing
/// remains.
fn trimmed_charset_name(value: &MimeParameterValue) -> Option<String> {
    let text = value.decode(None);
    let text = text.split(';').next().unwrap_or_default();
    let text = match text.contains('%') {
        true => Cow::Owned(text.replace("%22", "\"").replace("%27", "\"")),
        false => Cow::Borrowed(text),
    };
    let is_separator = |c: char| c.is_whitespace() || "\"'=<>,:".contains(c);
    let text = text.trim_matches(is_separator);
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the boundary without trailing white space, because a boundary cannot end in white space (RFC 2046 §5.1.1).
fn boundary_octets(value: MimeParameterValue) -> Option<Vec<u8>> {
    let mut boundary = value.octets;
    boundary.truncate(boundary.trim_ascii_end().len());
    (!boundary.is_empty()).then_some(boundary)
}

const TEXT_PLAIN: &str = "text/plain";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(field: &str) -> ContentType {
        ContentType::parse(Some(field.as_bytes()), TEXT_PLAIN)
    }

    #[test]
    fn media_types_are_parsed_leniently() {
        for (field, want) in [
            ("TEXT/Html; x=y", "text/html"),
            ("\"text/html\"; x=y", "text/html"),
            ("\"text/html; x=y\"", "text/html"),
            ("'text/html'", "text/html"),
            ("<text/html>", "text/html"),
            ("text/html, charset=x", "text/html"),
            ("text/html charset=x", "text/html"),
            ("text/html:charset=x", "text/html"),
            ("text / html", "text/html"),
            ("text/ html ;", "text/html"),
            ("text/html.", "text/html"),
            ("text/html...; x", "text/html"),
            ("(a) text (b) / (c) html (d)", "text/html"),
            ("text/html(a)", "text/html"),
            ("text/html foo", "text/html"),
            ("text/x-a.b+c", "text/x-a.b+c"),
            ("text", TEXT_PLAIN),
            ("text/", TEXT_PLAIN),
            ("text/.", TEXT_PLAIN),
            ("multipart; boundary=x", TEXT_PLAIN),
            ("/html", TEXT_PLAIN),
            ("; charset=x", TEXT_PLAIN),
            ("a/b/c", TEXT_PLAIN),
            ("\u{1d}multipart/mixed", TEXT_PLAIN),
            ("a/b\0", TEXT_PLAIN),
            ("a/\u{85}", TEXT_PLAIN),
            ("image/ü", TEXT_PLAIN),
        ] {
            assert_eq!(parse(field).media_type, want, "{field:?}");
        }
        assert_eq!(ContentType::parse(Some(b" \r\n"), "a/b").media_type, "a/b");
    }

    #[test]
    fn charset_parameters_are_parsed_leniently() {
        for (parameter, want) in [
            ("charset=utf-8", Some("utf-8")),
            ("charset=\"utf-8\"", Some("utf-8")),
            ("charset='utf-8'", Some("utf-8")),
            ("charset=\"'utf-8'\"", Some("utf-8")),
            ("charset=\"utf-8", Some("utf-8")),
            ("charset=\"utf-8; x=y", Some("utf-8")),
            ("charset=utf-8\"", Some("utf-8")),
            ("charset=utf8;", Some("utf8")),
            ("charset=%22utf-8%22", Some("utf-8")),
            ("charset==utf-8", Some("utf-8")),
            ("charset = utf-8", Some("utf-8")),
            ("charset=utf-8,", Some("utf-8")),
            ("charset=utf-8 (Unicode)", Some("utf-8")),
            ("charset=<utf-8>", Some("utf-8")),
            ("charset*=us-ascii'en'utf-8", Some("utf-8")),
            ("charset=\"latin 1\"", Some("latin 1")),
            ("charset=", None),
            ("charset=\"\"", None),
            ("charset=; charset=utf-8", Some("utf-8")),
        ] {
            let found = parse(&format!("text/plain; {parameter}")).charset;
            assert_eq!(found.as_deref(), want, "{parameter}");
        }
    }

    #[test]
    fn boundary_parameters_are_parsed() {
        for (parameter, want) in [
            ("boundary=a", Some("a")),
            ("boundary=\"a \"", Some("a")),
            ("boundary=\" a\"", Some(" a")),
            ("boundary=\"a\r\n b\"", Some("a b")),
            ("boundary=\r\n\t\"a\"", Some("a")),
            ("boundary=\"-\"", Some("-")),
            ("boundary==_a", Some("=_a")),
            ("boundary=a:b?c/d", Some("a:b?c/d")),
            ("boundary=\"  \"", None),
        ] {
            let found = parse(&format!("multipart/mixed; {parameter}")).boundary;
            assert_eq!(
                found,
                want.map(|text| text.as_bytes().to_vec()),
                "{parameter}"
            );
        }
    }
}
