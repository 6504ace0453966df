//! Content after DATA: removes dot-stuffing and finds the end of the message ([RFC 5321 §4.1.1.4], [§4.5.2]).
//!
//! [RFC 5321 §4.1.1.4]: https://www.rfc-editor.org/rfc/rfc5321#section-4.1.1.4
//! [§4.5.2]: https://www.rfc-editor.org/rfc/rfc5321#section-4.5.2

use memchr::memmem;

use super::content::{ContentLimitError, MessageContent};

/// The destination of received content: memory, or nothing after an error.
///
/// [`DataReader`] finds the end of the message in both cases.
#[derive(Debug)]
pub enum ContentSink {
    /// Content is stored.
    Storing(MessageContent),
    /// Content is discarded up to the end of the message because of this error.
    Discarding(ContentLimitError),
}

/// The parser for content after DATA.
///
/// Only CR LF . CR LF ends a message; a single CR or LF is content. The CR LF of the DATA command counts as the first
/// line end.
#[derive(Debug)]
pub struct DataReader {
    sink: ContentSink,
    at_line_start: bool,
}

/// The result of [`DataReader::read`].
#[derive(Debug, PartialEq, Eq)]
pub struct DataReadResult {
    /// Number of consumed octets. Up to two octets at the end of the input stay unread until more octets arrive, because they
    /// may belong to the end of the message.
    pub used: usize,
    /// Whether the end of the message was found. If so, the next octet begins a command.
    pub is_end_of_message: bool,
}

impl ContentSink {
    /// Appends `octets`; after the first error, discards them.
    pub fn push(&mut self, octets: &[u8]) {
        if let ContentSink::Storing(content) = self
            && let Err(error) = content.append_within_limits(octets)
        {
            *self = ContentSink::Discarding(error);
        }
    }

    /// Returns the error that caused the content to be discarded; `None` while content is stored.
    pub fn content_discard_reason_of_data(&self) -> Option<ContentLimitError> {
        match self {
            ContentSink::Storing(_) => None,
            ContentSink::Discarding(error) => Some(*error),
        }
    }
}

impl DataReader {
    /// Returns a reader that begins after the CR LF of the DATA command.
    pub fn new(content: MessageContent) -> DataReader {
        DataReader {
            sink: ContentSink::Storing(content),
            at_line_start: true,
        }
    }

    /// Reads `input`: the octets that earlier calls left unread, then newly received ones. The content does not depend on how
    /// the octets are split into calls.
    #[expect(
        clippy::indexing_slicing,
        reason = "`used` only passes octets that were found in the input"
    )]
    pub fn read(&mut self, input: &[u8]) -> DataReadResult {
        let mut used = 0;
        loop {
            if self.at_line_start {
                match &input[used..] {
                    [b'.', b'\r', b'\n', ..] => return message_complete_result(used + 3),
                    [] | [b'.'] | [b'.', b'\r'] => return message_incomplete_result(used),
                    [b'.', ..] => used += 1,
                    _ => {}
                }
                self.at_line_start = false;
            }
            let rest = &input[used..];
            if let Some(line_end) = memmem::find(rest, b"\r\n.") {
                self.sink.push(&rest[..line_end + 2]);
                used += line_end + 2;
                self.at_line_start = true;
                continue;
            }
            let undecided = usize::from(rest.last() == Some(&b'\r'));
            self.at_line_start = rest.ends_with(b"\r\n");
            self.sink.push(&rest[..rest.len() - undecided]);
            return message_incomplete_result(input.len() - undecided);
        }
    }

    /// Returns the destination of the content.
    pub fn content_sink(&self) -> &ContentSink {
        &self.sink
    }

    /// Returns the received content, or the error that caused it to be discarded.
    pub fn into_sink(self) -> ContentSink {
        self.sink
    }
}

fn message_complete_result(used: usize) -> DataReadResult {
    DataReadResult {
        used,
        is_end_of_message: true,
    }
}

fn message_incomplete_result(used: usize) -> DataReadResult {
    DataReadResult {
        used,
        is_end_of_message: false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::content::MemoryBudget;
    use super::*;

    /// The content, or the error that caused it to be discarded, with the octets after the end of the message. `None` if the
    /// message has no end.
    type Outcome = Option<(Result<Vec<u8>, ContentLimitError>, Vec<u8>)>;
    type Case = (&'static [u8], Option<(&'static [u8], &'static [u8])>);

    /// Reads `pieces` in order, as a connection does; returns the content and the octets after the end of the message.
    fn read_pieces_as_data(pieces: &[&[u8]], max: usize) -> Outcome {
        let budget = MemoryBudget::new(1 << 20);
        let mut reader = DataReader::new(MessageContent::new(max, &budget));
        let mut unread = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            unread.extend_from_slice(piece);
            let progress = reader.read(&unread);
            unread.drain(..progress.used);
            if progress.is_end_of_message {
                unread.extend(pieces[index + 1..].concat());
                let outcome = match reader.into_sink() {
                    ContentSink::Storing(content) => Ok(content.octets().to_vec()),
                    ContentSink::Discarding(error) => Err(error),
                };
                return Some((outcome, unread));
            }
            assert!(unread.len() <= 2, "at most two octets wait");
        }
        None
    }

    #[test]
    fn data_reader_unstuffs_dots_and_ends_at_crlf_dot_crlf_only() {
        let cases: &[Case] = &[
            (b".\r\n", Some((b"", b""))),
            (b"a\r\n.\r\nQUIT\r\n", Some((b"a\r\n", b"QUIT\r\n"))),
            (b"..\r\n.\r\n", Some((b".\r\n", b""))),
            (b".x\r\n.\r\n", Some((b"x\r\n", b""))),
            (b"...\r\n\r\n.\r\n", Some((b"..\r\n\r\n", b""))),
            (b"a\n.\nb\r\n.\r\n", Some((b"a\n.\nb\r\n", b""))),
            (b"a\n.\r\nb\r\n.\r\n", Some((b"a\n.\r\nb\r\n", b""))),
            (b"a\r\n.\nb\r\n.\r\n", Some((b"a\r\n\nb\r\n", b""))),
            (b"a\r.\rb\r\n.\r\n", Some((b"a\r.\rb\r\n", b""))),
            (b"a\r.\r\nb\r\n.\r\n", Some((b"a\r.\r\nb\r\n", b""))),
            (b"a\r\n.\r\r\nb\r\n.\r\n", Some((b"a\r\n\r\r\nb\r\n", b""))),
            (b"a\r\r\n.\r\nb", Some((b"a\r\r\n", b"b"))),
            (b"a\r\n\0.\r\n.\r\n", Some((b"a\r\n\0.\r\n", b""))),
            (b"a\r\n.\0\r\n.\r\n", Some((b"a\r\n\0\r\n", b""))),
            (b"a\n.\n", None),
            (b"a\r\n.\r", None),
        ];
        for (stream, want) in cases {
            let want = want.map(|(content, rest)| (Ok(content.to_vec()), rest.to_vec()));
            assert_eq!(
                read_pieces_as_data(&[stream], 100),
                want,
                "{:?}",
                stream.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn oversized_message_is_discarded_up_to_its_real_end() {
        let stream = b"0123456789\n.\r\nMAIL\r\n.\r\r\n.\r\nQUIT\r\n";
        let want = Some((Err(ContentLimitError::TooLarge), b"QUIT\r\n".to_vec()));
        assert_eq!(read_pieces_as_data(&[stream], 5), want);
    }

    /// A simple reference implementation that reads line by line; only CR LF ends a line.
    fn reference_reader(stream: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut content = Vec::new();
        let mut rest = stream;
        loop {
            let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
            let line = &rest[..end];
            rest = &rest[end + 2..];
            if line == b"." {
                return Some((content, rest.to_vec()));
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            content.extend_from_slice(b"\r\n");
        }
    }

    proptest! {
        #[test]
        fn data_reader_agrees_with_a_reference_model_for_any_packet_boundaries(
            stream in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x'), Just(0u8)], 0..60),
            cuts in proptest::collection::vec(0usize..70, 0..8),
        ) {
            let mut stream = stream;
            stream.extend_from_slice(b"\r\n.\r\nREST");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
            let want = reference_reader(&stream).map(|(content, rest)| (Ok(content), rest));
            prop_assert_eq!(read_pieces_as_data(&pieces, 1 << 16), want);
        }
    }
}
