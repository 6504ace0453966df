//! Charsets that shift between character sets: ISO-2022-JP and its extensions, ISO-2022-KR, ISO-2022-CN and HZ
//! (RFC 1468, 1554, 1557, 1922, 1843).
//!
//! `encoding_rs` decodes the first alone, in the strict form that browsers use: it replaces an escape that directly follows
//! another one, which mail programs write at each seam of two texts. Here the octets of each set become those of the
//! EUC charset that holds the set, which `encoding_rs` decodes.

use encoding_rs::{EUC_JP, EUC_KR, Encoding, GBK, ISO_8859_7, WINDOWS_1252};

use super::escape_sequence::{self, ESCAPE, Set, Token};
use super::{cns_11643, jis_x_0213};

/// How a charset writes its shifts, and what its shift-out (SO, `~{`) means before a designation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// ISO-2022-JP and its extensions.
    Japanese,
    /// ISO-2022-KR.
    Korean,
    /// ISO-2022-CN.
    Chinese,
    /// HZ, whose shifts are `~{` and `~}`.
    Hz,
}

impl Family {
    /// Returns whether `octets` hold a shift into another character set.
    pub fn has_shift(self, octets: &[u8]) -> bool {
        match self {
            Family::Hz => memchr::memmem::find(octets, b"~{").is_some(),
            _ => octets.contains(&SHIFT_OUT) || escape_sequence::has_designation(octets),
        }
    }

    /// Decodes the texts of adjacent encoded words.
    ///
    /// Each word begins in ASCII (RFC 2047 §3), except where the sender cut one text in pieces: where a word ends amid a
    /// character, or where the next shift is a shift back.
    pub fn decode(self, words: &[Vec<u8>]) -> String {
        let mut decoder = Decoder::new(self);
        let mut continued = vec![false; words.len()];
        let mut ends_with_shift_back = false;
        for (continued, word) in continued.iter_mut().zip(words).rev() {
            ends_with_shift_back = self.first_is_back(word).unwrap_or(ends_with_shift_back);
            *continued = ends_with_shift_back;
        }
        for (word, continued) in words.iter().zip(continued) {
            if !continued && decoder.lead.is_none() {
                decoder.g0 = Set::Ascii;
                decoder.is_shifted = false;
            }
            decoder.feed(word);
        }
        decoder.finish()
    }

    /// Returns whether the first shift goes back to ASCII; `None` without a shift.
    fn first_is_back(self, octets: &[u8]) -> Option<bool> {
        if self == Family::Hz {
            let mut shifts = octets
                .windows(2)
                .filter(|pair| matches!(*pair, [b'~', b'{' | b'}']));
            return shifts.next().map(|pair| pair.ends_with(b"}"));
        }
        let mut rest = octets;
        while !rest.is_empty() {
            let (token, length) = self.token(rest);
            match token {
                Token::G0(set) => return Some(matches!(set, Set::Ascii | Set::Roman)),
                Token::ShiftOut => return Some(false),
                Token::ShiftIn => return Some(true),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        None
    }

    /// Reads what stands first in `rest`, which is not empty; returns it and its length.
    fn token(self, rest: &[u8]) -> (Token, usize) {
        match (self, rest) {
            (Family::Hz, [b'~', b'{', ..]) => (Token::ShiftOut, 2),
            (Family::Hz, [b'~', b'}', ..]) => (Token::ShiftIn, 2),
            (Family::Hz, [b'~', b'~', ..]) => (Token::Octet(b'~'), 2),
            (Family::Hz, [b'~', b'\n', ..]) => (Token::Nothing, 2),
            (Family::Hz, [octet, ..]) => (Token::Octet(*octet), 1),
            (_, [SHIFT_OUT, ..]) => (Token::ShiftOut, 1),
            (_, [SHIFT_IN, ..]) => (Token::ShiftIn, 1),
            (_, [ESCAPE, ..]) => escape_sequence::read(rest),
            (_, [octet, ..]) => (Token::Octet(*octet), 1),
            (_, []) => (Token::Nothing, 1),
        }
    }

    fn shifted_set(self) -> Set {
        match self {
            Family::Japanese => Set::Kana,
            Family::Korean => Set::Korean,
            Family::Chinese | Family::Hz => Set::Simplified,
        }
    }
}

struct Decoder {
    family: Family,
    g0: Set,
    g1: Set,
    g2: Set,
    is_shifted: bool,
    is_single_shifted: bool,
    /// The first octet of a character of two.
    lead: Option<u8>,
    text: String,
    /// Octets of one charset that are not decoded yet.
    run: Vec<u8>,
    charset: &'static Encoding,
}

impl Decoder {
    fn new(family: Family) -> Decoder {
        Decoder {
            family,
            g0: Set::Ascii,
            g1: family.shifted_set(),
            g2: Set::Latin1,
            is_shifted: false,
            is_single_shifted: false,
            lead: None,
            text: String::new(),
            run: Vec::new(),
            charset: WINDOWS_1252,
        }
    }

    fn feed(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while let [first, ..] = rest {
            // The second octet of a character may be a tilde.
            let is_second = self.family == Family::Hz && self.lead.is_some();
            let (token, length) = if is_second {
                (Token::Octet(*first), 1)
            } else {
                self.family.token(rest)
            };
            rest = rest.get(length..).unwrap_or_default();
            if !matches!(token, Token::Octet(_)) {
                self.drop_lead();
            }
            match token {
                Token::G0(set) => self.g0 = set,
                Token::G1(set) => self.g1 = set,
                Token::G2(set) => self.g2 = set,
                Token::ShiftOut => self.is_shifted = true,
                Token::ShiftIn => self.is_shifted = false,
                Token::SingleShift => self.is_single_shifted = true,
                Token::Nothing => {}
                Token::Octet(octet) => self.octet(octet),
            }
        }
    }

    fn octet(&mut self, octet: u8) {
        let set = match () {
            () if self.is_single_shifted => self.g2,
            () if self.is_shifted => self.g1,
            () => self.g0,
        };
        if !(0x21..=0x7e).contains(&octet) {
            self.drop_lead();
            return self.outside(octet);
        }
        if !set.is_double() {
            self.is_single_shifted = false;
            return self.single(set, octet);
        }
        match self.lead.take() {
            None => self.lead = Some(octet),
            Some(lead) => {
                self.is_single_shifted = false;
                self.pair(set, lead, octet);
            }
        }
    }

    /// Takes white space, a control character, or an octet with the high bit.
    fn outside(&mut self, octet: u8) {
        match self.family {
            _ if octet.is_ascii() => self.put(self.charset, &[octet]),
            Family::Japanese if (0xa1..=0xdf).contains(&octet) => {
                self.put(EUC_JP, &[SINGLE_SHIFT_2, octet]);
            }
            Family::Japanese => self.push('\u{fffd}'),
            // Senders write the same set without the shifts.
            Family::Korean => self.put(EUC_KR, &[octet]),
            Family::Chinese | Family::Hz => self.put(GBK, &[octet]),
        }
    }

    fn single(&mut self, set: Set, octet: u8) {
        match (set, octet) {
            (Set::Roman, b'\\') => self.push('¥'),
            (Set::Roman, b'~') => self.push('\u{203e}'),
            (Set::Kana, _) => self.put(EUC_JP, &[SINGLE_SHIFT_2, octet | 0x80]),
            (Set::Latin1, _) => self.push(char::from(octet | 0x80)),
            (Set::Greek, _) => self.put(ISO_8859_7, &[octet | 0x80]),
            _ => self.put(self.charset, &[octet]),
        }
    }

    fn pair(&mut self, set: Set, lead: u8, octet: u8) {
        let pair = [lead | 0x80, octet | 0x80];
        match set {
            Set::Jis => self.put(EUC_JP, &pair),
            Set::Jis2004(plane) => match jis_x_0213::decode(plane, [lead, octet]) {
                Some(c) => self.push(c),
                None if plane == 1 => self.put(EUC_JP, &pair),
                None => self.push('\u{fffd}'),
            },
            Set::JisSupplement => {
                let [first, second] = pair;
                self.put(EUC_JP, &[SINGLE_SHIFT_3, first, second]);
            }
            Set::Korean => self.put(EUC_KR, &pair),
            Set::Simplified => self.put(GBK, &pair),
            Set::Traditional(plane) => self.push(cns_11643::decode(plane, [lead, octet])),
            _ => self.push('\u{fffd}'),
        }
    }

    fn put(&mut self, charset: &'static Encoding, octets: &[u8]) {
        if charset != self.charset {
            self.flush();
            self.charset = charset;
        }
        self.run.extend_from_slice(octets);
    }

    fn push(&mut self, c: char) {
        self.flush();
        self.text.push(c);
    }

    fn drop_lead(&mut self) {
        if self.lead.take().is_some() {
            self.push('\u{fffd}');
        }
    }

    fn flush(&mut self) {
        let (decoded, _) = self.charset.decode_without_bom_handling(&self.run);
        self.text.push_str(&decoded);
        self.run.clear();
    }

    fn finish(mut self) -> String {
        self.drop_lead();
        self.flush();
        self.text
    }
}

const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;
/// Before half-width Katakana and before JIS X 0212 in EUC-JP.
const SINGLE_SHIFT_2: u8 = 0x8e;
const SINGLE_SHIFT_3: u8 = 0x8f;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_2022_texts_of_each_family_are_decoded() {
        let cases: &[(Family, &[u8], &str)] = &[
            (Family::Japanese, b"a\x1b$BF|K\\\x1b(Bb", "a日本b"),
            (Family::Japanese, b"\x1b$B$\"\x1b(B\x1b$B$$\x1b(B", "あい"),
            (Family::Japanese, b"\x1b$@$\"", "あ"),
            (Family::Japanese, b"\x1b(J\\~\x1b(B\\", "¥\u{203e}\\"),
            (Family::Japanese, b"\x1b(I1\x1b(B \xb1", "ｱ ｱ"),
            (Family::Japanese, b"\x0e1\x0f1", "ｱ1"),
            (Family::Japanese, b"\x1b$(D0!\x1b(B", "丂"),
            (Family::Japanese, b"\x1b$A<:\x1b$(C0!\x1b(B", "己가"),
            (Family::Japanese, b"\x1b.A\x1bNi\x1b.F\x1bNax", "éαx"),
            (
                Family::Japanese,
                b"\x1b$(QF|K\\)#\x1b$(P!!\x1b(B",
                "日本¡𠂉",
            ),
            (Family::Japanese, b"\x1b$B-!\x1b(B", "①"),
            (Family::Japanese, b"\x1b$B$\x1b(Bx", "\u{fffd}x"),
            (Family::Japanese, b"\x1b$B$\" $\"\x1b(B", "あ あ"),
            (Family::Japanese, b"\x1bx", "\x1bx"),
            (Family::Korean, b"\x1b$)C\x0e>H\x0f a \x0e>H\x0f", "안 a 안"),
            (Family::Korean, b"\x0e>H\x0f", "안"),
            (Family::Korean, b"\xbe\xc8", "안"),
            (Family::Chinese, b"\x1b$)A\x0eDc\x0f", "你"),
            (
                Family::Chinese,
                b"\x1b$)A\x0eVPNDL(\x1b$)G}$\x1b$*H\x1bN!!\x0f",
                "中文台灣乂",
            ),
            (Family::Hz, b"~{DcC~~}~~a", "你摸~a"),
            (Family::Hz, b"\xc4\xe3", "你"),
        ];
        for (family, octets, want) in cases {
            let decoded = family.decode(&[octets.to_vec()]);
            assert_eq!(decoded, *want, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn iso_2022_words_start_in_ascii_unless_a_text_was_split() {
        let cases: &[(&[&[u8]], &str)] = &[
            (&[b"\x1b$B$\"\x1b(B", b"\x1b$B$$\x1b(B"], "あい"),
            (&[b"\x1b$B$\"", b"\x1b$B$$", b"ab"], "あいab"),
            (&[b"\x1b$B$\"$", b"$\x1b(Ba"], "あいa"),
            (&[b"\x1b$B$\"", b"$$", b"$&\x1b(B"], "あいう"),
        ];
        for (words, want) in cases {
            let words: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
            assert_eq!(Family::Japanese.decode(&words), *want);
        }
        let hz = [b"~{Dc".to_vec(), b"C~~}".to_vec()];
        assert_eq!(Family::Hz.decode(&hz), "你摸");
    }
}
