//! XCLIENT: attributes of the client for which a trusted proxy connects
//! ([Postfix XCLIENT howto](https://www.postfix.org/XCLIENT_README.html)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::command::{self, CommandError};

/// The attributes of one XCLIENT command that the server uses.
///
/// NAME, PORT, LOGIN, DESTADDR, DESTPORT and PROTO are checked and ignored: no column and no trace field holds them, and
/// the client's own HELO or EHLO tells SMTP from ESMTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XclientAttributes {
    /// ADDR.
    pub address: ClientAddress,
    /// HELO, if it was given and is not `[UNAVAILABLE]`.
    pub helo_name: Option<String>,
}

/// The client's address as given by the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// The command has no ADDR.
    #[default]
    NotGiven,
    /// `[UNAVAILABLE]`: the proxy does not know it; the proxy's own address is used.
    Unknown,
    /// An address; an IPv4-mapped one is converted to IPv4.
    Known(IpAddr),
}

impl XclientAttributes {
    /// Parses the argument of XCLIENT: `1*(SP name "=" value)`, each name at most once, in any order and any case.
    ///
    /// A value is xtext ([RFC 3461 §4](https://www.rfc-editor.org/rfc/rfc3461#section-4)) of 1 to 255 octets. It is decoded
    /// after the line was split and then checked, so that an escape cannot contain a line end.
    ///
    /// # Errors
    /// [`CommandError::BadArgument`], or [`CommandError::BadOctets`] for control characters and invalid UTF-8.
    pub fn parse(argument: &[u8]) -> Result<XclientAttributes, CommandError> {
        let argument = command::printable(argument)?;
        let mut facts = XclientAttributes::default();
        let mut seen = 0u8;
        for word in argument.split(' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').ok_or(CommandError::BadArgument)?;
            let (bit, kind) = attribute_of(name).ok_or(CommandError::BadArgument)?;
            if seen & bit != 0 {
                return Err(CommandError::BadArgument);
            }
            seen |= bit;
            let octets = decode_xtext(value).ok_or(CommandError::BadArgument)?;
            let value = match command::printable(&octets)? {
                text if is_unknown(text) => None,
                text => Some(text),
            };
            match (kind, value) {
                (Attribute::ClientAddress, None) => facts.address = ClientAddress::Unknown,
                (Attribute::ClientAddress, Some(text)) => {
                    facts.address = ClientAddress::Known(parse_address(text)?);
                }
                (Attribute::Helo, Some(text)) => facts.helo_name = Some(text.to_owned()),
                (Attribute::OurAddress, Some(text)) => drop(parse_address(text)?),
                (Attribute::Port, Some(text)) => check_port(text)?,
                (Attribute::Protocol, Some(text)) => check_protocol(text)?,
                (Attribute::Text, Some(_)) | (_, None) => {}
            }
        }
        match seen {
            0 => Err(CommandError::BadArgument),
            _ => Ok(facts),
        }
    }
}

/// A trusted proxy, and what it has said about its client.
#[derive(Debug)]
pub struct TrustedProxy {
    has_introduced: bool,
    address: ClientAddress,
    /// The address is locked. After the first accepted RCPT nginx passes the client's octets on unchanged, and a load
    /// balancer does so from the start: another XCLIENT would come from the client, not from the proxy.
    is_settled: bool,
    helo_name: Option<String>,
}

impl TrustedProxy {
    /// Creates the state for a proxy; `named` is the client's address from the PROXY header, which is locked.
    pub fn new(named: Option<IpAddr>) -> TrustedProxy {
        TrustedProxy {
            has_introduced: false,
            address: named.map_or(ClientAddress::NotGiven, ClientAddress::Known),
            is_settled: named.is_some(),
            helo_name: None,
        }
    }

    /// Applies the attributes; an attribute that is not given keeps its earlier value. Returns `false` and changes nothing if
    /// the address is locked and another one is given.
    pub fn apply(&mut self, facts: XclientAttributes) -> bool {
        if facts.address != ClientAddress::NotGiven {
            if self.is_settled && facts.address != self.address {
                return false;
            }
            self.address = facts.address;
        }
        self.has_introduced = true;
        self.helo_name = facts.helo_name.or(self.helo_name.take());
        true
    }

    /// Locks the address, because a recipient was accepted and the client may now send commands itself.
    pub fn lock_address(&mut self) {
        self.is_settled |= self.has_introduced;
    }

    /// Returns whether an XCLIENT was accepted.
    pub fn was_applied(&self) -> bool {
        self.has_introduced
    }

    /// Returns the client's HELO name as given by the proxy.
    pub fn helo_name(&self) -> Option<&str> {
        self.helo_name.as_deref()
    }
}

#[derive(Clone, Copy)]
enum Attribute {
    ClientAddress,
    OurAddress,
    Helo,
    Port,
    Protocol,
    Text,
}

/// Returns the attribute of that name and its bit in the set of names that were seen.
fn attribute_of(name: &str) -> Option<(u8, Attribute)> {
    let mut attributes = ATTRIBUTES.iter().enumerate();
    let (place, (_, kind)) = attributes.find(|(_, (known, _))| known.eq_ignore_ascii_case(name))?;
    Some((1 << place, *kind))
}

/// In the order in which EHLO lists them.
const ATTRIBUTES: [(&str, Attribute); 8] = [
    ("NAME", Attribute::Text),
    ("ADDR", Attribute::ClientAddress),
    ("PORT", Attribute::Port),
    ("PROTO", Attribute::Protocol),
    ("HELO", Attribute::Helo),
    ("LOGIN", Attribute::Text),
    ("DESTADDR", Attribute::OurAddress),
    ("DESTPORT", Attribute::Port),
];

/// Decodes xtext: `+2B` is an octet in hexadecimal, all other octets but `+` and `=` stand for themselves.
fn decode_xtext(value: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut rest = value.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            b'=' => return None,
            b'!'..=b'~' => octet,
            _ => return None,
        });
    }
    (1..=MAX_VALUE_OCTETS)
        .contains(&octets.len())
        .then_some(octets)
}

fn hex_digit(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).map(|digit| digit as u8)
}

fn is_unknown(text: &str) -> bool {
    text.eq_ignore_ascii_case("[UNAVAILABLE]") || text.eq_ignore_ascii_case("[TEMPUNAVAIL]")
}

/// Parses `192.0.2.1` or `IPV6:2001:db8::1`, without brackets.
fn parse_address(text: &str) -> Result<IpAddr, CommandError> {
    let address = match text.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPV6:") => {
            address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    let address = address.ok_or(CommandError::BadArgument)?;
    Ok(address.to_canonical())
}

fn check_port(text: &str) -> Result<(), CommandError> {
    let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(_) if is_number => Ok(()),
        _ => Err(CommandError::BadArgument),
    }
}

fn check_protocol(text: &str) -> Result<(), CommandError> {
    match text.to_ascii_uppercase().as_str() {
        "SMTP" | "ESMTP" => Ok(()),
        _ => Err(CommandError::BadArgument),
    }
}

/// Maximum length of a decoded value: that of a domain.
const MAX_VALUE_OCTETS: usize = 255;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(argument: &str) -> Result<XclientAttributes, CommandError> {
        XclientAttributes::parse(argument.as_bytes())
    }

    #[test]
    fn xclient_addresses_are_parsed() {
        let known = |text: &str| Ok(ClientAddress::Known(text.parse().unwrap()));
        let bad = Err(CommandError::BadArgument);
        for (argument, want) in [
            ("ADDR=192.0.2.1 NAME=[UNAVAILABLE]", known("192.0.2.1")),
            ("name=c.test addr=ipv6:2001:db8::1", known("2001:db8::1")),
            ("ADDR=IPV6:::ffff:192.0.2.1", known("192.0.2.1")),
            ("ADDR=192.0.2.+31", known("192.0.2.1")),
            ("ADDR=[unavailable]", Ok(ClientAddress::Unknown)),
            ("ADDR=[TEMPUNAVAIL]", Ok(ClientAddress::Unknown)),
            ("  HELO=x   PORT=25 ", Ok(ClientAddress::NotGiven)),
            ("ADDR=", bad),
            ("ADDR", bad),
            ("=192.0.2.1", bad),
            ("ADDR=999.1.1.1", bad),
            ("ADDR=192.0.2.01", bad),
            ("ADDR=[192.0.2.1]", bad),
            ("ADDR=2001:db8::1", bad),
            ("ADDR=IPV6:192.0.2.1", bad),
            ("ADDR=IPV6:[2001:db8::1]", bad),
            ("ADDR=IPV6:fe80::1+25eth0", bad),
            ("ADDR=192.0.2.1 ADDR=192.0.2.1", bad),
            ("ADDR=192.0.2.1=", bad),
            ("ADDR = 192.0.2.1", bad),
            ("ADRR=192.0.2.1", bad),
            ("", bad),
            (" ", bad),
        ] {
            assert_eq!(
                parse(argument).map(|facts| facts.address),
                want,
                "{argument}"
            );
        }
    }

    #[test]
    fn xclient_attribute_values_are_validated() {
        let long = |octets: usize| format!("LOGIN={}", "x".repeat(octets));
        for (argument, want) in [
            ("PROTO=SMTP", None),
            ("PROTO=esmtp", None),
            ("PROTO=LMTP", Some(CommandError::BadArgument)),
            ("PORT=65535 DESTPORT=0", None),
            ("PORT=65536", Some(CommandError::BadArgument)),
            ("PORT=+2B5", Some(CommandError::BadArgument)),
            ("DESTADDR=IPV6:::1", None),
            ("DESTADDR=here", Some(CommandError::BadArgument)),
            ("LOGIN=+", Some(CommandError::BadArgument)),
            ("LOGIN=+4", Some(CommandError::BadArgument)),
            ("LOGIN=+4G", Some(CommandError::BadArgument)),
            ("LOGIN=ü", Some(CommandError::BadArgument)),
            ("LOGIN=+C3+BC", None),
            ("LOGIN=+C3", Some(CommandError::BadOctets)),
            ("HELO=a+0D+0AX", Some(CommandError::BadOctets)),
            ("HELO=a+0d+0aX", Some(CommandError::BadOctets)),
            ("HELO=a+00", Some(CommandError::BadOctets)),
            ("HELO=a+C2+85", Some(CommandError::BadOctets)),
            ("HELO=a\tb", Some(CommandError::BadOctets)),
            (&long(255), None),
            (&long(256), Some(CommandError::BadArgument)),
            (&format!("LOGIN={}", "+41".repeat(255)), None),
        ] {
            assert_eq!(parse(argument).err(), want, "{argument}");
        }
    }

    #[test]
    fn xclient_helo_name_is_ignored_when_unavailable() {
        let helo = |argument| parse(argument).unwrap().helo_name;
        assert_eq!(helo("HELO=a+2Bb+20c"), Some("a+b c".to_owned()));
        assert_eq!(helo("HELO=[UnAvailable]"), None);
    }

    proptest! {
        #[test]
        fn parser_does_not_panic_on_any_octets(argument in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = XclientAttributes::parse(&argument);
        }

        #[test]
        fn xclient_parser_returns_only_canonical_addresses_and_printable_names(
            argument in "((ADDR|HELO|NAME|PORT|addr|X)?=?(\\+[0-9A-F]{2}|[a-z0-9.:+=]|IPV6:){0,12} ?){0,4}",
        ) {
            if let Ok(facts) = parse(&argument) {
                let helo = facts.helo_name.unwrap_or_default();
                prop_assert!(helo.len() <= 255 && !helo.chars().any(char::is_control));
                if let ClientAddress::Known(address) = facts.address {
                    prop_assert_eq!(address, address.to_canonical());
                }
            }
        }

        #[test]
        fn xclient_xtext_values_decode_to_the_encoded_text(helo in "[ -~ü]{1,60}", ip in any::<u128>()) {
            let xtext: String = helo.bytes().map(|octet| format!("+{octet:02X}")).collect();
            let ip = Ipv6Addr::from(ip);
            let facts = parse(&format!("HELO={xtext} ADDR=IPV6:{ip}")).unwrap();
            prop_assert_eq!(facts.helo_name, Some(helo));
            let ip = IpAddr::V6(ip).to_canonical();
            prop_assert_eq!(facts.address, ClientAddress::Known(ip));
        }
    }
}
