//! Unstructured header text to UTF-8: unfolding, encoded words, raw octets
//! ([RFC 2047](https://www.rfc-editor.org/rfc/rfc2047)).

use encoding_rs::Encoding;
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::charsets::map::charset_decoder;

/// Decodes a field's value, with its fold marks and line end, to one line of text.
///
/// Adjacent encoded words are joined without the space between them, and octet by octet where they share a charset without
/// shifts: many senders cut characters in two. What cannot be decoded stays as written. Raw 8-bit octets are read as UTF-8, else as
/// `fallback_charset`, else they become U+FFFD. Control characters left in the text become spaces.
pub fn decode(value: &[u8], fallback_charset: Option<&str>) -> String {
    let unfolded: Vec<u8> = value
        .iter()
        .copied()
        .filter(|octet| !matches!(octet, b'\r' | b'\n'))
        .collect();
    let text = join_words(unfolded.trim_ascii(), fallback_charset);
    on_one_line(text)
}

/// `text` with a space for each control character but TAB.
pub fn on_one_line(text: String) -> String {
    let is_unwanted = |c: char| c.is_control() && c != '\t';
    if !text.contains(is_unwanted) {
        return text;
    }
    text.chars()
        .map(|c| if is_unwanted(c) { ' ' } else { c })
        .collect()
}

/// Decodes `octets` by the name of their charset; `None` when nobody knows that charset.
pub fn decode_charset(octets: &[u8], charset: &str) -> Option<String> {
    if let Some(encoding) = Encoding::for_label(charset.as_bytes()) {
        return Some(encoding.decode_without_bom_handling(octets).0.into_owned());
    }
    charset_decoder(charset.as_bytes()).map(|decode| decode(octets))
}

#[expect(
    clippy::indexing_slicing,
    reason = "words are found within the line, each behind the one before it"
)]
fn join_words(line: &[u8], fallback_charset: Option<&str>) -> String {
    let mut text = String::new();
    let mut run: Option<(&str, Vec<u8>)> = None;
    let mut plain_from = 0;
    let mut at = 0;
    while let Some(start) = memchr::memmem::find(&line[at..], b"=?").map(|found| at + found) {
        let Some(word) = EncodedWord::parse(&line[start..]) else {
            at = start + 2;
            continue;
        };
        let between = &line[plain_from..start];
        let adjacent = run.is_some() && between.iter().all(u8::is_ascii_whitespace);
        match &mut run {
            Some((charset, octets))
                if adjacent
                    && charset.eq_ignore_ascii_case(word.charset)
                    && !has_shifts(charset) =>
            {
                octets.extend_from_slice(&word.octets);
            }
            _ => {
                flush(&mut run, &mut text);
                if !adjacent {
                    text.push_str(&raw_text(between, fallback_charset));
                }
                run = Some((word.charset, word.octets));
            }
        }
        at = start + word.length;
        plain_from = at;
    }
    flush(&mut run, &mut text);
    text.push_str(&raw_text(&line[plain_from..], fallback_charset));
    text
}

/// Charsets whose escapes shift between sets: each word begins and ends in ASCII (RFC 2047 §3), so none continues the
/// one before it, and a shift back straight before the next shift would be decoded as damage.
fn has_shifts(charset: &str) -> bool {
    let charset = charset.to_ascii_lowercase();
    ["iso-2022-", "csiso2022", "hz-gb", "utf-7"]
        .iter()
        .any(|beginning| charset.starts_with(beginning))
}

fn flush(run: &mut Option<(&str, Vec<u8>)>, text: &mut String) {
    if let Some((charset, octets)) = run.take() {
        text.push_str(&decode_charset(&octets, charset).unwrap_or_default());
    }
}

fn raw_text(octets: &[u8], fallback_charset: Option<&str>) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => fallback_charset
            .and_then(|charset| decode_charset(octets, charset))
            .unwrap_or_else(|| String::from_utf8_lossy(octets).into_owned()),
    }
}

/// `=?charset[*language]?B|Q?text?=`, decoded to octets of a charset that is known.
struct EncodedWord<'a> {
    charset: &'a str,
    octets: Vec<u8>,
    length: usize,
}

impl<'a> EncodedWord<'a> {
    fn parse(input: &'a [u8]) -> Option<EncodedWord<'a>> {
        let window = input.get(..MAX_WORD_OCTETS).unwrap_or(input);
        let mut parts = window.get(2..)?.splitn(3, |octet| *octet == b'?');
        let (name, encoding, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let end = memchr::memmem::find(rest, b"?=")?;
        let text = rest.get(..end)?;
        let name = std::str::from_utf8(name).ok()?;
        let charset = name.split_once('*').map_or(name, |(charset, _)| charset);
        if charset.is_empty() || charset.contains(char::is_whitespace) {
            return None;
        }
        decode_charset(b"", charset)?;
        let octets = match encoding {
            b"B" | b"b" => base64_decode(text)?,
            b"Q" | b"q" => decode_q(text)?,
            _ => return None,
        };
        let length = 2 + name.len() + 1 + encoding.len() + 1 + end + 2;
        Some(EncodedWord {
            charset,
            octets,
            length,
        })
    }
}

fn decode_q(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'_' => octets.push(b' '),
            b'=' => {
                let ([high, low], behind) = rest.split_first_chunk()?;
                octets.push((digit(*high)? * 16 + digit(*low)?) as u8);
                rest = behind;
            }
            octet => octets.push(*octet),
        }
    }
    Some(octets)
}

/// RFC 2047 allows 75; senders go beyond, and some put a whole subject into one word.
const MAX_WORD_OCTETS: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        let cases: &[(&[u8], &str)] = &[
            (b" plain\r\n", "plain"),
            (b" a\r\n  b \r\n", "a  b"),
            (b" \r\n =?utf-8?B?w7w=?=\r\n", "ü"),
            (b"\t a", "a"),
            (b" =?utf-8?q?a_b=20c?=\r\n", "a b c"),
            (b" =?UTF-8*de?B?w7w=?= =?utf-8?B?w7w=?=\r\n", "üü"),
            (b" =?utf-8?B?8J+Y?=\r\n =?utf-8?B?gA==?=\r\n", "😀"),
            (
                b" Re: =?iso-8859-1?Q?=FC?= x =?koi8-r?B?8NLJ?=",
                "Re: ü x При",
            ),
            (
                b" =?ISO-2022-JP?B?GyRCJCQbKEI=?=\r\n =?iso-2022-jp?B?GyRCJCYbKEI=?=\r\n",
                "いう",
            ),
            (b" =?utf-8?B?!!!?=", "=?utf-8?B?!!!?="),
            (b" =?x-unknown?Q?a?= b", "=?x-unknown?Q?a?= b"),
            (b" =?utf-8?Q?a", "=?utf-8?Q?a"),
            (b" =?utf-8?Q?a=+5b?=", "=?utf-8?Q?a=+5b?="),
            (b" =?=?utf-8?Q?a?=", "=?a"),
            (b" =?utf-8?Q?a=0D=0Ab?=", "a  b"),
            (b" a\x00b", "a b"),
            ("ü".as_bytes(), "ü"),
            (b"\xfc", "\u{fffd}"),
            (b"", ""),
        ];
        for (value, want) in cases {
            assert_eq!(
                decode(value, None),
                *want,
                "{:?}",
                value.escape_ascii().to_string()
            );
        }
        assert_eq!(decode(b"\xfc", Some("iso-8859-1")), "ü");
    }
}
