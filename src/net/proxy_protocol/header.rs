//! Headers of the PROXY protocol in either version.

use std::net::IpAddr;

use super::{v1, v2};

/// Result of parsing the octets received so far as a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderParse {
    /// The octets may be the beginning of a header. With 107 octets or more, the result is never `Partial`.
    Partial,
    /// Not a header; the server sends nothing to such a peer.
    Malformed,
    /// A valid header.
    Complete {
        /// The client that the header names.
        source: ProxyHeaderClient,
        /// Total length of the header. The end of the header may not have arrived yet, because the parser does not need the
        /// end.
        octets: usize,
    },
}

/// The client that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeaderClient {
    /// The client's address; an IPv4-mapped address is converted to IPv4.
    Client(IpAddr),
    /// The header names no client, or an address that is not an Internet address; the peer's address is used.
    Unknown,
    /// The peer is a load balancer's health check (LOCAL).
    HealthCheck,
}

impl ProxyHeaderParse {
    /// Parses the octets received so far. Further octets can change only the result [`Partial`](ProxyHeaderParse::Partial).
    pub fn parse(received: &[u8]) -> ProxyHeaderParse {
        if may_match_signature(received, v2::SIGNATURE) {
            return v2::parse(received).unwrap_or(ProxyHeaderParse::Partial);
        }
        if !may_match_signature(received, v1::SIGNATURE) {
            return ProxyHeaderParse::Malformed;
        }
        v1::parse(received)
    }
}

/// Returns whether `received` begins with `signature`, or `signature` begins with `received`.
fn may_match_signature(received: &[u8], signature: &[u8]) -> bool {
    received
        .iter()
        .zip(signature)
        .all(|(octet, expected)| octet == expected)
}

/// Number of octets (107) from which the parser always finds a header complete or malformed. It ignores the rest of a longer
/// header.
pub const MAX_HEADER_OCTETS: usize = v1::MAX_OCTETS;

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn proxy_header_parser_decides_within_the_maximum_header_size(octets in octets()) {
            let first = octets.len().min(MAX_HEADER_OCTETS);
            let decided = ProxyHeaderParse::parse(&octets[..first]);
            if first == MAX_HEADER_OCTETS {
                prop_assert_ne!(decided, ProxyHeaderParse::Partial);
            }
            if decided != ProxyHeaderParse::Partial {
                prop_assert_eq!(ProxyHeaderParse::parse(&octets), decided);
            }
        }

        #[test]
        fn proxy_header_result_does_not_change_with_further_octets(octets in octets(), cut in any::<prop::sample::Index>()) {
            let early = ProxyHeaderParse::parse(&octets[..cut.index(octets.len() + 1)]);
            if early != ProxyHeaderParse::Partial {
                prop_assert_eq!(ProxyHeaderParse::parse(&octets), early);
            }
        }

        #[test]
        fn formatted_ipv6_addresses_parse_back_from_proxy_headers(ip in any::<[u8; 16]>(), port in any::<u16>()) {
            let ip = Ipv6Addr::from(ip);
            let line = format!("PROXY TCP6 {ip} ::1 {port} 25\r\n");
            let source = ProxyHeaderClient::Client(IpAddr::V6(ip).to_canonical());
            let octets = line.len();
            prop_assert_eq!(ProxyHeaderParse::parse(line.as_bytes()), ProxyHeaderParse::Complete { source, octets });
            let binary = v2::encode(0x21, 0x21, &[&ip.octets()[..], &[0; 20]].concat());
            prop_assert_eq!(ProxyHeaderParse::parse(&binary), ProxyHeaderParse::Complete { source, octets: 52 });
        }
    }

    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let any_octets = vec(any::<u8>(), 0..150);
        let line = "PROXY (TCP4|TCP6|UNKNOWN|x)( [0-9a-f.:]{0,30}){0,5}[ \r]?\r?\n?x{0,120}";
        let binary = (any::<u8>(), any::<u8>(), vec(any::<u8>(), 0..250)).prop_map(
            |(command, family, body)| v2::encode(0x20 | (command % 3), family % 0x33, &body),
        );
        prop_oneof![any_octets, line.prop_map(String::into_bytes), binary]
    }
}
