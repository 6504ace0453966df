//! Parses MYSQL_TLS and MYSQL_CA.

use std::path::PathBuf;

use super::raw::{RawConfig, yes_or_no};
use super::{Config, ConfigError, StoreKind};

/// How connections to a database over TCP are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseTlsMode {
    /// No TLS; a password is not sent to other machines in a form that a listener can recover.
    Off,
    /// No TLS; a password is sent in any form that the server asks for.
    Insecure,
    /// TLS without verification of the server.
    Unverified,
    /// TLS with a server whose certificate and name are verified.
    Verified,
}

impl RawConfig {
    /// Parses MYSQL_TLS.
    pub fn parse_mysql_tls(&self) -> Result<DatabaseTlsMode, ConfigError> {
        let expected = "\"Y\", \"unverified\", \"N\" or \"insecure\"";
        self.parse_config_value_with("MYSQL_TLS", expected, |text| {
            if text.eq_ignore_ascii_case("unverified") {
                return Some(DatabaseTlsMode::Unverified);
            }
            if text.eq_ignore_ascii_case("insecure") {
                return Some(DatabaseTlsMode::Insecure);
            }
            yes_or_no(text).map(|is_on| match is_on {
                true => DatabaseTlsMode::Verified,
                false => DatabaseTlsMode::Off,
            })
        })
    }

    /// Returns the file that MYSQL_CA names.
    pub fn mysql_ca_file(&self) -> Option<PathBuf> {
        let file = self.configured_or_default_value("MYSQL_CA").trim();
        (!file.is_empty()).then(|| PathBuf::from(file))
    }
}

/// Returns warnings about MYSQL_TLS and MYSQL_CA; none if another store is used.
pub fn mysql_tls_warnings(config: &Config) -> Vec<String> {
    if config.store != StoreKind::MySql {
        return Vec::new();
    }
    let mode = match config.mysql_tls {
        DatabaseTlsMode::Unverified => Some(UNVERIFIED),
        DatabaseTlsMode::Insecure => Some(INSECURE),
        DatabaseTlsMode::Off | DatabaseTlsMode::Verified => None,
    };
    let is_file_unused =
        config.mysql_ca_file.is_some() && config.mysql_tls != DatabaseTlsMode::Verified;
    let unused_file = is_file_unused.then_some(UNUSED_CA);
    mode.into_iter()
        .chain(unused_file)
        .map(str::to_owned)
        .collect()
}

const UNVERIFIED: &str = "MYSQL_TLS: unverified, so a machine to which connections to the database are redirected can read and \
     change the mails and read the password; set it to Y, and name the authority of the server's certificate in MYSQL_CA";
const INSECURE: &str = "MYSQL_TLS: insecure, so a listener on the network can read the mails and recover the password; set it to \
     Y, or to N if the database is on this machine";
const UNUSED_CA: &str =
    "MYSQL_CA: not used, because MYSQL_TLS is not Y; set MYSQL_TLS to Y, or MYSQL_CA to \"\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_of_mysql_tls_is_parsed_and_unsafe_ones_cause_a_warning() {
        for (text, mode, warnings) in [
            ("", DatabaseTlsMode::Off, &[][..]),
            (r#", "MYSQL_TLS": "N""#, DatabaseTlsMode::Off, &[]),
            (r#", "MYSQL_TLS": false"#, DatabaseTlsMode::Off, &[]),
            (
                r#", "MYSQL_TLS": "Y", "MYSQL_CA": "/etc/ca.pem""#,
                DatabaseTlsMode::Verified,
                &[],
            ),
            (r#", "MYSQL_TLS": true"#, DatabaseTlsMode::Verified, &[]),
            (
                r#", "MYSQL_TLS": "unverified", "MYSQL_CA": "/etc/ca.pem""#,
                DatabaseTlsMode::Unverified,
                &[UNVERIFIED, UNUSED_CA],
            ),
            (
                r#", "MYSQL_TLS": "Insecure""#,
                DatabaseTlsMode::Insecure,
                &[INSECURE],
            ),
            (
                r#", "MYSQL_CA": "/etc/ca.pem""#,
                DatabaseTlsMode::Off,
                &[UNUSED_CA],
            ),
            (
                r#", "MYSQL_TLS": "insecure", "GM_STORE": "sqlite""#,
                DatabaseTlsMode::Insecure,
                &[],
            ),
        ] {
            let config = Config::from_json(&format!(r#"{{"MYSQL_DB": "m"{text}}}"#));
            let config = config.unwrap();
            assert_eq!(config.mysql_tls, mode, "{text}");
            assert_eq!(config.warnings, warnings, "{text}");
            let is_named = config.mysql_ca_file.is_some();
            assert_eq!(is_named, text.contains("ca.pem"), "{text}");
        }
    }
}
