//! A parameter's value, which may be written in pieces, with escapes and in a charset
//! ([RFC 2231](https://www.rfc-editor.org/rfc/rfc2231)).

use encoding_rs::UTF_8;

use super::charset::Charset;
use super::{encoded_word, raw_text};

/// `name`, `name*`, `name*0` or `name*0*`, with its octets as written between the quotes.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The name in lower case, without the asterisks.
    pub name: Vec<u8>,
    piece: Option<u32>,
    is_extended: bool,
    octets: Vec<u8>,
}

/// A value as octets, whose text may depend on the charset of another part.
#[derive(Debug, PartialEq, Eq)]
pub struct Value {
    /// Joined and without escapes.
    pub octets: Vec<u8>,
    charset: Option<Charset>,
    /// An extended value holds no encoded words, except from senders that encode twice in different ways.
    may_hold_words: bool,
}

impl Value {
    /// Decodes it to one line of text; `named` is the charset that the message names.
    pub fn decode(&self, named: Option<Charset>) -> String {
        if self.may_hold_words {
            return encoded_word::decode(&self.octets, self.charset.or(named));
        }
        encoded_word::replace_control_chars(match self.charset {
            // Some senders name UTF-8 whatever it is.
            Some(charset) if charset != Charset::Encoding(UTF_8) => charset.decode(&self.octets),
            _ => raw_text::decode(&self.octets, named),
        })
    }
}

impl Parameter {
    /// Makes a parameter of its name with the asterisks; returns `None` if they are not as RFC 2231 has them.
    pub fn named(name: &[u8], octets: Vec<u8>) -> Option<Parameter> {
        let name = name.to_ascii_lowercase();
        let mut parts = name.split(|octet| *octet == b'*');
        let (base, second, third) = (parts.next()?, parts.next(), parts.next());
        let (piece, is_extended) = match (second, third) {
            (None, _) => (None, false),
            (Some(b""), None) => (None, true),
            (Some(number), third) if third.is_none_or(<[u8]>::is_empty) => {
                let number = std::str::from_utf8(number).ok()?;
                (Some(number.parse().ok()?), third.is_some())
            }
            _ => return None,
        };
        Some(Parameter {
            name: base.to_vec(),
            piece,
            is_extended,
            octets,
        })
    }
}

/// Returns the value of the parameters of one name: `name*` before `name*0…` before `name`; `None` if each is empty.
pub fn value(parameters: &[&Parameter]) -> Option<Value> {
    let whole = |is_extended: bool| {
        let wanted = move |parameter: &&&Parameter| {
            parameter.piece.is_none() && parameter.is_extended == is_extended
        };
        parameters.iter().filter(wanted).find_map(|parameter| {
            let value = joined(&[*parameter]);
            (!value.octets.is_empty()).then_some(value)
        })
    };
    let in_pieces = || {
        let value = joined(&pieces(parameters));
        (!value.octets.is_empty()).then_some(value)
    };
    whole(true).or_else(in_pieces).or_else(|| whole(false))
}

/// Returns the pieces in their order up to the first one that is missing. Some senders count from 1.
fn pieces<'a>(parameters: &[&'a Parameter]) -> Vec<&'a Parameter> {
    let numbered = parameters.iter().filter_map(|p| Some((p.piece?, *p)));
    let mut pieces: Vec<(u32, &Parameter)> = numbered.collect();
    pieces.sort_by_key(|(number, _)| *number);
    pieces.dedup_by_key(|(number, _)| *number);
    let first = pieces.first().map_or(0, |(number, _)| (*number).min(1));
    (first..)
        .zip(pieces)
        .take_while(|(index, (number, _))| index == number)
        .map(|(_, (_, piece))| piece)
        .collect()
}

/// Joins pieces before their escapes are undone and their charset is decoded: senders cut both in two.
fn joined(pieces: &[&Parameter]) -> Value {
    let is_extended = pieces.iter().any(|piece| piece.is_extended);
    let mut charset = None;
    let mut octets = Vec::new();
    let mut has_words = false;
    let mut escaped = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let mut text = piece.octets.as_slice();
        if piece.is_extended && index == 0 {
            let name;
            (name, text) = split_charset(text);
            charset = Charset::named(name);
        }
        // What an escape stands for is no encoded word.
        has_words |= memchr::memmem::find(text, b"=?").is_some();
        if piece.is_extended {
            escaped.extend_from_slice(text);
        } else {
            unescape_into(&mut octets, &mut escaped);
            octets.extend_from_slice(text);
        }
    }
    unescape_into(&mut octets, &mut escaped);
    Value {
        octets,
        charset,
        may_hold_words: !is_extended || has_words,
    }
}

/// Splits `charset'language'text` into charset and text; some senders leave out the language with its quote.
fn split_charset(octets: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = octets.splitn(3, |octet| *octet == b'\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(text)) => (charset, text),
        (Some(charset), Some(text), None) if Charset::named(charset).is_some() => (charset, text),
        _ => (b"", octets),
    }
}

/// Moves `escaped` to `octets`: `%C3%A9` becomes two octets, and what is no escape stays.
fn unescape_into(octets: &mut Vec<u8>, escaped: &mut Vec<u8>) {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let number = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
    let mut rest = escaped.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        let escape = behind
            .split_first_chunk()
            .and_then(|(digits, behind)| Some((number(digits)?, behind)));
        let octet;
        (octet, rest) = match escape {
            Some(escape) if *first == b'%' => escape,
            _ => (*first, behind),
        };
        octets.push(octet);
    }
    escaped.clear();
}
