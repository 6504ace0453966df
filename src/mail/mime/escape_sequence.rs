//! Escape sequences of ISO/IEC 2022. They designate character sets and shift between them. The final octet of a sequence
//! identifies the character set (ISO-IR registry).

/// A character set that an escape sequence designates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum CharacterSet {
    Ascii,
    /// The Roman set of JIS X 0201: ASCII with yen sign and overline instead of backslash and tilde.
    JisRoman,
    /// The Katakana set of JIS X 0201 (half-width).
    JisKatakana,
    JisX0208,
    JisX0212,
    /// JIS X 0213; the value is the plane.
    JisX0213(u8),
    KsX1001,
    Gb2312,
    /// CNS 11643; the value is the plane.
    Cns11643(u8),
    Latin1,
    Greek,
    /// A double-octet set without a decoder.
    Unknown,
}

impl CharacterSet {
    /// Returns whether a character takes two octets.
    pub fn is_double_octet(self) -> bool {
        !matches!(
            self,
            CharacterSet::Ascii
                | CharacterSet::JisRoman
                | CharacterSet::JisKatakana
                | CharacterSet::Latin1
                | CharacterSet::Greek
        )
    }
}

/// An element of text in a stateful charset.
#[derive(Clone, Copy)]
pub enum CharsetToken {
    /// Designates the set of unshifted text.
    DesignateG0(CharacterSet),
    /// Designates the set between shift-out and shift-in.
    DesignateG1(CharacterSet),
    /// Designates the set of the character after a single shift.
    DesignateG2(CharacterSet),
    ShiftOut,
    ShiftIn,
    SingleShift,
    Ignored,
    Octet(u8),
}

/// Returns whether `octets` contain an escape sequence that designates G0 or G1. Only 7-bit text in a stateful charset
/// contains such sequences.
pub fn has_designation(octets: &[u8]) -> bool {
    let is_designation = |at: usize| {
        let (token, _) = read_escape_sequence(octets.get(at..).unwrap_or_default());
        matches!(
            token,
            CharsetToken::DesignateG0(_) | CharsetToken::DesignateG1(_)
        )
    };
    memchr::memchr_iter(ESCAPE, octets).any(is_designation)
}

/// Reads the escape sequence at the start of `rest`, which begins with ESC; returns the token and its length in octets.
pub fn read_escape_sequence(rest: &[u8]) -> (CharsetToken, usize) {
    match rest {
        [ESCAPE, b'(', b'B', ..] => (CharsetToken::DesignateG0(CharacterSet::Ascii), 3),
        // `H` designates a Swedish set, but old Japanese programs write it instead of `J`.
        [ESCAPE, b'(', b'J' | b'H', ..] => (CharsetToken::DesignateG0(CharacterSet::JisRoman), 3),
        [ESCAPE, b'(', b'I', ..] => (CharsetToken::DesignateG0(CharacterSet::JisKatakana), 3),
        [ESCAPE, b')', b'I', ..] => (CharsetToken::DesignateG1(CharacterSet::JisKatakana), 3),
        [ESCAPE, b'$', b'@' | b'B', ..] => (CharsetToken::DesignateG0(CharacterSet::JisX0208), 3),
        [ESCAPE, b'$', b'A', ..] => (CharsetToken::DesignateG0(CharacterSet::Gb2312), 3),
        [ESCAPE, b'$', b'(', last, ..] => (CharsetToken::DesignateG0(double_octet_set(*last)), 4),
        [ESCAPE, b'$', b')', last, ..] => (CharsetToken::DesignateG1(double_octet_set(*last)), 4),
        [ESCAPE, b'$', b'*', last, ..] => (CharsetToken::DesignateG2(double_octet_set(*last)), 4),
        [ESCAPE, b'.', b'A', ..] => (CharsetToken::DesignateG2(CharacterSet::Latin1), 3),
        [ESCAPE, b'.', b'F', ..] => (CharsetToken::DesignateG2(CharacterSet::Greek), 3),
        // This sequence announces that the next sequence designates a revised set.
        [ESCAPE, b'&', b'@', ..] => (CharsetToken::Ignored, 3),
        [ESCAPE, b'N', ..] => (CharsetToken::SingleShift, 2),
        [octet, ..] => (CharsetToken::Octet(*octet), 1),
        [] => (CharsetToken::Ignored, 1),
    }
}

fn double_octet_set(last: u8) -> CharacterSet {
    match last {
        b'@' | b'B' => CharacterSet::JisX0208,
        b'D' => CharacterSet::JisX0212,
        b'O' | b'Q' => CharacterSet::JisX0213(1),
        b'P' => CharacterSet::JisX0213(2),
        b'C' => CharacterSet::KsX1001,
        // `E` is ISO-IR-165, an extension of GB 2312.
        b'A' | b'E' => CharacterSet::Gb2312,
        b'G'..=b'M' => CharacterSet::Cns11643(last - b'F'),
        _ => CharacterSet::Unknown,
    }
}

/// ESC, the first octet of each escape sequence.
pub const ESCAPE: u8 = 0x1b;
