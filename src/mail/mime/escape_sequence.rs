//! Escape sequences that designate character sets and shift between them (ISO/IEC 2022, final octets as ISO-IR registers
//! them).

/// A character set that an escape sequence designates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Set {
    Ascii,
    /// JIS X 0201: ASCII but for the yen sign and the overline.
    Roman,
    /// JIS X 0201: half-width Katakana.
    Kana,
    /// JIS X 0208.
    Jis,
    /// JIS X 0212.
    JisSupplement,
    /// JIS X 0213, by its plane.
    Jis2004(u8),
    /// KS X 1001.
    Korean,
    /// GB 2312.
    Simplified,
    /// CNS 11643, by its plane.
    Traditional(u8),
    Latin1,
    Greek,
    /// A set of two octets for each character that has no decoder.
    Unknown,
}

impl Set {
    /// Returns whether a character takes two octets.
    pub fn is_double(self) -> bool {
        !matches!(
            self,
            Set::Ascii | Set::Roman | Set::Kana | Set::Latin1 | Set::Greek
        )
    }
}

/// What a shifted text consists of.
#[derive(Clone, Copy)]
pub enum Token {
    /// The set of unshifted text.
    G0(Set),
    /// The set between shift-out and shift-in.
    G1(Set),
    /// The set of the character after a single shift.
    G2(Set),
    ShiftOut,
    ShiftIn,
    SingleShift,
    Nothing,
    Octet(u8),
}

/// Returns whether `octets` hold an escape sequence that designates a set: then they are 7-bit text in such a charset.
pub fn has_designation(octets: &[u8]) -> bool {
    let is_designation = |at: usize| {
        let (token, _) = read(octets.get(at..).unwrap_or_default());
        matches!(token, Token::G0(_) | Token::G1(_))
    };
    memchr::memchr_iter(ESCAPE, octets).any(is_designation)
}

/// Reads the escape sequence at the front, which begins with ESC; returns it and its length.
pub fn read(rest: &[u8]) -> (Token, usize) {
    match rest {
        [ESCAPE, b'(', b'B', ..] => (Token::G0(Set::Ascii), 3),
        // H is a Swedish set, which old Japanese programs write instead of J.
        [ESCAPE, b'(', b'J' | b'H', ..] => (Token::G0(Set::Roman), 3),
        [ESCAPE, b'(', b'I', ..] => (Token::G0(Set::Kana), 3),
        [ESCAPE, b')', b'I', ..] => (Token::G1(Set::Kana), 3),
        [ESCAPE, b'$', b'@' | b'B', ..] => (Token::G0(Set::Jis), 3),
        [ESCAPE, b'$', b'A', ..] => (Token::G0(Set::Simplified), 3),
        [ESCAPE, b'$', b'(', last, ..] => (Token::G0(double_set(*last)), 4),
        [ESCAPE, b'$', b')', last, ..] => (Token::G1(double_set(*last)), 4),
        [ESCAPE, b'$', b'*', last, ..] => (Token::G2(double_set(*last)), 4),
        [ESCAPE, b'.', b'A', ..] => (Token::G2(Set::Latin1), 3),
        [ESCAPE, b'.', b'F', ..] => (Token::G2(Set::Greek), 3),
        // The next designation is of a revised set.
        [ESCAPE, b'&', b'@', ..] => (Token::Nothing, 3),
        [ESCAPE, b'N', ..] => (Token::SingleShift, 2),
        [octet, ..] => (Token::Octet(*octet), 1),
        [] => (Token::Nothing, 1),
    }
}

fn double_set(last: u8) -> Set {
    match last {
        b'@' | b'B' => Set::Jis,
        b'D' => Set::JisSupplement,
        b'O' | b'Q' => Set::Jis2004(1),
        b'P' => Set::Jis2004(2),
        b'C' => Set::Korean,
        // E is ISO-IR-165, which extends GB 2312.
        b'A' | b'E' => Set::Simplified,
        b'G'..=b'M' => Set::Traditional(last - b'F'),
        _ => Set::Unknown,
    }
}

/// The octet that begins a sequence.
pub const ESCAPE: u8 = 0x1b;
