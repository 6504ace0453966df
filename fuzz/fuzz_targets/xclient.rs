//! XCLIENT, line by line: who may send it, and the resulting address and name, compared with a direct implementation of
//! the rules.
#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use goguerrilla::internals::smtp::{TlsState, XclientAddress};
use goguerrilla_fuzz::{Dialogue, StepOutput};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((kind, lines)) = data.split_first() else {
        return;
    };
    // With an odd first octet a PROXY header has already fixed the client address.
    let proxy_address: Option<IpAddr> = (kind % 2 == 1).then(|| [192, 0, 2, 1].into());
    let mut address = proxy_address.map_or(XclientAddress::NotGiven, XclientAddress::Known);
    let mut helo: Option<String> = None;
    let mut trusted_dialogue =
        Dialogue::new(100, 1 << 20, TlsState::Unavailable).allow_xclient(proxy_address);
    let mut untrusted_dialogue = Dialogue::new(100, 1 << 20, TlsState::Unavailable);
    // Two more errors would end the session.
    for line in lines.split(|octet| *octet == b'\n').take(9) {
        if line.len() > 2_000 || line.iter().any(|octet| matches!(octet, b'\r' | 0)) {
            continue;
        }
        let command = [b"XCLIENT ", line, b"\r\n"].concat();
        assert!(matches!(
            &untrusted_dialogue.receive(&command)[..],
            [StepOutput::Reply(550, _)]
        ));
        let seen = trusted_dialogue.receive(&command);
        match (model(line), &seen[..]) {
            (None, [StepOutput::Reply(501, _)]) => {}
            (Some((requested, name)), [StepOutput::Xclient(introduced)]) => {
                assert_eq!(requested, *introduced);
                if requested != XclientAddress::NotGiven {
                    assert!(proxy_address.is_none() || requested == address);
                    address = requested;
                }
                helo = name.or(helo);
            }
            (Some((requested, _)), [StepOutput::Reply(550, _)]) => {
                assert!(
                    proxy_address.is_some()
                        && requested != XclientAddress::NotGiven
                        && requested != address
                );
            }
            other => panic!("{other:?}"),
        }
        let name = trusted_dialogue.session().helo_name();
        assert_eq!(name, helo.as_deref().unwrap_or_default());
        assert!(name.len() <= 255 && !name.chars().any(char::is_control));
    }
    // After XCLIENT the client must send HELO or EHLO itself.
    assert_eq!(
        trusted_dialogue.receive(b"MAIL FROM:<a@b>\r\n")[0].code(),
        503
    );
});

/// Returns the address and name of a line, or `None` if it must be rejected.
fn model(line: &[u8]) -> Option<(XclientAddress, Option<String>)> {
    let line = std::str::from_utf8(line).ok()?;
    let mut attributes: BTreeMap<String, String> = BTreeMap::new();
    for word in line.split(' ').filter(|word| !word.is_empty()) {
        let (name, xtext) = word.split_once('=')?;
        let value = String::from_utf8(decode(xtext.as_bytes())?).ok()?;
        let is_good = (1..=255).contains(&value.len()) && !value.chars().any(char::is_control);
        let is_new = attributes
            .insert(name.to_ascii_uppercase(), value)
            .is_none();
        if !is_good || !is_new {
            return None;
        }
    }
    if attributes.is_empty() {
        return None;
    }
    let mut address = XclientAddress::NotGiven;
    let mut helo = None;
    for (name, value) in attributes {
        let is_unknown = ["[UNAVAILABLE]", "[TEMPUNAVAIL]"]
            .iter()
            .any(|word| word.eq_ignore_ascii_case(&value));
        match name.as_str() {
            "ADDR" if is_unknown => address = XclientAddress::Unknown,
            "ADDR" => address = XclientAddress::Known(ip(&value)?),
            "HELO" if is_unknown => {}
            "HELO" => helo = Some(value),
            "NAME" | "LOGIN" => {}
            "PORT" | "PROTO" | "DESTADDR" | "DESTPORT" if is_unknown => {}
            "PORT" | "DESTPORT" => {
                let digits = value.chars().all(|c| c.is_ascii_digit());
                let number: u32 = value.parse().ok()?;
                if !digits || number > 65_535 {
                    return None;
                }
            }
            "PROTO" => {
                if !["SMTP", "ESMTP"].contains(&value.to_ascii_uppercase().as_str()) {
                    return None;
                }
            }
            "DESTADDR" => drop(ip(&value)?),
            _ => return None,
        }
    }
    Some((address, helo))
}

fn ip(text: &str) -> Option<IpAddr> {
    let is_v6 = text
        .get(..5)
        .is_some_and(|tag| tag.eq_ignore_ascii_case("IPV6:"));
    if !is_v6 {
        return text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let address: Ipv6Addr = text[5..].parse().ok()?;
    Some(
        address
            .to_ipv4_mapped()
            .map_or(IpAddr::V6(address), IpAddr::V4),
    )
}

fn decode(xtext: &[u8]) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    let mut at = 0;
    while at < xtext.len() {
        if xtext[at] == b'+' {
            let digits = xtext.get(at + 1..at + 3)?;
            if !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            let digits = std::str::from_utf8(digits).ok()?;
            octets.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            if !xtext[at].is_ascii_graphic() || xtext[at] == b'=' {
                return None;
            }
            octets.push(xtext[at]);
            at += 1;
        }
    }
    Some(octets)
}
