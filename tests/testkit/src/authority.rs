//! An authority that issues certificates for test servers.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

use super::certificates::Pair;

/// An authority with its own key. Its certificate is in a PEM file.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The certificate and key of the authority itself.
    pub pair: Pair,
    folder: PathBuf,
}

impl Authority {
    /// Makes `NAME.cert.pem` and `NAME.key.pem` in `folder`, where the issued certificates are written too.
    pub fn make(folder: &Path, name: &str) -> Authority {
        let mut parameters = parameters(name, &[], 365);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(parameters, key()).expect("a certificate");
        let pair = write(folder, name, &issuer.pem(), issuer.key());
        Authority {
            issuer,
            pair,
            folder: folder.to_owned(),
        }
    }

    /// Issues `NAME.cert.pem` and `NAME.key.pem` for these DNS names and IP addresses, valid for `days` days from now; -1 makes
    /// an expired certificate.
    pub fn issue(&self, name: &str, hosts: &[&str], days: i64) -> Pair {
        let key = key();
        let certificate = parameters(name, hosts, days).signed_by(&key, &self.issuer);
        let certificate = certificate.expect("a certificate");
        write(&self.folder, name, &certificate.pem(), &key)
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")
}

fn parameters(name: &str, hosts: &[&str], days: i64) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts).expect("names and addresses");
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let end = OffsetDateTime::now_utc() + Duration::days(days);
    // One that has expired was valid for a day.
    parameters.not_before = OffsetDateTime::now_utc().min(end) - Duration::days(1);
    parameters.not_after = end;
    parameters
}

fn write(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> Pair {
    let file = |end: &str| folder.join(format!("{name}.{end}"));
    let (chain, key_file) = (file("cert.pem"), file("key.pem"));
    fs::write(&chain, certificate).expect("a file is written");
    fs::write(&key_file, key.serialize_pem()).expect("a file is written");
    fs::set_permissions(&key_file, Permissions::from_mode(0o600)).expect("the mode is set");
    Pair {
        chain,
        key: key_file,
    }
}
