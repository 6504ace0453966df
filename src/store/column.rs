//! Width and character set of a text column.

use std::borrow::Cow;

use crate::smtp::RecipientColumnLimits;

/// A text column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextColumn {
    /// Maximum width of the column.
    pub width: ColumnWidth,
    /// Character set of the column.
    pub charset: ColumnCharset,
}

/// The columns that hold a recipient's address. An address that does not fit is rejected at RCPT and never truncated.
#[derive(Clone, Copy, Debug)]
pub struct RecipientAddressColumns {
    /// Column `to`.
    pub to: TextColumn,
    /// Column `recipient`.
    pub recipient: TextColumn,
}

impl RecipientColumnLimits for RecipientAddressColumns {
    fn can_store_recipient(&self, recipient: &str, to: &str) -> bool {
        self.recipient.holds_unchanged(recipient) && self.to.holds_unchanged(to)
    }
}

/// The maximum width of a text column, in the unit in which the database counts the width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnWidth {
    /// Number of characters, for `varchar` and `char`.
    Chars(usize),
    /// Number of octets of UTF-8, for `text` and binary columns.
    Octets(usize),
}

/// A column's character set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnCharset {
    /// ASCII; also assumed for an unknown character set.
    Ascii,
    /// MySQL's latin1, which is Windows-1252.
    Latin1,
    /// MySQL's utf8: at most three octets per character, so no emoji.
    Utf8mb3,
    /// All of Unicode.
    Unicode,
}

impl TextColumn {
    /// Returns a column that holds at most `max_chars` Unicode characters.
    pub const fn column_of_max_chars(max_chars: usize) -> TextColumn {
        TextColumn {
            width: ColumnWidth::Chars(max_chars),
            charset: ColumnCharset::Unicode,
        }
    }

    /// Returns a column that holds at most `max_octets` octets of UTF-8.
    pub const fn column_of_max_octets(max_octets: usize) -> TextColumn {
        TextColumn {
            width: ColumnWidth::Octets(max_octets),
            charset: ColumnCharset::Unicode,
        }
    }

    /// Returns whether the column holds `text` unchanged.
    pub fn holds_unchanged(&self, text: &str) -> bool {
        self.width.is_wide_enough_for_text(text) && self.charset.holds_unchanged(text)
    }

    /// Returns `text`, changed if it does not fit: characters outside the character set become U+FFFD or `?`, and the result is
    /// truncated at a character boundary.
    #[expect(
        clippy::string_slice,
        reason = "both ways of counting end between characters"
    )]
    pub fn truncate_to_column<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = self.charset.replace_unsupported_chars(text);
        if self.width.is_wide_enough_for_text(&text) {
            return text;
        }
        let end = match self.width {
            ColumnWidth::Chars(max) => text
                .char_indices()
                .nth(max)
                .map_or(text.len(), |(end, _)| end),
            ColumnWidth::Octets(max) => text.floor_char_boundary(max),
        };
        match text {
            Cow::Borrowed(text) => text[..end].into(),
            Cow::Owned(mut text) => {
                text.truncate(end);
                text.into()
            }
        }
    }
}

impl ColumnWidth {
    /// Returns the length of `text` in the unit of this width: characters or octets.
    pub fn length_in_width_unit(self, text: &str) -> usize {
        match self {
            ColumnWidth::Chars(_) => text.chars().count(),
            ColumnWidth::Octets(_) => text.len(),
        }
    }

    /// Returns the maximum width: a number of characters for `Chars`, of octets for `Octets`.
    pub fn max_length(self) -> usize {
        match self {
            ColumnWidth::Chars(max) | ColumnWidth::Octets(max) => max,
        }
    }

    fn is_wide_enough_for_text(self, text: &str) -> bool {
        text.len() <= self.max_length() || self.length_in_width_unit(text) <= self.max_length()
    }
}

impl ColumnCharset {
    /// Returns `text` with each character outside this character set replaced.
    pub fn replace_unsupported_chars(self, text: &str) -> Cow<'_, str> {
        if self.holds_unchanged(text) {
            return text.into();
        }
        let replace = |c| {
            if self.charset_has_char(c) {
                c
            } else {
                self.replacement_char_of_charset()
            }
        };
        text.chars().map(replace).collect::<String>().into()
    }

    fn holds_unchanged(self, text: &str) -> bool {
        self == ColumnCharset::Unicode
            || text.is_ascii()
            || text.chars().all(|c| self.charset_has_char(c))
    }

    fn charset_has_char(self, c: char) -> bool {
        match self {
            ColumnCharset::Ascii => c.is_ascii(),
            ColumnCharset::Latin1 => {
                c.is_ascii() || ('\u{a0}'..='\u{ff}').contains(&c) || WINDOWS_1252.contains(c)
            }
            ColumnCharset::Utf8mb3 => c.len_utf8() <= 3,
            ColumnCharset::Unicode => true,
        }
    }

    fn replacement_char_of_charset(self) -> char {
        match self {
            ColumnCharset::Ascii | ColumnCharset::Latin1 => '?',
            ColumnCharset::Utf8mb3 | ColumnCharset::Unicode => '\u{fffd}',
        }
    }
}

/// The characters of Windows-1252 from 0x80 to 0x9f.
const WINDOWS_1252: &str = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_too_long_for_a_column_is_truncated_at_a_character_boundary() {
        let column = |width, repertoire| TextColumn {
            width,
            charset: repertoire,
        };
        use ColumnCharset::*;
        use ColumnWidth::*;
        for (column, text, want) in [
            (column(Chars(2), Unicode), "äöü", "äö"),
            (column(Chars(3), Unicode), "äöü", "äöü"),
            (column(Octets(3), Unicode), "äöü", "ä"),
            (column(Octets(0), Unicode), "ä", ""),
            (column(Chars(9), Latin1), "ä€漢😀", "ä€??"),
            (column(Chars(9), Utf8mb3), "ä漢😀", "ä漢\u{fffd}"),
            (column(Chars(2), Ascii), "äöü", "??"),
            (column(Chars(0), Unicode), "", ""),
        ] {
            assert_eq!(column.truncate_to_column(text), want, "{column:?} {text}");
            assert!(column.holds_unchanged(want) && column.holds_unchanged(text) == (text == want));
        }
    }
}
