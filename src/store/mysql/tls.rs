//! TLS to the database, and how a password may be sent without TLS: MYSQL_TLS and MYSQL_CA.

use std::net::IpAddr;
use std::path::PathBuf;

use mysql::{OptsBuilder, SslOpts};
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use super::connect_failure::MySqlConnectFailure;
use crate::net::ca_file::read_ca_file;

/// How connections over TCP are protected. A connection to a Unix socket does not leave the machine and needs no protection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MySqlTls {
    /// No TLS. A host that is not loopback never gets the password in a form that a listener can recover.
    Off,
    /// No TLS, and no condition on how the password is sent.
    Insecure,
    /// TLS with any server that answers.
    Unverified,
    /// TLS with a server whose certificate names it and is signed by an authority: one of Mozilla's, or one in the file.
    Verified {
        /// The file that MYSQL_CA names.
        ca_file: Option<PathBuf>,
    },
}

impl MySqlTls {
    /// Returns whether connections over TCP use TLS.
    pub fn is_on(&self) -> bool {
        matches!(self, MySqlTls::Unverified | MySqlTls::Verified { .. })
    }

    /// Adds the options for a connection to `address`, which is `None` if the driver resolves a name.
    pub fn add_driver_options(&self, options: OptsBuilder, address: Option<IpAddr>) -> OptsBuilder {
        let is_loopback = address.is_some_and(|address| address.to_canonical().is_loopback());
        match self {
            MySqlTls::Off if !is_loopback => options.server_key_path(Some(NO_KEY_FILE.into())),
            MySqlTls::Off | MySqlTls::Insecure => options,
            MySqlTls::Unverified => {
                install_default_provider();
                options.ssl_opts(SslOpts::default().with_danger_accept_invalid_certs(true))
            }
            MySqlTls::Verified { ca_file } => {
                install_default_provider();
                options
                    .ssl_opts(SslOpts::default().with_root_cert_path(ca_file.clone()))
                    // Only a verified server may get the password as it is (mysql_clear_password).
                    .enable_cleartext_plugin(true)
            }
        }
    }

    /// Checks that the file of authorities can be read now. The driver reads it for each connection, but its errors do not name
    /// the file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no usable certificate.
    pub fn check_ca_file(&self) -> Result<(), MySqlConnectFailure> {
        let MySqlTls::Verified {
            ca_file: Some(file),
        } = self
        else {
            return Ok(());
        };
        (read_ca_file(file).map(drop))
            .map_err(|error| MySqlConnectFailure::unusable_ca_file(file, &error))
    }
}

/// Sets the provider of cryptography that the driver uses, unless the process has already chosen one. rustls would choose the
/// same one, but only while no other crate of the program adds a second provider.
fn install_default_provider() {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread has installed a provider in the meantime.
        let _ = aws_lc_rs::default_provider().install_default();
    }
}

/// A file that cannot exist. With full authentication of caching_sha2_password the driver encrypts the password with the RSA
/// key in this file, and not with a key that the server or anybody in between sends. As there is no file, it sends nothing.
const NO_KEY_FILE: &str = "/dev/null/no-key";
