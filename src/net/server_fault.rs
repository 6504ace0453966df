//! Describes why a TLS connection to a server failed, and how to fix it.

use std::path::Path;

use jiff::Timestamp;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, Error};

/// A server that this process connects to with TLS.
#[derive(Clone, Copy, Debug)]
pub struct TlsPeer<'a> {
    /// The host name or IP address that its certificate must contain.
    pub host: &'a str,
    /// The configuration key that names a file with further authorities.
    pub ca_key: &'static str,
    /// That file.
    pub ca_file: Option<&'a Path>,
    /// How to configure the server so that it wants no certificate of the client.
    pub no_client_certificate: &'static str,
}

impl TlsPeer<'_> {
    /// Describes an error of rustls in one line that names the server, and its certificate's fault and its fix.
    pub fn describe_tls_error(&self, error: &Error) -> String {
        let host = self.host;
        match error {
            Error::InvalidCertificate(fault) => {
                let fault = self.describe_certificate_fault(fault);
                format!("certificate of {host} {fault}; {}", self.authorities())
            }
            Error::InvalidMessage(_) => format!(
                "{host} does not answer with TLS at this port; name its port for TLS, or connect without TLS"
            ),
            Error::AlertReceived(AlertDescription::CertificateRequired) => {
                format!(
                    "{host} wants a certificate of the client; {}",
                    self.no_client_certificate
                )
            }
            Error::AlertReceived(AlertDescription::HandshakeFailure) => format!(
                "{host} ended the handshake: it has no cipher suite of TLS 1.2 or 1.3 in common, or wants a certificate of the \
                 client; {}",
                self.no_client_certificate
            ),
            Error::AlertReceived(AlertDescription::ProtocolVersion) => {
                format!("{host} supports neither TLS 1.2 nor 1.3")
            }
            error => format!("{host}: {error}"),
        }
    }

    fn describe_certificate_fault(&self, fault: &CertificateError) -> String {
        let (host, key) = (self.host, self.ca_key);
        match fault {
            CertificateError::ExpiredContext { not_after, .. } => {
                format!("expired at {}: renew it on that server", time(*not_after))
            }
            CertificateError::Expired => "expired: renew it on that server".to_owned(),
            CertificateError::NotValidYetContext { not_before, .. } => format!(
                "is not valid before {}: compare the clocks of both machines",
                time(*not_before)
            ),
            CertificateError::UnknownIssuer => match self.ca_file {
                Some(_) => format!(
                    "comes from another authority: add the certificate of that authority to the file of {key}, and have the \
                     server send its intermediate certificates"
                ),
                None => format!(
                    "comes from another authority: name a file with the certificate of that authority in {key}"
                ),
            },
            CertificateError::NotValidForNameContext { presented, .. } => {
                self.describe_wrong_name(presented)
            }
            CertificateError::Other(error) if error.to_string() == CA_AS_SERVER => format!(
                "is one of an authority (CA:TRUE), which a server must not use: issue another one for {host} with it"
            ),
            fault => format!("is not usable: {fault}"),
        }
    }

    fn describe_wrong_name(&self, presented: &[String]) -> String {
        let kind = match ServerName::try_from(self.host) {
            Ok(ServerName::IpAddress(_)) => "IP",
            _ => "DNS",
        };
        let wanted = format!("subjectAltName {kind}:{}", self.host);
        // The names come from the server, so their number and length are limited and control characters are escaped.
        let names = presented.iter().take(MAX_NAMES_SHOWN);
        let names: Vec<String> = names
            .map(|name| {
                let name: String = name.chars().take(MAX_NAME_CHARS).collect();
                name.escape_debug().to_string()
            })
            .collect();
        match names.as_slice() {
            [] => format!("has no name, only a subject: issue it with {wanted}"),
            _ => format!(
                "is for another name, {}: connect to that name, or issue it with {wanted}",
                names.join(", ")
            ),
        }
    }

    fn authorities(&self) -> String {
        match self.ca_file {
            Some(file) => format!(
                "trusted are Mozilla's authorities and those of {} {}",
                self.ca_key,
                file.display()
            ),
            None => "trusted are Mozilla's authorities".to_owned(),
        }
    }
}

fn time(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let timestamp = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
}

/// The text of the error of rustls-webpki for a certificate of an authority that a server presents as its own.
const CA_AS_SERVER: &str = "CaUsedAsEndEntity";
/// Maximum number of names of a certificate in an error text.
const MAX_NAMES_SHOWN: usize = 3;
/// Maximum length of a name in an error text, in characters.
const MAX_NAME_CHARS: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_of_a_wrong_name_is_short_and_has_no_control_character() {
        let peer = TlsPeer {
            host: "192.0.2.1",
            ca_key: "REDIS_CA",
            ca_file: None,
            no_client_certificate: "",
        };
        let presented = vec![format!("a\x1b\n{}", "x".repeat(1_000)); 100];
        let error = Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("192.0.2.1").unwrap(),
            presented,
        });
        let text = peer.describe_tls_error(&error);
        assert!(text.len() < 400, "{text}");
        assert!(!text.contains(char::is_control), "{text}");
        assert!(text.contains("subjectAltName IP:192.0.2.1"), "{text}");
    }
}
