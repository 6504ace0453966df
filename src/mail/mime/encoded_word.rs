//! Decoding of unstructured header text to UTF-8: unfolding, encoded words and raw octets
//! ([RFC 2047](https://www.rfc-editor.org/rfc/rfc2047)).

use mail_parser::decoders::base64::base64_decode;

use super::charset::Charset;
use super::{header, raw_text};

/// Decodes the raw value of a header field to one line of text.
///
/// White space between adjacent encoded words is dropped. The octets of adjacent words in the same charset are joined
/// before they are decoded, because many senders cut characters in two. Invalid encoded words are kept as written.
/// [`raw_text`] decodes other text; `named` is the charset that the message names. Control characters
/// except TAB become spaces.
pub fn decode(value: &[u8], named: Option<Charset>) -> String {
    let line = header::unfold(value);
    replace_control_chars(decode_encoded_words_in_line(
        trim_white_space_and_nul(&line),
        named,
    ))
}

/// Replaces each control character except TAB with a space.
pub fn replace_control_chars(text: String) -> String {
    let is_control = |c: char| c.is_control() && c != '\t';
    if !text.contains(is_control) {
        return text;
    }
    text.chars()
        .map(|c| if is_control(c) { ' ' } else { c })
        .collect()
}

/// Removes white space and NUL octets at both ends.
fn trim_white_space_and_nul(line: &[u8]) -> &[u8] {
    let is_text = |octet: &u8| *octet != 0 && !octet.is_ascii_whitespace();
    let start = line.iter().position(is_text).unwrap_or(line.len());
    let end = line.iter().rposition(is_text).map_or(start, |at| at + 1);
    line.get(start..end).unwrap_or_default()
}

#[expect(
    clippy::indexing_slicing,
    reason = "words are found within the line, each after the one before it"
)]
fn decode_encoded_words_in_line(line: &[u8], named: Option<Charset>) -> String {
    let mut text = String::new();
    let mut run: Option<(Charset, Vec<Vec<u8>>)> = None;
    let mut gap_start = 0;
    let mut at = 0;
    while let Some(start) = memchr::memmem::find(&line[at..], b"=?").map(|found| at + found) {
        let Some(word) = EncodedWord::parse(&line[start..]) else {
            at = start + 2;
            continue;
        };
        let gap = &line[gap_start..start];
        let is_adjacent = run.is_some() && gap.iter().all(u8::is_ascii_whitespace);
        match &mut run {
            Some((charset, words)) if is_adjacent && *charset == word.charset => {
                words.push(word.octets);
            }
            _ => {
                decode_adjacent_encoded_words(&mut run, &mut text);
                if !is_adjacent {
                    text.push_str(&raw_text::decode(gap, named));
                }
                run = Some((word.charset, vec![word.octets]));
            }
        }
        at = start + word.length;
        gap_start = at;
    }
    decode_adjacent_encoded_words(&mut run, &mut text);
    let rest = raw_text::decode(&line[gap_start..], named);
    if text.is_empty() {
        return rest;
    }
    text + &rest
}

fn decode_adjacent_encoded_words(run: &mut Option<(Charset, Vec<Vec<u8>>)>, text: &mut String) {
    if let Some((charset, words)) = run.take() {
        text.push_str(&charset.decode_joined_word_octets(&words));
    }
}

/// An encoded word `=?charset[*language]?B|Q?text?=` whose charset has a decoder. `octets` is the text after B or Q decoding.
struct EncodedWord {
    charset: Charset,
    octets: Vec<u8>,
    length: usize,
}

impl EncodedWord {
    fn parse(input: &[u8]) -> Option<EncodedWord> {
        let window = input.get(..MAX_WORD_OCTETS).unwrap_or(input);
        let mut parts = window.get(2..)?.splitn(3, |octet| *octet == b'?');
        let (name, encoding, rest) = (parts.next()?, parts.next()?, parts.next()?);
        let is_base64 = match encoding {
            b"B" | b"b" => true,
            b"Q" | b"q" => false,
            _ => return None,
        };
        let end = memchr::memmem::find(rest, b"?=")?;
        let text = rest.get(..end)?;
        let charset = name.split(|octet| *octet == b'*').next()?;
        let charset = charset.trim_ascii();
        let charset = Charset::from_name(charset)?;
        let octets = if is_base64 {
            base64_decode(text)?
        } else {
            decode_q(text)?
        };
        let length = 2 + name.len() + 1 + encoding.len() + 1 + end + 2;
        Some(EncodedWord {
            charset,
            octets,
            length,
        })
    }
}

/// Decodes the Q encoding. A `=` without two hex digits is kept as written. Returns `None` if `text` contains `=?`:
/// another word begins there, so the end of this word is missing.
fn decode_q(text: &[u8]) -> Option<Vec<u8>> {
    if memchr::memmem::find(text, b"=?").is_some() {
        return None;
    }
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let number = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = tail
            .split_first_chunk()
            .and_then(|(digits, tail)| Some((number(digits)?, tail)));
        let octet;
        (octet, rest) = match (first, escaped) {
            (b'=', Some(escaped)) => escaped,
            (b'_', _) => (b' ', tail),
            _ => (*first, tail),
        };
        octets.push(octet);
    }
    Some(octets)
}

/// Maximum length of an encoded word in octets. RFC 2047 allows 75, but some senders put a whole subject into one word.
/// A longer word is kept as written.
const MAX_WORD_OCTETS: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_decoded() {
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
            (b" =?=?utf-8?Q?a?=", "=?a"),
            (b" =?utf-8?Q?a=0D=0Ab?=", "a  b"),
            (b" a\x00b\x00\r\n", "a b"),
            ("ü".as_bytes(), "ü"),
            (b"\xfc", "ü"),
            (b"", ""),
        ];
        assert_decoded_values(cases);
        let latin = Charset::from_name(b"iso-8859-2");
        assert_eq!(decode(b"\xb1", latin), "ą");
    }

    #[test]
    fn malformed_encoded_words_are_decoded_leniently() {
        assert_decoded_values(&[
            (b"=?utf-8?q?Hello world =C3=BC?=", "Hello world ü"),
            (b"=?utf-8?Q?a=+5b=?=", "a=+5b="),
            (b"=?utf-8?Q?a?b?=", "a?b"),
            (b"=?utf-8?B?w7w?=", "ü"),
            (b"=?utf-8?B?w7w==?=", "ü"),
            (b"=?utf-8?B?w7 w=?=", "ü"),
            (b"=?utf-8?Q?no_end =?utf-8?Q?b?=", "=?utf-8?Q?no_end b"),
            (b"a=?utf-8?Q?b?=c", "abc"),
            (b"\"=?utf-8?Q?a?=\"", "\"a\""),
            (b"=?utf-8?Q?a?==?utf-8?Q?b?=", "ab"),
            (b"=?utf-8?Q?a?=\r\n\t=?utf-8?Q?b?= \t =?utf-8?Q?c?=", "abc"),
            (b"=?utf8?Q?=C3?= =?UTF-8?B?vA==?=", "ü"),
            (b"=?utf-8?Q?=3D=3Futf-8=3FQ=3Fa=3F=3D?=", "=?utf-8?Q?a?="),
            (b"=?utf-8?Q??=", ""),
            (b"=??Q?a?=", "=??Q?a?="),
            (b"=?utf-8?B?77u/w7w=?=", "ü"),
            (b"=? latin 1 ?Q?=E9?=", "é"),
            (b"=?gb2312?Q?=C4?= =?gb2312?Q?=E3?=", "你"),
            (b"=?utf-16?B?//7pAA==?=", "é"),
            (b"=?us-ascii?Q?=C3=BC?=", "ü"),
            (b"=?utf-7?Q?+AOk-?= =?utf-7?Q?+AOk-?=", "éé"),
        ]);
    }

    #[test]
    fn encoded_words_in_stateful_charsets_are_decoded() {
        assert_decoded_values(&[
            (b"=?iso-2022-kr?B?GyQpQw4+SDNnR088PD9kDw==?=", "안녕하세요"),
            (b"=?hz-gb-2312?B?fntEYzpDfn0=?=", "你好"),
            (b"=?iso-2022-jp?B?GyRCJCIbKEIbJEIkJBsoQg==?=", "あい"),
            (b"=?iso-2022-jp-2?B?GyRCRnxLXBsoQg==?=", "日本"),
            (
                b"=?iso-2022-jp?B?GyRCJCI=?= =?iso-2022-jp?B?GyRCJCQ=?= =?iso-2022-jp?Q?ab?=",
                "あいab",
            ),
            (
                b"=?iso-2022-jp?B?GyRCJCIk?= =?iso-2022-jp?B?JBsoQmE=?=",
                "あいa",
            ),
        ]);
    }

    fn assert_decoded_values(cases: &[(&[u8], &str)]) {
        for (value, want) in cases {
            assert_eq!(decode(value, None), *want, "{}", value.escape_ascii());
        }
    }
}
