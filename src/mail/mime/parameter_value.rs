//! Values of parameters: continuations, percent-encoding and charset
//! ([RFC 2231](https://www.rfc-editor.org/rfc/rfc2231)).

use encoding_rs::UTF_8;

use super::charset::Charset;
use super::{encoded_word, raw_text};

/// A parameter `name`, `name*`, `name*0` or `name*0*`, with its undecoded value.
#[derive(Debug, PartialEq, Eq)]
pub struct MimeParameter {
    /// The name in lower case, without asterisks and section number.
    pub name: Vec<u8>,
    section: Option<u32>,
    is_extended: bool,
    octets: Vec<u8>,
}

/// The value of a parameter as octets. They are not decoded yet, because a later MIME part may name their charset.
#[derive(Debug, PartialEq, Eq)]
pub struct MimeParameterValue {
    /// The joined octets of all sections. Percent escapes of extended sections (`name*`, `name*0*`) are decoded.
    pub octets: Vec<u8>,
    charset: Option<Charset>,
    /// Whether `decode` decodes encoded words. RFC 2231 does not allow them in an extended value, but some senders write them.
    may_have_encoded_words: bool,
}

impl MimeParameterValue {
    /// Decodes the value to one line of text; `named` is the charset that the message names.
    pub fn decode(&self, named: Option<Charset>) -> String {
        if self.may_have_encoded_words {
            return encoded_word::decode(&self.octets, self.charset.or(named));
        }
        encoded_word::replace_control_chars(match self.charset {
            // The charset name UTF-8 is not trusted, because some senders use it for text in any charset.
            Some(charset) if charset != Charset::Encoding(UTF_8) => charset.decode(&self.octets),
            _ => raw_text::decode(&self.octets, named),
        })
    }
}

impl MimeParameter {
    /// Creates a parameter. `name` may contain asterisks and a section number; returns `None` if these violate RFC 2231.
    pub fn from_name(name: &[u8], octets: Vec<u8>) -> Option<MimeParameter> {
        let mut parts = name.split(|octet| *octet == b'*');
        let (base, second, third) = (parts.next()?, parts.next(), parts.next());
        let (section, is_extended) = match (second, third) {
            (None, _) => (None, false),
            (Some(b""), None) => (None, true),
            (Some(number), third) if third.is_none_or(<[u8]>::is_empty) => {
                let number = std::str::from_utf8(number).ok()?;
                (Some(number.parse().ok()?), third.is_some())
            }
            _ => return None,
        };
        Some(MimeParameter {
            name: base.to_ascii_lowercase(),
            section,
            is_extended,
            octets,
        })
    }
}

/// Selects the value of a parameter from all `parameters` of its name, in this order of precedence: `name*`, `name*0…`,
/// `name`. Empty values are skipped; returns `None` if no value remains.
pub fn preferred_parameter_value<'a>(
    parameters: impl Iterator<Item = &'a MimeParameter> + Clone,
) -> Option<MimeParameterValue> {
    let single = |is_extended: bool| {
        let wanted = move |parameter: &&MimeParameter| {
            parameter.section.is_none() && parameter.is_extended == is_extended
        };
        parameters.clone().filter(wanted).find_map(|parameter| {
            let value = join_continuation_sections(&[parameter]);
            (!value.octets.is_empty()).then_some(value)
        })
    };
    let in_sections = || {
        let sections = ordered_continuation_sections(parameters.clone());
        let value = join_continuation_sections(&sections);
        (!value.octets.is_empty()).then_some(value)
    };
    single(true).or_else(in_sections).or_else(|| single(false))
}

/// Returns the continuation sections in order, up to the first missing number. The first number is 0, or 1 if the sender
/// counts from 1.
fn ordered_continuation_sections<'a>(
    parameters: impl Iterator<Item = &'a MimeParameter>,
) -> Vec<&'a MimeParameter> {
    let numbered = parameters.filter_map(|p| Some((p.section?, p)));
    let mut sections: Vec<(u32, &MimeParameter)> = numbered.collect();
    sections.sort_by_key(|(number, _)| *number);
    sections.dedup_by_key(|(number, _)| *number);
    let first = sections.first().map_or(0, |(number, _)| (*number).min(1));
    (first..)
        .zip(sections)
        .take_while(|(index, (number, _))| index == number)
        .map(|(_, (_, section))| section)
        .collect()
}

/// Joins sections and decodes percent escapes. Decoding follows joining, because some senders cut an escape or a character
/// in two.
fn join_continuation_sections(sections: &[&MimeParameter]) -> MimeParameterValue {
    let is_extended = sections.iter().any(|section| section.is_extended);
    let mut charset = None;
    let mut octets = Vec::new();
    let mut has_encoded_words = false;
    let mut encoded = Vec::new();
    for (index, section) in sections.iter().enumerate() {
        let mut text = section.octets.as_slice();
        if section.is_extended && index == 0 {
            let name;
            (name, text) = split_charset(text);
            charset = Charset::from_name(name);
        }
        // This search precedes percent-decoding, because a percent-encoded `=?` does not begin an encoded word.
        has_encoded_words |= memchr::memmem::find(text, b"=?").is_some();
        if section.is_extended {
            encoded.extend_from_slice(text);
        } else {
            percent_decode_into(&mut octets, &mut encoded);
            octets.extend_from_slice(text);
        }
    }
    percent_decode_into(&mut octets, &mut encoded);
    MimeParameterValue {
        octets,
        charset,
        may_have_encoded_words: !is_extended || has_encoded_words,
    }
}

/// Splits `charset'language'text` into charset and text. Some senders omit the language and one apostrophe.
fn split_charset(octets: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = octets.splitn(3, |octet| *octet == b'\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(text)) => (charset, text),
        (Some(charset), Some(text), None) if Charset::from_name(charset).is_some() => {
            (charset, text)
        }
        _ => (b"", octets),
    }
}

/// Appends the percent-decoded octets of `encoded` to `octets` and empties `encoded`. A `%` without two hex digits is
/// kept.
fn percent_decode_into(octets: &mut Vec<u8>, encoded: &mut Vec<u8>) {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let number = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
    let mut rest = encoded.as_slice();
    while let Some((first, tail)) = rest.split_first() {
        let escape = tail
            .split_first_chunk()
            .and_then(|(digits, tail)| Some((number(digits)?, tail)));
        let octet;
        (octet, rest) = match escape {
            Some(escape) if *first == b'%' => escape,
            _ => (*first, tail),
        };
        octets.push(octet);
    }
    encoded.clear();
}
