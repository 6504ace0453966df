//! Parser for headers of the PROXY protocol, versions 1 and 2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memchr;

/// Result of parsing the octets received so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The beginning of a header. 107 octets always suffice to decide.
    Partial,
    /// Not a header; the server sends nothing to such a peer.
    Malformed,
    /// A valid header.
    Complete {
        /// The client that it names.
        source: ProxySource,
        /// Total length of the header. Octets at its end that are not needed may not have arrived yet.
        octets: usize,
    },
}

/// The client that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxySource {
    /// The client's address; an IPv4-mapped address is converted to IPv4.
    Client(IpAddr),
    /// The address is unknown or not an Internet address; the peer's address is used.
    Unknown,
    /// The peer is a load balancer's health check (LOCAL).
    HealthCheck,
}

impl ProxyHeader {
    /// Parses the octets received so far; the result does not depend on how the stream was split.
    pub fn parse(received: &[u8]) -> ProxyHeader {
        if is_prefix_compatible(received, V2_SIGNATURE) {
            return parse_v2(received).unwrap_or(ProxyHeader::Partial);
        }
        if !is_prefix_compatible(received, V1_SIGNATURE) {
            return ProxyHeader::Malformed;
        }
        let window = received.get(..V1_MAX_OCTETS).unwrap_or(received);
        let octets = memchr(b'\n', window).map(|end| end + 1);
        let Some(line) = octets.and_then(|octets| window.get(..octets)) else {
            return match window.len() < V1_MAX_OCTETS {
                true => ProxyHeader::Partial,
                false => ProxyHeader::Malformed,
            };
        };
        let octets = line.len();
        match parse_v1(line) {
            Some(source) => ProxyHeader::Complete { source, octets },
            None => ProxyHeader::Malformed,
        }
    }
}

/// Returns whether one of the two is a prefix of the other.
fn is_prefix_compatible(received: &[u8], signature: &[u8]) -> bool {
    received
        .iter()
        .zip(signature)
        .all(|(octet, expected)| octet == expected)
}

/// Parses `PROXY TCP4|TCP6 source destination port port` CR LF, or `PROXY UNKNOWN` with anything after it.
fn parse_v1(line: &[u8]) -> Option<ProxySource> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let text = text.strip_prefix("PROXY ")?;
    if text.contains('\r') {
        return None;
    }
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Some(ProxySource::Unknown);
    }
    let mut words = text.split(' ');
    let (ip, max) = match words.next()? {
        "TCP4" => {
            let (source, _) = parse_pair::<Ipv4Addr>(&mut words)?;
            (IpAddr::V4(source), V1_MAX_TCP4_OCTETS)
        }
        "TCP6" => {
            let (source, _) = parse_pair::<Ipv6Addr>(&mut words)?;
            (IpAddr::V6(source), V1_MAX_TCP6_OCTETS)
        }
        _ => return None,
    };
    let are_ports = is_port(words.next()?) && is_port(words.next()?);
    let is_whole = words.next().is_none() && line.len() <= max;
    (are_ports && is_whole).then_some(ProxySource::Client(ip.to_canonical()))
}

fn parse_pair<'a, A: std::str::FromStr>(
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

/// Parses signature, version and command, family and length, then the addresses; other data within the length is skipped.
/// Returns `None` while needed octets are missing.
fn parse_v2(received: &[u8]) -> Option<ProxyHeader> {
    let command = *received.get(V2_SIGNATURE.len())?;
    if command != V2_LOCAL && command != V2_PROXY {
        return Some(ProxyHeader::Malformed);
    }
    let (fixed, rest) = received.split_first_chunk::<V2_FIXED_OCTETS>()?;
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let complete = |source| {
        let octets = V2_FIXED_OCTETS + length;
        Some(ProxyHeader::Complete { source, octets })
    };
    if command == V2_LOCAL {
        return complete(ProxySource::HealthCheck);
    }
    let needed = match fixed[13] {
        V2_UNSPEC => 0,
        V2_TCP4 => 12,
        V2_TCP6 => 36,
        V2_UNIX => 216,
        _ => return Some(ProxyHeader::Malformed),
    };
    if length < needed {
        return Some(ProxyHeader::Malformed);
    }
    let source = match fixed[13] {
        V2_TCP4 => IpAddr::from(*rest.first_chunk::<4>()?),
        V2_TCP6 => IpAddr::from(*rest.first_chunk::<16>()?),
        _ => return complete(ProxySource::Unknown),
    };
    complete(ProxySource::Client(source.to_canonical()))
}

/// Number of octets that suffice to decide about any header; the rest of a longer one holds nothing that is needed.
pub const MAX_HEADER_OCTETS: usize = V1_MAX_OCTETS;

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// The longest line: UNKNOWN with two long IPv6 addresses, including CR LF.
const V1_MAX_OCTETS: usize = 107;
const V1_MAX_TCP4_OCTETS: usize = 56;
const V1_MAX_TCP6_OCTETS: usize = 104;

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_OCTETS: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const V2_UNSPEC: u8 = 0x00;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;
const V2_UNIX: u8 = 0x31;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn client(ip: &str, octets: usize) -> ProxyHeader {
        let source = ProxySource::Client(ip.parse().unwrap());
        ProxyHeader::Complete { source, octets }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u16).to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, body].concat()
    }

    #[test]
    fn proxy_v1_headers_are_parsed() {
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let unknown = |octets| ProxyHeader::Complete {
            source: ProxySource::Unknown,
            octets,
        };
        let cases: &[(&str, ProxyHeader)] = &[
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
            ("", ProxyHeader::Partial),
            ("PRO", ProxyHeader::Partial),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r",
                ProxyHeader::Partial,
            ),
            (
                &format!("PROXY UNKNOWN {}", "x".repeat(92)),
                ProxyHeader::Partial,
            ),
            (
                &format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)),
                ProxyHeader::Malformed,
            ),
            (
                &format!("PROXY UNKNOWN {}", "x".repeat(93)),
                ProxyHeader::Malformed,
            ),
            ("EHLO c.test\r\n", ProxyHeader::Malformed),
            ("proxy UNKNOWN\r\n", ProxyHeader::Malformed),
            ("PROXY\r\n", ProxyHeader::Malformed),
            ("PROXY UNKNOWNX\r\n", ProxyHeader::Malformed),
            ("PROXY UNKNOWN\n", ProxyHeader::Malformed),
            ("PROXY UNKNOWN \r x\r\n", ProxyHeader::Malformed),
            (
                "PROXY UDP4 192.0.2.1 192.0.2.2 1000 25\r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP4  192.0.2.1 192.0.2.2 1000 25\r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25 \r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 01000 25\r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 +1000 25\r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 65536 25\r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.01 192.0.2.2 1000 25\r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 1000\r\n",
                ProxyHeader::Malformed,
            ),
            ("PROXY TCP4 ::1 ::1 1000 25\r\n", ProxyHeader::Malformed),
            (
                "PROXY TCP6 192.0.2.1 192.0.2.2 1000 25\r\n",
                ProxyHeader::Malformed,
            ),
            (
                "PROXY TCP6 fe80::1%1 ::1 1000 25\r\n",
                ProxyHeader::Malformed,
            ),
        ];
        for (line, want) in cases {
            assert_eq!(ProxyHeader::parse(line.as_bytes()), *want, "{line:?}");
        }
    }

    #[test]
    fn proxy_v2_headers_are_parsed() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 0, 25];
        let v6 = |ip: &str| {
            let ip: Ipv6Addr = ip.parse().unwrap();
            [&ip.octets()[..], &[0; 20]].concat()
        };
        let complete = |source, octets| ProxyHeader::Complete { source, octets };
        let tlv = [&v4[..], &[0xee, 0, 3, 1, 2, 3]].concat();
        for (header, want) in [
            (v2(0x21, 0x11, &v4), client("192.0.2.1", 28)),
            (v2(0x21, 0x11, &tlv), client("192.0.2.1", 34)),
            (
                v2(0x21, 0x21, &v6("2001:db8::1")),
                client("2001:db8::1", 52),
            ),
            (
                v2(0x21, 0x21, &v6("::ffff:192.0.2.1")),
                client("192.0.2.1", 52),
            ),
            (
                v2(0x21, 0x31, &[0; 216]),
                complete(ProxySource::Unknown, 232),
            ),
            (v2(0x21, 0x00, &[]), complete(ProxySource::Unknown, 16)),
            (v2(0x21, 0x00, &[1; 7]), complete(ProxySource::Unknown, 23)),
            (v2(0x20, 0x00, &[]), complete(ProxySource::HealthCheck, 16)),
            (v2(0x20, 0x11, &v4), complete(ProxySource::HealthCheck, 28)),
            (
                v2(0x20, 0xff, &[0; 9]),
                complete(ProxySource::HealthCheck, 25),
            ),
            (v2(0x21, 0x11, &v4[1..]), ProxyHeader::Malformed),
            (v2(0x21, 0x21, &v4), ProxyHeader::Malformed),
            (v2(0x21, 0x31, &[0; 215]), ProxyHeader::Malformed),
            (v2(0x21, 0x12, &v4), ProxyHeader::Malformed),
            (v2(0x21, 0x41, &v4), ProxyHeader::Malformed),
            (v2(0x22, 0x11, &v4), ProxyHeader::Malformed),
            (v2(0x11, 0x11, &v4), ProxyHeader::Malformed),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), ProxyHeader::Malformed),
            (b"\r\n\r\n\0\r\nQ".to_vec(), ProxyHeader::Partial),
        ] {
            assert_eq!(ProxyHeader::parse(&header), want, "{header:?}");
        }
        let whole = v2(0x21, 0x11, &v4);
        assert_eq!(ProxyHeader::parse(&whole[..19]), ProxyHeader::Partial);
        // Data after the addresses may have any length and is not waited for.
        let mut longest = v2(0x21, 0x11, &v4);
        longest[14..16].fill(0xff);
        assert_eq!(ProxyHeader::parse(&longest), client("192.0.2.1", 65_551));
    }

    proptest! {
        #[test]
        fn proxy_header_parser_decides_within_the_maximum_header_size(octets in octets()) {
            let first = octets.len().min(MAX_HEADER_OCTETS);
            let decided = ProxyHeader::parse(&octets[..first]);
            if first == MAX_HEADER_OCTETS {
                prop_assert_ne!(decided, ProxyHeader::Partial);
            }
            if decided != ProxyHeader::Partial {
                prop_assert_eq!(ProxyHeader::parse(&octets), decided);
            }
        }

        #[test]
        fn proxy_header_result_does_not_change_with_further_octets(octets in octets(), cut in any::<prop::sample::Index>()) {
            let early = ProxyHeader::parse(&octets[..cut.index(octets.len() + 1)]);
            if early != ProxyHeader::Partial {
                prop_assert_eq!(ProxyHeader::parse(&octets), early);
            }
        }

        #[test]
        fn formatted_ipv6_addresses_parse_back_from_proxy_headers(ip in any::<[u8; 16]>(), port in any::<u16>()) {
            let ip = Ipv6Addr::from(ip);
            let line = format!("PROXY TCP6 {ip} ::1 {port} 25\r\n");
            let source = ProxySource::Client(IpAddr::V6(ip).to_canonical());
            let octets = line.len();
            prop_assert_eq!(ProxyHeader::parse(line.as_bytes()), ProxyHeader::Complete { source, octets });
            let binary = v2(0x21, 0x21, &[&ip.octets()[..], &[0; 20]].concat());
            prop_assert_eq!(ProxyHeader::parse(&binary), ProxyHeader::Complete { source, octets: 52 });
        }
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let any_octets = vec(any::<u8>(), 0..150);
        let line = "PROXY (TCP4|TCP6|UNKNOWN|x)( [0-9a-f.:]{0,30}){0,5}[ \r]?\r?\n?x{0,120}";
        let binary = (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..250))
            .prop_map(|(command, family, body)| v2(0x20 | (command % 3), family % 0x33, &body));
        prop_oneof![any_octets, line.prop_map(String::into_bytes), binary]
    }
}
