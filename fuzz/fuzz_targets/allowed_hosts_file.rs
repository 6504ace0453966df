//! Files of GM_ALLOWED_HOSTS: the set accepts exactly the domains of the items, and each item can match an address. Any other
//! text is an error that names the first invalid line.
#![no_main]

use std::path::Path;

use goguerrilla::internals::server::{AllowedHostsError, add_allowed_hosts_of_file};
use goguerrilla::internals::smtp::domain::canonicalize_domain;
use goguerrilla::internals::smtp::{AcceptedDomains, AcceptedDomainsBuilder, ForwardPath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let mut builder = AcceptedDomainsBuilder::default();
    let added = add_allowed_hosts_of_file(&mut builder, octets, Path::new(FILE));
    let Ok(text) = std::str::from_utf8(octets) else {
        let error = added.expect_err("octets that are not UTF-8");
        let valid = octets
            .utf8_chunks()
            .next()
            .map_or("", |chunk| chunk.valid());
        assert_eq!(line_of(&error), Some(1 + valid.matches('\n').count()));
        return;
    };
    let items = items(text);
    let is_invalid = |item: &&str| AcceptedDomains::from_host_patterns([*item]).is_err();
    let first_invalid = items.iter().find(|(_, item)| is_invalid(item));
    match (added, first_invalid) {
        (Ok(()), None) => check_domains(&builder.build(), &items),
        (Err(error), first_invalid) => {
            assert_eq!(line_of(&error), first_invalid.map(|(line, _)| *line));
            assert!(first_invalid.is_some() || items.is_empty(), "{error}");
            let text = error.to_string();
            assert!(text.starts_with("GM_ALLOWED_HOSTS: ") && text.contains(FILE));
            // 260 characters of the item, which may be escaped, and a suggestion.
            assert!(!text.chars().any(char::is_control) && text.chars().count() < 4_000);
        }
        (Ok(()), Some((line, item))) => panic!("line {line}: {item:?} was accepted"),
    }
});

/// Returns the items of a file, each with the number of its line.
fn items(text: &str) -> Vec<(usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut items = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let item = match line.find('#') {
            Some(comment) => line[..comment].trim(),
            None => line.trim(),
        };
        if !item.is_empty() {
            items.push((index + 1, item));
        }
    }
    items
}

fn check_domains(domains: &AcceptedDomains, items: &[(usize, &str)]) {
    assert!(!items.is_empty());
    assert!((1..=items.len()).contains(&domains.item_count()));
    let together = AcceptedDomains::from_host_patterns(items.iter().map(|(_, item)| *item));
    assert_eq!(Ok(domains), together.as_ref());
    assert!(accepts(domains, "<PostMaster>") == Some(true));
    for (_, item) in items.iter().take(50) {
        let name = item.trim_start_matches("*.");
        let is_any = matches!(*item, "*" | ".");
        // An item that can never match must be an error.
        let matching = match *item {
            _ if is_any => "<u@any.test>".to_owned(),
            // The spelling of the parent may be longer than its canonical form.
            _ if item.starts_with("*.") => format!("<u@x.{}>", canonicalize_domain(name)),
            _ => format!("<u@{name}>"),
        };
        assert_eq!(accepts(domains, &matching), Some(true), "{matching}");
        for tried in neighbors(name) {
            let path = format!("<u@{tried}>");
            if let Some(is_accepted) = accepts(domains, &path) {
                let is_expected = items.iter().any(|(_, item)| is_match(item, &tried));
                assert_eq!(is_accepted, is_expected, "{path}");
            }
            let relayed = format!("<u%foreign.test@{tried}>");
            let accepts_all = items.iter().any(|(_, item)| matches!(*item, "*" | "."));
            assert!(accepts_all || accepts(domains, &relayed) != Some(true));
        }
    }
}

/// Returns names that are similar to a domain, and the domain itself.
fn neighbors(name: &str) -> Vec<String> {
    let parent = name.split_once('.').map_or("", |(_, parent)| parent);
    vec![
        name.to_owned(),
        name.to_uppercase(),
        format!("{name}."),
        format!("x.{name}"),
        format!("y.x.{name}"),
        format!("x{name}"),
        format!("{name}x"),
        format!("{name}.x"),
        format!("x.{parent}"),
        parent.to_owned(),
    ]
}

/// Returns whether an item matches a domain.
fn is_match(item: &str, domain: &str) -> bool {
    let domain = canonicalize_domain(domain);
    match item.strip_prefix("*.") {
        _ if matches!(item, "*" | ".") => true,
        Some(parent) => domain.ends_with(&format!(".{}", canonicalize_domain(parent))),
        None => domain == canonicalize_domain(item),
    }
}

/// Returns whether a path is accepted; `None` if it is not a path.
fn accepts(domains: &AcceptedDomains, path: &str) -> Option<bool> {
    match ForwardPath::parse(path) {
        Ok((path, "")) => Some(domains.accepts_recipient_path(&path)),
        _ => None,
    }
}

/// Returns the line that an error names; `None` for an empty file.
fn line_of(error: &AllowedHostsError) -> Option<usize> {
    match error {
        AllowedHostsError::BadLine { line, .. } => Some(*line),
        AllowedHostsError::Empty(_) => None,
        AllowedHostsError::Unreadable { .. } => panic!("no file is read"),
    }
}

const FILE: &str = "/etc/goguerrilla/domains";
