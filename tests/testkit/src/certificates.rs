//! Private keys and self-signed certificates for mx.test, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

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
        let (chain, key, request) = (file("cert.pem"), file("key.pem"), file("csr.pem"));
        let new_key: &[&str] = match kind {
            KeyKind::EcdsaP256 => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
            KeyKind::Rsa2048 => &["-newkey", "rsa:2048"],
        };
        openssl(&["req", "-new", "-nodes"], |command| {
            command.args(new_key);
            command.args([
                "-subj",
                "/CN=mx.test",
                "-addext",
                "subjectAltName=DNS:mx.test",
            ]);
            command.arg("-keyout").arg(&key).arg("-out").arg(&request);
        });
        openssl(
            &["x509", "-req", "-copy_extensions", "copyall"],
            |command| {
                command.arg("-days").arg(days.to_string());
                command.arg("-in").arg(&request).arg("-signkey").arg(&key);
                command.arg("-out").arg(&chain);
            },
        );
        Pair { chain, key }
    }

    /// Returns the same certificate with its key in the traditional form: PKCS#1 for RSA, SEC1 for elliptic curves.
    pub fn with_traditional_key(&self, folder: &Path) -> Pair {
        let key = folder.join("traditional.key.pem");
        openssl(&["pkey", "-traditional"], |command| {
            command.arg("-in").arg(&self.key).arg("-out").arg(&key);
        });
        let chain = self.chain.clone();
        Pair { chain, key }
    }
}

fn openssl(arguments: &[&str], add: impl FnOnce(&mut Command)) {
    let mut command = Command::new("openssl");
    command.args(arguments);
    add(&mut command);
    let output = command.output().expect("openssl is installed");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
