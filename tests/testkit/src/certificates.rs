//! Private keys and self-signed certificates for mx.test, made anew for each test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
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
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "mx.test");
        let now = OffsetDateTime::now_utc();
        parameters.not_before = now.min(now + Duration::days(days.into()));
        parameters.not_after = now + Duration::days(days.into());
        let certificate = parameters.self_signed(&pair).expect("a certificate");
        fs::write(&chain, certificate.pem()).expect("a file is written");
        fs::write(&key, pair.serialize_pem()).expect("a file is written");
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("the mode is set");
        Pair { chain, key }
    }

    /// Returns the same certificate with its key in the traditional form: PKCS#1 for RSA, SEC1 for elliptic curves. Needs openssl.
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
