//! UTF-7, UTF-16 and UTF-32 (RFC 2152, RFC 2781). `encoding_rs` supports neither UTF-7 nor UTF-32, and does not use the
//! byte order mark to choose the byte order of UTF-16.

use encoding_rs::{UTF_16BE, UTF_16LE};

/// The byte order of UTF-16 or UTF-32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UtfByteOrder {
    /// Big-endian: the most significant octet is the first.
    Big,
    /// Little-endian: the least significant octet is the first.
    Little,
    /// Determined by the byte order mark at the start of the text.
    ByMark,
}

/// Decodes UTF-16. With [`UtfByteOrder::ByMark`] but without a mark in the text, the byte order is the one in which more high
/// octets are zero, or big-endian if both numbers are equal.
pub fn decode_utf_16(octets: &[u8], order: UtfByteOrder) -> String {
    let is_little = match (order, octets) {
        (UtfByteOrder::Big, _) => false,
        (UtfByteOrder::Little, _) | (UtfByteOrder::ByMark, [0xff, 0xfe, ..]) => true,
        (UtfByteOrder::ByMark, [0xfe, 0xff, ..]) => false,
        (UtfByteOrder::ByMark, _) => {
            let zeros = |pairs: fn(&[u8; 2]) -> u8| {
                let high = octets.as_chunks().0.iter().map(pairs);
                high.filter(|octet| *octet == 0).count()
            };
            zeros(|[_, second]| *second) > zeros(|[first, _]| *first)
        }
    };
    let encoding = if is_little { UTF_16LE } else { UTF_16BE };
    let (text, _) = encoding.decode_without_bom_handling(octets);
    strip_byte_order_marks(text.into_owned())
}

/// Decodes UTF-32. With [`UtfByteOrder::ByMark`], text is big-endian if its first octet is zero, otherwise little-endian. In
/// big-endian text the first octet of each character is zero, including the byte order mark 00 00 FE FF.
pub fn decode_utf_32(octets: &[u8], order: UtfByteOrder) -> String {
    let (characters, rest) = octets.as_chunks();
    let is_little = match (order, octets) {
        (UtfByteOrder::Big, _) => false,
        (UtfByteOrder::Little, _) => true,
        (UtfByteOrder::ByMark, [0, ..]) => false,
        (UtfByteOrder::ByMark, _) => true,
    };
    let decode = |character: &[u8; 4]| {
        let code = if is_little {
            u32::from_le_bytes(*character)
        } else {
            u32::from_be_bytes(*character)
        };
        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
    };
    let mut text: String = characters.iter().map(decode).collect();
    if !rest.is_empty() {
        text.push(char::REPLACEMENT_CHARACTER);
    }
    strip_byte_order_marks(text)
}

/// Decodes UTF-7. A non-ASCII octet becomes U+FFFD.
pub fn decode_utf_7(octets: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = octets;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => {
                let length = tail.iter().take_while(|octet| is_base64_digit(**octet));
                let (digits, tail) = tail.split_at(length.count());
                text.push_str(&decode_base64_utf_16(digits));
                let ended = tail.strip_prefix(b"-");
                if digits.is_empty() {
                    text.push('+');
                }
                rest = ended.unwrap_or(tail);
            }
            octet if octet.is_ascii() => text.push(char::from(*octet)),
            _ => text.push(char::REPLACEMENT_CHARACTER),
        }
    }
    strip_byte_order_marks(text)
}

fn decode_base64_utf_16(digits: &[u8]) -> String {
    let octets = mail_parser::decoders::base64::base64_decode(digits).unwrap_or_default();
    // An incomplete pair at the end consists of padding bits.
    let (pairs, _) = octets.as_chunks::<2>();
    let (text, _) = UTF_16BE.decode_without_bom_handling(pairs.as_flattened());
    text.into_owned()
}

fn is_base64_digit(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/')
}

/// Removes all byte order marks, because each encoded word of a text may begin with a mark.
pub fn strip_byte_order_marks(text: String) -> String {
    if text.contains(BYTE_ORDER_MARK) {
        text.replace(BYTE_ORDER_MARK, "")
    } else {
        text
    }
}

const BYTE_ORDER_MARK: char = '\u{feff}';

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf_7_is_decoded() {
        let cases: &[(&[u8], &str)] = &[
            (b"Hi Mom -+Jjo--!", "Hi Mom -☺-!"),
            (b"+ZeVnLIqe-", "日本語"),
            (b"+ZeVnLIqe", "日本語"),
            (b"+AOk b", "é b"),
            (b"1 +- 1 + 1", "1 + 1 + 1"),
            (b"+2D3eAA-", "😀"),
            (b"a\xe9", "a\u{fffd}"),
            (b"+AA-", ""),
        ];
        for (octets, want) in cases {
            assert_eq!(decode_utf_7(octets), *want, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn utf_16_and_utf_32_are_decoded() {
        let cases: &[(&[u8], &str)] = &[
            (b"\xfe\xff\x00a\xfe\xff\x00b", "ab"),
            (b"\xff\xfea\x00", "a"),
            (b"a\x00b\x00", "ab"),
            (b"\x00a\x00b", "ab"),
            (b"\x65\xe5", "日"),
            (b"\x00a\x00", "a\u{fffd}"),
            (b"", ""),
        ];
        for (octets, want) in cases {
            assert_eq!(
                decode_utf_16(octets, UtfByteOrder::ByMark),
                *want,
                "{octets:?}"
            );
        }
        assert_eq!(decode_utf_16(b"a\x00", UtfByteOrder::Little), "a");
        assert_eq!(decode_utf_16(b"\x00a", UtfByteOrder::Big), "a");
        let cases: &[(&[u8], &str)] = &[
            (b"\x00\x00\xfe\xff\x00\x01\xf6\x00", "😀"),
            (b"\xff\xfe\x00\x00a\x00\x00\x00", "a"),
            (b"a\x00\x00\x00", "a"),
            (b"\x00\x00\x00a\x00", "a\u{fffd}"),
            (b"\x00\x11\x00\x00", "\u{fffd}"),
        ];
        for (octets, want) in cases {
            assert_eq!(
                decode_utf_32(octets, UtfByteOrder::ByMark),
                *want,
                "{octets:?}"
            );
        }
    }
}
