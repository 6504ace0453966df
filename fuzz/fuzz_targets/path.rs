//! Reverse-paths and forward-paths, compared with their grammar as a regular expression; also canonical domains and
//! GM_ALLOWED_HOSTS, which is searched by them.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use goguerrilla::internals::smtp::{
    AcceptedDomains, ForwardPath, MailPathError, ReversePath, domain,
};
use libfuzzer_sys::fuzz_target;
use regex::Regex;

fuzz_target!(|input: &str| {
    let expected = model(input);
    let forward = ForwardPath::parse(input);
    match (&expected, &forward) {
        (Some((text, local_part, domain)), Ok((path, rest))) => {
            assert_eq!(
                (path.as_str(), path.local_part(), path.domain()),
                (*text, *local_part, *domain)
            );
            assert_eq!(format!("<{}>{rest}", path.as_str()), input);
            assert!(path.is_same_mailbox(path));
            let again = ForwardPath::parse(&input[..input.len() - rest.len()]);
            assert_eq!(again, Ok((path.clone(), "")));
            check_domain(path);
            assert!(domain.is_some() || local_part.eq_ignore_ascii_case("postmaster"));
        }
        (Some((_, local_part, None)), Err(MailPathError::Malformed)) => {
            assert!(!local_part.eq_ignore_ascii_case("postmaster"));
        }
        (None, Err(_)) => {}
        other => panic!("{other:?}"),
    }
    match (&expected, ReversePath::parse(input)) {
        (None, Ok((path, rest))) => {
            assert_eq!(path.as_str(), "");
            assert_eq!(input, format!("<>{rest}"));
        }
        (Some((text, _, Some(_))), Ok((path, rest))) => {
            assert_eq!(path.as_str(), *text);
            assert_eq!(format!("<{text}>{rest}"), input);
            assert!(text.len() <= 254);
        }
        (Some((text, _, domain)), Err(_)) => assert!(domain.is_none() || text.len() > 254),
        (None, Err(_)) => assert!(!input.starts_with("<>")),
        other => panic!("{other:?}"),
    }
});

/// Asserts that the canonical form of a domain is stable, and that an allowed host is accepted in each spelling.
fn check_domain(path: &ForwardPath) {
    let (Some(given), Some(canonical)) = (path.domain(), path.canonical_domain()) else {
        return;
    };
    assert_eq!(domain::canonicalize_domain(given), canonical);
    assert_eq!(domain::canonicalize_domain(canonical), canonical);
    assert!(
        !canonical.ends_with('.') && !canonical.contains(|c: char| c.is_ascii_uppercase())
            || canonical.starts_with('[')
    );
    let parent = canonical
        .split_once('.')
        .map(|(_, parent)| format!("*.{parent}"));
    for item in [Some(given.to_owned()), Some(canonical.to_owned()), parent]
        .into_iter()
        .flatten()
    {
        let Ok(allowed) = AcceptedDomains::from_host_patterns([item.as_str()]) else {
            continue;
        };
        assert_eq!(
            allowed.accepts_recipient_path(path),
            !path.has_embedded_route(),
            "{item}"
        );
    }
}

/// Returns the text between the brackets, the local-part and the domain, or `None` if the path is malformed.
fn model(input: &str) -> Option<(&str, &str, Option<&str>)> {
    let found = GRAMMAR.captures(input)?;
    let group = |name| found.name(name).map(|group| group.as_str());
    let domain = group("domain");
    let route = group("route").unwrap_or_default();
    let hops = route.split(['@', ',', ':']).filter(|hop| !hop.is_empty());
    let is_short = |name: &str| domain::without_trailing_dot(name).len() <= 255;
    let is_good = hops
        .chain(domain)
        .all(|name| is_short(name) || name.starts_with('['))
        && domain.is_none_or(is_right_if_literal);
    is_good.then(|| {
        (
            group("text").unwrap_or_default(),
            group("local").unwrap_or_default(),
            domain,
        )
    })
}

fn is_right_if_literal(domain: &str) -> bool {
    let Some(inside) = domain.strip_prefix('[') else {
        return true;
    };
    let inside = inside.trim_end_matches(']');
    match inside.to_ascii_lowercase().strip_prefix("ipv6:") {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => inside.parse::<Ipv4Addr>().is_ok(),
    }
}

static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let dot = "[.\u{3002}\u{ff0e}\u{ff61}]";
    let other = "[^\\x00-\\x7f\u{3002}\u{ff0e}\u{ff61}]";
    let end = format!("(?:[0-9A-Za-z_]|{other})");
    let label = format!("(?:{end}(?:(?:[0-9A-Za-z_-]|{other})*{end})?)");
    let domain = format!("(?:{label}(?:{dot}{label})*{dot}?)");
    let literal = r"\[[0-9A-Za-z:.]+\]";
    let dot_string = "(?:[0-9A-Za-z.!#$%&'*+/=?^_`{|}~-]|[^\\x00-\\x7f])+";
    let quoted = r#""(?:[^"\\]|\\.)+""#;
    let pattern = format!(
        "(?s)^<(?<text>(?<route>@{domain}(?:,@{domain})*:)?(?<local>{dot_string}|{quoted})(?:@(?<domain>{domain}|{literal}))?)>"
    );
    Regex::new(&pattern).expect("a grammar")
});
