//! What a Content-Type field says (RFC 2045 §5), also where senders write it wrong.

use super::charset::Charset;
use super::parameter_value::Value;
use super::parameters::{self, ParameterizedField};

/// Media type and parameters.
pub struct Media {
    /// In lower case.
    pub media_type: String,
    /// The charset's name as the sender writes it.
    pub charset: Option<String>,
    /// What stands between the hyphens of a multipart's delimiter lines.
    pub boundary: Option<Vec<u8>>,
    /// The file name.
    pub name: Option<Value>,
}

impl Media {
    /// Reads the field's value. Without one the media type is `default`; a malformed one is `text/plain`.
    pub fn of(field: Option<&[u8]>, default: &str) -> Media {
        let field = field.filter(|value| !value.trim_ascii().is_empty());
        let structured = field.map(ParameterizedField::parse).unwrap_or_default();
        let media_type = match field {
            Some(_) => media_type(&structured.value).unwrap_or_else(|| TEXT.to_owned()),
            None => default.to_owned(),
        };
        Media {
            media_type,
            charset: structured
                .get("charset")
                .and_then(|value| charset_name(&value)),
            boundary: structured.get("boundary").and_then(boundary),
            name: structured.file_name("name"),
        }
    }

    /// Returns whether it is text to be read.
    pub fn is_text(&self) -> bool {
        self.media_type.starts_with("text/")
    }

    /// Returns whether its body is divided into parts.
    pub fn is_multipart(&self) -> bool {
        self.media_type.starts_with("multipart/")
    }

    /// Returns the media type of a part that names none (RFC 2046 §5.1.5).
    pub fn default_of_parts(&self) -> &'static str {
        match self.media_type.as_str() {
            "multipart/digest" => "message/rfc822",
            _ => TEXT,
        }
    }

    /// Returns the charset that raw 8-bit text in a header field may be in.
    pub fn charset_of_raw_text(&self) -> Option<Charset> {
        let charset = Charset::named(self.charset.as_ref()?.as_bytes())?;
        let is_named = charset != Charset::Ascii && charset.decode_raw(b"").is_some();
        is_named.then_some(charset)
    }
}

/// Returns `type/subtype` in lower case, without quotes, comments, white space and dots around its words.
fn media_type(value: &[u8]) -> Option<String> {
    let (kind, rest) = split_token(skip_quotes(value));
    let rest = parameters::skip_separators(rest).strip_prefix(b"/")?;
    let (subtype, rest) = split_token(parameters::skip_separators(rest));
    let subtype = subtype.trim_ascii_end();
    let dots = subtype.iter().rev().take_while(|octet| **octet == b'.');
    let (subtype, _) = subtype.split_at_checked(subtype.len() - dots.count())?;
    let is_end = match rest.first() {
        None => true,
        Some(octet) => octet.is_ascii_whitespace() || b"\"',;:<>()".contains(octet),
    };
    if kind.is_empty() || subtype.is_empty() || !is_end {
        return None;
    }
    let text = [kind, b"/", subtype].concat().to_ascii_lowercase();
    String::from_utf8(text).ok()
}

fn skip_quotes(value: &[u8]) -> &[u8] {
    let value = parameters::skip_separators(value);
    let quotes = value.iter().take_while(|octet| b"\"'< \t".contains(octet));
    value.get(quotes.count()..).unwrap_or_default()
}

/// Splits a token (RFC 2045 §5.1) from what stands after it. An apostrophe is a quote here.
fn split_token(input: &[u8]) -> (&[u8], &[u8]) {
    let is_token = |octet: &&u8| octet.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?='".contains(octet);
    let length = input.iter().take_while(is_token).count();
    input.split_at_checked(length).unwrap_or((input, b""))
}

/// Returns the name without the quotes and separators that senders leave at its ends.
fn charset_name(value: &Value) -> Option<String> {
    let text = value.decode(None);
    let text = text.split(';').next().unwrap_or_default();
    let text = text.replace("%22", "\"").replace("%27", "\"");
    let is_outside = |c: char| c.is_whitespace() || "\"'=<>,:".contains(c);
    let text = text.trim_matches(is_outside);
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the boundary without white space at its end, where it has none (RFC 2046 §5.1.1).
fn boundary(value: Value) -> Option<Vec<u8>> {
    let boundary = value.octets.trim_ascii_end().to_vec();
    (!boundary.is_empty()).then_some(boundary)
}

const TEXT: &str = "text/plain";

#[cfg(test)]
mod tests {
    use super::*;

    fn media(field: &str) -> Media {
        Media::of(Some(field.as_bytes()), TEXT)
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
            ("text", TEXT),
            ("text/", TEXT),
            ("text/.", TEXT),
            ("multipart; boundary=x", TEXT),
            ("/html", TEXT),
            ("; charset=x", TEXT),
            ("a/b/c", TEXT),
            ("\u{1d}multipart/mixed", TEXT),
            ("a/b\0", TEXT),
            ("a/\u{85}", TEXT),
            ("image/ü", TEXT),
        ] {
            assert_eq!(media(field).media_type, want, "{field:?}");
        }
        assert_eq!(Media::of(Some(b" \r\n"), "a/b").media_type, "a/b");
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
            let found = media(&format!("text/plain; {parameter}")).charset;
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
            let found = media(&format!("multipart/mixed; {parameter}")).boundary;
            assert_eq!(
                found,
                want.map(|text| text.as_bytes().to_vec()),
                "{parameter}"
            );
        }
    }
}
