//! The parts of a multipart body (RFC 2046 §5.1).

use memchr::memmem::Finder;

/// Returns the parts between delimiter lines; the last one may lack its end.
#[expect(
    clippy::indexing_slicing,
    reason = "a delimiter line begins and ends within the body"
)]
pub fn parts<'a>(body: &'a [u8], boundary: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut delimiters = Delimiters::new(body, boundary);
    let mut next = delimiters.find(0);
    if next.is_none()
        && let Some(boundary) = without_damage(boundary)
    {
        delimiters = Delimiters::new(body, &boundary);
        next = delimiters.find(0);
    }
    std::iter::from_fn(move || {
        loop {
            let opening = next.take().filter(|line| !line.closes)?;
            let start = opening.end;
            next = delimiters.find(start);
            // Between two delimiter lines in a row is no part, not even the empty line before its body.
            if matches!(&next, Some(line) if line.start == start && !line.closes) {
                continue;
            }
            let end = next.as_ref().map_or(body.len(), |line| line.start);
            return Some(without_line_end(&body[start..end.max(start)]));
        }
    })
}

/// Returns a boundary without the white space of its fold and without stray quotes, if that makes a difference.
fn without_damage(boundary: &[u8]) -> Option<Vec<u8>> {
    let is_kept = |octet: &&u8| !octet.is_ascii_whitespace() && !b"\"'".contains(octet);
    let kept: Vec<u8> = boundary.iter().filter(is_kept).copied().collect();
    (!kept.is_empty() && kept.len() < boundary.len()).then_some(kept)
}

struct Delimiters<'a> {
    body: &'a [u8],
    /// Two hyphens and the boundary.
    delimiter: Finder<'static>,
}

struct DelimiterLine {
    start: usize,
    /// Where the next line begins.
    end: usize,
    closes: bool,
}

impl<'a> Delimiters<'a> {
    fn new(body: &'a [u8], boundary: &[u8]) -> Delimiters<'a> {
        let delimiter = [b"--", boundary].concat();
        Delimiters {
            body,
            delimiter: Finder::new(&delimiter).into_owned(),
        }
    }

    /// Finds the next delimiter line. It is compared whole: a longer line belongs to a part, or to another multipart whose
    /// boundary begins like this one. White space at its end was added on the way.
    #[expect(
        clippy::indexing_slicing,
        reason = "places that were found in the body, or its end"
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
                    closes: padding.len() < rest.len(),
                });
            }
        }
        None
    }
}

/// Returns a part without the line end before the delimiter line, which belongs to the delimiter.
fn without_line_end(part: &[u8]) -> &[u8] {
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
            let found = parts(body.as_bytes(), boundary.as_bytes());
            let found: Vec<&str> = found
                .map(|part| std::str::from_utf8(part).unwrap())
                .collect();
            assert_eq!(found, *want, "{boundary} in {body:?}");
        }
    }
}
