//! Addresses that do not come from a client, checked like those in MAIL, RCPT and HELO.

use std::borrow::Cow;

use super::command;
use super::path::{ForwardPath, ReversePath};

/// Parses a sender's address as MAIL does, except that the angle brackets are optional. The empty text is `<>`.
///
/// Returns `None` if MAIL would reject the address.
pub fn parse_mail_address(address: &str) -> Option<ReversePath> {
    match ReversePath::parse(&path_of(address)?) {
        Ok((path, "")) => Some(path),
        _ => None,
    }
}

/// Parses a recipient's address as RCPT does, except that the angle brackets are optional.
///
/// Returns `None` if RCPT would reject the address in every configuration.
pub fn parse_rcpt_address(address: &str) -> Option<ForwardPath> {
    match ForwardPath::parse(&path_of(address)?) {
        Ok((path, "")) => Some(path),
        _ => None,
    }
}

/// Returns whether HELO and EHLO accept this name.
pub fn is_helo_name(name: &str) -> bool {
    command::parse_helo_name(name.as_bytes()).is_ok()
}

/// Returns the address in angle brackets; `None` if it contains control characters.
fn path_of(address: &str) -> Option<Cow<'_, str>> {
    let address = command::check_text_without_controls(address.as_bytes()).ok()?;
    Some(match address.starts_with('<') && address.ends_with('>') {
        true => Cow::Borrowed(address),
        false => Cow::Owned(format!("<{address}>")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_parsed_with_and_without_brackets() {
        for address in ["a@b.test", "<a@b.test>"] {
            assert_eq!(parse_mail_address(address).unwrap().as_str(), "a@b.test");
            assert_eq!(parse_rcpt_address(address).unwrap().as_str(), "a@b.test");
        }
        for address in ["", "<>"] {
            assert_eq!(parse_mail_address(address).unwrap().as_str(), "");
            assert_eq!(parse_rcpt_address(address), None);
        }
        assert_eq!(parse_mail_address("postmaster"), None);
        assert!(parse_rcpt_address("postmaster").is_some());
        for address in ["<a@b.test>x", "<a@b.test", "a@b.test>", "a@b.test\n"] {
            assert_eq!(parse_mail_address(address), None, "{address:?}");
            assert_eq!(parse_rcpt_address(address), None, "{address:?}");
        }
    }

    #[test]
    fn helo_name_is_checked_like_the_argument_of_helo() {
        assert!(is_helo_name("[192.0.2.1] x"));
        assert!(!is_helo_name("") && !is_helo_name("a\r\nb"));
        assert!(!is_helo_name(&"x".repeat(256)));
    }
}
