//! Charsets and their decoding to UTF-8.

use encoding_rs::{EUC_JP, Encoding, SHIFT_JIS, UTF_8, WINDOWS_1252};

use super::stateful_charset::StatefulCharset;
use super::unicode::{self, UtfByteOrder};
use super::{charset_names, cns_11643, single_byte};

/// A charset for which there is a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// US-ASCII. Some senders use this name for 8-bit text; such text is decoded as UTF-8 or windows-1252.
    Ascii,
    /// A charset that `encoding_rs` decodes.
    Encoding(&'static Encoding),
    /// ISO-2022-JP, ISO-2022-KR, ISO-2022-CN or HZ. Escape sequences switch between character sets.
    Stateful(StatefulCharset),
    /// A single-byte charset with its table from [`single_byte`].
    SingleByte(&'static str),
    EucTw,
    Utf7,
    /// UTF-16 and UCS-2.
    Utf16(UtfByteOrder),
    /// UTF-32 and UCS-4.
    Utf32(UtfByteOrder),
}

impl Charset {
    /// Finds a charset by its name, regardless of case and punctuation; `None` if there is no decoder for it.
    pub fn from_name(name: &[u8]) -> Option<Charset> {
        charset_names::find(name)
    }

    /// Decodes `octets`. Octets without a meaning in the charset become U+FFFD.
    pub fn decode(self, octets: &[u8]) -> String {
        match self {
            Charset::Ascii => match std::str::from_utf8(octets) {
                Ok(text) => text.to_owned(),
                Err(_) => decode_without_bom(WINDOWS_1252, octets),
            },
            Charset::Encoding(encoding) if encoding == UTF_8 => {
                unicode::strip_byte_order_marks(decode_without_bom(encoding, octets))
            }
            Charset::Encoding(encoding) => decode_without_bom(encoding, octets),
            Charset::Stateful(charset) => charset.decode(&[octets.to_vec()]),
            Charset::SingleByte(upper_half) => single_byte::decode(octets, upper_half),
            Charset::EucTw => cns_11643::decode_euc_tw(octets),
            Charset::Utf7 => unicode::decode_utf_7(octets),
            Charset::Utf16(order) => unicode::decode_utf_16(octets, order),
            Charset::Utf32(order) => unicode::decode_utf_32(octets, order),
        }
    }

    /// Decodes the octets of adjacent encoded words, joined if possible, because some senders cut a character in two.
    pub fn decode_joined_word_octets(self, words: &[Vec<u8>]) -> String {
        match self {
            Charset::Stateful(charset) => charset.decode(words),
            // UTF-7 words are not joined before decoding, because each encoded word begins and ends in ASCII (RFC 2047 §3).
            Charset::Utf7 => words.iter().map(|word| self.decode(word)).collect(),
            _ => self.decode(&words.concat()),
        }
    }

    /// Decodes raw 8-bit octets of a header field that are not valid UTF-8; `None` if raw text cannot be in this charset.
    pub fn decode_raw_header_octets(self, octets: &[u8]) -> Option<String> {
        match self {
            Charset::Encoding(encoding) if encoding == UTF_8 => None,
            Charset::Utf7 | Charset::Utf16(_) | Charset::Utf32(_) => None,
            // Senders of ISO-2022-JP bodies write raw header fields in the charset of their system: EUC-JP or Shift_JIS.
            Charset::Stateful(StatefulCharset::Iso2022Jp) => {
                [EUC_JP, SHIFT_JIS].iter().find_map(|encoding| {
                    let text = encoding.decode_without_bom_handling_and_without_replacement(octets);
                    text.map(String::from)
                })
            }
            _ => Some(self.decode(octets)),
        }
    }
}

fn decode_without_bom(encoding: &'static Encoding, octets: &[u8]) -> String {
    encoding.decode_without_bom_handling(octets).0.into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_text_with_8_bit_octets_is_decoded_as_utf_8_else_latin_1() {
        assert_eq!(Charset::Ascii.decode("ü".as_bytes()), "ü");
        assert_eq!(Charset::Ascii.decode(b"\xfc"), "ü");
    }
}
