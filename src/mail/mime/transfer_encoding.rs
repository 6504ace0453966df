//! Sizes of bodies after decoding of their transfer encoding (RFC 2045 §6).

/// Computes the length that `body` would have after decoding, in octets, without decoding it.
pub fn decoded_size(body: &[u8], transfer_encoding: Option<&[u8]>) -> usize {
    // Some senders write quotes, comments or separators around the name of the encoding.
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
        return quoted_printable_decoded_size(body);
    }
    body.len()
}

fn quoted_printable_decoded_size(body: &[u8]) -> usize {
    let mut octets = 0;
    let mut rest = body;
    while let Some((first, tail)) = rest.split_first() {
        rest = match (first, tail) {
            (b'=', [b'\r', b'\n', tail @ ..] | [b'\n', tail @ ..]) => tail,
            (b'=', [high, low, tail @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                octets += 1;
                tail
            }
            _ => {
                octets += 1;
                tail
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
            let counted = decoded_size(body.as_bytes(), Some(encoding.as_bytes()));
            assert_eq!(counted, want, "{encoding} {body:?}");
        }
    }
}
