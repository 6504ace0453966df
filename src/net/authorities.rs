//! The authorities that a server's certificate must come from: those in Mozilla's list, and those in a file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, version};

use super::ca_file::read_ca_file;
use super::tls::TlsFilesError;

/// Returns Mozilla's authorities and those in `ca_file`, which the configuration key `key` names.
///
/// # Errors
/// [`TlsFilesError`]: the file cannot be read, or a certificate in it is missing or cannot be used.
pub fn load_authorities(
    key: &'static str,
    ca_file: Option<&Path>,
) -> Result<RootCertStore, TlsFilesError> {
    let mut authorities = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(file) = ca_file {
        let own = read_ca_file(file).map_err(|error| ca_file_error(key, file, error))?;
        authorities.extend(own.roots);
    }
    Ok(authorities)
}

fn ca_file_error(key: &'static str, file: &Path, error: io::Error) -> TlsFilesError {
    match error.kind() {
        io::ErrorKind::InvalidData => TlsFilesError::Unusable(format!(
            "{key}: {}: {error}; name a PEM file with the certificates of authorities",
            file.display()
        )),
        _ => TlsFilesError::Unreadable {
            key,
            file: file.to_owned(),
            source: error,
        },
    }
}

/// Returns a configuration for connections to servers whose certificate one of `authorities` issued. Sessions are not resumed,
/// because the configuration is made for one connection.
///
/// # Errors
/// The crypto provider supports no cipher suite of TLS 1.2 or 1.3.
pub fn tls_client_config(authorities: RootCertStore) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config)
}
