//! A PEM file of CA certificates: this program accepts a server that it connects to if one of them has issued its certificate.

use std::io;
use std::path::Path;

use rustls::RootCertStore;

use super::pem_file;

/// Reads the CA certificates in a PEM file.
///
/// # Errors
/// The file cannot be read, contains no certificate, or contains one that cannot be used. The text does not name the file.
pub fn read_ca_file(file: &Path) -> io::Result<RootCertStore> {
    let octets = pem_file::read_unchanged(file)?;
    let mut authorities = RootCertStore::empty();
    for (index, certificate) in rustls_pemfile::certs(&mut octets.as_slice()).enumerate() {
        let invalid = |reason: String| {
            let number = index + 1;
            let text = format!("certificate {number} of the file cannot be used: {reason}");
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let certificate = certificate.map_err(|error| invalid(error.to_string()))?;
        authorities
            .add(certificate)
            .map_err(|error| invalid(error.to_string()))?;
    }
    match authorities.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the file holds no certificate in PEM form",
        )),
        false => Ok(authorities),
    }
}
