//! PEM files with certificates and keys: reading them, and describing other content found in them.

use std::io;
use std::path::{Display, Path};

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use crate::os::regular_file::{PIPE_TIMEOUT, read_file_or_pipe};

/// The expected content of a PEM file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemKind {
    /// The server's certificate and its issuers.
    Chain,
    /// A private key.
    Key,
}

impl PemKind {
    /// Returns the configuration key that names the file.
    pub fn pem_file_config_key(self) -> &'static str {
        match self {
            PemKind::Chain => "GSMTP_PUB_KEY",
            PemKind::Key => "GSMTP_PRV_KEY",
        }
    }

    /// Returns the expected content in words.
    pub fn expected_pem_content(self) -> &'static str {
        match self {
            PemKind::Chain => "a certificate in PEM form",
            PemKind::Key => "a private key (PKCS#8, PKCS#1 or SEC1)",
        }
    }
}

/// Reads a file of at most [`MAX_PEM_OCTETS`], without the byte order mark that some editors put at its start.
///
/// # Errors
/// The file cannot be read, is a pipe that does not end, or is too long ([`io::ErrorKind::FileTooLarge`]).
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut octets = read_unchanged(file)?;
    if octets.starts_with(UTF8_MARK) {
        octets.drain(..UTF8_MARK.len());
    }
    Ok(octets)
}

/// Reads a file as [`read`] does, but with its byte order mark, if it has one.
///
/// # Errors
/// As [`read`].
pub fn read_unchanged(file: &Path) -> io::Result<Vec<u8>> {
    read_file_or_pipe(file, MAX_PEM_OCTETS, PIPE_TIMEOUT)
}

/// Returns a description of what `file` contains instead of `wanted`, and the fix. `octets` is the content of `file`.
pub fn describe_wrong_pem_content(octets: &[u8], wanted: PemKind, file: &Path) -> String {
    let file = &file.display();
    if octets.trim_ascii().is_empty() {
        return "an empty file".to_owned();
    }
    if matches!(
        octets,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..]
    ) {
        return "UTF-16 text; save it as ASCII or UTF-8".to_owned();
    }
    if octets.starts_with(JAVA_KEY_STORE) {
        return format!(
            "a Java keystore; convert it with keytool -importkeystore -srckeystore {file} -deststoretype PKCS12 \
             -destkeystore {file}.p12, then with openssl pkcs12"
        );
    }
    describe_der_file_and_fix(octets, wanted, file)
        .or_else(|| describe_unwanted_pem_block(&String::from_utf8_lossy(octets), wanted, file))
        .unwrap_or_else(|| "none".to_owned())
}

fn describe_der_file_and_fix(octets: &[u8], wanted: PemKind, file: &Display) -> Option<String> {
    let elements = der_sequence_elements(octets)?;
    let tags: Vec<Tag> = elements.iter().map(Any::tag).collect();
    let version = elements.first().map(Any::as_bytes).unwrap_or_default();
    if X509Certificate::from_der(octets).is_ok() {
        let command = format!("openssl x509 -inform DER -in {file} -out {file}.pem");
        return Some(format!("a certificate in DER form; convert it: {command}"));
    }
    if X509CertificationRequest::from_der(octets).is_ok() {
        return Some(signing_request_hint(wanted));
    }
    Some(match tags.as_slice() {
        [Tag::Integer, Tag::Sequence, ..] if version == [3] => {
            let command = match wanted {
                PemKind::Chain => format!("openssl pkcs12 -in {file} -nokeys -out {file}.pem"),
                PemKind::Key => {
                    format!("openssl pkcs12 -in {file} -nocerts -nodes -out {file}.pem")
                }
            };
            format!("a PKCS#12 file; take the PEM part out of it: {command}")
        }
        [Tag::Integer, Tag::Sequence, Tag::OctetString, ..]
        | [Tag::Integer, Tag::OctetString, ..]
        | [Tag::Integer, Tag::Integer, Tag::Integer, ..]
        | [Tag::Sequence, Tag::OctetString] => {
            let command = format!("openssl pkey -inform DER -in {file} -out {file}.pem");
            let hint = swapped_pem_files_hint(PemKind::Key, wanted);
            format!("a private key in DER form{hint}; convert it: {command}")
        }
        _ => "octets in DER form; convert them to PEM with openssl".to_owned(),
    })
}

fn describe_unwanted_pem_block(text: &str, wanted: PemKind, file: &Display) -> Option<String> {
    let labels: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("-----BEGIN ")?.split("-----").next())
        .collect();
    let has = |label: &str| labels.contains(&label);
    let is_key = |label: &&str| label.ends_with("PRIVATE KEY");
    // rustls-pemfile returns an error for a key block with a Proc-Type header (encrypted), even if valid blocks follow.
    let is_old_encrypted = text
        .lines()
        .any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"));
    let is_encrypted =
        has("ENCRYPTED PRIVATE KEY") && (wanted == PemKind::Key || !has("CERTIFICATE"));
    let found = if is_old_encrypted || is_encrypted {
        let hint = match has("CERTIFICATE") {
            true => "",
            false => swapped_pem_files_hint(PemKind::Key, wanted),
        };
        format!(
            "an encrypted private key{hint}; store it without its passphrase: openssl pkey -in {file} -out {file}.plain"
        )
    } else if has("OPENSSH PRIVATE KEY") {
        "a key of OpenSSH; make one for TLS: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256".to_owned()
    } else if has("CERTIFICATE") && wanted == PemKind::Chain
        || labels.iter().any(is_key) && wanted == PemKind::Key
    {
        let label = match wanted {
            PemKind::Chain => "CERTIFICATE",
            PemKind::Key => labels.iter().copied().find(|label| is_key(label))?,
        };
        if label == "DSA PRIVATE KEY" {
            return Some(format!(
                "a DSA key, which TLS no longer uses; {NEW_KEY_HINT}"
            ));
        }
        format!("a block \"BEGIN {label}\" that is damaged or not complete; copy the file again")
    } else if has("CERTIFICATE") {
        format!(
            "a certificate{}",
            swapped_pem_files_hint(PemKind::Chain, wanted)
        )
    } else if labels.iter().any(is_key) {
        format!(
            "a private key{}",
            swapped_pem_files_hint(PemKind::Key, wanted)
        )
    } else if labels
        .iter()
        .any(|label| label.ends_with("CERTIFICATE REQUEST"))
    {
        signing_request_hint(wanted)
    } else if has("TRUSTED CERTIFICATE") || has("X509 CERTIFICATE") {
        let command = format!("openssl x509 -in {file} -out {file}.pem");
        format!("a certificate in another form; convert it: {command}")
    } else if has("PKCS7") || has("CMS") {
        let command = format!("openssl pkcs7 -print_certs -in {file} -out {file}.pem");
        format!("a PKCS#7 file; take the certificates out of it: {command}")
    } else if labels.iter().any(|label| label.ends_with("PUBLIC KEY")) {
        match wanted {
            PemKind::Chain => "a public key alone; name the certificate that was issued for it",
            PemKind::Key => "a public key; name the private one",
        }
        .to_owned()
    } else {
        let label: String = labels.first()?.chars().take(MAX_LABEL_SHOWN).collect();
        format!("a block \"BEGIN {}\"", label.escape_debug())
    };
    Some(found)
}

fn swapped_pem_files_hint(found: PemKind, wanted: PemKind) -> &'static str {
    match found == wanted {
        true => "",
        false => {
            "; GSMTP_PUB_KEY names the file of the certificates, GSMTP_PRV_KEY that of the key: are they swapped?"
        }
    }
}

fn signing_request_hint(wanted: PemKind) -> String {
    match wanted {
        PemKind::Chain => {
            "a certificate signing request; name the certificate that the authority issued for it"
        }
        PemKind::Key => "a certificate signing request; name the key that it was made with",
    }
    .to_owned()
}

/// Returns the elements of the DER sequence `der`, or `None` if `der` is not a valid sequence.
pub fn der_sequence_elements(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (_, sequence) = Any::from_der(der).ok()?;
    if sequence.tag() != Tag::Sequence {
        return None;
    }
    let mut rest = sequence.data;
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let (remainder, element) = Any::from_der(rest).ok()?;
        elements.push(element);
        rest = remainder;
    }
    Some(elements)
}

/// The fix in error messages about unsuitable keys: a command that creates an RSA key, which every client supports.
pub const NEW_KEY_HINT: &str = "make a new key and have a certificate issued for it: openssl req -new -newkey rsa:2048 -nodes \
                           -keyout mx.key.pem -out mx.csr.pem";

/// Maximum size of a PEM file in octets (1 MiB); a longer file is an error. A usual certificate chain has about 10 kB.
const MAX_PEM_OCTETS: u64 = 1 << 20;
/// Maximum number of characters of a PEM label in an error text; the rest is left out. A file may contain a label of any
/// length.
const MAX_LABEL_SHOWN: usize = 40;
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";
const JAVA_KEY_STORE: &[u8] = b"\xfe\xed\xfe\xed";
