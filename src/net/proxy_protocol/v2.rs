//! Version 2 of the PROXY protocol: a binary header.

use std::net::IpAddr;

use super::header::{ProxyHeaderClient, ProxyHeaderParse};

/// Parses a header whose signature has been checked: version and command, address family, length and source address. Data
/// after the addresses is ignored. Returns `None` if octets that the parser needs are not in `received` yet.
pub fn parse(received: &[u8]) -> Option<ProxyHeaderParse> {
    let command = *received.get(SIGNATURE.len())?;
    if command != LOCAL && command != PROXY {
        return Some(ProxyHeaderParse::Malformed);
    }
    let (fixed, rest) = received.split_first_chunk::<FIXED_OCTETS>()?;
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let complete = |source| {
        let octets = FIXED_OCTETS + length;
        Some(ProxyHeaderParse::Complete { source, octets })
    };
    if command == LOCAL {
        return complete(ProxyHeaderClient::HealthCheck);
    }
    let needed = match fixed[13] {
        UNSPEC => 0,
        TCP4 => 12,
        TCP6 => 36,
        UNIX => 216,
        _ => return Some(ProxyHeaderParse::Malformed),
    };
    if length < needed {
        return Some(ProxyHeaderParse::Malformed);
    }
    let source = match fixed[13] {
        TCP4 => IpAddr::from(*rest.first_chunk::<4>()?),
        TCP6 => IpAddr::from(*rest.first_chunk::<16>()?),
        _ => return complete(ProxyHeaderClient::Unknown),
    };
    complete(ProxyHeaderClient::Client(source.to_canonical()))
}

/// The octets that every header of version 2 begins with.
pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_OCTETS: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;

/// Returns a version 2 header. `command` also contains the version; `body` is the addresses and the data after them.
#[cfg(test)]
pub fn encode(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [SIGNATURE, &[command, family], &length, body].concat()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn client(ip: &str, octets: usize) -> ProxyHeaderParse {
        let source = ProxyHeaderClient::Client(ip.parse().unwrap());
        ProxyHeaderParse::Complete { source, octets }
    }

    #[test]
    fn proxy_v2_headers_are_parsed() {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 0, 25];
        let v6 = |ip: &str| {
            let ip: Ipv6Addr = ip.parse().unwrap();
            [&ip.octets()[..], &[0; 20]].concat()
        };
        let complete = |source, octets| ProxyHeaderParse::Complete { source, octets };
        let tlv = [&v4[..], &[0xee, 0, 3, 1, 2, 3]].concat();
        for (header, want) in [
            (encode(0x21, 0x11, &v4), client("192.0.2.1", 28)),
            (encode(0x21, 0x11, &tlv), client("192.0.2.1", 34)),
            (
                encode(0x21, 0x21, &v6("2001:db8::1")),
                client("2001:db8::1", 52),
            ),
            (
                encode(0x21, 0x21, &v6("::ffff:192.0.2.1")),
                client("192.0.2.1", 52),
            ),
            (
                encode(0x21, 0x31, &[0; 216]),
                complete(ProxyHeaderClient::Unknown, 232),
            ),
            (
                encode(0x21, 0x00, &[]),
                complete(ProxyHeaderClient::Unknown, 16),
            ),
            (
                encode(0x21, 0x00, &[1; 7]),
                complete(ProxyHeaderClient::Unknown, 23),
            ),
            (
                encode(0x20, 0x00, &[]),
                complete(ProxyHeaderClient::HealthCheck, 16),
            ),
            (
                encode(0x20, 0x11, &v4),
                complete(ProxyHeaderClient::HealthCheck, 28),
            ),
            (
                encode(0x20, 0xff, &[0; 9]),
                complete(ProxyHeaderClient::HealthCheck, 25),
            ),
            (encode(0x21, 0x11, &v4[1..]), ProxyHeaderParse::Malformed),
            (encode(0x21, 0x21, &v4), ProxyHeaderParse::Malformed),
            (encode(0x21, 0x31, &[0; 215]), ProxyHeaderParse::Malformed),
            (encode(0x21, 0x12, &v4), ProxyHeaderParse::Malformed),
            (encode(0x21, 0x41, &v4), ProxyHeaderParse::Malformed),
            (encode(0x22, 0x11, &v4), ProxyHeaderParse::Malformed),
            (encode(0x11, 0x11, &v4), ProxyHeaderParse::Malformed),
            (
                b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
                ProxyHeaderParse::Malformed,
            ),
            (b"\r\n\r\n\0\r\nQ".to_vec(), ProxyHeaderParse::Partial),
        ] {
            assert_eq!(ProxyHeaderParse::parse(&header), want, "{header:?}");
        }
        let whole = encode(0x21, 0x11, &v4);
        assert_eq!(
            ProxyHeaderParse::parse(&whole[..19]),
            ProxyHeaderParse::Partial
        );
        // The parser does not wait for the data after the addresses, which may have any length.
        let mut longest = encode(0x21, 0x11, &v4);
        longest[14..16].fill(0xff);
        assert_eq!(
            ProxyHeaderParse::parse(&longest),
            client("192.0.2.1", 65_551)
        );
    }
}
