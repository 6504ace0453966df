//! Trace fields, which are stored before the content
//! ([RFC 5321 §4.4](https://www.rfc-editor.org/rfc/rfc5321#section-4.4)).

use std::net::IpAddr;
use std::time::SystemTime;

use jiff::Timestamp;

/// Facts about the connection over which a mail was received. The `Received` field contains them.
#[derive(Clone, Debug)]
pub struct MailOrigin {
    /// The client's IP address. An IPv4-mapped IPv6 address is converted to IPv4.
    pub client_ip: IpAddr,
    /// The argument of HELO or EHLO, unchanged.
    pub helo_name: String,
    /// The protocol keyword of the `Received` field, such as `ESMTPS`
    /// ([RFC 3848](https://www.rfc-editor.org/rfc/rfc3848)).
    pub protocol: &'static str,
    /// The server's host name (GSMTP_HOST_NAME).
    pub host_name: String,
    /// The time at which the end of the message was received.
    pub received_at: SystemTime,
}

/// Returns the fields `Return-Path`, `Delivered-To` and `Received`; each line ends in CR LF. `id` identifies the mail in
/// `Received`.
pub fn trace_fields(
    origin: &MailOrigin,
    return_path: &str,
    delivered_to: &str,
    id: &str,
) -> String {
    let MailOrigin {
        client_ip,
        protocol,
        host_name,
        received_at,
        ..
    } = origin;
    let helo = sanitize_helo(&origin.helo_name);
    let literal = match client_ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("IPv6:{ip}"),
    };
    let date = timestamp_from_system_time(*received_at).strftime("%a, %d %b %Y %H:%M:%S +0000");
    format!(
        "Return-Path: <{return_path}>\r\n\
         Delivered-To: {delivered_to}\r\n\
         Received: from {helo} ({helo} [{literal}])\r\n\
         \tby {host_name} with {protocol} id {id}@{host_name};\r\n\
         \t{date}\r\n"
    )
}

/// Returns the time as a timestamp. A time outside of the years -9999 to 9999, which no clock shows, becomes the nearest
/// timestamp.
fn timestamp_from_system_time(time: SystemTime) -> Timestamp {
    let nearest = match time < SystemTime::UNIX_EPOCH {
        true => Timestamp::MIN,
        false => Timestamp::MAX,
    };
    Timestamp::try_from(time).unwrap_or(nearest)
}

/// Replaces with `?` each character of a HELO name that could be syntax of a `Received` field, so that a client cannot forge
/// a part of the field.
fn sanitize_helo(helo_name: &str) -> String {
    helo_name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-._:[]".contains(c) {
                c
            } else {
                '?'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_mail_origin(client_ip: &str, helo_name: &str) -> MailOrigin {
        MailOrigin {
            client_ip: client_ip.parse().unwrap(),
            helo_name: helo_name.to_owned(),
            protocol: "ESMTP",
            host_name: "mx.test".to_owned(),
            received_at: SystemTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn trace_fields_have_the_documented_text() {
        let fields = trace_fields(
            &test_mail_origin("192.0.2.1", "c.test"),
            "a@b",
            "u@ours",
            "0f",
        );
        assert_eq!(
            fields,
            "Return-Path: <a@b>\r\nDelivered-To: u@ours\r\n\
             Received: from c.test (c.test [192.0.2.1])\r\n\
             \tby mx.test with ESMTP id 0f@mx.test;\r\n\tThu, 01 Jan 1970 00:00:00 +0000\r\n"
        );
    }

    #[test]
    fn helo_name_cannot_forge_parts_of_the_received_field() {
        let fields = trace_fields(
            &test_mail_origin("2001:db8::1", "x) by \"e\"; id (y"),
            "",
            "u@o",
            "0f",
        );
        assert!(fields.contains("from x??by??e???id??y (x??by??e???id??y [IPv6:2001:db8::1])\r\n"));
        assert_eq!(fields.matches(" id ").count(), 1);
        assert_eq!(fields.matches("by ").count(), 1);
    }
}
