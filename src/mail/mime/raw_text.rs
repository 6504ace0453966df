//! Decoding of raw 8-bit text in header fields; RFC 5322 does not define its charset.

use encoding_rs::WINDOWS_1252;

use super::charset::Charset;
use super::escape_sequence;
use super::stateful_charset::StatefulCharset;

/// Decodes raw octets in the first charset that fits: a stateful charset if there are shift sequences, UTF-8,
/// `named` (the charset that the message names), windows-1252.
pub fn decode(octets: &[u8], named: Option<Charset>) -> String {
    if let Some(charset) = detect_stateful_charset(octets, named) {
        return charset.decode(&[octets.to_vec()]);
    }
    if let Ok(text) = std::str::from_utf8(octets) {
        return text.to_owned();
    }
    let decoded = named.and_then(|charset| charset.decode_raw_header_octets(octets));
    decoded.unwrap_or_else(|| {
        // UTF-8 text that a sender truncated within a character is invalid, but is still decoded best as UTF-8.
        let text = String::from_utf8_lossy(octets);
        let is_decoded_non_ascii = |c: char| !c.is_ascii() && c != char::REPLACEMENT_CHARACTER;
        if text.contains(is_decoded_non_ascii) {
            return text.into_owned();
        }
        let (text, _) = WINDOWS_1252.decode_without_bom_handling(octets);
        text.into_owned()
    })
}

/// Returns the stateful charset of text with escape or shift sequences. That is `named` if it is such a charset and its
/// sequences occur in the text; otherwise ISO-2022-JP if the text is 7-bit and an escape sequence designates a character set.
/// Returns `None` for other text.
fn detect_stateful_charset(octets: &[u8], named: Option<Charset>) -> Option<StatefulCharset> {
    match named {
        Some(Charset::Stateful(charset)) if charset.contains_shift_or_designation(octets) => {
            Some(charset)
        }
        // Escape sequences in 8-bit text are terminal controls and do not select a charset.
        _ if octets.is_ascii() && escape_sequence::has_charset_designation(octets) => {
            Some(StatefulCharset::Iso2022Jp)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_text_charset_is_chosen() {
        let cases: &[(&[u8], &str, &str)] = &[
            (b"a", "utf-16", "a"),
            ("ü".as_bytes(), "gbk", "ü"),
            (b"\xfc", "", "ü"),
            (b"\xfc", "x-unknown", "ü"),
            (b"\xfc", "us-ascii", "ü"),
            (b"\xfc", "utf-8", "ü"),
            (b"\xfc", "utf-16", "ü"),
            (b"\xfc", "utf-7", "ü"),
            (b"\xfc", "koi8-r", "Э"),
            (b"\xe4\xb8\xad\xe6\x96", "", "中\u{fffd}"),
            (b"\xb2\xe2", "gb2312", "测"),
            (b"\xb2\xe2", "hz-gb-2312", "测"),
            (b"\xbe\xc8", "iso-2022-kr", "안"),
            (b"\xa4\xa2", "iso-2022-jp", "あ"),
            (b"\x82\xa0", "iso-2022-jp", "あ"),
            (b"\x1b$BF|K\\\x1b(B", "iso-2022-jp", "日本"),
            (b"\x1b$BF|K\\\x1b(B", "utf-8", "日本"),
            (b"\x1b$BF|K\\\x1b(B", "", "日本"),
            (b"\x1b$)C\x0e>H\x0f", "", "안"),
            (b"\x0e>H\x0f", "iso-2022-kr", "안"),
            (b"~{Dc~}", "hz-gb-2312", "你"),
            (b"~{Dc~}", "gbk", "~{Dc~}"),
            ("\u{1b}(Bü".as_bytes(), "", "\u{1b}(Bü"),
        ];
        for (octets, named, want) in cases {
            let decoded = decode(octets, Charset::from_name(named.as_bytes()));
            assert_eq!(decoded, *want, "{} in {named}", octets.escape_ascii());
        }
    }
}
