//! What a part holds once its transfer encoding is undone (RFC 2045 §6).

/// Counts the octets that a body holds once its transfer encoding is undone, without undoing it.
pub fn decoded_octets(body: &[u8], transfer_encoding: Option<&[u8]>) -> usize {
    // Quotes, comments and separators around the word are no part of it.
    let mut words = transfer_encoding
        .unwrap_or_default()
        .split(|octet| !octet.is_ascii_alphanumeric() && *octet != b'-');
    let encoding = words.find(|word| !word.is_empty()).unwrap_or_default();
    if encoding.eq_ignore_ascii_case(b"base64") {
        let digits = body
            .iter()
            .take_while(|octet| **octet != b'=')
            .filter(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/'))
            .count();
        return digits / 4 * 3 + (digits % 4).saturating_sub(1);
    }
    if encoding.eq_ignore_ascii_case(b"quoted-printable") {
        return quoted_printable_octets(body);
    }
    body.len()
}

fn quoted_printable_octets(body: &[u8]) -> usize {
    let mut octets = 0;
    let mut rest = body;
    while let Some((first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'=', [b'\r', b'\n', behind @ ..] | [b'\n', behind @ ..]) => behind,
            (b'=', [high, low, behind @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                octets += 1;
                behind
            }
            _ => {
                octets += 1;
                behind
            }
        };
    }
    octets
}

#[cfg(test)]
mod tests {
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
            let counted = decoded_octets(body.as_bytes(), Some(encoding.as_bytes()));
            assert_eq!(counted, want, "{encoding} {body:?}");
        }
    }
}
