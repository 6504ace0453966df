//! Refuses requests that a web page of another site may have caused.
//!
//! A browser on a machine that reaches this server also runs the pages of other sites. Such a page can send requests here, and
//! with DNS rebinding (the name of the page resolves to the address of this server) the browser lets it read the responses. Two
//! headers, which a page cannot set, tell such requests apart: `Host` has the name of the page, and `Sec-Fetch-Site`
//! ([Fetch Metadata](https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header)) says that the request is from another site.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::message::{HttpRequest, HttpResponse};
use crate::smtp::domain::canonicalize_domain;

impl HttpRequest<'_> {
    /// Returns the response 403 (Forbidden), with its reason, if a web page of another site may have caused this request;
    /// `None` if the request may be answered. `host_name` is GSMTP_HOST_NAME.
    ///
    /// A request is refused unless it has exactly one `Host`, which is an IP address, `localhost` or `host_name`, each with or
    /// without a port, and unless each `Sec-Fetch-Site` is `same-origin` or `none`. A target in absolute form is refused too,
    /// because its host would count instead of `Host` (RFC 9112 §3.2.2).
    pub fn refusal_if_from_a_foreign_page(&self, host_name: &str) -> Option<HttpResponse> {
        self.foreign_page_reason(host_name)
            .map(|reason| HttpResponse::plain_text_response(403, format!("forbidden: {reason}\n")))
    }

    fn foreign_page_reason(&self, host_name: &str) -> Option<&'static str> {
        if !self.path.starts_with('/') {
            return Some("the request target must be a path that begins with /");
        }
        let mut hosts = self.request_header_values("Host");
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Some("expected exactly one Host header");
        };
        if !is_own_host(host, host_name) {
            return Some("Host must be an IP address, localhost or GSMTP_HOST_NAME");
        }
        let is_own_site = |site: &[u8]| site == b"same-origin" || site == b"none";
        if !self
            .request_header_values("Sec-Fetch-Site")
            .all(is_own_site)
        {
            return Some("Sec-Fetch-Site must be same-origin or none");
        }
        None
    }
}

/// Returns whether the value of a `Host` header is an IP address, `localhost` or `host_name`, with or without a port.
fn is_own_host(value: &[u8], host_name: &str) -> bool {
    let Some(host) = str::from_utf8(value).ok().and_then(host_without_port) else {
        return false;
    };
    if let Some(inside) = host.strip_prefix('[') {
        let address = inside.strip_suffix(']').map(str::parse::<Ipv6Addr>);
        return matches!(address, Some(Ok(_)));
    }
    // A text that `canonicalize_domain` maps to another one, such as full-width letters, is not what a browser sends.
    let name = canonicalize_domain(host);
    if !host.is_ascii() || name.is_empty() {
        return false;
    }
    host.parse::<Ipv4Addr>().is_ok()
        || name == "localhost"
        || name == canonicalize_domain(host_name)
}

/// Returns the host of `host` or `host:port`; `None` if the port is not a number up to 65,535. An empty port is allowed (RFC
/// 3986 §3.2.3).
fn host_without_port(value: &str) -> Option<&str> {
    let port_at = match value.rfind(']') {
        Some(bracket) => bracket + 1,
        None => value.find(':').unwrap_or(value.len()),
    };
    let (host, rest) = value.split_at_checked(port_at)?;
    let port = match rest {
        "" | ":" => return Some(host),
        rest => rest.strip_prefix(':')?,
    };
    let is_number = port.bytes().all(|octet| octet.is_ascii_digit());
    (is_number && port.parse::<u16>().is_ok()).then_some(host)
}

#[cfg(test)]
mod tests {
    use httparse::Header;

    use super::*;

    fn reason(path: &str, headers: &[(&str, &str)], host_name: &str) -> Option<&'static str> {
        let headers: Vec<Header> = headers
            .iter()
            .map(|(name, value)| Header {
                name,
                value: value.as_bytes(),
            })
            .collect();
        let address = "127.0.0.1:1".parse().unwrap();
        let request = HttpRequest {
            method: "GET",
            path,
            query: "",
            peer: address,
            local: address,
            headers: &headers,
        };
        request.foreign_page_reason(host_name)
    }

    #[test]
    fn request_is_answered_if_host_is_an_address_localhost_or_the_host_name() {
        for (host, is_own) in [
            ("127.0.0.1:9125", true),
            ("127.0.0.1", true),
            ("192.0.2.7:80", true),
            ("[::1]:9125", true),
            ("[::1]", true),
            ("[2001:db8::1]:", true),
            ("[::ffff:127.0.0.1]:9125", true),
            ("localhost", true),
            ("localhost:9125", true),
            ("LocalHost.:9125", true),
            ("mx.example.com", true),
            ("MX.Example.COM.:65535", true),
            (" mx.example.com ", true),
            ("", false),
            (":9125", false),
            ("evil.test", false),
            ("evil.test:9125", false),
            ("mx.example.com.evil.test", false),
            ("evil.mx.example.com", false),
            ("localhost.evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("127.1", false),
            ("0x7f000001", false),
            ("2130706433", false),
            ("::1", false),
            ("[::1", false),
            ("::1]", false),
            ("[::1]9125", false),
            ("[evil.test]", false),
            ("[127.0.0.1]", false),
            ("[fe80::1%25eth0]", false),
            ("localhost:65536", false),
            ("localhost:+80", false),
            ("localhost:80:80", false),
            ("localhost@evil.test", false),
            ("evil.test@localhost", false),
            ("localhost, evil.test", false),
            ("localhost/", false),
            ("localhost..", false),
            ("ｌocalhost", false),
        ] {
            let found = reason("/", &[("Host", host)], "mx.example.com");
            assert_eq!(found.is_none(), is_own, "{host}: {found:?}");
        }
    }

    #[test]
    fn host_name_is_compared_as_a_domain() {
        for (host_name, host, is_own) in [
            ("Mail.Test.", "mail.test", true),
            ("xn--mnchen-3ya.example", "XN--MNCHEN-3YA.example:1", true),
            ("mail", "mail", true),
            ("mail", "mail.evil.test", false),
            ("", "", false),
            ("", ".", false),
        ] {
            let found = reason("/", &[("host", host)], host_name);
            assert_eq!(found.is_none(), is_own, "{host_name}, {host}: {found:?}");
        }
    }

    #[test]
    fn request_without_exactly_one_host_or_with_an_absolute_target_is_refused() {
        let local = ("Host", "localhost");
        for (path, headers) in [
            ("/", &[][..]),
            ("/", &[("X-Host", "localhost")]),
            ("/", &[local, local]),
            ("/", &[local, ("HOST", "evil.test")]),
            ("http://localhost/feed", &[local]),
            ("http://evil.test/", &[local]),
            ("evil.test:80", &[local]),
            ("*", &[local]),
            ("", &[local]),
        ] {
            assert!(
                reason(path, headers, "mx.test").is_some(),
                "{path} {headers:?}"
            );
        }
        assert_eq!(reason("/feed", &[local], "mx.test"), None);
    }

    #[test]
    fn request_of_another_site_is_refused() {
        for (site, is_own) in [
            ("same-origin", true),
            ("none", true),
            ("same-site", false),
            ("cross-site", false),
            ("Same-Origin", false),
            ("", false),
            ("same-origin, none", false),
        ] {
            let headers = [("Host", "localhost"), ("Sec-Fetch-Site", site)];
            let found = reason("/", &headers, "mx.test");
            assert_eq!(found.is_none(), is_own, "{site}: {found:?}");
            let headers = [
                ("Host", "localhost"),
                ("Sec-Fetch-Site", "none"),
                ("sec-fetch-site", site),
            ];
            let found = reason("/", &headers, "mx.test");
            assert_eq!(found.is_none(), is_own, "second {site}: {found:?}");
        }
    }
}
