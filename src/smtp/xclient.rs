//! XCLIENT: a trusted proxy passes on the attributes of its client
//! ([Postfix XCLIENT howto](https://www.postfix.org/XCLIENT_README.html)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::command::{self, CommandError};

/// The attributes of one XCLIENT command that the server uses.
///
/// NAME, PORT, LOGIN, DESTADDR, DESTPORT and PROTO are checked and ignored: they are not stored, and the client's own
/// HELO or EHLO decides between SMTP and ESMTP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XclientAttributes {
    /// Value of ADDR.
    pub address: XclientAddress,
    /// Value of HELO; `None` if the attribute is missing, `[UNAVAILABLE]` or `[TEMPUNAVAIL]`.
    pub helo_name: Option<String>,
}

/// The client's address as given by the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XclientAddress {
    /// The command has no ADDR.
    #[default]
    NotGiven,
    /// The proxy sent `[UNAVAILABLE]` or `[TEMPUNAVAIL]`; the server uses the proxy's own address.
    Unknown,
    /// The proxy sent this address; an IPv4-mapped address is converted to IPv4.
    Known(IpAddr),
}

impl XclientAttributes {
    /// Parses the argument of XCLIENT: `1*(SP name "=" value)`, each name at most once, in any order and any case.
    ///
    /// A value is xtext ([RFC 3461 §4](https://www.rfc-editor.org/rfc/rfc3461#section-4)) of 1 to 255 octets. Control
    /// characters are rejected after decoding, so a value cannot contain an encoded line end.
    ///
    /// # Errors
    /// [`CommandError::BadArgument`], or [`CommandError::BadOctets`] for control characters and invalid UTF-8.
    pub fn parse(argument: &[u8]) -> Result<XclientAttributes, CommandError> {
        let argument = command::parse_utf8_without_controls(argument)?;
        let mut attributes = XclientAttributes::default();
        let mut seen = 0u8;
        for word in argument.split(' ').filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').ok_or(CommandError::BadArgument)?;
            let (bit, kind) = find_xclient_attribute(name).ok_or(CommandError::BadArgument)?;
            if seen & bit != 0 {
                return Err(CommandError::BadArgument);
            }
            seen |= bit;
            let octets = decode_xtext(value).ok_or(CommandError::BadArgument)?;
            let value = match command::parse_utf8_without_controls(&octets)? {
                text if is_unavailable_value(text) => None,
                text => Some(text),
            };
            match (kind, value) {
                (XclientAttributeKind::ClientAddress, None) => {
                    attributes.address = XclientAddress::Unknown
                }
                (XclientAttributeKind::ClientAddress, Some(text)) => {
                    attributes.address = XclientAddress::Known(parse_xclient_ip(text)?);
                }
                (XclientAttributeKind::Helo, Some(text)) => {
                    attributes.helo_name = Some(text.to_owned())
                }
                (XclientAttributeKind::ServerAddress, Some(text)) => drop(parse_xclient_ip(text)?),
                (XclientAttributeKind::Port, Some(text)) => validate_xclient_port(text)?,
                (XclientAttributeKind::Protocol, Some(text)) => check_proto_value(text)?,
                (XclientAttributeKind::Text, Some(_)) | (_, None) => {}
            }
        }
        match seen {
            0 => Err(CommandError::BadArgument),
            _ => Ok(attributes),
        }
    }
}

/// The attributes of the client that a trusted proxy passed on in this session.
#[derive(Debug)]
pub struct XclientState {
    was_applied: bool,
    address: XclientAddress,
    /// Whether an XCLIENT that changes the client address is rejected. Set once the proxy forwards the client's octets
    /// unchanged, because XCLIENT may then come from the client: with nginx after the first accepted RCPT, with a PROXY
    /// header from the start.
    is_address_locked: bool,
    helo_name: Option<String>,
}

impl XclientState {
    /// Returns the initial state. `header_address` is the client address from the PROXY header; if present, XCLIENT cannot
    /// change it.
    pub fn new(header_address: Option<IpAddr>) -> XclientState {
        XclientState {
            was_applied: false,
            address: header_address.map_or(XclientAddress::NotGiven, XclientAddress::Known),
            is_address_locked: header_address.is_some(),
            helo_name: None,
        }
    }

    /// Applies `attributes`; a missing attribute keeps its earlier value. If the address may no longer change (for example
    /// because a PROXY header gave it) and `attributes` has a different one, returns `false` and changes nothing.
    pub fn apply_xclient_attributes(&mut self, attributes: XclientAttributes) -> bool {
        if attributes.address != XclientAddress::NotGiven {
            if self.is_address_locked && !self.is_same_address(attributes.address) {
                return false;
            }
            self.address = attributes.address;
        }
        self.was_applied = true;
        self.helo_name = attributes.helo_name.or(self.helo_name.take());
        true
    }

    /// Returns whether `address` is the client address that is in use; the proxy's own one is in use until XCLIENT gives one.
    fn is_same_address(&self, address: XclientAddress) -> bool {
        let in_use = match self.address {
            XclientAddress::NotGiven => XclientAddress::Unknown,
            given => given,
        };
        address == in_use
    }

    /// Rejects each later XCLIENT that changes the client address. Called after each accepted RCPT, because the proxy then
    /// forwards the client's commands unchanged. With `xclient off`, nginx has sent no XCLIENT before.
    pub fn forbid_xclient_address_change(&mut self) {
        self.is_address_locked = true;
    }

    /// Returns whether an XCLIENT command was accepted.
    pub fn was_xclient_accepted(&self) -> bool {
        self.was_applied
    }

    /// Returns the client's HELO name as given by the proxy.
    pub fn helo_name(&self) -> Option<&str> {
        self.helo_name.as_deref()
    }
}

#[derive(Clone, Copy)]
enum XclientAttributeKind {
    ClientAddress,
    ServerAddress,
    Helo,
    Port,
    Protocol,
    Text,
}

/// Finds the attribute `name`; returns its bit in the set of received names, and its kind. `None` if the name is unknown.
fn find_xclient_attribute(name: &str) -> Option<(u8, XclientAttributeKind)> {
    let mut attributes = ATTRIBUTES.iter().enumerate();
    let (index, (_, kind)) = attributes.find(|(_, (known, _))| known.eq_ignore_ascii_case(name))?;
    Some((1 << index, *kind))
}

/// Names and kinds of the XCLIENT attributes, in the order of the EHLO reply.
const ATTRIBUTES: [(&str, XclientAttributeKind); 8] = [
    ("NAME", XclientAttributeKind::Text),
    ("ADDR", XclientAttributeKind::ClientAddress),
    ("PORT", XclientAttributeKind::Port),
    ("PROTO", XclientAttributeKind::Protocol),
    ("HELO", XclientAttributeKind::Helo),
    ("LOGIN", XclientAttributeKind::Text),
    ("DESTADDR", XclientAttributeKind::ServerAddress),
    ("DESTPORT", XclientAttributeKind::Port),
];

/// Decodes xtext: `+2B` is the octet 0x2B; printable ASCII except `+` and `=` stands for itself. Returns `None` for other
/// octets and for a decoded length outside 1 to 255 octets.
fn decode_xtext(value: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut rest = value.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' => hex_digit_value(rest.next()?)? << 4 | hex_digit_value(rest.next()?)?,
            b'=' => return None,
            b'!'..=b'~' => octet,
            _ => return None,
        });
    }
    (1..=MAX_VALUE_OCTETS)
        .contains(&octets.len())
        .then_some(octets)
}

fn hex_digit_value(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).map(|digit| digit as u8)
}

fn is_unavailable_value(text: &str) -> bool {
    text.eq_ignore_ascii_case("[UNAVAILABLE]") || text.eq_ignore_ascii_case("[TEMPUNAVAIL]")
}

/// Parses `192.0.2.1` or `IPV6:2001:db8::1`, without brackets.
fn parse_xclient_ip(text: &str) -> Result<IpAddr, CommandError> {
    let address = match text.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPV6:") => {
            address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    let address = address.ok_or(CommandError::BadArgument)?;
    Ok(address.to_canonical())
}

fn validate_xclient_port(text: &str) -> Result<(), CommandError> {
    let is_number = text.bytes().all(|octet| octet.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(_) if is_number => Ok(()),
        _ => Err(CommandError::BadArgument),
    }
}

fn check_proto_value(text: &str) -> Result<(), CommandError> {
    match text.to_ascii_uppercase().as_str() {
        "SMTP" | "ESMTP" => Ok(()),
        _ => Err(CommandError::BadArgument),
    }
}

/// Maximum length of a decoded attribute value in octets, equal to that of a domain (RFC 5321 §4.5.3.1.2). A longer value is
/// rejected.
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
        let known = |text: &str| Ok(XclientAddress::Known(text.parse().unwrap()));
        let bad = Err(CommandError::BadArgument);
        for (argument, want) in [
            ("ADDR=192.0.2.1 NAME=[UNAVAILABLE]", known("192.0.2.1")),
            ("name=c.test addr=ipv6:2001:db8::1", known("2001:db8::1")),
            ("ADDR=IPV6:::ffff:192.0.2.1", known("192.0.2.1")),
            ("ADDR=192.0.2.+31", known("192.0.2.1")),
            ("ADDR=[unavailable]", Ok(XclientAddress::Unknown)),
            ("ADDR=[TEMPUNAVAIL]", Ok(XclientAddress::Unknown)),
            ("  HELO=x   PORT=25 ", Ok(XclientAddress::NotGiven)),
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
                parse(argument).map(|attributes| attributes.address),
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
            if let Ok(attributes) = parse(&argument) {
                let helo = attributes.helo_name.unwrap_or_default();
                prop_assert!(helo.len() <= 255 && !helo.chars().any(char::is_control));
                if let XclientAddress::Known(address) = attributes.address {
                    prop_assert_eq!(address, address.to_canonical());
                }
            }
        }

        #[test]
        fn xclient_xtext_values_decode_to_the_original_text(helo in "[ -~ü]{1,60}", ip in any::<u128>()) {
            let xtext: String = helo.bytes().map(|octet| format!("+{octet:02X}")).collect();
            let ip = Ipv6Addr::from(ip);
            let attributes = parse(&format!("HELO={xtext} ADDR=IPV6:{ip}")).unwrap();
            prop_assert_eq!(attributes.helo_name, Some(helo));
            let ip = IpAddr::V6(ip).to_canonical();
            prop_assert_eq!(attributes.address, XclientAddress::Known(ip));
        }
    }
}
