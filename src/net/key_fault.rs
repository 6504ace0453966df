//! Finds out why rustls rejected a certificate and a key although both files could be read.

use std::path::Path;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::pem_file::{NEW_KEY_HINT, der_sequence_elements};

/// Returns the fault and its fix in one line that begins with the configuration key. Returns `None` if no fault is found in the
/// certificates or in the key; the caller then reports that they do not belong together.
pub fn find_certificate_or_key_fault(
    chain: &[CertificateDer],
    key: &PrivateKeyDer,
    chain_file: &Path,
    key_file: &Path,
) -> Option<String> {
    let (chain_file, key_file) = (chain_file.display(), key_file.display());
    let Ok(signing_key) = any_supported_type(key) else {
        let expected =
            "expected an RSA key of 2048 to 8192 bits or an EC key on P-256, P-384 or P-521";
        let found = describe_private_key(key)?;
        return Some(format!(
            "GSMTP_PRV_KEY: {expected} in {key_file}, but found {found}; {NEW_KEY_HINT}"
        ));
    };
    let certificates: Vec<X509Certificate> = chain
        .iter()
        .filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1))
        .collect();
    let server_certificate = certificates.first()?;
    let spki = signing_key.public_key()?;
    let key_owner = certificates
        .iter()
        .position(|certificate| certificate.public_key().raw == &spki[..]);
    if let Some(bits) = rsa_bits(server_certificate).filter(|bits| *bits < MIN_RSA_BITS) {
        return Some(format!(
            "GSMTP_PUB_KEY: expected an RSA key of at least {MIN_RSA_BITS} bits in the certificate in {chain_file}, but found one \
             of {bits} bits; {NEW_KEY_HINT}"
        ));
    }
    let algorithm = &server_certificate.public_key().algorithm;
    let parameters = algorithm.parameters.as_ref().map(Any::tag);
    if algorithm.oid().to_id_string() == EC && parameters != Some(Tag::Oid) {
        return Some(format!(
            "GSMTP_PUB_KEY: expected a named curve in the certificate in {chain_file}, but found an EC key with explicit \
             parameters, which TLS clients refuse; {NEW_KEY_HINT}"
        ));
    }
    match key_owner {
        Some(0) if server_certificate.version().0 < 2 => Some(format!(
            "GSMTP_PUB_KEY: expected a certificate of X.509 version 3 in {chain_file}, but found version {}, which TLS clients \
             refuse; issue it again with the extension subjectAltName (openssl x509 -req … -extfile FILE)",
            server_certificate.version().0 + 1
        )),
        Some(index @ 1..) => Some(format!(
            "GSMTP_PUB_KEY: expected the server's certificate first in {chain_file}, but the key in {key_file} belongs to certificate \
             {} of it; put that one first and after each certificate its issuer: cat mx.pem intermediate.pem > {chain_file}",
            index + 1
        )),
        _ => None,
    }
}

/// Returns the size of the certificate's RSA key, or `None` for other keys.
pub fn rsa_bits(certificate: &X509Certificate) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(bit_length(key.modulus)),
        _ => None,
    }
}

/// Returns a description of the key's algorithm and of its size or curve, or `None` if the key cannot be parsed.
fn describe_private_key(key: &PrivateKeyDer) -> Option<String> {
    match key {
        PrivateKeyDer::Pkcs1(key) => describe_rsa_key(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => {
            let elements = der_sequence_elements(key.secret_sec1_der())?;
            // In an ECPrivateKey the parameters have the tag [0] (RFC 5915).
            let parameters = elements.iter().find(|element| element.tag() == Tag(0))?;
            let (_, curve) = Any::from_der(parameters.data).ok()?;
            Some(describe_curve(Some(curve)))
        }
        PrivateKeyDer::Pkcs8(key) => {
            let elements = der_sequence_elements(key.secret_pkcs8_der())?;
            let algorithm = elements.get(1)?;
            let (rest, name) = Any::from_der(algorithm.data).ok()?;
            let oid = name.oid().ok()?.to_id_string();
            match oid.as_str() {
                RSA => describe_rsa_key(elements.get(2)?.data),
                EC => Some(describe_curve(
                    Any::from_der(rest).ok().map(|(_, curve)| curve),
                )),
                _ => Some(look_up_oid_name(ALGORITHMS, &oid, "a key of algorithm")),
            }
        }
        _ => None,
    }
}

fn describe_rsa_key(pkcs1: &[u8]) -> Option<String> {
    let elements = der_sequence_elements(pkcs1)?;
    let bits = bit_length(elements.get(1)?.data);
    Some(format!("an RSA key of {bits} bits"))
}

fn describe_curve(curve: Option<Any>) -> String {
    let oid = curve.and_then(|curve| curve.oid().ok());
    match oid.as_ref().map(Oid::to_id_string) {
        Some(oid) => look_up_oid_name(CURVES, &oid, "an EC key on curve"),
        None => "an EC key with explicit parameters".to_owned(),
    }
}

fn look_up_oid_name(names: &[(&str, &str)], oid: &str, otherwise: &str) -> String {
    let known = names.iter().find(|(known, _)| *known == oid);
    known.map_or_else(
        || format!("{otherwise} {oid}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Returns the size of the DER integer `number` in bits, without leading zero octets.
fn bit_length(number: &[u8]) -> usize {
    let start = number.iter().position(|octet| *octet != 0);
    match start.and_then(|start| number.get(start..)) {
        Some([first, rest @ ..]) => 8 * (rest.len() + 1) - first.leading_zeros() as usize,
        _ => 0,
    }
}

/// Minimum size of an RSA key in bits; aws-lc and current clients reject smaller keys.
pub const MIN_RSA_BITS: usize = 2048;

const RSA: &str = "1.2.840.113549.1.1.1";
const EC: &str = "1.2.840.10045.2.1";
const ALGORITHMS: &[(&str, &str)] = &[
    (
        "1.2.840.113549.1.1.10",
        "an RSASSA-PSS key, which TLS libraries seldom take",
    ),
    ("1.2.840.10040.4.1", "a DSA key, which TLS no longer uses"),
    ("1.3.101.110", "an X25519 key, which cannot sign"),
    ("1.3.101.111", "an X448 key, which cannot sign"),
    ("1.3.101.113", "an Ed448 key"),
];
const CURVES: &[(&str, &str)] = &[
    ("1.3.132.0.10", "an EC key on curve secp256k1"),
    ("1.3.132.0.33", "an EC key on curve P-224"),
    ("1.2.840.10045.3.1.1", "an EC key on curve P-192"),
    ("1.3.36.3.3.2.8.1.1.7", "an EC key on curve brainpoolP256r1"),
    (
        "1.3.36.3.3.2.8.1.1.11",
        "an EC key on curve brainpoolP384r1",
    ),
    (
        "1.3.36.3.3.2.8.1.1.13",
        "an EC key on curve brainpoolP512r1",
    ),
];
