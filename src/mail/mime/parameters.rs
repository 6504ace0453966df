//! Fields of the form `value; name=text; …`, such as Content-Type and Content-Disposition (RFC 2045 §5.1, RFC 2183).
//!
//! The parser accepts frequent errors of senders: missing quotes, missing semicolons, unescaped backslashes.

use super::parameter_value::{self, MimeParameter, MimeParameterValue};
use super::{header, quoted_string};

/// A header field with parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParameterizedField {
    /// The text before the first parameter.
    pub value: Vec<u8>,
    parameters: Vec<MimeParameter>,
}

impl ParameterizedField {
    /// Parses the raw value of a field; the value may be folded.
    pub fn parse(field: &[u8]) -> ParameterizedField {
        let line = header::unfold(field);
        let (value, mut rest) =
            split_before_next_parameter(skip_separators_and_comments(&line), true);
        let mut parameters = Vec::new();
        while !rest.is_empty() {
            let parameter;
            (parameter, rest) = parse_first_mime_parameter(rest);
            parameters.extend(parameter);
        }
        ParameterizedField {
            value: value.trim_ascii().to_vec(),
            parameters,
        }
    }

    /// Returns the value of the parameter `name`, which must be in lower case; `None` if the parameter is missing or empty.
    pub fn mime_parameter_value(&self, name: &str) -> Option<MimeParameterValue> {
        let parameters = self.parameters.iter();
        let parameters = parameters.filter(|parameter| parameter.name == name.as_bytes());
        parameter_value::preferred_parameter_value(parameters)
    }

    /// Returns the file name in `parameter`; `None` if the parameter is missing or its decoded text is empty.
    pub fn parameter_value_unless_empty(&self, parameter: &str) -> Option<MimeParameterValue> {
        self.mime_parameter_value(parameter)
            .filter(|value| !value.decode(None).is_empty())
    }
}

/// Parses the first parameter. Returns the parameter, or `None` if it is malformed, and the rest of the input.
fn parse_first_mime_parameter(input: &[u8]) -> (Option<MimeParameter>, &[u8]) {
    let input = skip_separators_and_comments(input);
    let end = input.iter().position(|octet| matches!(octet, b'=' | b';'));
    let split = end.and_then(|end| input.split_at_checked(end));
    let Some((name, [b'=', tail @ ..])) = split else {
        let tail = split.map_or(&b""[..], |(_, tail)| tail);
        return (None, tail);
    };
    let text = tail.trim_ascii_start();
    let (octets, rest) = match text.strip_prefix(b"\"") {
        Some(quoted) => unquote_and_split_rest(quoted),
        None => {
            let (token, rest) = split_before_next_parameter(text, text.len() < tail.len());
            (strip_trailing_mime_comment(token).to_vec(), rest)
        }
    };
    // Only the last word before `=` is the name. Other words belong to no parameter.
    let words = name.trim_ascii().rsplit(u8::is_ascii_whitespace);
    let name = words.into_iter().next().unwrap_or_default();
    (MimeParameter::from_name(name, octets), rest)
}

/// Splits the input at the next semicolon, or before a known parameter without a semicolon before it. `is_after_space`
/// means that white space precedes the input.
fn split_before_next_parameter(input: &[u8], is_after_space: bool) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b';', input).unwrap_or(input.len());
    let (text, tail) = input.split_at_checked(end).unwrap_or((input, b""));
    match find_parameter_without_semicolon(text, is_after_space)
        .and_then(|start| input.split_at_checked(start))
    {
        Some((text, rest)) => {
            let text = text.trim_ascii_end();
            (text.strip_suffix(b",").unwrap_or(text), rest)
        }
        None => (text, tail),
    }
}

/// Returns the offset of the first parameter without a semicolon before it: a known name after white space or a comma.
///
/// Unknown names do not count, because file names may contain spaces and equals signs.
fn find_parameter_without_semicolon(text: &[u8], is_after_space: bool) -> Option<usize> {
    let mut is_start = is_after_space;
    for (at, octet) in text.iter().enumerate() {
        if is_start && octet.is_ascii_alphabetic() {
            let rest = text.get(at..).unwrap_or_default();
            if starts_with_known_mime_parameter(rest) {
                return Some(at);
            }
        }
        is_start = matches!(octet, b' ' | b'\t' | b',');
    }
    None
}

fn starts_with_known_mime_parameter(input: &[u8]) -> bool {
    let is_name = |octet: &&u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'*');
    let length = input.iter().take(MAX_NAME_OCTETS).take_while(is_name);
    let Some((name, tail)) = input.split_at_checked(length.count()) else {
        return false;
    };
    let name = name.split(|octet| *octet == b'*').next();
    let name = name.unwrap_or_default();
    if !tail.trim_ascii_start().starts_with(b"=") {
        return false;
    }
    let mut known_names = KNOWN_NAMES.iter();
    known_names.any(|known| name.eq_ignore_ascii_case(known))
        || matches!(name, [b'x' | b'X', b'-', ..])
}

/// Parameter names that are recognized even if the semicolon before them is missing: those of RFC 2045, 2046, 2183, 2231,
/// 3676 and 5545, and others that senders use.
const KNOWN_NAMES: &[&[u8]] = &[
    b"access-type",
    b"boundary",
    b"charset",
    b"component",
    b"creation-date",
    b"delsp",
    b"filename",
    b"format",
    b"method",
    b"micalg",
    b"modification-date",
    b"name",
    b"profile",
    b"protocol",
    b"read-date",
    b"reply-type",
    b"report-type",
    b"size",
    b"smime-type",
    b"start",
    b"start-info",
    b"type",
];

/// Maximum length of a known name with its asterisks and section number, in octets. Longer names are not known names.
const MAX_NAME_OCTETS: usize = 32;

/// Splits quoted text at its closing quote; returns the text and the rest. `\\` and `\"` are unescaped. Other
/// backslashes are kept, because they may be part of a Windows path.
fn unquote_and_split_rest(input: &[u8]) -> (Vec<u8>, &[u8]) {
    if let (octets, Some(rest)) = quoted_string::read_quoted(input, false) {
        return (octets, rest);
    }
    if let (octets, Some(rest)) = quoted_string::read_quoted(input, true) {
        return (octets, rest);
    }
    // Without a closing quote, the text ends at the semicolon before the next known parameter.
    let next = memchr::memchr_iter(b';', input).find(|at| {
        let tail = input.get(at + 1..).unwrap_or_default();
        starts_with_known_mime_parameter(tail.trim_ascii_start())
    });
    let text = next.and_then(|at| input.split_at_checked(at));
    let (text, rest) = text.unwrap_or((input, b""));
    (quoted_string::read_quoted(text, false).0, rest)
}

/// Skips white space, separators and `(comments)`, which may be nested.
pub fn skip_separators_and_comments(input: &[u8]) -> &[u8] {
    let mut depth = 0;
    let mut is_escaped = false;
    let mut rest = input;
    while let Some((octet, tail)) = rest.split_first() {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' if depth > 0 => is_escaped = true,
            b'(' => depth += 1,
            b')' if depth > 0 => depth -= 1,
            b' ' | b'\t' | b';' | b',' => {}
            _ if depth > 0 => {}
            _ => return rest,
        }
        rest = tail;
    }
    rest
}

/// Removes a trailing comment, as in `us-ascii (Plain text)`. Parentheses within the text are kept, as in
/// `report (1).pdf`.
fn strip_trailing_mime_comment(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    if !text.ends_with(b")") {
        return text;
    }
    let mut parts = text.split(|octet| *octet == b'(');
    match parts.next().unwrap_or(text).trim_ascii_end() {
        b"" => text,
        without => without,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameter_values_and_file_names_are_parsed() {
        let cases: &[(&str, &str, Option<&str>)] = &[
            ("attachment", "attachment", None),
            (" a/b; name=x.pdf\r\n", "a/b", Some("x.pdf")),
            ("a/b ; NAME = \"x; y\" ; z", "a/b", Some("x; y")),
            ("a/b; name=\"a\\\"b\\\\\"", "a/b", Some("a\"b\\")),
            ("a/b; name=\"no end", "a/b", Some("no end")),
            ("(c (d)) a/b; (f) name=x (g)", "a/b", Some("x")),
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
            ("a/b; name=(1)", "a/b", Some("(1)")),
            ("a/b; name==?utf-8?Q?=C3=BC?=", "a/b", Some("ü")),
            ("", "", None),
        ];
        assert_parsed_parameters(cases);
    }

    #[test]
    fn rfc_2231_continued_and_encoded_parameters_are_decoded() {
        assert_parsed_parameters(&[
            (
                "a/b; name=x; name*=UTF-8'fr'%C3%A9.jpg",
                "a/b",
                Some("é.jpg"),
            ),
            ("a/b; name*=\"iso-8859-1''%DC%zz\"", "a/b", Some("Ü%zz")),
            ("a/b; name*=nothing", "a/b", Some("nothing")),
            ("a/b; name*=x-unknown''%C3%A9", "a/b", Some("é")),
            ("a/b; name*=''%C3%A9", "a/b", Some("é")),
            ("a/b; name*=utf-8''%E9", "a/b", Some("é")),
            ("a/b; name*=utf-8'%C3%A9", "a/b", Some("é")),
            ("a/b; name*=it's", "a/b", Some("it's")),
            ("a/b; name*=utf-8''; name=x", "a/b", Some("x")),
            ("a/b; name*1=b; name*0=a; name*3=d", "a/b", Some("ab")),
            ("a/b; name*2=b; name*1=a", "a/b", Some("ab")),
            ("a/b; name*2=b; name=c", "a/b", Some("c")),
            ("a/b; name*0=a; name*0=b; name*1=c", "a/b", Some("ac")),
            (
                "a/b; name*0*=UTF-8''%C3; name*1*=%A9; name*2=\"%41'\"",
                "a/b",
                Some("é%41'"),
            ),
            ("a/b; name*0*=UTF-8''%C3%A; name*1*=9", "a/b", Some("é")),
            ("a/b; name*0=a; name*1*=%20b", "a/b", Some("a b")),
            (
                "a/b; name*0=\"=?UTF-8?Q?r=C3=A9s\"; name*1=\"um=C3=A9.pdf?=\"",
                "a/b",
                Some("résumé.pdf"),
            ),
            (
                "a/b; name*0=\"=?UTF-8?Q?a?=\"; name*1=\"=?UTF-8?Q?b?=\"",
                "a/b",
                Some("ab"),
            ),
            ("a/b; name*=UTF-8''=?UTF-8?Q?=C3=A9?=", "a/b", Some("é")),
            (
                "a/b; name*=UTF-8''%3D?UTF-8?Q?=C3=A9?=",
                "a/b",
                Some("=?UTF-8?Q?=C3=A9?="),
            ),
            ("a/b; name*=iso-2022-jp''%1B$B$%22%1B(B", "a/b", Some("あ")),
            ("a/b; name*x=y; name*0*z=y; name**=y", "a/b", None),
        ]);
        let many: String = (0..12).map(|n| format!("; name*{n}={n},")).collect();
        let want = "0,1,2,3,4,5,6,7,8,9,10,11,";
        assert_parsed_parameters(&[(&format!("a/b{many}"), "a/b", Some(want))]);
    }

    #[test]
    fn parameters_with_missing_or_wrong_separators_are_parsed() {
        assert_parsed_parameters(&[
            ("a/b charset=x", "a/b", None),
            ("a/b name=x", "a/b", Some("x")),
            ("a/b, name=x", "a/b", Some("x")),
            ("name=x", "", Some("x")),
            ("a/b; charset=\"c\" name=\"x\"", "a/b", Some("x")),
            ("a/b; charset=\"c\"name=\"x\"", "a/b", Some("x")),
            ("a/b; charset=c name*0=x name*1=y", "a/b", Some("xy")),
            ("a/b; name=x.pdf charset=c", "a/b", Some("x.pdf")),
            ("a/b; name=x.pdf, charset=c", "a/b", Some("x.pdf")),
            ("a/b; name=x.pdf\tX-Mac-Type = c", "a/b", Some("x.pdf")),
            ("a/b; name=a, b=c.pdf", "a/b", Some("a, b=c.pdf")),
            ("a/b; name=size=3", "a/b", Some("size=3")),
            ("a/b; name= size=3", "a/b", None),
            ("a/b; x=\"y\" z; name=x", "a/b", Some("x")),
            ("a/b (c; d); name=x", "a/b (c", Some("x")),
            ("a/b; x=\"no end; name=x", "a/b", Some("x")),
        ]);
    }

    #[test]
    fn backslashes_in_file_names_are_kept() {
        assert_parsed_parameters(&[
            (r#"a/b; name="C:\a\b.c""#, "a/b", Some(r"C:\a\b.c")),
            (r#"a/b; name="C:\\a\\b.c""#, "a/b", Some(r"C:\a\b.c")),
            (r#"a/b; name="\\srv\a""#, "a/b", Some(r"\srv\a")),
            (r#"a/b; name="C:\a\""#, "a/b", Some(r"C:\a\")),
            (r#"a/b; name="C:\a\" ; size=3"#, "a/b", Some(r"C:\a\")),
            (r#"a/b; name="a \"b\".c""#, "a/b", Some(r#"a "b".c"#)),
            (r"a/b; name=C:\a\b.c", "a/b", Some(r"C:\a\b.c")),
            (
                "a/b; name=\"\x1b$B$\"!\\!;\x1b(B.c\"",
                "a/b",
                Some("あ＋〇.c"),
            ),
        ]);
    }

    fn assert_parsed_parameters(cases: &[(&str, &str, Option<&str>)]) {
        for (field, value, name) in cases {
            let structured = ParameterizedField::parse(field.as_bytes());
            let found = std::str::from_utf8(&structured.value).unwrap();
            assert_eq!(found, *value, "{field}");
            let found = structured
                .mime_parameter_value("name")
                .map(|value| value.decode(None));
            assert_eq!(found.as_deref(), *name, "{field}");
        }
    }

    #[test]
    fn encoded_words_in_a_boundary_parameter_are_not_decoded() {
        let octets = |field: &str| {
            let value =
                ParameterizedField::parse(field.as_bytes()).mime_parameter_value("boundary");
            value.map(|value| value.octets)
        };
        for (field, want) in [
            ("a/b; boundary=\"=?utf-8?Q?a?=\"", Some("=?utf-8?Q?a?=")),
            ("a/b; boundary*=us-ascii''a%2Db", Some("a-b")),
            ("a/b; boundary*0*=us-ascii'en'a; boundary*1=b", Some("ab")),
            ("a/b; boundary=\"\"", None),
        ] {
            assert_eq!(octets(field), want.map(|text| text.as_bytes().to_vec()));
        }
    }

    proptest! {
        #[test]
        fn parameter_parser_does_not_panic_on_any_field(field in "[a-z/;=*'\"()\\\\%0-9 \r\n\té]{0,60}") {
            let structured = ParameterizedField::parse(field.as_bytes());
            for name in ["a", "name"] {
                if let Some(value) = structured.mime_parameter_value(name) {
                    value.decode(None);
                }
            }
        }
    }
}
