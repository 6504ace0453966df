//! Header fields as octets: where the header section ends, which field is which
//! ([RFC 5322 §2.2](https://www.rfc-editor.org/rfc/rfc5322#section-2.2)).
//!
//! Lines may end in CR LF or, as some senders write them, in LF alone.

use memchr::memchr;

/// The fields that a summary needs, as written after their colons; the first of each name counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Fields<'a> {
    /// `Subject`.
    pub subject: Option<&'a [u8]>,
    /// `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// `Content-Disposition`.
    pub disposition: Option<&'a [u8]>,
    /// `Content-Transfer-Encoding`.
    pub transfer_encoding: Option<&'a [u8]>,
}

/// Reads the header section at the front of `entity`; answers its fields and the body behind it.
///
/// Costs one pass over the header section. A field longer than [`MAX_FIELD_OCTETS`] is cut.
#[expect(
    clippy::indexing_slicing,
    reason = "all is cut at its own length or less, or where a colon was found"
)]
pub fn split(entity: &[u8]) -> (Fields<'_>, &[u8]) {
    let mut fields = Fields::default();
    let mut rest = entity.strip_prefix(BYTE_ORDER_MARK).unwrap_or(entity);
    while !rest.is_empty() {
        let (field, behind) = split_field(rest);
        if is_empty_line(field) {
            return (fields, behind);
        }
        if let Some(colon) = memchr(b':', &field[..field.len().min(MAX_NAME_OCTETS)]) {
            let slot = match field[..colon].trim_ascii_end() {
                name if name.eq_ignore_ascii_case(b"Subject") => &mut fields.subject,
                name if name.eq_ignore_ascii_case(b"Content-Type") => &mut fields.content_type,
                name if name.eq_ignore_ascii_case(b"Content-Disposition") => {
                    &mut fields.disposition
                }
                name if name.eq_ignore_ascii_case(b"Content-Transfer-Encoding") => {
                    &mut fields.transfer_encoding
                }
                _ => {
                    rest = behind;
                    continue;
                }
            };
            slot.get_or_insert(cut(&field[colon + 1..]));
        }
        rest = behind;
    }
    (fields, rest)
}

/// At most [`MAX_FIELD_OCTETS`], and no part of a character of UTF-8 at their end: all of the value would no longer be UTF-8.
fn cut(value: &[u8]) -> &[u8] {
    let is_inside = |end: usize| matches!(value.get(end), Some(0x80..=0xbf));
    let longest = value.len().min(MAX_FIELD_OCTETS);
    let mut ends = (0..UTF8_OCTETS).map(|fewer| longest.saturating_sub(fewer));
    let end = ends.find(|end| !is_inside(*end));
    value.get(..end.unwrap_or(longest)).unwrap_or(value)
}

/// One field with its folded lines, and what stands behind it.
#[expect(clippy::indexing_slicing, reason = "a line ends within the input")]
fn split_field(input: &[u8]) -> (&[u8], &[u8]) {
    let mut end = line_end(input, 0);
    if !is_empty_line(&input[..end]) {
        while matches!(input.get(end), Some(b' ' | b'\t')) {
            end = line_end(input, end);
        }
    }
    input.split_at(end)
}

#[expect(
    clippy::indexing_slicing,
    reason = "a line begins where the one before it ends, within the input"
)]
fn line_end(input: &[u8], from: usize) -> usize {
    memchr(b'\n', &input[from..]).map_or(input.len(), |at| from + at + 1)
}

fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

/// In UTF-8; some programs put it in front of a file of any kind.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Far beyond what any column keeps: 255 characters as encoded words of one character each.
const MAX_FIELD_OCTETS: usize = 16_384;
/// The longest character.
const UTF8_OCTETS: usize = 4;
/// Longer than any name that is looked for.
const MAX_NAME_OCTETS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_header_field_of_a_name_is_used_with_its_folded_lines() {
        let (fields, body) = split(b"X: 1\r\nsubject : a\r\n b\r\nSUBJECT: c\r\n\r\nbody\r\n");
        assert_eq!(fields.subject, Some(&b" a\r\n b\r\n"[..]));
        assert_eq!(body, b"body\r\n");
    }

    #[test]
    fn overlong_header_field_is_truncated_between_characters() {
        for shift in 0..4 {
            let subject = format!("{}{}", "-".repeat(shift), "😀".repeat(5_000));
            let entity = format!("Subject:{subject}\r\n\r\n");
            let (fields, _) = split(entity.as_bytes());
            let kept = std::str::from_utf8(fields.subject.unwrap()).unwrap();
            assert!(subject.starts_with(kept) && kept.len() > MAX_FIELD_OCTETS - 4);
        }
        let latin1 = [&b"Subject:"[..], &[0xa4; 20_000], b"\r\n\r\n"].concat();
        assert!(split(&latin1).0.subject.unwrap().len() > MAX_FIELD_OCTETS - 4);
    }

    #[test]
    fn header_sections_without_fields_or_without_an_end_are_split() {
        assert_eq!(split(b"\r\nbody").1, b"body");
        assert_eq!(split(b"").1, b"");
        assert_eq!(split(b"no field here").1, b"");
        let (fields, body) = split(b"Subject: a\nContent-Type: b\n\nbody");
        assert_eq!(fields.content_type, Some(&b" b\n"[..]));
        assert_eq!(body, b"body");
    }
}
