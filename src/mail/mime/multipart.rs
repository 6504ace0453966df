//! Splits a multipart body into its parts (RFC 2046 §5.1).

use memchr::memmem::Finder;

/// Returns the parts between delimiter lines. The closing delimiter may be missing.
#[expect(
    clippy::indexing_slicing,
    reason = "a delimiter line begins and ends within the body"
)]
pub fn split_parts<'a>(body: &'a [u8], boundary: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut finder = BoundaryLineFinder::new(body, boundary);
    let mut next = finder.find(0);
    if next.is_none()
        && let Some(boundary) = repaired_mime_boundary(boundary)
    {
        finder = BoundaryLineFinder::new(body, &boundary);
        next = finder.find(0);
    }
    std::iter::from_fn(move || {
        loop {
            let opening = next.take().filter(|line| !line.is_closing)?;
            let start = opening.end;
            next = finder.find(start);
            // There is no part between two consecutive delimiter lines.
            if matches!(&next, Some(line) if line.start == start && !line.is_closing) {
                continue;
            }
            let end = next.as_ref().map_or(body.len(), |line| line.start);
            return Some(strip_line_end(&body[start..end.max(start)]));
        }
    })
}

/// Removes white space and quotes from a boundary; senders add them by folding and wrong quoting. Returns `None` if the
/// boundary does not change or becomes empty.
fn repaired_mime_boundary(boundary: &[u8]) -> Option<Vec<u8>> {
    let is_kept = |octet: &&u8| !octet.is_ascii_whitespace() && !b"\"'".contains(octet);
    let kept: Vec<u8> = boundary.iter().filter(is_kept).copied().collect();
    (!kept.is_empty() && kept.len() < boundary.len()).then_some(kept)
}

/// Finds the lines of a body that separate its parts.
struct BoundaryLineFinder<'a> {
    body: &'a [u8],
    /// Searches for two hyphens and the boundary.
    delimiter: Finder<'static>,
}

/// The position of a delimiter line in the body, and whether it is the closing delimiter.
struct DelimiterLine {
    start: usize,
    /// Offset of the line after the delimiter line.
    end: usize,
    is_closing: bool,
}

impl<'a> BoundaryLineFinder<'a> {
    fn new(body: &'a [u8], boundary: &[u8]) -> BoundaryLineFinder<'a> {
        let delimiter = [b"--", boundary].concat();
        BoundaryLineFinder {
            body,
            delimiter: Finder::new(&delimiter).into_owned(),
        }
    }

    /// Finds the first delimiter line at or after offset `from`.
    ///
    /// Trailing white space is ignored, because relays may add it (RFC 2046 §5.1.1, transport padding). A line with other
    /// octets after the boundary is not a delimiter line: the line is text, or belongs to another multipart with a longer
    /// boundary that begins with this boundary.
    #[expect(
        clippy::indexing_slicing,
        reason = "offsets that were found in the body, or its length"
    )]
    fn find(&self, from: usize) -> Option<DelimiterLine> {
        let body = self.body;
        let mut from = from;
        while let Some(start) = self.delimiter.find(&body[from..]).map(|found| from + found) {
            from = start + self.delimiter.needle().len();
            if start > 0 && body[start - 1] != b'\n' {
                continue;
            }
            let line_end = memchr::memchr(b'\n', &body[from..]).map_or(body.len(), |at| from + at);
            let rest = &body[from..line_end];
            let padding = rest.strip_prefix(b"--").unwrap_or(rest);
            if padding.iter().all(u8::is_ascii_whitespace) {
                return Some(DelimiterLine {
                    start,
                    end: (line_end + 1).min(body.len()),
                    is_closing: padding.len() < rest.len(),
                });
            }
        }
        None
    }
}

/// Removes the line end at the end of a part. This line end belongs to the delimiter line that follows (RFC 2046 §5.1.1).
fn strip_line_end(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipart_delimiter_lines_must_match_completely() {
        let cases: &[(&str, &str, &[&str])] = &[
            (
                "b",
                "--b\r\n1\r\n--b\r\n2\r\n--b--\r\n3\r\n--b\r\n4",
                &["1", "2"],
            ),
            ("b", "0\r\n--b\r\n1", &["1"]),
            ("b", "--b \t\r\n1\r\n--b-- \t\r\n--b\r\n2", &["1"]),
            (
                "b",
                "--b\r\n1\r\n--bb\r\n--b--x\r\n--b-- x\r\n--b-\r\n--b--",
                &["1\r\n--bb\r\n--b--x\r\n--b-- x\r\n--b-"],
            ),
            (
                "b",
                "--b\r\n1\r\nx--b\r\n --b\r\n--b",
                &["1\r\nx--b\r\n --b", ""],
            ),
            ("bb", "--b\r\n1\r\n--bb\r\n2\r\n--bb--", &["2"]),
            ("b--", "--b--\r\n1\r\n--b----\r\n", &["1"]),
            (
                "-",
                "---\r\n1\r\n----\r\n-----Text-----\r\n------\r\n-----\r\n2",
                &["1\r\n----\r\n-----Text-----\r\n------"],
            ),
            ("b", "--b\n1\n--b\n2\n--b--\n", &["1", "2"]),
            ("b", "--b\r\n--b\r\n\r\n--b--", &[""]),
            ("b", "--b\r\n--b\r\n--b--", &[""]),
            ("b", "--b--\r\n--b\r\n1", &[]),
            ("b", "--b", &[""]),
            ("b", "", &[]),
            ("a b", "--ab\r\n1\r\n--ab--", &["1"]),
            ("a b", "--a b\r\n1\r\n--ab--", &["1\r\n--ab--"]),
            ("b\"", "--b\r\n1\r\n--b--", &["1"]),
        ];
        for (boundary, body, want) in cases {
            let found = split_parts(body.as_bytes(), boundary.as_bytes());
            let found: Vec<&str> = found
                .map(|part| std::str::from_utf8(part).unwrap())
                .collect();
            assert_eq!(found, *want, "{boundary} in {body:?}");
        }
    }
}
