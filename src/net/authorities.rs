//! The authorities that a server's certificate must come from: those in Mozilla's list, and those in a file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore, version};

use super::pem_file::PemKind;
use super::tls::{TlsFilesError, read_pem};

/// Returns Mozilla's authorities and those in `ca_file`, which the configuration key `key` names. A certificate of the file
/// that TLS cannot use is skipped, because the bundle of an operating system may contain one.
///
/// # Errors
/// [`TlsFilesError`]: the file cannot be read, or contains no certificate that TLS can use.
pub fn load_authorities(
    key: &'static str,
    ca_file: Option<&Path>,
) -> Result<RootCertStore, TlsFilesError> {
    let mut authorities = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    if let Some(file) = ca_file {
        let mozilla = authorities.len();
        authorities = read_pem(PemKind::Authorities { key }, file, |mut pem| {
            let certificates = rustls_pemfile::certs(&mut pem).collect::<io::Result<Vec<_>>>()?;
            let mut all = authorities.clone();
            all.add_parsable_certificates(certificates);
            Ok((all.len() > mozilla).then_some(all))
        })?;
    }
    Ok(authorities)
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
