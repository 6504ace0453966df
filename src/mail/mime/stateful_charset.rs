//! Stateful charsets, which switch between character sets: ISO-2022-JP and its extensions, ISO-2022-KR, ISO-2022-CN and
//! HZ (RFC 1468, 1554, 1557, 1922, 1843).
//!
//! Of these, `encoding_rs` decodes only ISO-2022-JP, and as strictly as browsers do: it replaces an escape sequence that
//! directly follows another escape sequence. Mail programs write such pairs when they join two texts. This decoder
//! instead maps the octets of each character set to the EUC charset that contains the set, and `encoding_rs` decodes that
//! charset.

use encoding_rs::{EUC_JP, EUC_KR, Encoding, GBK, ISO_8859_7, WINDOWS_1252};

use super::escape_sequence::{self, ESCAPE, Iso2022Set, StatefulTextToken};
use super::{cns_11643, jis_x_0213};

/// A charset in which the meaning of an octet depends on earlier escape sequences. The variant determines how the
/// escape sequences are written, and which character sets apply before the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatefulCharset {
    /// ISO-2022-JP and its extensions.
    Iso2022Jp,
    Iso2022Kr,
    Iso2022Cn,
    /// HZ, whose shifts are `~{` and `~}`.
    Hz,
}

impl StatefulCharset {
    /// Returns whether `octets` contain a shift or a designation.
    pub fn contains_shift_or_designation(self, octets: &[u8]) -> bool {
        match self {
            StatefulCharset::Hz => memchr::memmem::find(octets, b"~{").is_some(),
            _ => octets.contains(&SHIFT_OUT) || escape_sequence::has_charset_designation(octets),
        }
    }

    /// Decodes the octets of adjacent encoded words.
    ///
    /// Each word should begin in ASCII (RFC 2047 §3), but some senders split one text into several words. The state is
    /// therefore carried into the next word if the previous one ended within a character, or if the next shift sequence (in
    /// this word, or in a later one if this word has none) returns to ASCII.
    pub fn decode(self, words: &[Vec<u8>]) -> String {
        let mut decoder = StatefulDecoder::new(self);
        let mut is_continued = vec![false; words.len()];
        let mut next_shift_is_to_ascii = false;
        for (is_continued, word) in is_continued.iter_mut().zip(words).rev() {
            next_shift_is_to_ascii = self
                .first_shift_is_to_ascii(word)
                .unwrap_or(next_shift_is_to_ascii);
            *is_continued = next_shift_is_to_ascii;
        }
        for (word, is_continued) in words.iter().zip(is_continued) {
            if !is_continued && decoder.lead.is_none() {
                decoder.g0 = Iso2022Set::Ascii;
                decoder.is_shifted = false;
            }
            decoder.decode_octets(word);
        }
        decoder.into_decoded_text()
    }

    /// Returns whether the first shift or designation in `octets` returns to ASCII (or JIS-Roman); `None` if `octets`
    /// contain neither.
    fn first_shift_is_to_ascii(self, octets: &[u8]) -> Option<bool> {
        if self == StatefulCharset::Hz {
            let mut shifts = octets
                .windows(2)
                .filter(|pair| matches!(*pair, [b'~', b'{' | b'}']));
            return shifts.next().map(|pair| pair.ends_with(b"}"));
        }
        let mut rest = octets;
        while !rest.is_empty() {
            let (token, length) = self.read_token(rest);
            match token {
                StatefulTextToken::DesignateG0(set) => {
                    return Some(matches!(set, Iso2022Set::Ascii | Iso2022Set::JisRoman));
                }
                StatefulTextToken::ShiftOut => return Some(false),
                StatefulTextToken::ShiftIn => return Some(true),
                _ => {}
            }
            rest = rest.get(length..).unwrap_or_default();
        }
        None
    }

    /// Reads the first token of `rest`, which is not empty; returns the token and its length in octets.
    fn read_token(self, rest: &[u8]) -> (StatefulTextToken, usize) {
        match (self, rest) {
            (StatefulCharset::Hz, [b'~', b'{', ..]) => (StatefulTextToken::ShiftOut, 2),
            (StatefulCharset::Hz, [b'~', b'}', ..]) => (StatefulTextToken::ShiftIn, 2),
            (StatefulCharset::Hz, [b'~', b'~', ..]) => (StatefulTextToken::Octet(b'~'), 2),
            (StatefulCharset::Hz, [b'~', b'\n', ..]) => (StatefulTextToken::Ignored, 2),
            (StatefulCharset::Hz, [octet, ..]) => (StatefulTextToken::Octet(*octet), 1),
            (_, [SHIFT_OUT, ..]) => (StatefulTextToken::ShiftOut, 1),
            (_, [SHIFT_IN, ..]) => (StatefulTextToken::ShiftIn, 1),
            (_, [ESCAPE, ..]) => escape_sequence::read_iso_2022_escape(rest),
            (_, [octet, ..]) => (StatefulTextToken::Octet(*octet), 1),
            (_, []) => (StatefulTextToken::Ignored, 1),
        }
    }

    fn default_g1(self) -> Iso2022Set {
        match self {
            StatefulCharset::Iso2022Jp => Iso2022Set::JisKatakana,
            StatefulCharset::Iso2022Kr => Iso2022Set::KsX1001,
            StatefulCharset::Iso2022Cn | StatefulCharset::Hz => Iso2022Set::Gb2312,
        }
    }
}

/// The state of a decoder: designated character sets, active shifts and the decoded text.
struct StatefulDecoder {
    charset: StatefulCharset,
    g0: Iso2022Set,
    g1: Iso2022Set,
    g2: Iso2022Set,
    is_shifted: bool,
    is_single_shifted: bool,
    /// The first octet of a double-octet character whose second octet is not read yet.
    lead: Option<u8>,
    text: String,
    /// Octets in `run_encoding` that are not decoded yet.
    run: Vec<u8>,
    run_encoding: &'static Encoding,
}

impl StatefulDecoder {
    fn new(charset: StatefulCharset) -> StatefulDecoder {
        StatefulDecoder {
            charset,
            g0: Iso2022Set::Ascii,
            g1: charset.default_g1(),
            g2: Iso2022Set::Latin1,
            is_shifted: false,
            is_single_shifted: false,
            lead: None,
            text: String::new(),
            run: Vec::new(),
            run_encoding: WINDOWS_1252,
        }
    }

    fn decode_octets(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while let [first, ..] = rest {
            // In HZ, the second octet of a double-octet character may be a tilde, which does not begin a shift there.
            let is_second = self.charset == StatefulCharset::Hz && self.lead.is_some();
            let (token, length) = if is_second {
                (StatefulTextToken::Octet(*first), 1)
            } else {
                self.charset.read_token(rest)
            };
            rest = rest.get(length..).unwrap_or_default();
            if !matches!(token, StatefulTextToken::Octet(_)) {
                self.replace_unpaired_lead_octet();
            }
            match token {
                StatefulTextToken::DesignateG0(set) => self.g0 = set,
                StatefulTextToken::DesignateG1(set) => self.g1 = set,
                StatefulTextToken::DesignateG2(set) => self.g2 = set,
                StatefulTextToken::ShiftOut => self.is_shifted = true,
                StatefulTextToken::ShiftIn => self.is_shifted = false,
                StatefulTextToken::SingleShift => self.is_single_shifted = true,
                StatefulTextToken::Ignored => {}
                StatefulTextToken::Octet(octet) => self.decode_octet(octet),
            }
        }
    }

    fn decode_octet(&mut self, octet: u8) {
        let set = match () {
            () if self.is_single_shifted => self.g2,
            () if self.is_shifted => self.g1,
            () => self.g0,
        };
        if !(0x21..=0x7e).contains(&octet) {
            self.replace_unpaired_lead_octet();
            return self.decode_space_or_control_octet(octet);
        }
        if !set.is_double_octet() {
            self.is_single_shifted = false;
            return self.decode_single_octet(set, octet);
        }
        match self.lead.take() {
            None => self.lead = Some(octet),
            Some(lead) => {
                self.is_single_shifted = false;
                self.decode_double_octet(set, lead, octet);
            }
        }
    }

    /// Decodes a space, a control character or an octet with the high bit set.
    fn decode_space_or_control_octet(&mut self, octet: u8) {
        match self.charset {
            _ if octet.is_ascii() => self.push_octets_in_encoding(self.run_encoding, &[octet]),
            StatefulCharset::Iso2022Jp if (0xa1..=0xdf).contains(&octet) => {
                self.push_octets_in_encoding(EUC_JP, &[SINGLE_SHIFT_2, octet]);
            }
            StatefulCharset::Iso2022Jp => self.push_char('\u{fffd}'),
            // Instead of shifts, some senders write the EUC form of the character set.
            StatefulCharset::Iso2022Kr => self.push_octets_in_encoding(EUC_KR, &[octet]),
            StatefulCharset::Iso2022Cn | StatefulCharset::Hz => {
                self.push_octets_in_encoding(GBK, &[octet])
            }
        }
    }

    fn decode_single_octet(&mut self, set: Iso2022Set, octet: u8) {
        match (set, octet) {
            (Iso2022Set::JisRoman, b'\\') => self.push_char('¥'),
            (Iso2022Set::JisRoman, b'~') => self.push_char('\u{203e}'),
            (Iso2022Set::JisKatakana, _) => {
                self.push_octets_in_encoding(EUC_JP, &[SINGLE_SHIFT_2, octet | 0x80])
            }
            (Iso2022Set::Latin1, _) => self.push_char(char::from(octet | 0x80)),
            (Iso2022Set::Greek, _) => self.push_octets_in_encoding(ISO_8859_7, &[octet | 0x80]),
            _ => self.push_octets_in_encoding(self.run_encoding, &[octet]),
        }
    }

    fn decode_double_octet(&mut self, set: Iso2022Set, lead: u8, octet: u8) {
        let pair = [lead | 0x80, octet | 0x80];
        match set {
            Iso2022Set::JisX0208 => self.push_octets_in_encoding(EUC_JP, &pair),
            Iso2022Set::JisX0213(plane) => match jis_x_0213::decode(plane, [lead, octet]) {
                Some(c) => self.push_char(c),
                None if plane == 1 => self.push_octets_in_encoding(EUC_JP, &pair),
                None => self.push_char('\u{fffd}'),
            },
            Iso2022Set::JisX0212 => {
                let [first, second] = pair;
                self.push_octets_in_encoding(EUC_JP, &[SINGLE_SHIFT_3, first, second]);
            }
            Iso2022Set::KsX1001 => self.push_octets_in_encoding(EUC_KR, &pair),
            Iso2022Set::Gb2312 => self.push_octets_in_encoding(GBK, &pair),
            Iso2022Set::Cns11643(plane) => self.push_char(cns_11643::decode(plane, [lead, octet])),
            _ => self.push_char('\u{fffd}'),
        }
    }

    fn push_octets_in_encoding(&mut self, encoding: &'static Encoding, octets: &[u8]) {
        if encoding != self.run_encoding {
            self.decode_pending_run();
            self.run_encoding = encoding;
        }
        self.run.extend_from_slice(octets);
    }

    fn push_char(&mut self, c: char) {
        self.decode_pending_run();
        self.text.push(c);
    }

    fn replace_unpaired_lead_octet(&mut self) {
        if self.lead.take().is_some() {
            self.push_char('\u{fffd}');
        }
    }

    fn decode_pending_run(&mut self) {
        let (decoded, _) = self.run_encoding.decode_without_bom_handling(&self.run);
        self.text.push_str(&decoded);
        self.run.clear();
    }

    fn into_decoded_text(mut self) -> String {
        self.replace_unpaired_lead_octet();
        self.decode_pending_run();
        self.text
    }
}

const SHIFT_OUT: u8 = 0x0e;
const SHIFT_IN: u8 = 0x0f;
/// SS2 of EUC-JP: the octet before a half-width Katakana character.
const SINGLE_SHIFT_2: u8 = 0x8e;
/// SS3 of EUC-JP: the octet before a character of JIS X 0212.
const SINGLE_SHIFT_3: u8 = 0x8f;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_each_stateful_charset_are_decoded() {
        let cases: &[(StatefulCharset, &[u8], &str)] = &[
            (StatefulCharset::Iso2022Jp, b"a\x1b$BF|K\\\x1b(Bb", "a日本b"),
            (
                StatefulCharset::Iso2022Jp,
                b"\x1b$B$\"\x1b(B\x1b$B$$\x1b(B",
                "あい",
            ),
            (StatefulCharset::Iso2022Jp, b"\x1b$@$\"", "あ"),
            (
                StatefulCharset::Iso2022Jp,
                b"\x1b(J\\~\x1b(B\\",
                "¥\u{203e}\\",
            ),
            (StatefulCharset::Iso2022Jp, b"\x1b(I1\x1b(B \xb1", "ｱ ｱ"),
            (StatefulCharset::Iso2022Jp, b"\x0e1\x0f1", "ｱ1"),
            (StatefulCharset::Iso2022Jp, b"\x1b$(D0!\x1b(B", "丂"),
            (
                StatefulCharset::Iso2022Jp,
                b"\x1b$A<:\x1b$(C0!\x1b(B",
                "己가",
            ),
            (
                StatefulCharset::Iso2022Jp,
                b"\x1b.A\x1bNi\x1b.F\x1bNax",
                "éαx",
            ),
            (
                StatefulCharset::Iso2022Jp,
                b"\x1b$(QF|K\\)#\x1b$(P!!\x1b(B",
                "日本¡𠂉",
            ),
            (StatefulCharset::Iso2022Jp, b"\x1b$B-!\x1b(B", "①"),
            (StatefulCharset::Iso2022Jp, b"\x1b$B$\x1b(Bx", "\u{fffd}x"),
            (StatefulCharset::Iso2022Jp, b"\x1b$B$\" $\"\x1b(B", "あ あ"),
            (StatefulCharset::Iso2022Jp, b"\x1bx", "\x1bx"),
            (
                StatefulCharset::Iso2022Kr,
                b"\x1b$)C\x0e>H\x0f a \x0e>H\x0f",
                "안 a 안",
            ),
            (StatefulCharset::Iso2022Kr, b"\x0e>H\x0f", "안"),
            (StatefulCharset::Iso2022Kr, b"\xbe\xc8", "안"),
            (StatefulCharset::Iso2022Cn, b"\x1b$)A\x0eDc\x0f", "你"),
            (
                StatefulCharset::Iso2022Cn,
                b"\x1b$)A\x0eVPNDL(\x1b$)G}$\x1b$*H\x1bN!!\x0f",
                "中文台灣乂",
            ),
            (StatefulCharset::Hz, b"~{DcC~~}~~a", "你摸~a"),
            (StatefulCharset::Hz, b"\xc4\xe3", "你"),
        ];
        for (charset, octets, want) in cases {
            let decoded = charset.decode(&[octets.to_vec()]);
            assert_eq!(decoded, *want, "{}", octets.escape_ascii());
        }
    }

    #[test]
    fn encoded_words_start_in_ascii_unless_a_text_was_split() {
        let cases: &[(&[&[u8]], &str)] = &[
            (&[b"\x1b$B$\"\x1b(B", b"\x1b$B$$\x1b(B"], "あい"),
            (&[b"\x1b$B$\"", b"\x1b$B$$", b"ab"], "あいab"),
            (&[b"\x1b$B$\"$", b"$\x1b(Ba"], "あいa"),
            (&[b"\x1b$B$\"", b"$$", b"$&\x1b(B"], "あいう"),
        ];
        for (words, want) in cases {
            let words: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
            assert_eq!(StatefulCharset::Iso2022Jp.decode(&words), *want);
        }
        let hz = [b"~{Dc".to_vec(), b"C~~}".to_vec()];
        assert_eq!(StatefulCharset::Hz.decode(&hz), "你摸");
    }
}
