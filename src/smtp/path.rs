//! Reverse-path and forward-path ([RFC 5321 §4.1.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2), RFC 6531 for
//! UTF-8).
//!
//! Local-parts may exceed the 64 octets that every server must support (§4.5.3.1.1): senders with per-recipient bounce
//! addresses need more, and §4.5.3.1 recommends no fixed limits.

use std::borrow::Cow;

use super::domain::{self, is_address_literal, is_domain};

/// The sender address of MAIL: `<>` or a mailbox. Bounces use `<>` and must be accepted (RFC 5321 §4.5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReversePath {
    text: String,
}

/// The recipient address of RCPT: a mailbox, or `<Postmaster>` without a domain (RFC 5321 §4.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardPath {
    text: String,
    mailbox: Mailbox,
    /// The canonical domain, if it differs from `mailbox.domain` by more than a trailing dot.
    canonical_domain: Option<Box<str>>,
}

/// A mailbox `local-part@domain`; only `<Postmaster>` has no domain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mailbox {
    local_part: String,
    domain: Option<String>,
}

/// The reason why a path is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailPathError {
    /// The path does not follow the grammar.
    Malformed,
    /// The path has the form `a@foreign@ours`: an unquoted local-part contains `@`, a known trick to make a server relay mail.
    TwoDomains,
}

impl ReversePath {
    /// Parses a path that begins with `<`; returns the path and the text after its `>`.
    ///
    /// # Errors
    /// [`MailPathError`] if the path is malformed or longer than 256 octets.
    pub fn parse(input: &str) -> Result<(ReversePath, &str), MailPathError> {
        if let Some(rest) = input.strip_prefix("<>") {
            let text = String::new();
            return Ok((ReversePath { text }, rest));
        }
        let (text, mailbox, rest) = parse_path(input)?;
        if mailbox.domain.is_none() || text.len() + 2 > MAX_REVERSE_PATH_OCTETS {
            return Err(MailPathError::Malformed);
        }
        let text = text.to_owned();
        Ok((ReversePath { text }, rest))
    }

    /// Returns the path as the client wrote it, without brackets; empty for `<>`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl ForwardPath {
    /// Parses a path that begins with `<`; returns the path and the text after its `>`.
    ///
    /// Only the maximum length of a command line limits the path. The caller checks whether the path fits the store's column.
    ///
    /// # Errors
    /// [`MailPathError`].
    pub fn parse(input: &str) -> Result<(ForwardPath, &str), MailPathError> {
        let (text, mailbox, rest) = parse_path(input)?;
        if mailbox.domain.is_none() && !mailbox.local_part.eq_ignore_ascii_case("postmaster") {
            return Err(MailPathError::Malformed);
        }
        let canonical_domain = match mailbox.domain.as_deref().map(domain::canonicalize_domain) {
            Some(Cow::Owned(canonical)) => Some(canonical.into_boxed_str()),
            // `Borrowed`: the given domain is canonical except perhaps for its trailing dot, so no second copy is stored.
            Some(Cow::Borrowed(_)) | None => None,
        };
        let path = ForwardPath {
            text: text.to_owned(),
            mailbox,
            canonical_domain,
        };
        Ok((path, rest))
    }

    /// Returns the path as the client wrote it, without brackets but with its source route.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the text before the `@`, including quotes.
    pub fn local_part(&self) -> &str {
        &self.mailbox.local_part
    }

    /// Returns the text after the `@`; `None` for `<Postmaster>`.
    pub fn domain(&self) -> Option<&str> {
        self.mailbox.domain.as_deref()
    }

    /// Returns the domain in canonical form ([`domain::canonicalize_domain`]); `None` for `<Postmaster>`.
    pub fn canonical_domain(&self) -> Option<&str> {
        let as_given = || self.domain().map(domain::without_trailing_dot);
        self.canonical_domain.as_deref().or_else(as_given)
    }

    /// Returns the address without source route and with its domain in canonical form, so that each mailbox has one spelling;
    /// only the local-part for `<Postmaster>`.
    pub fn mailbox_address(&self) -> String {
        match self.canonical_domain() {
            Some(domain) => format!("{}@{domain}", self.local_part()),
            None => self.local_part().to_owned(),
        }
    }

    /// Returns whether the path is `<Postmaster>` or the postmaster of a domain (RFC 5321 §4.5.1), in any case.
    pub fn is_postmaster(&self) -> bool {
        self.local_part().eq_ignore_ascii_case("postmaster")
    }

    /// Returns the address in column `to`: the local-part at `primary_mail_host`.
    pub fn to_address(&self, primary_mail_host: &str) -> String {
        format!("{}@{primary_mail_host}", self.local_part())
    }

    /// Returns whether the local-part contains a second address that another system could relay to: `a%b`, `b!a`, `"a@b"`.
    pub fn has_embedded_route(&self) -> bool {
        self.mailbox.local_part.contains(['%', '!', '@'])
    }

    /// Returns whether both paths name the same mailbox: canonical domains are equal and local-parts are identical, or both
    /// paths are `<Postmaster>`.
    pub fn is_same_mailbox(&self, other: &ForwardPath) -> bool {
        match (self.canonical_domain(), other.canonical_domain()) {
            (Some(domain), Some(other_domain)) => {
                domain == other_domain && self.mailbox.local_part == other.mailbox.local_part
            }
            (None, None) => true,
            _ => false,
        }
    }
}

/// Parses `"<" [ A-d-l ":" ] Mailbox ">"`; returns the text between the brackets, the mailbox and the text after `>`.
fn parse_path(input: &str) -> Result<(&str, Mailbox, &str), MailPathError> {
    let inside = input.strip_prefix('<').ok_or(MailPathError::Malformed)?;
    let after_route = skip_source_route(inside)?;
    let (local_part, rest) = split_off_local_part(after_route)?;
    let (domain, rest) = match rest.strip_prefix('@') {
        Some(rest) => {
            let end = rest.find('>').ok_or(MailPathError::Malformed)?;
            let (domain, rest) = rest.split_at(end);
            if domain.contains('@') && !domain.starts_with('[') {
                return Err(MailPathError::TwoDomains);
            }
            if !is_domain(domain) && !is_address_literal(domain) {
                return Err(MailPathError::Malformed);
            }
            (Some(domain.to_owned()), rest)
        }
        None => (None, rest),
    };
    let after_path = rest.strip_prefix('>').ok_or(MailPathError::Malformed)?;
    let text = inside.strip_suffix(rest).ok_or(MailPathError::Malformed)?;
    let local_part = local_part.to_owned();
    Ok((text, Mailbox { local_part, domain }, after_path))
}

/// Returns the text after a source route (`@one,@two:`), which is accepted and ignored (RFC 5321 §4.1.1.3, appendix C).
fn skip_source_route(inside: &str) -> Result<&str, MailPathError> {
    if !inside.starts_with('@') {
        return Ok(inside);
    }
    let (route, rest) = inside.split_once(':').ok_or(MailPathError::Malformed)?;
    let is_route = route
        .split(',')
        .all(|hop| hop.strip_prefix('@').is_some_and(is_domain));
    is_route.then_some(rest).ok_or(MailPathError::Malformed)
}

/// Splits the input after the local-part, which is a dot-string or a quoted string and must not be empty.
fn split_off_local_part(input: &str) -> Result<(&str, &str), MailPathError> {
    let end = if input.starts_with('"') {
        quoted_string_end(input)?
    } else {
        input
            .find(|c: char| !is_dot_string_char(c))
            .unwrap_or(input.len())
    };
    match input.split_at_checked(end) {
        // The grammar allows `""@example.com`, but no such mailbox exists.
        None | Some(("" | "\"\"", _)) => Err(MailPathError::Malformed),
        Some(parts) => Ok(parts),
    }
}

fn quoted_string_end(input: &str) -> Result<usize, MailPathError> {
    let mut escaped = false;
    for (index, c) in input.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(index + 1),
            _ => {}
        }
    }
    Err(MailPathError::Malformed)
}

/// Returns whether `c` may occur in a dot-string: `atext` or a dot. Dots are accepted in any position, because senders
/// use addresses such as `a..b@` and `a.@`.
fn is_dot_string_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
}

/// Maximum length of a reverse-path in octets, with both brackets (RFC 5321 §4.5.3.1.3); a longer one is rejected.
const MAX_REVERSE_PATH_OCTETS: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reverse_paths_are_parsed() {
        let long = format!("<{}@example.com>", "a".repeat(243));
        let cases: &[(&str, Option<(&str, &str)>)] = &[
            ("<>", Some(("", ""))),
            ("<> SIZE=5", Some(("", " SIZE=5"))),
            ("<a@b>", Some(("a@b", ""))),
            ("<a@b>x", Some(("a@b", "x"))),
            ("<a@b.c.>", Some(("a@b.c.", ""))),
            ("<@x.,@z.:a@b.>", Some(("@x.,@z.:a@b.", ""))),
            ("<a..b.@b.c>", Some(("a..b.@b.c", ""))),
            (r#"<"a b>\""@b.c>"#, Some((r#""a b>\""@b.c"#, ""))),
            ("<a@[192.0.2.1]>", Some(("a@[192.0.2.1]", ""))),
            ("<a@[IPv6:2001:db8::1]>", Some(("a@[IPv6:2001:db8::1]", ""))),
            ("<@x.y,@z:a@b>", Some(("@x.y,@z:a@b", ""))),
            ("<用户@例子.测试>", Some(("用户@例子.测试", ""))),
            ("a@b", None),
            ("<a@b", None),
            ("<a>", None),
            ("<@b>", None),
            ("<a@>", None),
            ("<a@b..c>", None),
            ("<a@b.c..>", None),
            ("<a@.>", None),
            ("<a@.b>", None),
            ("<a@[192.0.2.1].>", None),
            ("<a@-b>", None),
            ("<a b@c>", None),
            ("<a@b c>", None),
            ("<a@[999.1.1.1]>", None),
            ("<a@[IPv6:zz]>", None),
            ("<\"a@b>", None),
            ("<\"\"@b>", None),
            ("<@x:>", None),
            ("<@x a@b>", None),
            (&long, None),
            ("", None),
        ];
        for (input, want) in cases {
            let parsed = ReversePath::parse(input).ok();
            let parsed = parsed.map(|(path, rest)| (path.text, rest));
            let want = want.map(|(text, rest)| (text.to_owned(), rest));
            assert_eq!(parsed, want, "{input}");
        }
    }

    type ExpectedForwardPath = Result<(&'static str, Option<&'static str>), MailPathError>;

    #[test]
    fn forward_paths_are_parsed() {
        let cases: &[(&str, ExpectedForwardPath)] = &[
            ("<u@x>", Ok(("u", Some("x")))),
            ("<@a,@b:u@x>", Ok(("u", Some("x")))),
            ("<PostMaster>", Ok(("PostMaster", None))),
            ("<u>", Err(MailPathError::Malformed)),
            ("<>", Err(MailPathError::Malformed)),
            ("<a@foreign@ours>", Err(MailPathError::TwoDomains)),
            ("<\"a@foreign\"@ours>", Ok(("\"a@foreign\"", Some("ours")))),
        ];
        for (input, want) in cases {
            let parsed = ForwardPath::parse(input);
            let parsed = parsed
                .as_ref()
                .map(|(path, _)| (path.local_part(), path.domain()));
            assert_eq!(parsed.map_err(|error| *error), *want, "{input}");
        }
    }

    #[test]
    fn same_mailbox_is_recognized_despite_domain_case_and_source_route() {
        let parse = |input| ForwardPath::parse(input).unwrap().0;
        assert!(parse("<u@x.y>").is_same_mailbox(&parse("<@r:u@X.Y>")));
        assert!(!parse("<u@x.y>").is_same_mailbox(&parse("<U@x.y>")));
        assert!(parse("<postmaster>").is_same_mailbox(&parse("<Postmaster>")));
        assert!(!parse("<postmaster>").is_same_mailbox(&parse("<postmaster@x.y>")));
    }

    #[test]
    fn same_mailbox_is_recognized_in_all_spellings_of_its_domain() {
        let parse = |input| ForwardPath::parse(input).unwrap().0;
        for (one, other, want) in [
            ("<u@x.y>", "<u@X.y.>", true),
            ("<u@münchen.test>", "<u@XN--mnchen-3ya.test>", true),
            ("<u@münchen.test>", "<u@MU\u{308}NCHEN。test>", true),
            ("<u@straße.test>", "<u@strasse.test>", false),
            ("<ü@x.y>", "<u\u{308}@x.y>", false),
            ("<u@[IPv6:2001:DB8:0::1]>", "<u@[IPv6:2001:db8::1]>", true),
            ("<u@[IPv6:2001:db8::1]>", "<u@[IPv6:2001:db8::2]>", false),
            ("<u@xn--zzzz--1.test>", "<u@xn--zzzz--2.test>", false),
        ] {
            let (one, other) = (parse(one), parse(other));
            assert_eq!(one.is_same_mailbox(&other), want, "{one:?} {other:?}");
            assert_eq!(other.is_same_mailbox(&one), want, "{one:?} {other:?}");
        }
        assert_eq!(parse("<u@München.test.>").as_str(), "u@München.test.");
    }

    proptest! {
        #[test]
        fn path_parsers_do_not_panic_on_any_input(input in "[<>@:,\\[\\]\" .a-z\\\\é%!]{0,40}") {
            let _ = ReversePath::parse(&input);
            let _ = ForwardPath::parse(&input);
        }
    }
}
