//! Texts for errors of TLS connections that this program makes: what is wrong with the server's certificate, and the fix.

use std::path::Path;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

/// A server that is verified, with the configuration keys that the texts name.
pub struct VerifiedServer<'a> {
    /// The server as it is written in the configuration.
    pub address: &'a str,
    /// The key that names the server.
    pub address_key: &'static str,
    /// The key that names the file of authorities.
    pub ca_key: &'static str,
    /// The file of authorities; `None` if there is none.
    pub ca_file: Option<&'a Path>,
}

/// What failed, and how to fix it.
#[derive(Debug)]
pub struct TlsClientErrorText {
    /// What failed; names the server.
    pub text: String,
    /// The fix.
    pub fix: String,
}

/// Describes an error of a TLS connection to `server`.
pub fn describe_tls_client_error(error: &Error, server: &VerifiedServer) -> TlsClientErrorText {
    let address = server.address;
    match error {
        Error::InvalidCertificate(error) => describe_certificate_error(error, server),
        Error::AlertReceived(alert) => TlsClientErrorText {
            text: format!("{address} ended the TLS handshake with the alert {alert:?}"),
            fix: VERSION_FIX.to_owned(),
        },
        error => TlsClientErrorText {
            text: format!("TLS with {address} failed: {error}"),
            fix: VERSION_FIX.to_owned(),
        },
    }
}

fn describe_certificate_error(
    error: &CertificateError,
    server: &VerifiedServer,
) -> TlsClientErrorText {
    let VerifiedServer {
        address,
        address_key,
        ca_key,
        ca_file,
    } = server;
    let (text, fix) = match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            let at = match error {
                CertificateError::ExpiredContext { not_after, .. } => date_suffix("on", *not_after),
                _ => String::new(),
            };
            (
                format!("the certificate of {address} has expired{at}"),
                "renew it and load it into that server; if it is still valid, correct the clock of this machine".to_owned(),
            )
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            let at = match error {
                CertificateError::NotValidYetContext { not_before, .. } => {
                    date_suffix("before", *not_before)
                }
                _ => String::new(),
            };
            (
                format!("the certificate of {address} is not valid{at}"),
                "correct the clock of this machine, or of the machine where the certificate was made"
                    .to_owned(),
            )
        }
        CertificateError::UnknownIssuer => {
            let file = ca_file.map_or("which is empty".to_owned(), |file| {
                file.display().to_string()
            });
            (
                format!(
                    "the certificate of {address} is signed by an authority that is neither one of Mozilla's nor in {ca_key} \
                     ({file})"
                ),
                format!("name the PEM file of its authority in {ca_key}"),
            )
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names: Vec<&str> = presented
                .iter()
                .take(MAX_NAMES_SHOWN)
                .map(|name| name_in_certificate(name))
                .collect();
            let (names, expected) = (names.join(", "), expected.to_str());
            match names.as_str() {
                "" => (
                    format!("the certificate of {address} names no host in subjectAltName"),
                    format!("give that server a certificate whose subjectAltName names {expected}"),
                ),
                names => (
                    format!("the certificate of {address} is for {names}, not for {expected}"),
                    format!(
                        "name the server in {address_key} as its certificate does, or give it a certificate for {expected}"
                    ),
                ),
            }
        }
        error if error.to_string().contains("CaUsedAsEndEntity") => (
            format!("the certificate of {address} is that of an authority, not of a server"),
            "give that server a certificate of its own, signed by an authority".to_owned(),
        ),
        error => (
            format!("the certificate of {address} cannot be verified: {error}"),
            "give that server a certificate (X.509 version 3) that names it in subjectAltName"
                .to_owned(),
        ),
    };
    TlsClientErrorText { text, fix }
}

/// Returns ` WORD DATE`, such as ` on 2026-01-31`; empty for a date that cannot be represented.
fn date_suffix(word: &str, time: UnixTime) -> String {
    let timestamp = i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or(String::new(), |timestamp| {
        format!(" {word} {}", timestamp.strftime("%Y-%m-%d"))
    })
}

/// Returns the name in a text of rustls such as `DnsName("db.example.com")` or `IpAddress(192.0.2.1)`.
fn name_in_certificate(text: &str) -> &str {
    let inner = text.split_once('(').map_or(text, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

/// Maximum number of names of a certificate in a text; it may have thousands.
const MAX_NAMES_SHOWN: usize = 3;
const VERSION_FIX: &str = "see whether that server supports TLS 1.2 or TLS 1.3";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn text_of_a_certificate_error_names_server_file_and_fix() {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = || ServerName::try_from("db.test").unwrap().to_owned();
        for (error, text, fix) in [
            (
                CertificateError::ExpiredContext {
                    time: time(1),
                    not_after: time(86_400),
                },
                "the certificate of db.test:3306 has expired on 1970-01-02",
                "renew it",
            ),
            (
                CertificateError::NotValidYet,
                "the certificate of db.test:3306 is not valid",
                "correct the clock",
            ),
            (
                CertificateError::UnknownIssuer,
                "neither one of Mozilla's nor in MYSQL_CA (/etc/ca.pem)",
                "name the PEM file of its authority in MYSQL_CA",
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: name(),
                    presented: vec![
                        "DnsName(\"other.test\")".to_owned(),
                        "IpAddress(192.0.2.1)".to_owned(),
                    ],
                },
                "is for other.test, 192.0.2.1, not for db.test",
                "name the server in MYSQL_HOST as its certificate does",
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: name(),
                    presented: Vec::new(),
                },
                "names no host",
                "subjectAltName names db.test",
            ),
            (
                CertificateError::BadEncoding,
                "cannot be verified",
                "X.509 version 3",
            ),
        ] {
            let server = VerifiedServer {
                address: "db.test:3306",
                address_key: "MYSQL_HOST",
                ca_key: "MYSQL_CA",
                ca_file: Some(Path::new("/etc/ca.pem")),
            };
            let found = describe_tls_client_error(&Error::InvalidCertificate(error), &server);
            assert!(found.text.contains(text), "{found:?}");
            assert!(found.text.contains("db.test:3306"), "{found:?}");
            assert!(found.fix.contains(fix), "{found:?}");
        }
    }
}
