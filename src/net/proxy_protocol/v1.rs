//! Version 1 of the PROXY protocol: a line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memchr;

use super::header::{ProxyHeaderClient, ProxyHeaderParse};

/// Parses the octets received so far. `received` begins with [`SIGNATURE`], or [`SIGNATURE`] begins with `received`.
pub fn parse(received: &[u8]) -> ProxyHeaderParse {
    let window = received.get(..MAX_OCTETS).unwrap_or(received);
    let octets = memchr(b'\n', window).map(|end| end + 1);
    let Some(line) = octets.and_then(|octets| window.get(..octets)) else {
        return match window.len() < MAX_OCTETS {
            true => ProxyHeaderParse::Partial,
            false => ProxyHeaderParse::Malformed,
        };
    };
    let octets = line.len();
    match parse_proxy_v1_line(line) {
        Some(source) => ProxyHeaderParse::Complete { source, octets },
        None => ProxyHeaderParse::Malformed,
    }
}

/// Parses `PROXY TCP4|TCP6 source destination port port` CR LF, or `PROXY UNKNOWN` with anything after it.
fn parse_proxy_v1_line(line: &[u8]) -> Option<ProxyHeaderClient> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let text = text.strip_prefix("PROXY ")?;
    if text.contains('\r') {
        return None;
    }
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Some(ProxyHeaderClient::Unknown);
    }
    let mut words = text.split(' ');
    let (ip, max) = match words.next()? {
        "TCP4" => {
            let (source, _) = parse_next_two_words::<Ipv4Addr>(&mut words)?;
            (IpAddr::V4(source), MAX_TCP4_OCTETS)
        }
        "TCP6" => {
            let (source, _) = parse_next_two_words::<Ipv6Addr>(&mut words)?;
            (IpAddr::V6(source), MAX_TCP6_OCTETS)
        }
        _ => return None,
    };
    let are_ports = is_port(words.next()?) && is_port(words.next()?);
    let is_whole = words.next().is_none() && line.len() <= max;
    (are_ports && is_whole).then_some(ProxyHeaderClient::Client(ip.to_canonical()))
}

fn parse_next_two_words<'a, A: std::str::FromStr>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Option<(A, A)> {
    let mut next = || words.next()?.parse().ok();
    Some((next()?, next()?))
}

/// Returns whether `word` is a number from 0 to 65535 without leading zeros.
fn is_port(word: &str) -> bool {
    word.parse::<u16>()
        .is_ok_and(|port| port.to_string() == word)
}

/// The octets that every header of version 1 begins with.
pub const SIGNATURE: &[u8] = b"PROXY ";
/// Maximum length of a version 1 header in octets, including CR LF: UNKNOWN with two IPv6 addresses of full length. A longer
/// header is malformed.
pub const MAX_OCTETS: usize = 107;
const MAX_TCP4_OCTETS: usize = 56;
const MAX_TCP6_OCTETS: usize = 104;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(ip: &str, octets: usize) -> ProxyHeaderParse {
        let source = ProxyHeaderClient::Client(ip.parse().unwrap());
        ProxyHeaderParse::Complete { source, octets }
    }

    #[test]
    fn proxy_v1_headers_are_parsed() {
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let unknown = |octets| ProxyHeaderParse::Complete {
            source: ProxyHeaderClient::Unknown,
            octets,
        };
        let cases: &[(&str, ProxyHeaderParse)] = &[
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r\n",
                client("192.0.2.1", 40),
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 0 65535\r\nEHLO",
                client("192.0.2.1", 40),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 1 25\r\n",
                client("2001:db8::1", 33),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 25\r\n",
                client("192.0.2.1", 38),
            ),
            (
                &format!("PROXY TCP6 {long} {long} 65535 65535\r\n"),
                client(long, 104),
            ),
            ("PROXY UNKNOWN\r\n", unknown(15)),
            ("PROXY UNKNOWN what ever\r\nEHLO", unknown(25)),
            (
                &format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n"),
                unknown(107),
            ),
            ("", ProxyHeaderParse::Partial),
            ("PRO", ProxyHeaderParse::Partial),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r",
                ProxyHeaderParse::Partial,
            ),
            (
                &format!("PROXY UNKNOWN {}", "x".repeat(92)),
                ProxyHeaderParse::Partial,
            ),
            (
                &format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)),
                ProxyHeaderParse::Malformed,
            ),
            (
                &format!("PROXY UNKNOWN {}", "x".repeat(93)),
                ProxyHeaderParse::Malformed,
            ),
            ("EHLO c.test\r\n", ProxyHeaderParse::Malformed),
            ("proxy UNKNOWN\r\n", ProxyHeaderParse::Malformed),
            ("PROXY\r\n", ProxyHeaderParse::Malformed),
            ("PROXY UNKNOWNX\r\n", ProxyHeaderParse::Malformed),
            ("PROXY UNKNOWN\n", ProxyHeaderParse::Malformed),
            ("PROXY UNKNOWN \r x\r\n", ProxyHeaderParse::Malformed),
            (
                "PROXY UDP4 192.0.2.1 192.0.2.2 1000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4  192.0.2.1 192.0.2.2 1000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25 \r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 01000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 +1000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 65536 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.01 192.0.2.2 1000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1000\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP4 ::1 ::1 1000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP6 192.0.2.1 192.0.2.2 1000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
            (
                "PROXY TCP6 fe80::1%1 ::1 1000 25\r\n",
                ProxyHeaderParse::Malformed,
            ),
        ];
        for (line, want) in cases {
            assert_eq!(ProxyHeaderParse::parse(line.as_bytes()), *want, "{line:?}");
        }
    }
}
