//! PROXY protocol headers, compared with a model of the specification; the result must not depend on where the stream
//! is cut.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use goguerrilla::internals::net::proxy_protocol::{ProxyHeaderClient, ProxyHeaderParse};
use libfuzzer_sys::fuzz_target;
use regex::bytes::Regex;

fuzz_target!(|octets: &[u8]| {
    let whole = ProxyHeaderParse::parse(octets);
    assert_eq!(whole, model(octets), "{}", octets.escape_ascii());
    for end in 0..octets.len().min(300) {
        let early = ProxyHeaderParse::parse(&octets[..end]);
        if early != ProxyHeaderParse::Partial {
            assert_eq!(early, whole);
        }
        assert!(early != ProxyHeaderParse::Partial || end < MAX_V1_OCTETS);
    }
    if let ProxyHeaderParse::Complete {
        octets: length,
        source,
    } = whole
    {
        assert!((15..=16 + 65_535).contains(&length));
        if let ProxyHeaderClient::Client(ip) = source {
            assert_eq!(ip, ip.to_canonical());
        }
    }
});

fn model(octets: &[u8]) -> ProxyHeaderParse {
    if SIGNATURE.starts_with(octets) || b"PROXY ".starts_with(octets) {
        return ProxyHeaderParse::Partial;
    }
    if let Some(rest) = octets.strip_prefix(SIGNATURE) {
        return binary(rest);
    }
    if !octets.starts_with(b"PROXY ") {
        return ProxyHeaderParse::Malformed;
    }
    let longest = &octets[..octets.len().min(MAX_V1_OCTETS)];
    match longest.iter().position(|octet| *octet == b'\n') {
        Some(end) => line(&octets[..=end]).map_or(ProxyHeaderParse::Malformed, |source| {
            ProxyHeaderParse::Complete {
                source,
                octets: end + 1,
            }
        }),
        None if octets.len() < MAX_V1_OCTETS => ProxyHeaderParse::Partial,
        None => ProxyHeaderParse::Malformed,
    }
}

fn line(line: &[u8]) -> Option<ProxyHeaderClient> {
    // The whole line must be text, including the ignored parts.
    std::str::from_utf8(line).ok()?;
    let found = LINE.captures(line)?;
    let text = |name| std::str::from_utf8(found.name(name)?.as_bytes()).ok();
    let Some(family) = text("family") else {
        return Some(ProxyHeaderClient::Unknown);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            _ => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        }
    };
    let (from, _to) = (address(text("from")?)?, address(text("to")?)?);
    for port in ["from_port", "to_port"] {
        text(port)?.parse::<u16>().ok()?;
    }
    let longest = if family == "4" { 56 } else { 104 };
    (line.len() <= longest).then(|| ProxyHeaderClient::Client(from.to_canonical()))
}

/// Parses a version 2 header after its signature.
fn binary(rest: &[u8]) -> ProxyHeaderParse {
    match rest.first() {
        None => return ProxyHeaderParse::Partial,
        Some(0x20 | 0x21) => {}
        Some(_) => return ProxyHeaderParse::Malformed,
    }
    if rest.len() < 4 {
        return ProxyHeaderParse::Partial;
    }
    let length = usize::from(rest[2]) << 8 | usize::from(rest[3]);
    let complete = |source| ProxyHeaderParse::Complete {
        source,
        octets: 16 + length,
    };
    if rest[0] == 0x20 {
        return complete(ProxyHeaderClient::HealthCheck);
    }
    let addresses = &rest[4..];
    match (rest[1], length) {
        (0x00, _) | (0x31, 216..) => complete(ProxyHeaderClient::Unknown),
        (0x11, 12..) if addresses.len() < 4 => ProxyHeaderParse::Partial,
        (0x21, 36..) if addresses.len() < 16 => ProxyHeaderParse::Partial,
        (0x11, 12..) => {
            let ip = Ipv4Addr::new(addresses[0], addresses[1], addresses[2], addresses[3]);
            complete(ProxyHeaderClient::Client(ip.into()))
        }
        (0x21, 36..) => {
            let octets: [u8; 16] = addresses[..16].try_into().expect("sixteen");
            complete(ProxyHeaderClient::Client(
                IpAddr::V6(octets.into()).to_canonical(),
            ))
        }
        _ => ProxyHeaderParse::Malformed,
    }
}

static LINE: LazyLock<Regex> = LazyLock::new(|| {
    let address = "[0-9a-fA-F:.]+";
    let port = "0|[1-9][0-9]{0,4}";
    let known = format!(
        "TCP(?<family>[46]) (?<from>{address}) (?<to>{address}) (?<from_port>{port}) (?<to_port>{port})"
    );
    let pattern = format!("(?-u)^PROXY (?:UNKNOWN(?: [^\\r\\n]*)?|{known})\\r\\n$");
    Regex::new(&pattern).expect("a grammar")
});

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const MAX_V1_OCTETS: usize = 107;
