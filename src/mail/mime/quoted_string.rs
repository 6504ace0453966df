//! The text between quotes in a parameter (RFC 2045 §5.1, RFC 5322 §3.2.4), as senders write it.

use super::escape_sequence::ESCAPE;

/// Returns the quoted text, and what stands after the closing quote if there is one. A path may end in a backslash that its
/// sender did not escape: with `path_may_end` the pair `\"` is the end if a semicolon or nothing follows.
pub fn read(input: &[u8], path_may_end: bool) -> (Vec<u8>, Option<&[u8]>) {
    let is_end = |behind: &[u8]| {
        let behind = behind.trim_ascii_start();
        behind.is_empty() || behind.starts_with(b";")
    };
    let mut octets = Vec::new();
    let mut rest = input;
    while let [first, behind @ ..] = rest {
        let octet;
        (octet, rest) = match (*first, behind) {
            (b'"', _) => return (octets, Some(behind)),
            (b'\\', [b'"', behind @ ..]) if path_may_end && is_end(behind) => {
                octets.push(b'\\');
                return (octets, Some(behind));
            }
            (b'\\', [second @ (b'"' | b'\\'), behind @ ..]) => (*second, behind),
            (ESCAPE, [b'$', ..]) => {
                // Quotes and backslashes are halves of Japanese characters up to the next shift.
                let window = behind.get(..MAX_SHIFTED_OCTETS).unwrap_or(behind);
                let end = memchr::memmem::find(window, SHIFT_BACK).unwrap_or(0);
                let (shifted, behind) = behind.split_at_checked(end).unwrap_or((b"", behind));
                octets.push(ESCAPE);
                octets.extend_from_slice(shifted);
                match behind {
                    [octet, behind @ ..] => (*octet, behind),
                    [] => break,
                }
            }
            (octet, behind) => (octet, behind),
        };
        octets.push(octet);
    }
    (octets, None)
}

/// How ISO-2022-JP ends its Japanese characters.
const SHIFT_BACK: &[u8] = b"\x1b(";
/// More than a file name has: a search from each of many shifts must not go to the end of the field.
const MAX_SHIFTED_OCTETS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_rest() {
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
            let found = read(input, *path_may_end);
            let found = (found.0.as_slice(), found.1);
            assert_eq!(found, (*text, *rest), "{}", input.escape_ascii());
        }
    }
}
