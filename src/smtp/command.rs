//! Command lines: the verb and its typed arguments.

use super::parameter::{self, MailParameters};
use super::path::{ForwardPath, MailPathError, ReversePath};
use super::reply::{self, Reply};

/// The SMTP verbs that the server recognizes, including verbs that it does not implement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the RFC's verb")]
pub enum Verb {
    Helo,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Vrfy,
    Expn,
    Help,
    Quit,
    StartTls,
    Xclient,
    /// A verb that is defined in an RFC or commonly used, but not implemented; the reply is 502.
    NotImplemented,
}

/// The argument of MAIL: `FROM:<reverse-path> [parameters]`.
#[derive(Debug, PartialEq, Eq)]
pub struct MailCommand {
    /// The sender address.
    pub reverse_path: ReversePath,
    /// The parameters after the reverse-path.
    pub parameters: MailParameters,
}

/// The argument of BDAT: `size [LAST]` ([RFC 3030](https://www.rfc-editor.org/rfc/rfc3030)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BdatCommand {
    /// Number of octets that follow the command line.
    pub size: u64,
    /// Whether this chunk is the last one of the message.
    pub last: bool,
}

/// The reason why a command is rejected; each value has exactly one [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// HELO or EHLO has no argument.
    NoHeloName,
    /// The argument does not follow the grammar.
    BadArgument,
    /// The command takes no argument.
    UnexpectedArgument,
    /// The argument contains control characters or invalid UTF-8.
    BadOctets,
    /// A parameter belongs to an extension that is not offered.
    UnknownParameter,
    /// A parameter is malformed or repeated.
    BadParameter,
    /// The reverse-path is malformed.
    BadReversePath,
    /// The forward-path is malformed.
    BadForwardPath,
    /// The forward-path has two domains (`a@b@c`), a known trick to make a server relay mail.
    TwoDomains,
    /// The address is not ASCII, but MAIL did not have the parameter SMTPUTF8.
    NeedsSmtpUtf8,
}

impl From<CommandError> for Reply {
    fn from(error: CommandError) -> Reply {
        match error {
            CommandError::NoHeloName => reply::R501_NO_HELO_NAME,
            CommandError::BadArgument => reply::R501_BAD_ARGUMENT,
            CommandError::UnexpectedArgument => reply::R501_UNEXPECTED_ARGUMENT,
            CommandError::BadOctets => reply::R501_BAD_OCTETS,
            CommandError::UnknownParameter => reply::R555_UNKNOWN_PARAMETER,
            CommandError::BadParameter => reply::R501_BAD_PARAMETER,
            CommandError::BadReversePath => reply::R501_BAD_REVERSE_PATH,
            CommandError::BadForwardPath => reply::R501_BAD_FORWARD_PATH,
            CommandError::TwoDomains => reply::R550_RELAY_DENIED,
            CommandError::NeedsSmtpUtf8 => reply::R553_NEEDS_SMTPUTF8,
        }
    }
}

/// Splits a line without its CR LF into the verb and its argument; the verb is `None` if it is not recognized.
pub fn split_verb_and_argument(line: &[u8]) -> (Option<Verb>, &[u8]) {
    let line = trim_spaces(line);
    let end = line.iter().position(|octet| *octet == b' ');
    let (word, argument) = line.split_at(end.unwrap_or(line.len()));
    let verb = VERBS
        .iter()
        .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word))
        .map(|(_, verb)| *verb);
    (verb, trim_spaces(argument))
}

/// Trims spaces, but not TABs: a TAB is an error in any position.
fn trim_spaces(mut octets: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = octets {
        octets = rest;
    }
    octets
}

/// Returns whether the line begins like an HTTP request. A web page can make a browser send an HTTP request to this port
/// ([ALPACA](https://alpaca-attack.com)); the body of the request must not be executed as SMTP commands.
pub fn is_http_request(line: &[u8]) -> bool {
    HTTP_METHODS.iter().any(|verb| {
        line.get(..verb.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(verb))
    })
}

/// Returns whether the line begins with BDAT, even with invalid arguments: octets of a chunk probably follow it.
pub fn begins_with_bdat(line: &[u8]) -> bool {
    let word = trim_spaces(line).get(..4);
    word.is_some_and(|word| word.eq_ignore_ascii_case(b"BDAT"))
}

/// Parses the argument of HELO or EHLO. RFC 5321 requires a domain or an address literal, but some clients send other
/// text. Up to `MAX_HELO_OCTETS` octets without control characters are accepted.
pub fn parse_helo_name(argument: &[u8]) -> Result<&str, CommandError> {
    let name = parse_utf8_without_controls(argument)?;
    match name.len() {
        0 => Err(CommandError::NoHeloName),
        1..=MAX_HELO_OCTETS => Ok(name),
        _ => Err(CommandError::BadArgument),
    }
}

/// Checks that the argument is empty.
///
/// # Errors
/// [`CommandError::UnexpectedArgument`].
pub fn check_no_argument(argument: &[u8]) -> Result<(), CommandError> {
    match argument {
        [] => Ok(()),
        _ => Err(CommandError::UnexpectedArgument),
    }
}

impl MailCommand {
    /// Parses the argument of MAIL.
    ///
    /// # Errors
    /// [`CommandError`]; octets are checked first, then the path, then the parameters.
    pub fn parse(argument: &[u8]) -> Result<MailCommand, CommandError> {
        let argument = parse_utf8_without_controls(argument)?;
        let path = after_keyword(argument, "FROM:")?;
        let (reverse_path, parameters) =
            ReversePath::parse(path).map_err(|_| CommandError::BadReversePath)?;
        let parameters = MailParameters::parse(parameters)?;
        if !parameters.smtputf8 && !reverse_path.as_str().is_ascii() {
            return Err(CommandError::NeedsSmtpUtf8);
        }
        Ok(MailCommand {
            reverse_path,
            parameters,
        })
    }
}

/// Parses the argument of RCPT. No offered extension defines a parameter for RCPT. `smtputf8` is whether MAIL had the
/// parameter SMTPUTF8.
///
/// # Errors
/// [`CommandError`]; octets are checked first, then the path, then the parameters.
pub fn parse_rcpt(argument: &[u8], smtputf8: bool) -> Result<ForwardPath, CommandError> {
    let argument = parse_utf8_without_controls(argument)?;
    let path = after_keyword(argument, "TO:")?;
    let (forward_path, parameters) = ForwardPath::parse(path).map_err(|error| match error {
        MailPathError::Malformed => CommandError::BadForwardPath,
        MailPathError::TwoDomains => CommandError::TwoDomains,
    })?;
    parameter::check_no_parameter(parameters)?;
    if !smtputf8 && !forward_path.as_str().is_ascii() {
        return Err(CommandError::NeedsSmtpUtf8);
    }
    Ok(forward_path)
}

impl BdatCommand {
    /// Parses the argument of BDAT; returns `None` if it is malformed.
    pub fn parse(argument: &[u8]) -> Option<BdatCommand> {
        let argument = parse_utf8_without_controls(argument).ok()?;
        let mut words = argument.split_ascii_whitespace();
        let size = parse_number(words.next()?)?;
        let last = match words.next() {
            None => false,
            Some(word) if word.eq_ignore_ascii_case("LAST") => true,
            Some(_) => return None,
        };
        words.next().is_none().then_some(BdatCommand { size, last })
    }
}

/// Returns the argument as text, if it is UTF-8 without control characters (C0, DEL, C1).
///
/// # Errors
/// [`CommandError::BadOctets`].
pub fn parse_utf8_without_controls(argument: &[u8]) -> Result<&str, CommandError> {
    let text = std::str::from_utf8(argument).map_err(|_| CommandError::BadOctets)?;
    if text.chars().any(char::is_control) {
        return Err(CommandError::BadOctets);
    }
    Ok(text)
}

/// Returns the text after `FROM:` or `TO:` (in upper or lower case). Spaces after the colon are skipped, because many
/// senders put them there.
fn after_keyword<'a>(argument: &'a str, keyword: &str) -> Result<&'a str, CommandError> {
    match argument.split_at_checked(keyword.len()) {
        Some((word, rest)) if word.eq_ignore_ascii_case(keyword) => Ok(rest.trim_start()),
        _ => Err(CommandError::BadArgument),
    }
}

/// Parses 1 to 20 digits as a number; returns `None` for other text and for a number that exceeds 64 bits.
fn parse_number(digits: &str) -> Option<u64> {
    match parameter::is_number(digits) {
        true => digits.parse().ok(),
        false => None,
    }
}

const VERBS: &[(&str, Verb)] = &[
    ("HELO", Verb::Helo),
    ("EHLO", Verb::Ehlo),
    ("MAIL", Verb::Mail),
    ("RCPT", Verb::Rcpt),
    ("DATA", Verb::Data),
    ("BDAT", Verb::Bdat),
    ("RSET", Verb::Rset),
    ("NOOP", Verb::Noop),
    ("VRFY", Verb::Vrfy),
    ("EXPN", Verb::Expn),
    ("HELP", Verb::Help),
    ("QUIT", Verb::Quit),
    ("AUTH", Verb::NotImplemented),
    ("ATRN", Verb::NotImplemented),
    ("BURL", Verb::NotImplemented),
    ("ETRN", Verb::NotImplemented),
    ("LHLO", Verb::NotImplemented),
    ("SAML", Verb::NotImplemented),
    ("SEND", Verb::NotImplemented),
    ("SOML", Verb::NotImplemented),
    ("STARTTLS", Verb::StartTls),
    ("TURN", Verb::NotImplemented),
    ("XCLIENT", Verb::Xclient),
];

/// HTTP methods, each with the space after it.
const HTTP_METHODS: &[&[u8]] = &[
    b"CONNECT ",
    b"DELETE ",
    b"GET ",
    b"HEAD ",
    b"OPTIONS ",
    b"PATCH ",
    b"POST ",
    b"PRI ",
    b"PUT ",
    b"TRACE ",
];

/// Maximum length of a HELO name in octets, equal to that of a domain (RFC 5321 §4.5.3.1.2); a longer name is rejected.
const MAX_HELO_OCTETS: usize = 255;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type ExpectedMailCommandResult = Result<(&'static str, Option<u64>, bool), CommandError>;

    #[test]
    fn mail_command_arguments_are_parsed() {
        use CommandError::*;
        let cases: &[(&str, ExpectedMailCommandResult)] = &[
            ("FROM:<a@b>", Ok(("a@b", None, false))),
            (
                "from: <a@b>  size=10 body=8BitMime",
                Ok(("a@b", Some(10), false)),
            ),
            (
                "FROM:<> SIZE=99999999999",
                Ok(("", Some(99_999_999_999), false)),
            ),
            (
                "FROM:<> SIZE=99999999999999999999",
                Ok(("", Some(u64::MAX), false)),
            ),
            ("FROM:<ü@b> SMTPUTF8", Ok(("ü@b", None, true))),
            ("FROM:<ü@b>", Err(NeedsSmtpUtf8)),
            ("FROM:a@b", Err(BadReversePath)),
            ("FROM:<a@b>SIZE=1", Err(BadReversePath)),
            ("FROM <a@b>", Err(BadArgument)),
            ("", Err(BadArgument)),
            ("FROM:<a@b> SIZE=abc", Err(BadParameter)),
            ("FROM:<a@b> SIZE=-1", Err(BadParameter)),
            ("FROM:<a@b> SIZE=1 SIZE=1", Err(BadParameter)),
            ("FROM:<a@b> SIZE", Err(BadParameter)),
            (
                "FROM:<a@b> SIZE=1234567890123456789012345",
                Err(BadParameter),
            ),
            ("FROM:<a@b> SMTPUTF8=1", Err(BadParameter)),
            ("FROM:<a@b> BODY=BINARYMIME", Err(UnknownParameter)),
            ("FROM:<a@b> AUTH=<>", Err(UnknownParameter)),
            ("FROM:<a@b> RET=FULL", Err(UnknownParameter)),
            ("FROM:<a\t@b>", Err(BadOctets)),
            ("FROM:<\u{85}a@b> SMTPUTF8", Err(BadOctets)),
        ];
        for (argument, want) in cases {
            let parsed = MailCommand::parse(argument.as_bytes());
            let parsed = parsed.as_ref().map(|mail| {
                let MailParameters { size, smtputf8 } = mail.parameters;
                (mail.reverse_path.as_str(), size, smtputf8)
            });
            assert_eq!(parsed.map_err(|error| *error), *want, "{argument}");
        }
    }

    #[test]
    fn bdat_arguments_are_parsed() {
        let chunk = |size, last| Some(BdatCommand { size, last });
        for (argument, want) in [
            ("5", chunk(5, false)),
            ("0 last", chunk(0, true)),
            ("18446744073709551615 LAST", chunk(u64::MAX, true)),
            ("99999999999999999999", None),
            ("x", None),
            ("", None),
            ("5 LAST x", None),
            ("+5", None),
        ] {
            assert_eq!(BdatCommand::parse(argument.as_bytes()), want, "{argument}");
        }
    }

    #[test]
    fn command_verbs_are_case_insensitive_and_end_at_a_space() {
        assert_eq!(
            split_verb_and_argument(b"noop  x "),
            (Some(Verb::Noop), &b"x"[..])
        );
        assert_eq!(split_verb_and_argument(b"NOOPX"), (None, &b""[..]));
        assert_eq!(split_verb_and_argument(b"NOOP x\t").1, b"x\t");
        assert!(
            is_http_request(b"get / HTTP/1.1")
                && !is_http_request(b"GETS")
                && !is_http_request(b"")
        );
        assert_eq!(split_verb_and_argument(b""), (None, &b""[..]));
    }

    proptest! {
        #[test]
        fn parser_does_not_panic_on_any_octets(argument in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = split_verb_and_argument(&argument);
            let _ = MailCommand::parse(&argument);
            let _ = parse_rcpt(&argument, true);
            let _ = BdatCommand::parse(&argument);
            let _ = parse_helo_name(&argument);
        }
    }
}
