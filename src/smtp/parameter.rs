//! Parameters after the path of MAIL and RCPT: ` KEYWORD[=value] …`
//! ([RFC 5321 §4.1.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2)).

use super::command::CommandError;

/// The parameters of one MAIL command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// `SIZE=`: the declared message size, which can be too small or too large ([RFC 1870]).
    ///
    /// [RFC 1870]: https://www.rfc-editor.org/rfc/rfc1870
    pub size: Option<u64>,
    /// `SMTPUTF8`: addresses and header fields may contain UTF-8 ([RFC 6531](https://www.rfc-editor.org/rfc/rfc6531)).
    pub smtputf8: bool,
}

impl MailParameters {
    /// Parses the text after the reverse-path.
    ///
    /// # Errors
    /// [`CommandError::BadReversePath`] if the text does not begin with a space, else [`CommandError::BadParameter`] or
    /// [`CommandError::UnknownParameter`].
    pub fn parse(text: &str) -> Result<MailParameters, CommandError> {
        let mut parameters = MailParameters::default();
        let mut body_given = false;
        for (keyword, value) in split_esmtp_parameters(text, CommandError::BadReversePath)? {
            match (keyword.to_ascii_uppercase().as_str(), value) {
                ("SIZE", Some(value)) if parameters.size.is_none() => {
                    parameters.size =
                        Some(parse_size_parameter(value).ok_or(CommandError::BadParameter)?);
                }
                ("SMTPUTF8", None) if !parameters.smtputf8 => parameters.smtputf8 = true,
                ("BODY", Some(value)) if !body_given => {
                    body_given = true;
                    check_body_parameter(value)?;
                }
                ("SIZE" | "SMTPUTF8" | "BODY", _) => return Err(CommandError::BadParameter),
                _ => return Err(CommandError::UnknownParameter),
            }
        }
        Ok(parameters)
    }
}

/// Checks that the text after a forward-path holds no parameter.
///
/// # Errors
/// [`CommandError::BadForwardPath`] if the text does not begin with a space, else [`CommandError::BadParameter`] or
/// [`CommandError::UnknownParameter`].
pub fn check_no_parameter(text: &str) -> Result<(), CommandError> {
    match split_esmtp_parameters(text, CommandError::BadForwardPath)?.as_slice() {
        [] => Ok(()),
        _ => Err(CommandError::UnknownParameter),
    }
}

type EsmtpParameter<'a> = (&'a str, Option<&'a str>);

/// Splits `text` of the form ` KEYWORD[=value] …`; returns the error `bad_path` if `text` does not begin with a space.
fn split_esmtp_parameters(
    text: &str,
    bad_path: CommandError,
) -> Result<Vec<EsmtpParameter<'_>>, CommandError> {
    if !text.is_empty() && !text.starts_with(' ') {
        return Err(bad_path);
    }
    let words = text.split_ascii_whitespace();
    words
        .map(|word| match word.split_once('=') {
            Some((keyword, value)) if is_keyword(keyword) && !value.is_empty() => {
                Ok((keyword, Some(value)))
            }
            None if is_keyword(word) => Ok((word, None)),
            _ => Err(CommandError::BadParameter),
        })
        .collect()
}

/// Returns whether `word` is an `esmtp-keyword` (RFC 5321 §4.1.2).
fn is_keyword(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Parses 1 to 20 digits (RFC 1870 §4) as a number; a number that exceeds 64 bits becomes `u64::MAX`. Returns `None` for other
/// text.
fn parse_size_parameter(digits: &str) -> Option<u64> {
    is_number(digits).then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Returns whether `digits` consists of 1 to 20 decimal digits.
pub fn is_number(digits: &str) -> bool {
    (1..=20).contains(&digits.len()) && digits.bytes().all(|octet| octet.is_ascii_digit())
}

/// Checks the value of `BODY=` (RFC 6152). BINARYMIME is rejected, because its extension (RFC 3030) is not offered.
fn check_body_parameter(value: &str) -> Result<(), CommandError> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" | "8BITMIME" => Ok(()),
        "BINARYMIME" => Err(CommandError::UnknownParameter),
        _ => Err(CommandError::BadParameter),
    }
}
