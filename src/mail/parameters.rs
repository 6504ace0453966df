//! `value; name=text; …`, the shape of Content-Type and Content-Disposition: quotes, comments, encoded words, and
//! values in pieces or in a charset (RFC 2045 §5.1, RFC 2183, [RFC 2231](https://www.rfc-editor.org/rfc/rfc2231)).

use super::words;

/// A field's value and its parameters. Costs one pass over the field.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Structured {
    /// The first word in front of the first semicolon; some senders forget the semicolon.
    pub value: String,
    parameters: Vec<Parameter>,
}

/// `name`, `name*`, `name*0` or `name*0*`, with its octets as written between the quotes.
#[derive(Debug, PartialEq, Eq)]
struct Parameter {
    name: Vec<u8>,
    piece: Option<u32>,
    extended: bool,
    octets: Vec<u8>,
}

impl Structured {
    /// Reads a field's value, with its fold marks and line end.
    pub fn parse(field: &[u8]) -> Structured {
        let line: Vec<u8> = field
            .iter()
            .copied()
            .filter(|octet| !matches!(octet, b'\r' | b'\n'))
            .collect();
        let (before, mut rest) = split_at_semicolon(skip_comments(&line));
        let mut parameters = Vec::new();
        while let Some(behind) = rest {
            let parameter;
            (parameter, rest) = Parameter::parse(skip_comments(behind));
            parameters.extend(parameter);
        }
        let mut words = without_comment(before).split(u8::is_ascii_whitespace);
        let value = words.next().unwrap_or_default();
        Structured {
            value: String::from_utf8_lossy(value).into_owned(),
            parameters,
        }
    }

    /// A parameter as text: the one in a charset before the one in pieces before the plain one; `None` if it is empty.
    pub fn text(&self, name: &str) -> Option<String> {
        let extended = self
            .named(name)
            .find(|parameter| parameter.piece.is_none() && parameter.extended);
        let text = if let Some(extended) = extended {
            let (charset, octets) = split_charset(&extended.octets);
            in_charset(&unescape(octets), charset)
        } else if let Some((charset, octets)) = self.joined(name) {
            in_charset(&octets, charset)
        } else {
            words::decode(self.plain(name)?, None)
        };
        Some(text).filter(|text| !text.is_empty())
    }

    /// A parameter as octets, for comparing: in pieces or plain; `None` if it is empty.
    pub fn octets(&self, name: &str) -> Option<Vec<u8>> {
        let joined = self.joined(name).map(|(_, octets)| octets);
        let octets = joined.or_else(|| self.plain(name).map(<[u8]>::to_vec));
        octets.filter(|octets| !octets.is_empty())
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Parameter> {
        self.parameters
            .iter()
            .filter(move |parameter| parameter.name == name.as_bytes())
    }

    fn plain<'a>(&'a self, name: &'a str) -> Option<&'a [u8]> {
        self.named(name)
            .find(|parameter| {
                parameter.piece.is_none() && !parameter.extended && !parameter.octets.is_empty()
            })
            .map(|parameter| parameter.octets.as_slice())
    }

    /// The pieces from 0 on in their order, joined before their charset is decoded: senders cut characters in two.
    fn joined<'a>(&'a self, name: &'a str) -> Option<(&'a [u8], Vec<u8>)> {
        let mut pieces: Vec<(u32, &Parameter)> = self
            .named(name)
            .filter_map(|parameter| Some((parameter.piece?, parameter)))
            .collect();
        pieces.sort_by_key(|(number, _)| *number);
        pieces.dedup_by_key(|(number, _)| *number);
        let mut charset = &b""[..];
        let mut joined = Vec::new();
        let in_sequence = (0..)
            .zip(&pieces)
            .take_while(|(index, (number, _))| index == number);
        for (index, (_, piece)) in in_sequence {
            let mut octets = piece.octets.as_slice();
            if piece.extended && index == 0 {
                (charset, octets) = split_charset(octets);
            }
            if piece.extended {
                joined.extend(unescape(octets));
            } else {
                joined.extend_from_slice(octets);
            }
        }
        (!joined.is_empty()).then_some((charset, joined))
    }
}

impl Parameter {
    /// One parameter, if it is one, and what stands behind its semicolon.
    fn parse(input: &[u8]) -> (Option<Parameter>, Option<&[u8]>) {
        let end = input.iter().position(|octet| matches!(octet, b'=' | b';'));
        let parted = end.and_then(|end| input.split_at_checked(end));
        let Some((name, [b'=', behind @ ..])) = parted else {
            return (None, split_at_semicolon(input).1);
        };
        let behind = behind.trim_ascii_start();
        let (octets, rest) = match behind.strip_prefix(b"\"") {
            Some(quoted) => {
                let (octets, behind) = unquote(quoted);
                (octets, split_at_semicolon(behind).1)
            }
            None => {
                let (token, rest) = split_at_semicolon(behind);
                (without_comment(token).to_vec(), rest)
            }
        };
        (Parameter::named(name, octets), rest)
    }

    fn named(name: &[u8], octets: Vec<u8>) -> Option<Parameter> {
        let name = name.trim_ascii().to_ascii_lowercase();
        let mut parts = name.split(|octet| *octet == b'*');
        let (base, second, third) = (parts.next()?, parts.next(), parts.next());
        let (piece, extended) = match (second, third) {
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
            extended,
            octets,
        })
    }
}

/// What stands in front of the next semicolon, and behind it if there is one.
fn split_at_semicolon(input: &[u8]) -> (&[u8], Option<&[u8]>) {
    let mut parts = input.splitn(2, |octet| *octet == b';');
    (parts.next().unwrap_or_default(), parts.next())
}

/// Up to the closing quote, quoted pairs undone; without one, all there is.
fn unquote(input: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut octets = Vec::new();
    let mut escaped = false;
    let mut rest = input.iter();
    while let Some(octet) = rest.next() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => {
                escaped = true;
                continue;
            }
            b'"' => return (octets, rest.as_slice()),
            _ => {}
        }
        octets.push(*octet);
    }
    (octets, b"")
}

/// White space and `(comments)`, which nest, at the front.
fn skip_comments(input: &[u8]) -> &[u8] {
    let mut depth = 0;
    let mut escaped = false;
    let mut rest = input;
    while let Some((octet, behind)) = rest.split_first() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if depth > 0 => escaped = true,
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            b' ' | b'\t' => {}
            _ if depth > 0 => {}
            _ => return rest,
        }
        rest = behind;
    }
    rest
}

/// Without the comment at the end, as in `us-ascii (Plain text)`; brackets amid a text are its own: `report (1).pdf`.
fn without_comment(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    if !text.ends_with(b")") {
        return text;
    }
    let mut parts = text.split(|octet| *octet == b'(');
    parts.next().unwrap_or(text).trim_ascii_end()
}

/// `charset'language'text` into charset and text.
fn split_charset(octets: &[u8]) -> (&[u8], &[u8]) {
    let mut parts = octets.splitn(3, |octet| *octet == b'\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(text)) => (charset, text),
        _ => (b"", octets),
    }
}

/// `%C3%A9` to octets; what is no escape stays.
fn unescape(text: &[u8]) -> Vec<u8> {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    let number = |[high, low]: &[u8; 2]| Some((digit(*high)? * 16 + digit(*low)?) as u8);
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        let escaped = behind
            .split_first_chunk()
            .and_then(|(digits, behind)| Some((number(digits)?, behind)));
        let octet;
        (octet, rest) = match escaped {
            Some(escaped) if *first == b'%' => escaped,
            _ => (*first, behind),
        };
        octets.push(octet);
    }
    octets
}

fn in_charset(octets: &[u8], charset: &[u8]) -> String {
    let text = std::str::from_utf8(charset)
        .ok()
        .and_then(|charset| words::decode_charset(octets, charset))
        .unwrap_or_else(|| String::from_utf8_lossy(octets).into_owned());
    words::on_one_line(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_and_names() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("attachment", "attachment", None),
            (" a/b; name=x.pdf\r\n", "a/b", Some("x.pdf")),
            ("a/b ; NAME = \"x; y\" ; z", "a/b", Some("x; y")),
            ("a/b; name=\"a\\\"b\\\\\"", "a/b", Some("a\"b\\")),
            ("a/b; name=\"no end", "a/b", Some("no end")),
            ("(c (d)) a/b (e); (f) name=x (g)", "a/b", Some("x")),
            (
                "a/b; name=report (1).pdf; x=y",
                "a/b",
                Some("report (1).pdf"),
            ),
            ("a/b; name=\"\"; name=second", "a/b", Some("second")),
            ("a/b;; x; =y; name=z", "a/b", Some("z")),
            (
                "a/b; name=\"=?utf-8?Q?=C3=BC?=\r\n =?utf-8?Q?b?=\"",
                "a/b",
                Some("üb"),
            ),
            (
                "a/b; name=x; name*=UTF-8'fr'%C3%A9.jpg",
                "a/b",
                Some("é.jpg"),
            ),
            ("a/b; name*=\"iso-8859-1''%DC%zz\"", "a/b", Some("Ü%zz")),
            ("a/b; name*=nothing", "a/b", Some("nothing")),
            ("a/b; name*=x-unknown''%C3%A9", "a/b", Some("é")),
            ("a/b; name*1=b; name*0=a; name*3=d", "a/b", Some("ab")),
            (
                "a/b; name*0*=UTF-8''%C3; name*1*=%A9; name*2=\"%41'\"",
                "a/b",
                Some("é%41'"),
            ),
            ("a/b; name*x=y; name*0*z=y; name**=y", "a/b", None),
            ("a/b charset=x", "a/b", None),
            ("", "", None),
        ];
        for (field, value, name) in cases {
            let structured = Structured::parse(field.as_bytes());
            assert_eq!(structured.value, *value, "{field}");
            assert_eq!(structured.text("name").as_deref(), *name, "{field}");
        }
    }

    #[test]
    fn octets_are_not_decoded() {
        let field = Structured::parse(b"multipart/mixed; boundary=\"=?utf-8?Q?a?=\"");
        assert_eq!(
            field.octets("boundary").as_deref(),
            Some(&b"=?utf-8?Q?a?="[..])
        );
        assert_eq!(
            Structured::parse(b"a/b; boundary=\"\"").octets("boundary"),
            None
        );
    }

    proptest! {
        #[test]
        fn no_field_panics(field in "[a-z/;=*'\"()\\\\%0-9 \r\n\té]{0,60}") {
            let structured = Structured::parse(field.as_bytes());
            let _ = structured.text("a");
            let _ = structured.octets("a");
        }
    }
}
