//! Reverse-path and forward-path, parsed once into the field's own types
//! ([RFC 5321 §4.1.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2), RFC 6531 for UTF-8).
//!
//! Local-parts may be longer than the 64 octets that every server must take (§4.5.3.1): senders with
//! per-recipient bounce addresses write them so, and §4.5.3.1 asks for no limits where none are needed.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Who sent it: `<>`, or a mailbox. Bounces come from `<>` and must arrive (RFC 5321 §4.5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReversePath {
    text: String,
}

/// Who shall have it: a mailbox, or `<Postmaster>` without a domain (RFC 5321 §4.5.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardPath {
    text: String,
    mailbox: Mailbox,
}

/// `local-part@domain`; the domain is absent for `<Postmaster>` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mailbox {
    local_part: String,
    domain: Option<String>,
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not follow the grammar.
    Malformed,
    /// `a@foreign@ours`: an unquoted local-part with an `@`, which old relays were tricked with.
    TwoDomains,
}

impl ReversePath {
    /// Parses a path that begins with `<`; answers it and what stands behind its `>`.
    ///
    /// # Errors
    /// [`PathError`] when it is malformed or longer than 256 octets.
    pub fn parse(input: &str) -> Result<(ReversePath, &str), PathError> {
        if let Some(rest) = input.strip_prefix("<>") {
            let text = String::new();
            return Ok((ReversePath { text }, rest));
        }
        let (text, mailbox, rest) = parse_path(input)?;
        if mailbox.domain.is_none() || text.len() + 2 > MAX_PATH_OCTETS {
            return Err(PathError::Malformed);
        }
        let text = text.to_owned();
        Ok((ReversePath { text }, rest))
    }

    /// As given, without brackets; empty for `<>`.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl ForwardPath {
    /// Parses a path that begins with `<`; answers it and what stands behind its `>`.
    ///
    /// Its length is bounded by the command line; whether it fits its column is for the caller to say.
    ///
    /// # Errors
    /// [`PathError`] as it says.
    pub fn parse(input: &str) -> Result<(ForwardPath, &str), PathError> {
        let (text, mailbox, rest) = parse_path(input)?;
        if mailbox.domain.is_none() && !mailbox.local_part.eq_ignore_ascii_case("postmaster") {
            return Err(PathError::Malformed);
        }
        let text = text.to_owned();
        Ok((ForwardPath { text, mailbox }, rest))
    }

    /// As given, without brackets, with its source route if it had one.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, quotes and all.
    pub fn local_part(&self) -> &str {
        &self.mailbox.local_part
    }

    /// What stands behind the `@`; `None` for `<Postmaster>`.
    pub fn domain(&self) -> Option<&str> {
        self.mailbox.domain.as_deref()
    }

    /// Whether the local-part holds a second address for somebody to relay to: `a%b`, `b!a`, `"a@b"`.
    pub fn hides_a_route(&self) -> bool {
        self.mailbox.local_part.contains(['%', '!', '@'])
    }

    /// Whether both name the same mailbox: domains without case, local-parts to the letter.
    pub fn is_same_mailbox(&self, other: &ForwardPath) -> bool {
        let domains = (&self.mailbox.domain, &other.mailbox.domain);
        match domains {
            (Some(ours), Some(theirs)) => {
                ours.eq_ignore_ascii_case(theirs)
                    && self.mailbox.local_part == other.mailbox.local_part
            }
            (None, None) => true,
            _ => false,
        }
    }
}

/// `"<" [ A-d-l ":" ] Mailbox ">"`: the text between the brackets, its mailbox, and what follows.
fn parse_path(input: &str) -> Result<(&str, Mailbox, &str), PathError> {
    let inside = input.strip_prefix('<').ok_or(PathError::Malformed)?;
    let after_route = skip_source_route(inside)?;
    let (local_part, rest) = split_local_part(after_route)?;
    let (domain, rest) = match rest.strip_prefix('@') {
        Some(rest) => {
            let end = rest.find('>').ok_or(PathError::Malformed)?;
            let (domain, rest) = rest.split_at(end);
            if domain.contains('@') && !domain.starts_with('[') {
                return Err(PathError::TwoDomains);
            }
            if !is_domain(domain) && !is_address_literal(domain) {
                return Err(PathError::Malformed);
            }
            (Some(domain.to_owned()), rest)
        }
        None => (None, rest),
    };
    let behind = rest.strip_prefix('>').ok_or(PathError::Malformed)?;
    let text = inside.strip_suffix(rest).ok_or(PathError::Malformed)?;
    let local_part = local_part.to_owned();
    Ok((text, Mailbox { local_part, domain }, behind))
}

/// `@one,@two:` in front of a mailbox is accepted and means nothing (RFC 5321 §4.1.1.3, appendix C).
fn skip_source_route(inside: &str) -> Result<&str, PathError> {
    if !inside.starts_with('@') {
        return Ok(inside);
    }
    let (route, rest) = inside.split_once(':').ok_or(PathError::Malformed)?;
    let is_route = route
        .split(',')
        .all(|hop| hop.strip_prefix('@').is_some_and(is_domain));
    is_route.then_some(rest).ok_or(PathError::Malformed)
}

/// Splits behind the local-part, a dot-string or a quoted string; it is never empty.
fn split_local_part(input: &str) -> Result<(&str, &str), PathError> {
    let end = if input.starts_with('"') {
        quoted_string_end(input)?
    } else {
        input
            .find(|c: char| !is_dot_string_char(c))
            .unwrap_or(input.len())
    };
    match input.split_at_checked(end) {
        // `""@example.com` is a quoted string by the grammar, but nobody's mailbox.
        None | Some(("" | "\"\"", _)) => Err(PathError::Malformed),
        Some(parts) => Ok(parts),
    }
}

fn quoted_string_end(input: &str) -> Result<usize, PathError> {
    let mut escaped = false;
    for (index, c) in input.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(index + 1),
            _ => {}
        }
    }
    Err(PathError::Malformed)
}

/// `atext` and dots, in any order: real senders write `a..b@` and `a.@`, and their mail shall arrive.
fn is_dot_string_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
}

/// Labels of letters, digits, hyphens (and underscores, which the field uses), UTF-8 by RFC 6531.
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || !c.is_ascii())
    };
    domain.len() <= MAX_DOMAIN_OCTETS && domain.split('.').all(is_label)
}

/// `[192.0.2.1]`, `[IPv6:2001:db8::1]` ([RFC 5321 §4.1.3](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3)).
fn is_address_literal(domain: &str) -> bool {
    let inside = domain
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inside.is_some_and(|inside| match inside.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
            address.parse::<Ipv6Addr>().is_ok()
        }
        _ => inside.parse::<Ipv4Addr>().is_ok(),
    })
}

/// With both brackets (RFC 5321 §4.5.3.1.3).
const MAX_PATH_OCTETS: usize = 256;
/// RFC 5321 §4.5.3.1.2.
const MAX_DOMAIN_OCTETS: usize = 255;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reverse_paths() {
        let long = format!("<{}@example.com>", "a".repeat(243));
        let cases: &[(&str, Option<(&str, &str)>)] = &[
            ("<>", Some(("", ""))),
            ("<> SIZE=5", Some(("", " SIZE=5"))),
            ("<a@b>", Some(("a@b", ""))),
            ("<a@b>x", Some(("a@b", "x"))),
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

    type Parsed = Result<(&'static str, Option<&'static str>), PathError>;

    #[test]
    fn forward_paths() {
        let cases: &[(&str, Parsed)] = &[
            ("<u@x>", Ok(("u", Some("x")))),
            ("<@a,@b:u@x>", Ok(("u", Some("x")))),
            ("<PostMaster>", Ok(("PostMaster", None))),
            ("<u>", Err(PathError::Malformed)),
            ("<>", Err(PathError::Malformed)),
            ("<a@foreign@ours>", Err(PathError::TwoDomains)),
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
    fn the_same_mailbox_is_seen_through_case_and_route() {
        let parse = |input| ForwardPath::parse(input).unwrap().0;
        assert!(parse("<u@x.y>").is_same_mailbox(&parse("<@r:u@X.Y>")));
        assert!(!parse("<u@x.y>").is_same_mailbox(&parse("<U@x.y>")));
        assert!(parse("<postmaster>").is_same_mailbox(&parse("<Postmaster>")));
    }

    proptest! {
        #[test]
        fn no_input_panics(input in "[<>@:,\\[\\]\" .a-z\\\\é%!]{0,40}") {
            let _ = ReversePath::parse(&input);
            let _ = ForwardPath::parse(&input);
        }
    }
}
