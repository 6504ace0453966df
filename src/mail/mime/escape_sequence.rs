//! Escape sequences of ISO/IEC 2022. They designate character sets and shift between them. The final octet of a sequence
//! identifies the character set (ISO-IR registry).

/// A character set that an escape sequence designates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Iso2022Set {
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

impl Iso2022Set {
    /// Returns whether each character of this set takes two octets.
    pub fn is_double_octet(self) -> bool {
        !matches!(
            self,
            Iso2022Set::Ascii
                | Iso2022Set::JisRoman
                | Iso2022Set::JisKatakana
                | Iso2022Set::Latin1
                | Iso2022Set::Greek
        )
    }
}

/// An element of text in a stateful charset.
#[derive(Clone, Copy)]
pub enum StatefulTextToken {
    /// Designates the character set of unshifted text.
    DesignateG0(Iso2022Set),
    /// Designates the set that is used between shift-out and shift-in.
    DesignateG1(Iso2022Set),
    /// Designates the set of the character after a single shift.
    DesignateG2(Iso2022Set),
    ShiftOut,
    ShiftIn,
    SingleShift,
    Ignored,
    Octet(u8),
}

/// Returns whether `octets` contain an escape sequence that designates G0 or G1.
pub fn has_charset_designation(octets: &[u8]) -> bool {
    let is_designation = |at: usize| {
        let (token, _) = read_iso_2022_escape(octets.get(at..).unwrap_or_default());
        matches!(
            token,
            StatefulTextToken::DesignateG0(_) | StatefulTextToken::DesignateG1(_)
        )
    };
    memchr::memchr_iter(ESCAPE, octets).any(is_designation)
}

/// Reads the escape sequence at the start of `rest`, which begins with ESC; returns the token and its length in octets.
/// An unknown sequence is not read as a whole: the token is then the octet ESC.
pub fn read_iso_2022_escape(rest: &[u8]) -> (StatefulTextToken, usize) {
    match rest {
        [ESCAPE, b'(', b'B', ..] => (StatefulTextToken::DesignateG0(Iso2022Set::Ascii), 3),
        // `H` designates a Swedish set, but old Japanese programs write it instead of `J`.
        [ESCAPE, b'(', b'J' | b'H', ..] => {
            (StatefulTextToken::DesignateG0(Iso2022Set::JisRoman), 3)
        }
        [ESCAPE, b'(', b'I', ..] => (StatefulTextToken::DesignateG0(Iso2022Set::JisKatakana), 3),
        [ESCAPE, b')', b'I', ..] => (StatefulTextToken::DesignateG1(Iso2022Set::JisKatakana), 3),
        [ESCAPE, b'$', b'@' | b'B', ..] => {
            (StatefulTextToken::DesignateG0(Iso2022Set::JisX0208), 3)
        }
        [ESCAPE, b'$', b'A', ..] => (StatefulTextToken::DesignateG0(Iso2022Set::Gb2312), 3),
        [ESCAPE, b'$', b'(', last, ..] => (
            StatefulTextToken::DesignateG0(double_octet_set_of_final_octet(*last)),
            4,
        ),
        [ESCAPE, b'$', b')', last, ..] => (
            StatefulTextToken::DesignateG1(double_octet_set_of_final_octet(*last)),
            4,
        ),
        [ESCAPE, b'$', b'*', last, ..] => (
            StatefulTextToken::DesignateG2(double_octet_set_of_final_octet(*last)),
            4,
        ),
        [ESCAPE, b'.', b'A', ..] => (StatefulTextToken::DesignateG2(Iso2022Set::Latin1), 3),
        [ESCAPE, b'.', b'F', ..] => (StatefulTextToken::DesignateG2(Iso2022Set::Greek), 3),
        // ESC & @ announces that the next escape sequence designates a revised character set.
        [ESCAPE, b'&', b'@', ..] => (StatefulTextToken::Ignored, 3),
        [ESCAPE, b'N', ..] => (StatefulTextToken::SingleShift, 2),
        [octet, ..] => (StatefulTextToken::Octet(*octet), 1),
        [] => (StatefulTextToken::Ignored, 1),
    }
}

fn double_octet_set_of_final_octet(last: u8) -> Iso2022Set {
    match last {
        b'@' | b'B' => Iso2022Set::JisX0208,
        b'D' => Iso2022Set::JisX0212,
        b'O' | b'Q' => Iso2022Set::JisX0213(1),
        b'P' => Iso2022Set::JisX0213(2),
        b'C' => Iso2022Set::KsX1001,
        // `E` is ISO-IR-165, an extension of GB 2312.
        b'A' | b'E' => Iso2022Set::Gb2312,
        b'G'..=b'M' => Iso2022Set::Cns11643(last - b'F'),
        _ => Iso2022Set::Unknown,
    }
}

/// ESC, the first octet of each escape sequence.
pub const ESCAPE: u8 = 0x1b;
