//! Command lines: they end only at CR LF and have a maximum length ([RFC 5321
//! §2.3.8](https://www.rfc-editor.org/rfc/rfc5321#section-2.3.8)).

use memchr::{memchr, memmem};

use super::input::InputBuffer;

/// The reader that finds command lines in the input and discards lines that are too long.
#[derive(Debug, Default)]
pub struct CommandLineFinder {
    is_discarding: bool,
}

/// The result of [`CommandLineFinder::find_next_smtp_line`]: the kind of line at the beginning of the unread input.
#[derive(Debug, PartialEq, Eq)]
pub enum LineSearchResult {
    /// A complete line with this number of octets, including CR LF. The line is not consumed yet.
    Complete(usize),
    /// The end of the line has not been received yet.
    Partial,
    /// A line longer than [`MAX_LINE_OCTETS`]. Returned once per line; the octets of the line are discarded as they arrive.
    TooLong,
    /// A line feed without a carriage return before it. The octets after the line feed must not be trusted as commands.
    BareLf,
}

impl CommandLineFinder {
    /// Finds the next line.
    pub fn find_next_smtp_line(&mut self, input: &mut InputBuffer) -> LineSearchResult {
        if self.is_discarding && !self.discard_line(input) {
            return LineSearchResult::Partial;
        }
        let unread = input.unconsumed_octets();
        let window = unread.get(..MAX_LINE_OCTETS).unwrap_or(unread);
        match memchr(b'\n', window) {
            Some(end) => match window.get(..end) {
                Some([.., b'\r']) => LineSearchResult::Complete(end + 1),
                _ => LineSearchResult::BareLf,
            },
            None if window.len() < MAX_LINE_OCTETS => LineSearchResult::Partial,
            None => {
                self.is_discarding = true;
                LineSearchResult::TooLong
            }
        }
    }

    /// Discards the octets of a line that is too long; returns whether the end of the line was found.
    fn discard_line(&mut self, input: &mut InputBuffer) -> bool {
        let unread = input.unconsumed_octets();
        if let Some(end) = memmem::find(unread, b"\r\n") {
            input.consume(end + 2);
            self.is_discarding = false;
            return true;
        }
        let undecided = usize::from(unread.last() == Some(&b'\r'));
        input.consume(unread.len() - undecided);
        false
    }
}

/// Maximum length of a command line in octets, including CR LF; a longer line is rejected. It consists of the 512 octets of
/// RFC 5321 §4.5.3.1.4, the additions of the offered extensions, and a reserve for long addresses.
pub const MAX_LINE_OCTETS: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_end_at_crlf_only() {
        let cases: &[(&[u8], LineSearchResult)] = &[
            (b"NOOP\r\nQUIT", LineSearchResult::Complete(6)),
            (b"\r\n", LineSearchResult::Complete(2)),
            (b"NOOP", LineSearchResult::Partial),
            (b"NOOP\r", LineSearchResult::Partial),
            (b"NOOP\n", LineSearchResult::BareLf),
            (b"\nNOOP\r\n", LineSearchResult::BareLf),
            (b"NOOP\rQUIT\r\n", LineSearchResult::Complete(11)),
        ];
        for (octets, want) in cases {
            let mut input = InputBuffer::from_octets(octets);
            assert_eq!(
                CommandLineFinder::default().find_next_smtp_line(&mut input),
                *want,
                "{octets:?}"
            );
        }
    }

    #[test]
    fn line_at_the_length_limit_is_accepted_and_a_longer_one_is_discarded() {
        let mut line = vec![b'x'; MAX_LINE_OCTETS - 2];
        line.extend_from_slice(b"\r\n");
        let mut input = InputBuffer::from_octets(&line);
        let mut reader = CommandLineFinder::default();
        assert_eq!(
            reader.find_next_smtp_line(&mut input),
            LineSearchResult::Complete(MAX_LINE_OCTETS)
        );

        line.insert(0, b'x');
        line.extend_from_slice(b"NOOP\r\n");
        let mut input = InputBuffer::from_octets(&line);
        assert_eq!(
            reader.find_next_smtp_line(&mut input),
            LineSearchResult::TooLong
        );
        assert_eq!(
            reader.find_next_smtp_line(&mut input),
            LineSearchResult::Complete(6)
        );
        assert_eq!(input.unconsumed_octets(), b"NOOP\r\n");
    }

    #[test]
    fn discarding_an_overlong_line_buffers_at_most_one_octet() {
        let mut input = InputBuffer::from_octets(&[b'x'; MAX_LINE_OCTETS]);
        let mut reader = CommandLineFinder::default();
        assert_eq!(
            reader.find_next_smtp_line(&mut input),
            LineSearchResult::TooLong
        );
        for _ in 0..100 {
            input.push(b" RSET \r");
            assert_eq!(
                reader.find_next_smtp_line(&mut input),
                LineSearchResult::Partial
            );
            assert_eq!(input.unconsumed_octets(), b"\r");
        }
        input.push(b"\n");
        assert_eq!(
            reader.find_next_smtp_line(&mut input),
            LineSearchResult::Partial
        );
        assert!(input.unconsumed_octets().is_empty());
    }
}
