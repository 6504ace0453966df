//! Charsets and how their octets become text.

use encoding_rs::{EUC_JP, Encoding, SHIFT_JIS, UTF_8, WINDOWS_1252};

use super::iso_2022::Family;
use super::unicode::{self, Order};
use super::{charset_names, cns_11643, single_byte};

/// A charset that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// US-ASCII, under whose name senders write 8-bit text of any charset.
    Ascii,
    /// One that `encoding_rs` decodes.
    Encoding(&'static Encoding),
    /// One of two octets or more for a character, shifted to by octets of ASCII.
    Shifted(Family),
    /// What the octets from 80 on mean.
    SingleByte(&'static str),
    /// EUC-TW.
    EucTw,
    /// UTF-7.
    Utf7,
    /// UTF-16 and UCS-2.
    Utf16(Order),
    /// UTF-32 and UCS-4.
    Utf32(Order),
}

impl Charset {
    /// Finds a charset by its name, in any case and punctuation; `None` when no decoder is here for it.
    pub fn named(name: &[u8]) -> Option<Charset> {
        charset_names::find(name)
    }

    /// Decodes `octets`; what has no meaning in the charset becomes U+FFFD.
    pub fn decode(self, octets: &[u8]) -> String {
        match self {
            Charset::Ascii => match std::str::from_utf8(octets) {
                Ok(text) => text.to_owned(),
                Err(_) => decode_by(WINDOWS_1252, octets),
            },
            Charset::Encoding(encoding) if encoding == UTF_8 => {
                unicode::without_marks(decode_by(encoding, octets))
            }
            Charset::Encoding(encoding) => decode_by(encoding, octets),
            Charset::Shifted(family) => family.decode(&[octets.to_vec()]),
            Charset::SingleByte(upper_half) => single_byte::decode(octets, upper_half),
            Charset::EucTw => cns_11643::decode_euc_tw(octets),
            Charset::Utf7 => unicode::decode_utf_7(octets),
            Charset::Utf16(order) => unicode::decode_utf_16(octets, order),
            Charset::Utf32(order) => unicode::decode_utf_32(octets, order),
        }
    }

    /// Decodes the texts of adjacent encoded words, which may cut a character in two.
    pub fn decode_words(self, words: &[Vec<u8>]) -> String {
        match self {
            Charset::Shifted(family) => family.decode(words),
            // Each word begins and ends in ASCII.
            Charset::Utf7 => words.iter().map(|word| self.decode(word)).collect(),
            _ => self.decode(&words.concat()),
        }
    }

    /// Decodes octets of a header field that are 8-bit but not UTF-8; `None` if such octets cannot be in this charset.
    pub fn decode_raw(self, octets: &[u8]) -> Option<String> {
        match self {
            Charset::Encoding(encoding) if encoding == UTF_8 => None,
            Charset::Utf7 | Charset::Utf16(_) | Charset::Utf32(_) => None,
            // 7-bit text in the body, and in the header what the sender's system writes.
            Charset::Shifted(Family::Japanese) => [EUC_JP, SHIFT_JIS].iter().find_map(|encoding| {
                let text = encoding.decode_without_bom_handling_and_without_replacement(octets);
                text.map(String::from)
            }),
            _ => Some(self.decode(octets)),
        }
    }
}

fn decode_by(encoding: &'static Encoding, octets: &[u8]) -> String {
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
