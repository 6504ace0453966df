//! Sizes of bodies after decoding of their transfer encoding (RFC 2045 §6).

/// Computes the length that `body` would have after decoding, in octets, without decoding it.
pub fn decoded_size(body: &[u8], transfer_encoding: Option<&[u8]>) -> usize {
    // Some senders write quotes, comments or separators around the name of the encoding.
    let mut words = transfer_encoding
        .unwrap_or_default()
        .split(|octet| !octet.is_ascii_alphanumeric() && *octet != b'-');
    let encoding = words.find(|word| !word.is_empty()).unwrap_or_default();
    if encoding.eq_ignore_ascii_case(b"base64") {
        return base64_decoded_size(body);
    }
    if encoding.eq_ignore_ascii_case(b"quoted-printable") {
        return quoted_printable_decoded_size(body);
    }
    body.len()
}

/// Computes the size from the number of digits before the first `=`. Other octets are ignored (RFC 2045 §6.8).
fn base64_decoded_size(body: &[u8]) -> usize {
    let end = memchr::memchr(b'=', body).unwrap_or(body.len());
    let text = body.get(..end).unwrap_or(body);
    let (blocks, rest) = text.as_chunks::<DIGIT_BLOCK_OCTETS>();
    let in_blocks = blocks.iter().map(|block| count_base64_digits(block));
    let digits = in_blocks.sum::<usize>() + count_base64_digits(rest);
    digits / 4 * 3 + (digits % 4).saturating_sub(1)
}

/// Counts the base64 digits of at most [`DIGIT_BLOCK_OCTETS`] octets. Sums of `u8` and `|` instead of `||` let the compiler
/// use vector instructions: 100 KB take 5 µs; with `take_while`, `filter` and `count` they took 96 µs.
fn count_base64_digits(block: &[u8]) -> usize {
    let is_digit = |octet: u8| octet.is_ascii_alphanumeric() | (octet == b'+') | (octet == b'/');
    let digits: u8 = block.iter().map(|octet| u8::from(is_digit(*octet))).sum();
    usize::from(digits)
}

/// Subtracts what decoding removes at each `=`. The octets that follow an `=` in an escape or soft line break contain no `=`,
/// so the result for each offset depends only on three octets. With sums of `u8` over slices the compiler uses vector
/// instructions: 100 KB take 14 µs; a loop over the octets took 30 µs, and 190 µs if the processor could not predict which
/// octets are escapes.
fn quoted_printable_decoded_size(body: &[u8]) -> usize {
    let second = body
        .get(1..)
        .unwrap_or_default()
        .chunks(ESCAPE_BLOCK_OCTETS);
    let third = body
        .get(2..)
        .unwrap_or_default()
        .chunks(ESCAPE_BLOCK_OCTETS);
    let blocks = body.chunks(ESCAPE_BLOCK_OCTETS).zip(second).zip(third);
    let removed_in_block = |((first, second), third): ((&[u8], &[u8]), &[u8])| {
        let offsets = first.iter().zip(second).zip(third);
        let removed =
            offsets.map(|((first, second), third)| removed_octets([*first, *second, *third]));
        usize::from(removed.sum::<u8>())
    };
    let removed: usize = blocks.map(removed_in_block).sum();
    // A soft line break of two octets at the end has no third octet.
    let removed_at_end = if body.ends_with(b"=\n") { 2 } else { 0 };
    body.len() - removed - removed_at_end
}

/// Returns how many octets decoding removes at the first of three octets: 2 for an escape or `=` LF, 3 for `=` CR LF, else 0.
fn removed_octets([first, second, third]: [u8; 3]) -> u8 {
    let is_escape = second.is_ascii_hexdigit() & third.is_ascii_hexdigit();
    let is_cr_lf = (second == b'\r') & (third == b'\n');
    let removes_two = is_escape | is_cr_lf | (second == b'\n');
    u8::from(first == b'=') * (u8::from(removes_two) * 2 + u8::from(is_cr_lf))
}

/// The length of a block of octets whose base64 digits are counted in one `u8`: the fastest of 64, 128 and 240.
const DIGIT_BLOCK_OCTETS: usize = 128;
/// The length of a block of octets whose removed octets, at most 3 for each, are counted in one `u8`.
const ESCAPE_BLOCK_OCTETS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn attachment_size_is_counted_after_transfer_decoding() {
        for (encoding, body, want) in [
            ("base64", "aGVsbG8=\r\n", 5),
            ("BASE64", "aGVs\r\nbG8h", 6),
            ("\"base64\"", "aGVs", 3),
            (" base64 (a);", "aGVs", 3),
            ("base64", "", 0),
            ("quoted-printable", "a=3Db=\r\nc\r\n", 6),
            ("quoted-printable", "=ZZ", 3),
            ("8bit", "a\r\n", 3),
        ] {
            let counted = decoded_size(body.as_bytes(), Some(encoding.as_bytes()));
            assert_eq!(counted, want, "{encoding} {body:?}");
        }
    }

    /// Decodes quoted-printable octet by octet; an `=` that begins neither an escape nor a soft line break is kept.
    fn quoted_printable_decoded_size_by_octet(body: &[u8]) -> usize {
        let mut size = 0;
        let mut rest = body;
        while let [first, tail @ ..] = rest {
            size += 1;
            rest = tail;
            match (first, tail) {
                (b'=', [b'\r', b'\n', tail @ ..] | [b'\n', tail @ ..]) => {
                    size -= 1;
                    rest = tail;
                }
                (b'=', [high, low, tail @ ..])
                    if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                {
                    rest = tail;
                }
                _ => {}
            }
        }
        size
    }

    fn base64_decoded_size_by_octet(body: &[u8]) -> usize {
        let is_digit = |octet: &&u8| octet.is_ascii_alphanumeric() || b"+/".contains(octet);
        let text = body.iter().take_while(|octet| **octet != b'=');
        let digits = text.filter(is_digit).count();
        digits / 4 * 3 + (digits % 4).saturating_sub(1)
    }

    proptest! {
        #[test]
        fn sizes_are_those_of_decoding_octet_by_octet(
            octets in prop::collection::vec(prop::sample::select(&b"=====\r\r\n\n\n09AFafGg+/-\0\xff"[..]), 0..400),
            filler in 0..600_usize,
        ) {
            let long = [vec![b'A'; filler], octets.clone(), vec![b'+'; filler], octets.clone()].concat();
            for body in [octets, long] {
                let size = |encoding: &[u8]| decoded_size(&body, Some(encoding));
                prop_assert_eq!(size(b"base64"), base64_decoded_size_by_octet(&body));
                let by_octet = quoted_printable_decoded_size_by_octet(&body);
                prop_assert_eq!(size(b"quoted-printable"), by_octet);
            }
        }
    }
}
