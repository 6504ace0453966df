//! The query of a request for `/feed`, which selects entries: `?to=ADDRESS`.

use super::FeedEntry;
use crate::smtp::ForwardPath;

/// Selects the entries of one recipient, or all entries.
#[derive(Debug, Default)]
pub struct FeedFilter {
    wanted: Option<ForwardPath>,
}

/// Why a query is not a filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected no query, or to= and one address such as to=user@example.com, with % before two hex digits for other octets"
)]
pub struct FeedFilterError;

impl FeedFilter {
    /// Parses the query of a request: empty, or `to=` and an address with percent-encoded octets. `+` is a plus sign, not a
    /// space, because addresses contain it.
    ///
    /// # Errors
    /// [`FeedFilterError`]. A reader whose filter is mistyped must not get the entries of everybody.
    pub fn parse_query(query: &str) -> Result<FeedFilter, FeedFilterError> {
        if query.is_empty() {
            return Ok(FeedFilter::default());
        }
        let value = query
            .strip_prefix("to=")
            .filter(|value| !value.contains('&'));
        let address = value.and_then(percent_decoded).ok_or(FeedFilterError)?;
        let wanted = path_of_address(&address).ok_or(FeedFilterError)?;
        Ok(FeedFilter {
            wanted: Some(wanted),
        })
    }

    /// Returns whether the entry is wanted: column `recipient` or column `to` names the mailbox of the filter. Domains are
    /// compared as A-labels; upper and lower case make no difference, as for `goguerrilla list --to`.
    pub fn selects(&self, entry: &FeedEntry) -> bool {
        let Some(wanted) = &self.wanted else {
            return true;
        };
        let is_wanted = |address: &str| {
            path_of_address(address).is_some_and(|path| is_same_mailbox(wanted, &path))
        };
        is_wanted(&entry.recipient) || is_wanted(&entry.to)
    }
}

/// Returns the path of an address without brackets; `None` if the text is not one whole path.
fn path_of_address(address: &str) -> Option<ForwardPath> {
    match ForwardPath::parse(&format!("<{address}>")) {
        Ok((path, "")) => Some(path),
        _ => None,
    }
}

fn is_same_mailbox(one: &ForwardPath, other: &ForwardPath) -> bool {
    one.canonical_domain() == other.canonical_domain()
        && one.local_part().to_lowercase() == other.local_part().to_lowercase()
}

/// Returns the text with `%` and two hex digits replaced by an octet; `None` if that is not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'%' {
            octets.push(octet);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        octets.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::*;

    #[test]
    fn filter_selects_by_recipient_and_by_column_to() {
        for (query, recipient, is_selected) in [
            ("", "u@ours.test", true),
            ("to=u@ours.test", "u@ours.test", true),
            ("to=U%40OURS.Test", "u@ours.test", true),
            ("to=u@ours.test.", "u@ours.test", true),
            ("to=u@ours.test", "@relay.test:u@ours.test", true),
            ("to=u@mx.test", "v@ours.test", true),
            ("to=u@ours.test", "v@ours.test", false),
            ("to=u@ours.test", "u@ours.test.evil.test", false),
            ("to=u+tag@ours.test", "u+tag@ours.test", true),
            ("to=u%2btag@ours.test", "u+tag@ours.test", true),
            ("to=u%20tag@ours.test", "\"u tag\"@ours.test", false),
            ("to=%22u%20tag%22@ours.test", "\"u tag\"@ours.test", true),
            ("to=u@m%C3%BCnchen.test", "u@xn--mnchen-3ya.test", true),
            ("to=u@XN--mnchen-3ya.test", "u@MÜNCHEN.test", true),
            ("to=%C3%BC@ours.test", "Ü@ours.test", true),
            ("to=u@ours.test", "u@ours.test>x", false),
            ("to=postmaster", "Postmaster", true),
            ("to=postmaster", "postmaster@ours.test", false),
        ] {
            let Ok(filter) = FeedFilter::parse_query(query) else {
                assert!(!is_selected, "{query}");
                continue;
            };
            let mut entry = entry("x");
            entry.recipient = recipient.to_owned();
            assert_eq!(filter.selects(&entry), is_selected, "{query} {recipient}");
        }
    }

    #[test]
    fn mistyped_filter_is_an_error() {
        for query in [
            "to=",
            "to",
            "t=u@ours.test",
            "TO=u@ours.test",
            "x=1",
            "to=u",
            "to=u@ours.test&to=v@ours.test",
            "to=u@ours.test&x=1",
            "&to=u@ours.test",
            "to=u@ours.test>",
            "to=<u@ours.test>",
            "to=u@ours.test%",
            "to=u@ours.test%4",
            "to=u@ours.test%zz",
            "to=u%00@ours.test",
            "to=u%0a@ours.test",
            "to=%ff@ours.test",
            "to=a%20b@ours.test",
        ] {
            let parsed = FeedFilter::parse_query(query);
            assert_eq!(parsed.err(), Some(FeedFilterError), "{query}");
        }
    }
}
