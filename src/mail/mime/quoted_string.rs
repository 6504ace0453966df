//! Quoted strings in parameters (RFC 2045 §5.1, RFC 5322 §3.2.4). The backslashes of Windows paths are kept.

use super::escape_sequence::ESCAPE;

/// Reads quoted text after its opening quote. Returns the unescaped text and, if there is a closing quote, the rest.
///
/// A Windows path may end in a backslash that the sender did not escape. If `path_may_end` is true, `\"` before a
/// semicolon or the end of the input is therefore read as a backslash and the closing quote.
pub fn read_quoted(input: &[u8], path_may_end: bool) -> (Vec<u8>, Option<&[u8]>) {
    let is_end = |tail: &[u8]| {
        let tail = tail.trim_ascii_start();
        tail.is_empty() || tail.starts_with(b";")
    };
    let mut octets = Vec::with_capacity(memchr::memchr(b'"', input).unwrap_or(input.len()));
    let mut rest = input;
    while let [first, tail @ ..] = rest {
        let octet;
        (octet, rest) = match (*first, tail) {
            (b'"', _) => return (octets, Some(tail)),
            (b'\\', [b'"', tail @ ..]) if path_may_end && is_end(tail) => {
                octets.push(b'\\');
                return (octets, Some(tail));
            }
            (b'\\', [second @ (b'"' | b'\\'), tail @ ..]) => (*second, tail),
            (ESCAPE, [b'$', ..]) => {
                // Until the next escape sequence, quotes and backslashes are octets of Japanese characters
                // (ISO-2022-JP).
                let window = tail.get(..MAX_SHIFTED_OCTETS).unwrap_or(tail);
                let end = memchr::memmem::find(window, SHIFT_BACK).unwrap_or(0);
                let (shifted, tail) = tail.split_at_checked(end).unwrap_or((b"", tail));
                octets.push(ESCAPE);
                octets.extend_from_slice(shifted);
                match tail {
                    [octet, tail @ ..] => (*octet, tail),
                    [] => break,
                }
            }
            (octet, tail) => (octet, tail),
        };
        octets.push(octet);
    }
    (octets, None)
}

/// The start of the escape sequence that switches from double-octet back to single-octet characters (ISO-2022-JP).
const SHIFT_BACK: &[u8] = b"\x1b(";
/// Maximum number of octets that are searched for [`SHIFT_BACK`]; file names are shorter. The limit keeps the total time
/// linear if there are many escape sequences.
const MAX_SHIFTED_OCTETS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_are_split_into_text_and_rest() {
        type Case<'a> = (&'a [u8], bool, &'a [u8], Option<&'a [u8]>);
        let cases: &[Case] = &[
            (b"a\"b", false, b"a", Some(b"b")),
            (b"a\\\"b\\\\c\\d\" e", false, b"a\"b\\c\\d", Some(b" e")),
            (b"a\\\" ;b", false, b"a\" ;b", None),
            (b"a\\\" ;b", true, b"a\\", Some(b" ;b")),
            (b"\x1b$B\"\\\x1b(B\"", false, b"\x1b$B\"\\\x1b(B", Some(b"")),
            (b"\x1b$\"", false, b"\x1b$", Some(b"")),
            (b"", false, b"", None),
        ];
        for (input, path_may_end, text, rest) in cases {
            let found = read_quoted(input, *path_may_end);
            let found = (found.0.as_slice(), found.1);
            assert_eq!(found, (*text, *rest), "{}", input.escape_ascii());
        }
    }
}
