//! UTF-7, UTF-16 and UTF-32 (RFC 2152, RFC 2781): `encoding_rs` lacks the first and the last, and the order of octets
//! that a byte order mark tells.

use encoding_rs::{UTF_16BE, UTF_16LE};

/// The order of octets that a charset's name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The most significant octet first.
    Big,
    /// The least significant octet first.
    Little,
    /// A byte order mark tells it.
    Marked,
}

/// Decodes UTF-16. Without a mark the order is the one that has the more zeros in the high octets, else big-endian.
pub fn decode_utf_16(octets: &[u8], order: Order) -> String {
    let is_little = match (order, octets) {
        (Order::Big, _) => false,
        (Order::Little, _) | (Order::Marked, [0xff, 0xfe, ..]) => true,
        (Order::Marked, [0xfe, 0xff, ..]) => false,
        (Order::Marked, _) => {
            let zeros = |pairs: fn(&[u8; 2]) -> u8| {
                let high = octets.as_chunks().0.iter().map(pairs);
                high.filter(|octet| *octet == 0).count()
            };
            zeros(|[_, second]| *second) > zeros(|[first, _]| *first)
        }
    };
    let encoding = if is_little { UTF_16LE } else { UTF_16BE };
    let (text, _) = encoding.decode_without_bom_handling(octets);
    without_marks(text.into_owned())
}

/// Decodes UTF-32. Without a mark the order is the one that the first character has a meaning in.
pub fn decode_utf_32(octets: &[u8], order: Order) -> String {
    let (characters, rest) = octets.as_chunks();
    let is_little = match (order, octets) {
        (Order::Big, _) => false,
        (Order::Little, _) => true,
        (Order::Marked, [0, ..]) => false,
        (Order::Marked, _) => true,
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
    without_marks(text)
}

/// Decodes UTF-7. An octet that is not ASCII becomes U+FFFD.
pub fn decode_utf_7(octets: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = octets;
    while let [first, behind @ ..] = rest {
        rest = behind;
        match first {
            b'+' => {
                let length = behind.iter().take_while(|octet| is_base64(**octet));
                let (digits, behind) = behind.split_at(length.count());
                text.push_str(&utf_16_of_base64(digits));
                let ended = behind.strip_prefix(b"-");
                if digits.is_empty() {
                    text.push('+');
                }
                rest = ended.unwrap_or(behind);
            }
            octet if octet.is_ascii() => text.push(char::from(*octet)),
            _ => text.push(char::REPLACEMENT_CHARACTER),
        }
    }
    without_marks(text)
}

fn utf_16_of_base64(digits: &[u8]) -> String {
    let octets = mail_parser::decoders::base64::base64_decode(digits).unwrap_or_default();
    // Bits that fill up the last digit are zeros and make no whole pair.
    let (pairs, _) = octets.as_chunks::<2>();
    let (text, _) = UTF_16BE.decode_without_bom_handling(pairs.as_flattened());
    text.into_owned()
}

fn is_base64(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/')
}

/// Removes byte order marks: each word of a text may begin with one.
pub fn without_marks(text: String) -> String {
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
            assert_eq!(decode_utf_16(octets, Order::Marked), *want, "{octets:?}");
        }
        assert_eq!(decode_utf_16(b"a\x00", Order::Little), "a");
        assert_eq!(decode_utf_16(b"\x00a", Order::Big), "a");
        let cases: &[(&[u8], &str)] = &[
            (b"\x00\x00\xfe\xff\x00\x01\xf6\x00", "😀"),
            (b"\xff\xfe\x00\x00a\x00\x00\x00", "a"),
            (b"a\x00\x00\x00", "a"),
            (b"\x00\x00\x00a\x00", "a\u{fffd}"),
            (b"\x00\x11\x00\x00", "\u{fffd}"),
        ];
        for (octets, want) in cases {
            assert_eq!(decode_utf_32(octets, Order::Marked), *want, "{octets:?}");
        }
    }
}
