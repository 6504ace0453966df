//! Splits an entity into its header fields and its body
//! ([RFC 5322 §2.2](https://www.rfc-editor.org/rfc/rfc5322#section-2.2)).
//!
//! Lines may end in CR LF or, as some senders write them, in LF alone.

use std::borrow::Cow;

use memchr::memchr;

/// The raw values of the header fields that a summary needs. If a field occurs several times, the first one counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RawSubjectAndMimeFields<'a> {
    /// The value of `Subject`.
    pub subject: Option<&'a [u8]>,
    /// The value of `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// The value of `Content-Disposition`.
    pub disposition: Option<&'a [u8]>,
    /// The value of `Content-Transfer-Encoding`.
    pub transfer_encoding: Option<&'a [u8]>,
}

/// Splits `entity` after its header section; returns the fields and the body.
///
/// The time is linear in the length of the header section. A value longer than [`MAX_FIELD_OCTETS`] is truncated.
#[expect(
    clippy::indexing_slicing,
    reason = "all is cut at its own length or less, or where a colon was found"
)]
pub fn split_entity_into_fields_and_body(entity: &[u8]) -> (RawSubjectAndMimeFields<'_>, &[u8]) {
    let mut fields = RawSubjectAndMimeFields::default();
    let mut rest = entity.strip_prefix(BYTE_ORDER_MARK).unwrap_or(entity);
    while !rest.is_empty() {
        let (field, tail) = split_off_first_header_field(rest);
        if is_empty_line(field) {
            return (fields, tail);
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
                    rest = tail;
                    continue;
                }
            };
            slot.get_or_insert(truncate_field_value(&field[colon + 1..]));
        }
        rest = tail;
    }
    (fields, rest)
}

/// Returns the value of a field without CR and LF, so that a folded value becomes one line. Copies only a folded value.
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    let is_kept = |octet: &u8| !matches!(octet, b'\r' | b'\n');
    let end = value.iter().rposition(is_kept).map_or(0, |at| at + 1);
    let value = value.get(..end).unwrap_or(value);
    if memchr::memchr2(b'\r', b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    let mut line = Vec::with_capacity(value.len());
    line.extend(value.iter().copied().filter(is_kept));
    Cow::Owned(line)
}

/// Truncates a value to at most [`MAX_FIELD_OCTETS`], between UTF-8 characters, so that valid UTF-8 stays valid.
fn truncate_field_value(value: &[u8]) -> &[u8] {
    let is_inside = |end: usize| matches!(value.get(end), Some(0x80..=0xbf));
    let longest = value.len().min(MAX_FIELD_OCTETS);
    let mut ends = (0..MAX_UTF8_OCTETS).map(|fewer| longest.saturating_sub(fewer));
    let end = ends.find(|end| !is_inside(*end));
    value.get(..end.unwrap_or(longest)).unwrap_or(value)
}

/// Splits off the first field with its folded lines; returns the field and the rest.
#[expect(clippy::indexing_slicing, reason = "a line ends within the input")]
fn split_off_first_header_field(input: &[u8]) -> (&[u8], &[u8]) {
    let mut end = offset_after_line(input, 0);
    if !is_empty_line(&input[..end]) {
        while matches!(input.get(end), Some(b' ' | b'\t')) {
            end = offset_after_line(input, end);
        }
    }
    input.split_at(end)
}

#[expect(
    clippy::indexing_slicing,
    reason = "a line begins where the one before it ends, within the input"
)]
fn offset_after_line(input: &[u8], from: usize) -> usize {
    memchr(b'\n', &input[from..]).map_or(input.len(), |at| from + at + 1)
}

fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

/// The UTF-8 byte order mark, which some programs write at the start of any file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Maximum length of a header field's value in octets; a longer value is truncated. No database column needs more than 255
/// characters, which fit even if each is in its own encoded word.
const MAX_FIELD_OCTETS: usize = 16_384;
/// Maximum length of a UTF-8 character in octets.
const MAX_UTF8_OCTETS: usize = 4;
/// Maximum number of octets of a field that are searched for the colon after the name. The names in [`RawSubjectAndMimeFields`]
/// are shorter; a field with a longer name is ignored.
const MAX_NAME_OCTETS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_header_field_of_a_name_is_used_with_its_folded_lines() {
        let (fields, body) = split_entity_into_fields_and_body(
            b"X: 1\r\nsubject : a\r\n b\r\nSUBJECT: c\r\n\r\nbody\r\n",
        );
        assert_eq!(fields.subject, Some(&b" a\r\n b\r\n"[..]));
        assert_eq!(body, b"body\r\n");
    }

    #[test]
    fn overlong_header_field_is_truncated_between_characters() {
        for shift in 0..4 {
            let subject = format!("{}{}", "-".repeat(shift), "😀".repeat(5_000));
            let entity = format!("Subject:{subject}\r\n\r\n");
            let (fields, _) = split_entity_into_fields_and_body(entity.as_bytes());
            let kept = std::str::from_utf8(fields.subject.unwrap()).unwrap();
            assert!(subject.starts_with(kept) && kept.len() > MAX_FIELD_OCTETS - 4);
        }
        let latin1 = [&b"Subject:"[..], &[0xa4; 20_000], b"\r\n\r\n"].concat();
        assert!(
            split_entity_into_fields_and_body(&latin1)
                .0
                .subject
                .unwrap()
                .len()
                > MAX_FIELD_OCTETS - 4
        );
    }

    #[test]
    fn header_sections_without_fields_or_without_an_end_are_split() {
        assert_eq!(split_entity_into_fields_and_body(b"\r\nbody").1, b"body");
        assert_eq!(split_entity_into_fields_and_body(b"").1, b"");
        assert_eq!(split_entity_into_fields_and_body(b"no field here").1, b"");
        let (fields, body) =
            split_entity_into_fields_and_body(b"Subject: a\nContent-Type: b\n\nbody");
        assert_eq!(fields.content_type, Some(&b" b\n"[..]));
        assert_eq!(body, b"body");
    }
}
