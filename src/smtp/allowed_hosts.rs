//! The recipient domains that the server accepts (GM_ALLOWED_HOSTS).

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::domain;
use super::path::ForwardPath;

/// The set of accepted recipient domains, stored in canonical form ([`domain::canonicalize_domain`]). Clones share the set.
///
/// A look-up costs one hash for the domain and one for each of its parents, independent of the size of the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptedDomains {
    any: bool,
    names: Arc<ExactAndWildcardDomains>,
}

/// Builds a set item by item.
#[derive(Debug, Default)]
pub struct AcceptedDomainsBuilder {
    any: bool,
    names: ExactAndWildcardDomains,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ExactAndWildcardDomains {
    hosts: HashSet<Box<str>>,
    /// The domains of `*.` items: `example.com` for `*.example.com`.
    parents: HashSet<Box<str>>,
}

/// An item of GM_ALLOWED_HOSTS that cannot match any recipient domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, but found {item:?}")]
pub struct InvalidAllowedHostsItem {
    /// The item as configured.
    pub item: String,
    /// Description of a valid item, with an example.
    pub expected: String,
}

impl AcceptedDomains {
    /// Returns the set that accepts every domain, like the item `*`.
    pub fn accepting_every_domain() -> AcceptedDomains {
        AcceptedDomains {
            any: true,
            ..AcceptedDomains::default()
        }
    }

    /// Builds the set from its items: a domain or an address literal, `*.parent` for any subdomain of `parent`, `*` for any
    /// domain. `.` also means any domain, because Go-Guerrilla's configurations use it.
    ///
    /// # Errors
    /// [`InvalidAllowedHostsItem`] for the first item that can never match.
    pub fn from_host_patterns<'a>(
        items: impl IntoIterator<Item = &'a str>,
    ) -> Result<AcceptedDomains, InvalidAllowedHostsItem> {
        let mut builder = AcceptedDomainsBuilder::default();
        items
            .into_iter()
            .try_for_each(|item| builder.add_host_pattern(item))?;
        Ok(builder.build())
    }

    /// Returns a builder that has all items of this set.
    pub fn to_builder(&self) -> AcceptedDomainsBuilder {
        AcceptedDomainsBuilder {
            any: self.any,
            names: ExactAndWildcardDomains::clone(&self.names),
        }
    }

    /// Returns the number of distinct items.
    pub fn item_count(&self) -> usize {
        usize::from(self.any) + self.names.hosts.len() + self.names.parents.len()
    }

    /// Returns whether the server accepts mail for `path`.
    ///
    /// If not all domains are accepted, a local-part that contains a second address (`a%foreign@ours`) is rejected, because a
    /// mail system that later receives the mail could relay it to that address. `<Postmaster>` is always accepted (RFC 5321
    /// §4.5.1).
    pub fn accepts_recipient_path(&self, path: &ForwardPath) -> bool {
        let Some(domain) = path.canonical_domain() else {
            return true;
        };
        self.any || (!path.has_embedded_route() && self.names.contains(domain))
    }

    /// Returns one accepted domain; `None` if no item names a domain.
    pub fn example_allowed_domain(&self) -> Option<String> {
        let ExactAndWildcardDomains { hosts, parents } = &*self.names;
        let host = hosts.iter().min().map(|host| host.to_string());
        host.or_else(|| parents.iter().min().map(|parent| format!("mail.{parent}")))
    }
}

impl AcceptedDomainsBuilder {
    /// Adds one item, as [`AcceptedDomains::from_host_patterns`] describes it.
    ///
    /// # Errors
    /// [`InvalidAllowedHostsItem`] if it can never match.
    pub fn add_host_pattern(&mut self, item: &str) -> Result<(), InvalidAllowedHostsItem> {
        let invalid_item = |expected| InvalidAllowedHostsItem {
            item: item.to_owned(),
            expected,
        };
        match item.strip_prefix("*.") {
            _ if item == "*" || item == "." => self.any = true,
            Some(parent) => {
                let parent = canonical_domain_or_error_text(parent).map_err(invalid_item)?;
                self.names.parents.insert(parent);
            }
            None if domain::is_address_literal(item) => {
                let literal = domain::canonicalize_domain(item);
                self.names.hosts.insert(literal.into());
            }
            None => {
                let host = canonical_domain_or_error_text(item).map_err(invalid_item)?;
                self.names.hosts.insert(host);
            }
        }
        Ok(())
    }

    /// Returns the set.
    pub fn build(self) -> AcceptedDomains {
        AcceptedDomains {
            any: self.any,
            names: Arc::new(self.names),
        }
    }
}

impl ExactAndWildcardDomains {
    fn contains(&self, domain: &str) -> bool {
        if self.hosts.contains(domain) {
            return true;
        }
        let mut parent = domain;
        while let Some((_, rest)) = parent.split_once('.') {
            if self.parents.contains(rest) {
                return true;
            }
            parent = rest;
        }
        false
    }
}

/// Returns the canonical form of the domain `text`, or the error text that describes a valid item if `text` cannot be a
/// domain.
fn canonical_domain_or_error_text(text: &str) -> Result<Box<str>, String> {
    let is_long = |label: &str| label.len() > MAX_LABEL_OCTETS;
    let canonical = match text.len() {
        // Longer text is not converted, because the time for Punycode grows with the square of the length.
        ..=MAX_TEXT_OCTETS => domain::canonicalize_domain(text),
        _ => Cow::Borrowed(text),
    };
    if canonical.len() > MAX_NAME_OCTETS || canonical.split('.').any(is_long) {
        return Err(format!(
            "a domain of at most {MAX_NAME_OCTETS} octets, at most {MAX_LABEL_OCTETS} in each label, written as A-labels"
        ));
    }
    if !domain::is_domain(text) || canonical.parse::<Ipv4Addr>().is_ok() {
        return Err(suggest_allowed_host_item(text));
    }
    if !canonical.is_ascii() {
        return Err("a domain of characters that IDNA (UTS 46) allows".to_owned());
    }
    if !domain::is_domain(&canonical) {
        return Err(DOMAIN_EXAMPLES.to_owned());
    }
    Ok(canonical.into())
}

/// Returns a suggestion for an item that is not a domain.
fn suggest_allowed_host_item(text: &str) -> String {
    let inside = text.trim_start_matches('[').trim_end_matches(']');
    let address = match inside.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => address,
        _ => domain::without_trailing_dot(inside),
    };
    match address.parse() {
        Ok(IpAddr::V4(address)) => return format!("an address in brackets, \"[{address}]\""),
        Ok(IpAddr::V6(address)) => return format!("an address in brackets, \"[IPv6:{address}]\""),
        Err(_) => {}
    }
    let domain_part = text.trim_start_matches(['*', '.']);
    let is_shorter = domain_part.len() < text.len();
    if is_shorter && canonical_domain_or_error_text(domain_part).is_ok() {
        return format!(
            "\"*.{domain_part}\" for any subdomain or \"{domain_part}\" for the domain itself"
        );
    }
    DOMAIN_EXAMPLES.to_owned()
}

/// The suggestion for an item if no more specific suggestion is known.
const DOMAIN_EXAMPLES: &str = "domains such as \"example.com,*.example.org\"";

/// Maximum length in octets of a configured domain: 255 as in a path, and a trailing dot of up to 3 octets in UTF-8. A longer
/// one is rejected without conversion.
const MAX_TEXT_OCTETS: usize = 258;
/// Maximum length of a domain name in octets as text: 255 octets minus the length octets of the first label and of the root
/// (RFC 1035 §2.3.4). A longer name is rejected.
const MAX_NAME_OCTETS: usize = 253;
/// Maximum length of a label of a domain in octets (RFC 1035 §2.3.4); a domain with a longer label is rejected.
const MAX_LABEL_OCTETS: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(allowed: &AcceptedDomains, path: &str) -> bool {
        allowed.accepts_recipient_path(&ForwardPath::parse(path).unwrap().0)
    }

    #[test]
    fn allowed_hosts_match_exact_domains_and_subdomain_wildcards() {
        let items = ["ours.test", "*.sub.test", "[192.0.2.1]"];
        let allowed = AcceptedDomains::from_host_patterns(items).unwrap();
        for (path, want) in [
            ("<a@ours.test>", true),
            ("<a@OURS.test>", true),
            ("<a@ours.test.>", true),
            ("<a@x.sub.test>", true),
            ("<a@x.sub.test.>", true),
            ("<a@y.x.sub.test>", true),
            ("<a@[192.0.2.1]>", true),
            ("<postmaster>", true),
            ("<@ours.test:a@foreign.test>", false),
            ("<a@sub.test>", false),
            ("<a@xsub.test>", false),
            ("<a@test>", false),
            ("<a@sub.ours.test>", false),
            ("<a@ours.test.evil>", false),
            ("<a@evil-ours.test>", false),
            ("<a%foreign@ours.test>", false),
            ("<foreign!a@ours.test>", false),
            ("<\"a@foreign\"@ours.test>", false),
        ] {
            assert_eq!(accepts(&allowed, path), want, "{path}");
        }
        for any in ["*", "."] {
            let any = AcceptedDomains::from_host_patterns([any]).unwrap();
            assert!(accepts(&any, "<a%b@c>"));
            assert_eq!(any, AcceptedDomains::accepting_every_domain());
        }
    }

    #[test]
    fn allowed_hosts_match_all_spellings_of_a_domain() {
        for (items, accepted, refused) in [
            (
                ["münchen.example", "*.GRÜN.example."],
                &[
                    "<u@münchen.example>",
                    "<u@xn--mnchen-3ya.example>",
                    "<u@XN--MNCHEN-3YA.example.>",
                    "<u@mu\u{308}nchen。example>",
                    "<u@a.b.grün.example>",
                    "<u@xn--zzzz--1.xn--grn-ioa.example>",
                ][..],
                &[
                    "<u@munchen.example>",
                    "<u@grün.example>",
                    "<u@xn--mnchen-3yb.example>",
                ][..],
            ),
            (
                ["xn--mnchen-3ya.example", "*.XN--GRN-IOA.example"],
                &[
                    "<u@münchen.example>",
                    "<u@MÜNCHEN.example>",
                    "<u@a.GRÜN.example>",
                ],
                &["<u@münchen>", "<u@xn--grn-ioa.example>"],
            ),
            (
                ["straße.test", "_x.test"],
                &["<u@xn--strae-oqa.test>", "<u@STRAẞE.test>", "<u@_X.test>"],
                &["<u@strasse.test>", "<u@x.test>"],
            ),
            (
                ["xn--zzzz--1.test", "[ipv6:2001:DB8:0::1]"],
                &["<u@XN--zzzz--1.test>", "<u@[IPv6:2001:db8:0:0::1]>"],
                &[
                    "<u@xn--zzzz--2.test>",
                    "<u@[IPv6:2001:db8::2]>",
                    "<u@［192.0.2.1］>",
                ],
            ),
        ] {
            let allowed = AcceptedDomains::from_host_patterns(items).unwrap();
            for path in accepted {
                assert!(accepts(&allowed, path), "{path} {items:?}");
            }
            for path in refused {
                assert!(!accepts(&allowed, path), "{path} {items:?}");
            }
        }
    }

    #[test]
    fn allowed_hosts_item_that_can_never_match_is_an_error() {
        let label = "a".repeat(64);
        let name = ["a".repeat(60).as_str(); 5].join(".");
        let long = "a domain of at most 253 octets, at most 63 in each label, written as A-labels";
        let parent = "\"*.ours.test\" for any subdomain or \"ours.test\" for the domain itself";
        let idna = "a domain of characters that IDNA (UTS 46) allows";
        let v4 = "an address in brackets, \"[192.0.2.1]\"";
        let v6 = "an address in brackets, \"[IPv6:2001:db8::1]\"";
        for (item, expected) in [
            ("", DOMAIN_EXAMPLES),
            ("*.", DOMAIN_EXAMPLES),
            ("*..", DOMAIN_EXAMPLES),
            ("..", DOMAIN_EXAMPLES),
            ("*.*", DOMAIN_EXAMPLES),
            ("**", DOMAIN_EXAMPLES),
            ("a.*.test", DOMAIN_EXAMPLES),
            ("ours.*", DOMAIN_EXAMPLES),
            ("a;b", DOMAIN_EXAMPLES),
            ("a b", DOMAIN_EXAMPLES),
            ("ours.test\n", DOMAIN_EXAMPLES),
            ("ours\u{0}.test", DOMAIN_EXAMPLES),
            ("http://x", DOMAIN_EXAMPLES),
            ("ours.test:25", DOMAIN_EXAMPLES),
            ("u@ours.test", DOMAIN_EXAMPLES),
            ("@ours.test", DOMAIN_EXAMPLES),
            ("ours..test", DOMAIN_EXAMPLES),
            ("ours.test..", DOMAIN_EXAMPLES),
            ("-ours.test", DOMAIN_EXAMPLES),
            ("ours-.test", DOMAIN_EXAMPLES),
            ("－ours.test", DOMAIN_EXAMPLES),
            ("[192.0.2.0/24]", DOMAIN_EXAMPLES),
            ("[IPv6:fe80::1%eth0]", DOMAIN_EXAMPLES),
            ("[192.0.2.1].", DOMAIN_EXAMPLES),
            ("**.ours\u{99}.test", DOMAIN_EXAMPLES),
            ("*ours.test", parent),
            ("**.ours.test", parent),
            ("*.*.ours.test", parent),
            (".ours.test", parent),
            ("192.0.2.1", v4),
            ("192.0.2.1.", v4),
            ("*.[192.0.2.1]", v4),
            ("[IPv6:192.0.2.1]", v4),
            ("2001:DB8::1", v6),
            ("[2001:db8:0::1]", v6),
            ("IPv6:2001:db8::1", v6),
            (&label, long),
            (&name, long),
            (&"ü".repeat(60), long),
            (&"ü".repeat(500_000), long),
            ("a\u{a0}b.test", idna),
            ("a＠ours.test", idna),
            ("＊.ours.test", idna),
            ("\u{ad}.test", idna),
        ] {
            let error = AcceptedDomains::from_host_patterns(["ours.test", item]).unwrap_err();
            let expected = expected.to_owned();
            let item = item.to_owned();
            assert_eq!(error, InvalidAllowedHostsItem { item, expected });
        }
        let name_that_fits = &name[..253];
        for item in [
            name_that_fits,
            &label[..63],
            "*.test",
            "_x.test",
            "1.2.3",
            "xn--zzzz",
            "a.test.",
        ] {
            AcceptedDomains::from_host_patterns([item, item]).unwrap();
        }
    }
}
