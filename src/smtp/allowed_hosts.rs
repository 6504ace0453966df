//! Which recipients are accepted: the recipient domains of GM_ALLOWED_HOSTS.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::domain;
use super::path::ForwardPath;

/// The recipient domains accepted, in the form in which domains are compared ([`domain::canonical`]). Clones share it.
///
/// A look-up costs one hash for the domain and one for each of its parents, however many names there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    any: bool,
    names: Arc<Names>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    hosts: HashSet<Box<str>>,
    /// `example.com` for `*.example.com`.
    parents: HashSet<Box<str>>,
}

/// An item that no recipient's domain can ever match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, but found {item:?}")]
pub struct BadItem {
    /// The item as given.
    pub item: String,
    /// What would match, with an example.
    pub expected: String,
}

impl AllowedHosts {
    /// Returns the set that accepts every domain, as the item `*` does.
    pub fn any() -> AllowedHosts {
        AllowedHosts {
            any: true,
            ..AllowedHosts::default()
        }
    }

    /// Builds the set from its items: a domain or an address literal, `*.parent` for any subdomain of it, `*` for any
    /// domain. `.` means any domain too: Go-Guerrilla's configurations write it so.
    ///
    /// # Errors
    /// [`BadItem`] for the first item that can never match.
    pub fn from_items<'a>(
        items: impl IntoIterator<Item = &'a str>,
    ) -> Result<AllowedHosts, BadItem> {
        let mut any = false;
        let mut names = Names::default();
        for item in items {
            let bad = |expected| BadItem {
                item: item.to_owned(),
                expected,
            };
            match item.strip_prefix("*.") {
                _ if item == "*" || item == "." => any = true,
                Some(parent) => {
                    let parent = check_domain(parent).map_err(bad)?;
                    names.parents.insert(parent);
                }
                None if domain::is_address_literal(item) => {
                    names.hosts.insert(domain::canonical(item).into());
                }
                None => {
                    let host = check_domain(item).map_err(bad)?;
                    names.hosts.insert(host);
                }
            }
        }
        Ok(AllowedHosts {
            any,
            names: Arc::new(names),
        })
    }

    /// Returns whether mail for `path` is accepted.
    ///
    /// Where domains are restricted, a local-part that holds a second address (`a%foreign@ours`) is refused: a system
    /// that the mail is passed on to might follow it. `<Postmaster>` is always accepted (RFC 5321 §4.5.1).
    pub fn accept(&self, path: &ForwardPath) -> bool {
        let Some(domain) = path.canonical_domain() else {
            return true;
        };
        self.any || (!path.has_embedded_route() && self.names.contain(domain))
    }

    /// Returns a domain that is accepted; `None` where no item names one.
    pub fn example(&self) -> Option<String> {
        let Names { hosts, parents } = &*self.names;
        let host = hosts.iter().min().map(|host| host.to_string());
        host.or_else(|| parents.iter().min().map(|parent| format!("mail.{parent}")))
    }
}

impl Names {
    fn contain(&self, domain: &str) -> bool {
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

/// Returns a domain that could exist, in the form in which it is compared; else what was expected.
fn check_domain(text: &str) -> Result<Box<str>, String> {
    let is_long = |label: &str| label.len() > MAX_LABEL_OCTETS;
    let canonical = match text.len() {
        // Also bounds what is converted: Punycode takes time that grows with the square of the length.
        ..=MAX_TEXT_OCTETS => domain::canonical(text),
        _ => Cow::Borrowed(text),
    };
    if canonical.len() > MAX_NAME_OCTETS || canonical.split('.').any(is_long) {
        return Err(format!(
            "a domain of at most {MAX_NAME_OCTETS} octets, at most {MAX_LABEL_OCTETS} in each label, written as A-labels"
        ));
    }
    if !domain::is_domain(text) || canonical.parse::<Ipv4Addr>().is_ok() {
        return Err(nearest_right_item(text));
    }
    if !canonical.is_ascii() {
        return Err("a domain of characters that IDNA (UTS 46) allows".to_owned());
    }
    if !domain::is_domain(&canonical) {
        return Err(DOMAINS.to_owned());
    }
    Ok(canonical.into())
}

/// Returns what an item that is no domain was probably meant to be.
fn nearest_right_item(text: &str) -> String {
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
    let meant = text.trim_start_matches(['*', '.']);
    if meant.len() < text.len() && domain::is_domain(meant) {
        return format!("\"*.{meant}\" for any subdomain or \"{meant}\" for the domain itself");
    }
    DOMAINS.to_owned()
}

/// What an item may be, where nothing better can be suggested.
const DOMAINS: &str = "domains such as \"example.com,*.example.org\"";

/// A domain in a path, with a trailing dot of UTF-8.
const MAX_TEXT_OCTETS: usize = 258;
/// RFC 1035 §2.3.4: 255 octets with the length of each label and the root's.
const MAX_NAME_OCTETS: usize = 253;
/// RFC 1035 §2.3.4.
const MAX_LABEL_OCTETS: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(allowed: &AllowedHosts, path: &str) -> bool {
        allowed.accept(&ForwardPath::parse(path).unwrap().0)
    }

    #[test]
    fn allowed_hosts_match_exact_domains_and_subdomain_wildcards() {
        let items = ["ours.test", "*.sub.test", "[192.0.2.1]"];
        let allowed = AllowedHosts::from_items(items).unwrap();
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
            let any = AllowedHosts::from_items([any]).unwrap();
            assert!(accepts(&any, "<a%b@c>"));
            assert_eq!(any, AllowedHosts::any());
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
            let allowed = AllowedHosts::from_items(items).unwrap();
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
            ("", DOMAINS),
            ("*.", DOMAINS),
            ("*..", DOMAINS),
            ("..", DOMAINS),
            ("*.*", DOMAINS),
            ("**", DOMAINS),
            ("a.*.test", DOMAINS),
            ("ours.*", DOMAINS),
            ("a;b", DOMAINS),
            ("a b", DOMAINS),
            ("ours.test\n", DOMAINS),
            ("ours\u{0}.test", DOMAINS),
            ("http://x", DOMAINS),
            ("ours.test:25", DOMAINS),
            ("u@ours.test", DOMAINS),
            ("@ours.test", DOMAINS),
            ("ours..test", DOMAINS),
            ("ours.test..", DOMAINS),
            ("-ours.test", DOMAINS),
            ("ours-.test", DOMAINS),
            ("－ours.test", DOMAINS),
            ("[192.0.2.0/24]", DOMAINS),
            ("[IPv6:fe80::1%eth0]", DOMAINS),
            ("[192.0.2.1].", DOMAINS),
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
            let error = AllowedHosts::from_items(["ours.test", item]).unwrap_err();
            let expected = expected.to_owned();
            let item = item.to_owned();
            assert_eq!(error, BadItem { item, expected });
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
            AllowedHosts::from_items([item, item]).unwrap();
        }
    }
}
