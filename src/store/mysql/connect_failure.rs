//! Why a server that answers is not used: its certificate, missing TLS, or a password that would be sent in a recoverable form.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::Path;

use mysql::error::tls::TlsError;
use mysql::{DriverError, Error};

use super::settings::MySqlSettings;
use super::tls::MySqlTls;
use crate::net::tls_client_error::{VerifiedServer, describe_tls_client_error};

/// The configuration key to change, what failed and the fix.
#[derive(Debug)]
pub struct MySqlConnectFailure {
    key: &'static str,
    kind: io::ErrorKind,
    text: String,
    fix: String,
}

impl MySqlConnectFailure {
    /// Describes an error of a connection to `server`, a host as it is written in MYSQL_HOST. Returns `None` for an error that
    /// concerns neither TLS nor the way that the password is sent.
    pub fn describe_driver_error(
        error: &Error,
        settings: &MySqlSettings,
        server: &str,
    ) -> Option<MySqlConnectFailure> {
        let tls = &settings.tls;
        match error {
            Error::DriverError(DriverError::TlsNotSupported) => Some(failure(
                format!("{server} offers no TLS"),
                "turn TLS on there (ssl_cert and ssl_key in the configuration of the database), connect to its socket, or set \
                 MYSQL_TLS to N",
            )),
            Error::TlsError(TlsError::InvalidDnsName(_)) => Some(failure(
                format!("{server} is not a name that a certificate can contain"),
                "name the server in MYSQL_HOST as its certificate does",
            )),
            Error::DriverError(DriverError::CleartextPluginDisabled) => {
                Some(clear_password(server))
            }
            Error::DriverError(DriverError::UnknownAuthPlugin(plugin))
                if plugin == "mysql_clear_password" =>
            {
                Some(clear_password(server))
            }
            // The error of reading NO_KEY_FILE.
            Error::IoError(error)
                if *tls == MySqlTls::Off && error.kind() == io::ErrorKind::NotADirectory =>
            {
                Some(failure(
                    format!(
                        "{server} asks for the password in a form that a listener on the network could recover \
                         (caching_sha2_password, first login)"
                    ),
                    "set MYSQL_TLS to Y, connect to the socket of the server, or set MYSQL_TLS to insecure to send it \
                     nevertheless",
                ))
            }
            error => rustls_error(error).map(|error| tls_failure(error, tls, server)),
        }
    }

    /// Describes an error of reading MYSQL_CA.
    pub fn unusable_ca_file(file: &Path, error: &io::Error) -> MySqlConnectFailure {
        MySqlConnectFailure {
            key: "MYSQL_CA",
            kind: error.kind(),
            text: format!("{}: {error}", file.display()),
            fix: "name a file of certificates in PEM form that the user of goguerrilla (GUID) may read".to_owned(),
        }
    }

    /// Returns the failure in an error of the driver, if there is one.
    pub fn in_error(error: &Error) -> Option<&MySqlConnectFailure> {
        let Error::IoError(error) = error else {
            return None;
        };
        error.get_ref()?.downcast_ref()
    }

    /// Returns the text of a finding, with `what` failed.
    pub fn finding_text(&self, what: &str) -> String {
        format!("{}: {what}: {}; {}", self.key, self.text, self.fix)
    }
}

impl fmt::Display for MySqlConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.text, self.fix)
    }
}

impl std::error::Error for MySqlConnectFailure {}

impl From<MySqlConnectFailure> for Error {
    fn from(failure: MySqlConnectFailure) -> Error {
        Error::IoError(io::Error::new(failure.kind, failure))
    }
}

fn failure(text: String, fix: impl Into<String>) -> MySqlConnectFailure {
    MySqlConnectFailure {
        key: "MYSQL_TLS",
        kind: io::ErrorKind::Other,
        text,
        fix: fix.into(),
    }
}

fn clear_password(server: &str) -> MySqlConnectFailure {
    failure(
        format!("{server} asks for the password in clear text (mysql_clear_password)"),
        "set MYSQL_TLS to Y, the only value with which it is sent (not with insecure), or run on the server: ALTER USER ... \
         IDENTIFIED WITH caching_sha2_password BY '...' (MariaDB: mysql_native_password)",
    )
}

fn tls_failure(error: &rustls::Error, tls: &MySqlTls, server: &str) -> MySqlConnectFailure {
    use rustls::CertificateError::{NotValidForNameContext, UnknownIssuer};
    let ca_file = match tls {
        MySqlTls::Verified { ca_file } => ca_file.as_deref(),
        _ => None,
    };
    let described = describe_tls_client_error(
        error,
        &VerifiedServer {
            address: server,
            address_key: "MYSQL_HOST",
            ca_key: "MYSQL_CA",
            ca_file,
        },
    );
    let own_certificate = match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => UNKNOWN_ISSUER_FIX,
        rustls::Error::InvalidCertificate(NotValidForNameContext { presented, .. })
            if presented.is_empty() =>
        {
            NO_NAME_FIX
        }
        _ => "",
    };
    failure(described.text, described.fix + own_certificate)
}

/// Returns the error of rustls that the driver wraps; `None` for other errors.
fn rustls_error(error: &Error) -> Option<&rustls::Error> {
    let io_error = match error {
        Error::TlsError(TlsError::Tls(error)) => return Some(error),
        Error::IoError(error) => error,
        Error::CodecError(error) => error.source()?.downcast_ref()?,
        _ => return None,
    };
    io_error.get_ref()?.downcast_ref()
}

const UNKNOWN_ISSUER_FIX: &str = "; MySQL and MariaDB 11.4 or newer make a certificate by themselves, which cannot be verified: \
     configure another one there (ssl_cert, ssl_key), or set MYSQL_TLS to unverified";
const NO_NAME_FIX: &str =
    " (the one that MySQL makes by itself names no host), or set MYSQL_TLS to unverified";
