//! Reverse-path and forward-path, against their grammar as a regular expression.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use goguerrilla::smtp::{ForwardPath, PathError, ReversePath};
use libfuzzer_sys::fuzz_target;
use regex::Regex;

fuzz_target!(|input: &str| {
    let want = model(input);
    let forward = ForwardPath::parse(input);
    match (&want, &forward) {
        (Some((text, local_part, domain)), Ok((path, rest))) => {
            assert_eq!(
                (path.as_str(), path.local_part(), path.domain()),
                (*text, *local_part, *domain)
            );
            assert_eq!(format!("<{}>{rest}", path.as_str()), input);
            assert!(path.is_same_mailbox(path));
            let again = ForwardPath::parse(&input[..input.len() - rest.len()]);
            assert_eq!(again, Ok((path.clone(), "")));
            assert!(domain.is_some() || local_part.eq_ignore_ascii_case("postmaster"));
        }
        (Some((_, local_part, None)), Err(PathError::Malformed)) => {
            assert!(!local_part.eq_ignore_ascii_case("postmaster"));
        }
        (None, Err(_)) => {}
        other => panic!("{other:?}"),
    }
    match (&want, ReversePath::parse(input)) {
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

/// Text between the brackets, local-part and domain.
fn model(input: &str) -> Option<(&str, &str, Option<&str>)> {
    let found = GRAMMAR.captures(input)?;
    let group = |name| found.name(name).map(|group| group.as_str());
    let domain = group("domain");
    let route = group("route").unwrap_or_default();
    let hops = route.split(['@', ',', ':']).filter(|hop| !hop.is_empty());
    let is_short = |name: &str| name.len() <= 255;
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
    let other = r"[^\x00-\x7f]";
    let end = format!("(?:[0-9A-Za-z_]|{other})");
    let label = format!("(?:{end}(?:(?:[0-9A-Za-z_-]|{other})*{end})?)");
    let domain = format!(r"(?:{label}(?:\.{label})*)");
    let literal = r"\[[0-9A-Za-z:.]+\]";
    let dot_string = format!("(?:[0-9A-Za-z.!#$%&'*+/=?^_`{{|}}~-]|{other})+");
    let quoted = r#""(?:[^"\\]|\\.)+""#;
    let pattern = format!(
        "(?s)^<(?<text>(?<route>@{domain}(?:,@{domain})*:)?(?<local>{dot_string}|{quoted})(?:@(?<domain>{domain}|{literal}))?)>"
    );
    Regex::new(&pattern).expect("a grammar")
});
