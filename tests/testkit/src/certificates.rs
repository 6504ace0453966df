//! Private keys and certificates, made anew for each test: self-signed ones for mx.test, and those of an authority.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use time::{Duration, OffsetDateTime};

use crate::needs_program;

/// The type of a private key.
#[derive(Clone, Copy, Debug)]
pub enum KeyKind {
    EcdsaP256,
    Rsa2048,
}

/// The PEM files of a certificate and its PKCS#8 key.
#[derive(Clone, Debug)]
pub struct Pair {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// Makes `NAME.cert.pem` and `NAME.key.pem`, valid for `days` days from now; -1 makes an expired certificate.
    pub fn make(folder: &Path, name: &str, kind: KeyKind, days: i32) -> Pair {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        let (chain, key) = (file("cert.pem"), file("key.pem"));
        let algorithm = match kind {
            KeyKind::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            // aws-lc generates keys of 2048 bits.
            KeyKind::Rsa2048 => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(algorithm).expect("a key");
        let names = vec!["mx.test".to_owned()];
        let mut parameters = CertificateParams::new(names).expect("a DNS name");
        parameters.distinguished_name = common_name("mx.test");
        set_validity(&mut parameters, days);
        let certificate = parameters.self_signed(&pair).expect("a certificate");
        Pair { chain, key }.written(&certificate.pem(), &pair)
    }

    fn written(self, certificate: &str, key: &KeyPair) -> Pair {
        fs::write(&self.chain, certificate).expect("a file is written");
        fs::write(&self.key, key.serialize_pem()).expect("a file is written");
        fs::set_permissions(&self.key, Permissions::from_mode(0o600)).expect("the mode is set");
        self
    }

    /// Returns the same certificate with its key in the traditional form: PKCS#1 for RSA, SEC1 for elliptic curves. Needs
    /// openssl.
    pub fn with_traditional_key(&self, folder: &Path) -> Pair {
        needs_program("openssl");
        let key = folder.join("traditional.key.pem");
        let mut command = Command::new("openssl");
        command.args(["pkey", "-traditional", "-in"]).arg(&self.key);
        command.arg("-out").arg(&key);
        let output = command.output().expect("openssl starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {errors}");
        let chain = self.chain.clone();
        Pair { chain, key }
    }
}

/// An authority that signs the certificates of servers.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    /// The PEM file of its own certificate.
    pub file: PathBuf,
}

impl Authority {
    /// Makes an authority whose certificate is in `NAME.ca.pem`.
    pub fn make(folder: &Path, name: &str) -> Authority {
        let mut parameters = CertificateParams::new(Vec::new()).expect("no name");
        parameters.distinguished_name = common_name(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        set_validity(&mut parameters, 1);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        let file = folder.join(format!("{name}.ca.pem"));
        fs::write(&file, issuer.pem()).expect("a file is written");
        Authority {
            issuer,
            folder: folder.to_owned(),
            file,
        }
    }

    /// Makes `NAME.cert.pem` and `NAME.key.pem` with the certificate and key of the authority itself.
    pub fn own_pair(&self, name: &str) -> Pair {
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        let (chain, key) = (file("cert.pem"), file("key.pem"));
        Pair { chain, key }.written(&self.issuer.pem(), self.issuer.key())
    }

    /// Makes `NAME.cert.pem` and `NAME.key.pem` for these host names and addresses, valid for `days` days from now; -1 makes
    /// an expired certificate.
    pub fn issue(&self, name: &str, hosts: &[&str], days: i32) -> Pair {
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut parameters = CertificateParams::new(hosts).expect("names or addresses");
        parameters.distinguished_name = common_name(name);
        set_validity(&mut parameters, days);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer);
        let file = |end: &str| self.folder.join(format!("{name}.{end}"));
        let (chain, key_file) = (file("cert.pem"), file("key.pem"));
        Pair {
            chain,
            key: key_file,
        }
        .written(&certificate.expect("a certificate").pem(), &key)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

/// Sets the dates: valid from now, or for -1 until a day ago.
fn set_validity(parameters: &mut CertificateParams, days: i32) {
    let (now, end) = (OffsetDateTime::now_utc(), Duration::days(days.into()));
    parameters.not_before = now.min(now + end * 2) - Duration::minutes(1);
    parameters.not_after = now + end;
}
