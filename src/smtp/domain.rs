//! Domains and address literals: grammar and canonical form.
//!
//! A domain can be written in several ways: upper or lower case, with a trailing dot, with U-labels or A-labels
//! ([RFC 5890](https://www.rfc-editor.org/rfc/rfc5890)). Comparison follows
//! [UTS 46](https://www.unicode.org/reports/tr46/), non-transitional, as browsers and mail programs do.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// Returns whether `text` is a domain in a path, with or without a trailing dot. Labels consist of letters, digits,
/// hyphens, underscores and non-ASCII characters (RFC 6531). RFC 5321 does not allow underscores, but they are common.
pub fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_' || !c.is_ascii())
    };
    let name = without_trailing_dot(text);
    name.len() <= MAX_DOMAIN_OCTETS && name.split(is_domain_dot_char).all(is_label)
}

/// Returns whether `text` is an address literal: `[192.0.2.1]` or `[IPv6:2001:db8::1]`
/// ([RFC 5321 §4.1.3](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.3)).
pub fn is_address_literal(text: &str) -> bool {
    canonical_address_literal(text).is_some()
}

/// Returns the canonical form of a domain or an address literal: lower-case A-labels without a trailing dot, or the
/// address as the standard library formats it. Two spellings of the same domain have the same canonical form.
///
/// A label that is not a valid IDN is only converted to ASCII lower case. A name that consists of lower-case ASCII and
/// has no A-labels is not copied.
pub fn canonicalize_domain(text: &str) -> Cow<'_, str> {
    if let Some(literal) = canonical_address_literal(text) {
        return Cow::Owned(literal);
    }
    if !text.is_ascii() || text.split('.').any(has_punycode_prefix) {
        return Cow::Owned(to_a_labels(text));
    }
    let name = without_trailing_dot(text);
    if name.bytes().any(|octet| octet.is_ascii_uppercase()) {
        return Cow::Owned(name.to_ascii_lowercase());
    }
    Cow::Borrowed(name)
}

/// Returns `text` without its trailing dot, if it has one.
pub fn without_trailing_dot(text: &str) -> &str {
    text.strip_suffix(is_domain_dot_char).unwrap_or(text)
}

fn to_a_labels(domain: &str) -> String {
    let name = without_trailing_dot(domain);
    // The rules for right-to-left scripts apply to all labels together, so the whole name is converted first. If that
    // fails, each label is converted separately.
    uts46_to_ascii(name).unwrap_or_else(|| {
        let labels: Vec<String> = name
            .split(is_domain_dot_char)
            .map(|label| uts46_to_ascii(label).unwrap_or_else(|| label.to_ascii_lowercase()))
            .collect();
        labels.join(".")
    })
}

fn uts46_to_ascii(name: &str) -> Option<String> {
    let ascii = Uts46::new()
        .to_ascii(
            name.as_bytes(),
            DENIED_ASCII,
            Hyphens::Allow,
            DnsLength::Ignore,
        )
        .ok()?;
    // A label that consists only of characters that UTS 46 ignores, such as the soft hyphen, becomes empty.
    let has_every_label = ascii.split('.').all(|label| !label.is_empty());
    has_every_label.then(|| ascii.into_owned())
}

fn canonical_address_literal(text: &str) -> Option<String> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    match inside.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => {
            let address: Ipv6Addr = address.parse().ok()?;
            Some(format!("[IPv6:{address}]"))
        }
        _ => {
            let address: Ipv4Addr = inside.parse().ok()?;
            Some(format!("[{address}]"))
        }
    }
}

fn has_punycode_prefix(label: &str) -> bool {
    label
        .get(..4)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"))
}

/// Returns whether `c` is a full stop or a character that UTS 46 maps to a full stop.
fn is_domain_dot_char(c: char) -> bool {
    matches!(c, '.' | '\u{3002}' | '\u{ff0e}' | '\u{ff61}')
}

/// Maximum length of a domain in octets, without a trailing dot (RFC 5321 §4.5.3.1.2); longer text is not a domain.
const MAX_DOMAIN_OCTETS: usize = 255;

/// ASCII characters that a conversion must not produce: all but letters, digits, hyphens and underscores (full stops
/// separate labels). Otherwise a full-width `@` or `[` could turn a domain into another address or an address literal.
const DENIED_ASCII: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_spellings_of_a_domain_have_the_same_canonical_form() {
        let long = "ü".repeat(70);
        let long_a_label = canonicalize_domain(&long).into_owned();
        for (spellings, want) in [
            (&["ours.test", "OURS.Test", "ours.test."][..], "ours.test"),
            (
                &["ｏｕｒｓ。ｔｅｓｔ", "ours．test", "ours｡test｡"],
                "ours.test",
            ),
            (&["ou\u{ad}rs.test", "ou\u{200b}rs.test"], "ours.test"),
            (
                &[
                    "münchen.example",
                    "MÜNCHEN.example",
                    "mu\u{308}nchen.Example.",
                    "xn--mnchen-3ya.example",
                    "XN--MNCHEN-3YA.EXAMPLE.",
                    "Xn--Mnchen-3Ya。example",
                ],
                "xn--mnchen-3ya.example",
            ),
            (
                &["straße.test", "STRAẞE.test", "xn--strae-oqa.test"],
                "xn--strae-oqa.test",
            ),
            (&["strasse.test"], "strasse.test"),
            (
                &["İ.test", "i\u{307}.test", "xn--i-9bb.test"],
                "xn--i-9bb.test",
            ),
            (
                &["例子.测试", "xn--fsqu00a.xn--0zwm56d"],
                "xn--fsqu00a.xn--0zwm56d",
            ),
            (
                &["_x.Münster.test", "_X.xn--mnster-3ya.test"],
                "_x.xn--mnster-3ya.test",
            ),
            (&[long.as_str()], long_a_label.as_str()),
            // Invalid A-labels are only converted to lower case.
            (
                &["xn--zzzz---.test", "XN--zzzz---.Test."],
                "xn--zzzz---.test",
            ),
            (&["xn--.test"], "xn--.test"),
            (&["xn--ours-.test", "XN--Ours-.test"], "xn--ours-.test"),
            (
                &[
                    "xn--zzzz---.münchen.test",
                    "xn--zzzz---.xn--mnchen-3ya.test.",
                ],
                "xn--zzzz---.xn--mnchen-3ya.test",
            ),
            (&["\u{ad}.test"], "\u{ad}.test"),
            (&["a＠ours.test"], "a＠ours.test"),
            (&["［192.0.2.1］"], "［192.0.2.1］"),
            (&["[192.0.2.1]"], "[192.0.2.1]"),
            (
                &[
                    "[IPv6:2001:db8::1]",
                    "[ipv6:2001:DB8:0::1]",
                    "[IPV6:2001:0db8:0:0:0:0:0:1]",
                ],
                "[IPv6:2001:db8::1]",
            ),
            (
                &["[IPv6:::ffff:192.0.2.1]", "[IPv6:0:0:0:0:0:FFFF:c000:0201]"],
                "[IPv6:::ffff:192.0.2.1]",
            ),
        ] {
            for spelling in spellings {
                assert_eq!(canonicalize_domain(spelling), want, "{spelling}");
            }
        }
    }

    #[test]
    fn canonical_ascii_domains_are_borrowed_not_copied() {
        for name in [
            "ours.test",
            "ours.test.",
            "_x.r3---y.xn-z.test",
            "localhost",
        ] {
            assert!(
                matches!(canonicalize_domain(name), Cow::Borrowed(_)),
                "{name}"
            );
        }
    }

    #[test]
    fn domain_grammar_is_checked() {
        for (text, want) in [
            ("ours.test", true),
            ("ours.test.", true),
            ("münchen.test。", true),
            ("_x.test", true),
            ("a", true),
            ("", false),
            (".", false),
            ("ours.test..", false),
            ("ours.test.。", false),
            (".ours.test", false),
            ("。ours.test", false),
            ("ours..test", false),
            ("-x.test", false),
            ("x-.test", false),
            ("a b", false),
            ("a*b", false),
        ] {
            assert_eq!(is_domain(text), want, "{text}");
        }
        assert!(is_domain(&"a".repeat(255)) && !is_domain(&"a".repeat(256)));
    }

    proptest! {
        #[test]
        fn canonicalization_of_domains_is_idempotent(text in "(xn--|XN--)?[a-zA-Z0-9_.\\-üßİäﬁ例。\u{ad}\u{300}א\u{200d}]{0,30}") {
            prop_assume!(is_domain(&text));
            let once = canonicalize_domain(&text).into_owned();
            prop_assert_eq!(canonicalize_domain(&once), once.as_str());
        }

        #[test]
        fn domain_parsers_do_not_panic_on_any_input(text in "\\PC{0,60}") {
            let _ = (is_domain(&text), is_address_literal(&text), canonicalize_domain(&text));
        }
    }
}
