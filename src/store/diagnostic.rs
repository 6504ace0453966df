//! Findings of `goguerrilla check`; the server logs some of them at start.

use std::fmt;

/// A problem that `goguerrilla check` found, with its fix. Control characters in the text are escaped, so the text is always
/// one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    is_error: bool,
    text: String,
}

impl Diagnostic {
    /// Returns a finding that keeps the server from starting or from saving mail.
    pub fn error(text: String) -> Diagnostic {
        let is_error = true;
        let text = escape_to_one_line(text);
        Diagnostic { is_error, text }
    }

    /// Returns a finding despite which the server can save mail now.
    pub fn warning(text: String) -> Diagnostic {
        let is_error = false;
        let text = escape_to_one_line(text);
        Diagnostic { is_error, text }
    }

    /// Returns whether the finding is an error.
    pub fn is_error(&self) -> bool {
        self.is_error
    }

    /// Returns the finding and its fix.
    pub fn finding_text_with_fix(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_error { "error" } else { "warning" };
        write!(f, "{kind}: {}", self.text)
    }
}

/// Escapes the characters that would begin another line or control a terminal.
fn escape_to_one_line(text: String) -> String {
    if !text.contains(must_be_escaped) {
        return text;
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match must_be_escaped(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

/// Returns whether `c` is a control character, a line or paragraph separator, or a character that is invisible or changes the
/// direction of text.
fn must_be_escaped(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnostic_escapes_control_characters_into_one_line() {
        let finding = Diagnostic::error("a\r\nerror: b\u{1b}[2J \u{202e}\u{85}é".to_owned());
        assert_eq!(
            finding.to_string(),
            "error: a\\r\\nerror: b\\u{1b}[2J \\u{202e}\\u{85}é"
        );
        assert_eq!(
            Diagnostic::warning("ä".to_owned()).finding_text_with_fix(),
            "ä"
        );
    }
}
