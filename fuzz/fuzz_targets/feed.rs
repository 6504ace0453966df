//! The feed: an entry is one line of JSON from which its texts are read back, and the filter `?to=` selects exactly the entries
//! of its mailbox. The input is the query and the texts of an entry, one in each line; other line ends are part of them.
#![no_main]

use std::sync::{Arc, LazyLock};

use goguerrilla::internals::feed::{Feed, FeedEntry, FeedFilter};
use goguerrilla::internals::smtp::ForwardPath;
use goguerrilla::{Mail, MailId};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    // The subject is last, because only it may contain line ends.
    let mut parts = text.splitn(5, '\n');
    let mut part = || parts.next().unwrap_or_default();
    let (query, to, recipient, from, subject) = (part(), part(), part(), part(), part());
    let entry = FeedEntry {
        hash: *HASH,
        to: to.to_owned(),
        recipient: recipient.to_owned(),
        from: Arc::from(from),
        subject: Arc::from(subject),
        size: text.len(),
        date: Arc::from("2026-11-30 22:22:35"),
    };
    check_json(&entry);
    check_filter(query, &entry);
    check_reader(entry);
});

fn check_json(entry: &FeedEntry) {
    let json = entry.to_json();
    assert!(
        !json
            .chars()
            .any(|c| c.is_control() || FORBIDDEN.contains(&c)),
        "{json:?}"
    );
    let parsed: Value = serde_json::from_str(&json).expect("JSON");
    let object = parsed.as_object().expect("an object");
    assert_eq!(object.len(), 7);
    for (name, want) in [
        ("hash", entry.hash.as_str()),
        ("to", &entry.to),
        ("recipient", &entry.recipient),
        ("from", &entry.from),
        ("subject", &entry.subject),
        ("date", &entry.date),
    ] {
        assert_eq!(object[name], want);
    }
    assert_eq!(object["size"], entry.size);
}

fn check_filter(query: &str, entry: &FeedEntry) {
    let filter = FeedFilter::parse_query(query);
    let wanted = query
        .strip_prefix("to=")
        .filter(|value| !value.contains('&'))
        .and_then(percent_decoded)
        .and_then(|address| mailbox(&address));
    match (filter, wanted) {
        (Ok(filter), None) => {
            // Only an empty query selects everything.
            assert_eq!(query, "");
            assert!(filter.selects(entry));
        }
        (Ok(filter), Some(wanted)) => {
            let is_wanted = |address: &str| mailbox(address).is_some_and(|one| one == wanted);
            let want = is_wanted(&entry.recipient) || is_wanted(&entry.to);
            assert_eq!(filter.selects(entry), want, "{query} {entry:?}");
        }
        (Err(_), wanted) => assert!(!query.is_empty() && wanted.is_none(), "{query}"),
    }
    // A reader finds each mailbox with its percent-encoded address.
    if mailbox(&entry.recipient).is_some() {
        let encoded: String = entry
            .recipient
            .bytes()
            .map(|octet| format!("%{octet:02x}"))
            .collect();
        let filter = FeedFilter::parse_query(&format!("to={encoded}")).expect("an address");
        assert!(filter.selects(entry), "{}", entry.recipient);
    }
}

/// Returns local-part and domain in a form that is equal for the same mailbox.
fn mailbox(address: &str) -> Option<(String, Option<String>)> {
    match ForwardPath::parse(&format!("<{address}>")) {
        Ok((path, "")) => {
            let domain = path.canonical_domain().map(str::to_owned);
            Some((path.local_part().to_lowercase(), domain))
        }
        _ => None,
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut octets = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2)?;
        if !digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            return None;
        }
        octets.push(u8::from_str_radix(digits, 16).ok()?);
        octets.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(octets).ok()
}

/// Asserts that a reader gets the entries that follow its start, unless they are too large together.
fn check_reader(entry: FeedEntry) {
    let feed = Feed::new(Arc::default());
    feed.publish(vec![entry.clone()]);
    assert!(feed.newest().is_empty(), "the feed is off");
    feed.turn_on();
    feed.publish(vec![entry.clone()]);
    let mut reader = feed.open_reader().expect("the first reader");
    feed.publish(vec![entry.clone(), entry.clone()]);
    let read = reader.take(1);
    assert_eq!((read.missed, read.entries.len()), (0, 1));
    assert_eq!(*read.entries[0], entry);
    assert_eq!(reader.take(9).entries.len(), 1);
    feed.turn_off();
    assert!(reader.is_ended() && reader.take(9).entries.is_empty());
}

static HASH: LazyLock<MailId> = LazyLock::new(|| {
    let mail = Mail::builder().recipient("u@ours.test").build();
    mail.expect("a mail").hash()
});

/// Characters that end a line of a server-sent event or of JavaScript, or that change the writing direction.
const FORBIDDEN: &[char] = &[
    '\r', '\n', '\u{85}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202d}', '\u{202e}',
    '\u{2066}', '\u{2067}', '\u{feff}',
];
