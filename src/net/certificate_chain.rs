//! Warnings about a certificate chain that is usable but has faults, for the startup log and `check`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::key_fault::{MIN_RSA_BITS, rsa_bits};

/// Returns the expiry time of the first certificate, or 1970 if `chain` is empty or the certificate cannot be parsed.
pub fn certificate_expiry_time(chain: &[CertificateDer]) -> SystemTime {
    let first = chain.first().and_then(|der| parse(der));
    first.map_or(SystemTime::UNIX_EPOCH, |first| {
        asn1_to_system_time(first.validity().not_after)
    })
}

/// Returns one warning for each fault at time `now`: validity dates, order, missing certificates, keys that few senders
/// support.
pub fn certificate_warnings(chain: &[CertificateDer], file: &Path, now: SystemTime) -> Vec<String> {
    let certificates: Vec<X509Certificate> = chain.iter().filter_map(|der| parse(der)).collect();
    let texts = match certificates.len() == chain.len() {
        true => CertificateChain {
            certificates,
            file: file.display(),
        }
        .warnings(now),
        false => vec![format!(
            "a block in {} is not a readable certificate; copy the file again",
            file.display()
        )],
    };
    texts
        .into_iter()
        .map(|warning| format!("GSMTP_PUB_KEY: {warning}"))
        .collect()
}

struct CertificateChain<'a> {
    certificates: Vec<X509Certificate<'a>>,
    file: std::path::Display<'a>,
}

impl CertificateChain<'_> {
    fn warnings(&self, now: SystemTime) -> Vec<String> {
        let mut warnings = self.certificate_date_warnings(now);
        warnings.extend(self.certificate_order_warnings());
        warnings.extend(self.weak_key_warnings());
        warnings
    }

    fn certificate_date_warnings(&self, now: SystemTime) -> Vec<String> {
        let file = &self.file;
        let mut warnings = Vec::new();
        for (index, certificate) in self.certificates.iter().enumerate() {
            let validity = certificate.validity();
            let name = self.certificate_name_for_warning(index);
            if asn1_to_system_time(validity.not_before) > now {
                warnings.push(format!(
                    "{name} in {file} is not valid before {}; check the clock of this machine, clients may refuse it",
                    validity.not_before
                ));
                continue;
            }
            match asn1_to_system_time(validity.not_after).duration_since(now) {
                Err(_) if index == 0 => warnings.push(format!(
                    "{name} in {file} has expired; renew it, clients may refuse it"
                )),
                Err(_) => warnings.push(format!(
                    "{name} in {file} has expired; use the chain that its issuer currently provides"
                )),
                Ok(remaining) if remaining < RENEW_WITHIN && index == 0 => warnings.push(format!(
                    "{name} in {file} expires in {} days; renew it",
                    remaining.as_secs() / 86_400
                )),
                Ok(_) => {}
            }
        }
        warnings
    }

    /// Returns warnings about order and completeness of the certificates. In TLS 1.2 each certificate must be followed by its
    /// issuer (RFC 5246 §7.4.2), and some clients fail if the order is wrong.
    fn certificate_order_warnings(&self) -> Vec<String> {
        let file = &self.file;
        let path = self.issuer_chain_indexes();
        let mut warnings = Vec::new();
        if path
            .iter()
            .enumerate()
            .any(|(position, index)| position != *index)
        {
            let numbers: Vec<String> = path.iter().map(|index| (index + 1).to_string()).collect();
            warnings.push(format!(
                "the certificates in {file} are in the wrong order, each has to be followed by its issuer; put them in the order {}",
                numbers.join(", ")
            ));
        }
        let is_issuer_in_path = |index: &usize| {
            let subject = self.subject_name_der(*index);
            path.iter()
                .any(|member| self.issuer_name_der(*member) == subject)
        };
        let unrelated = (0..self.certificates.len())
            .filter(|index| !path.contains(index) && !is_issuer_in_path(index));
        for index in unrelated {
            warnings.push(format!(
                "{} in {file} is not an issuer of the first one; remove it",
                self.certificate_name_for_warning(index)
            ));
        }
        if path.len() == 1 && self.issuer_name_der(0) != self.subject_name_der(0) {
            let issuer = self
                .certificates
                .first()
                .map(|certificate| certificate.issuer().to_string());
            warnings.push(format!(
                "the certificate of the issuer, \"{}\", is not in {file}, so most clients cannot verify the certificate; append the \
                 intermediate certificates (certbot: take fullchain.pem, not cert.pem)",
                issuer.unwrap_or_default().escape_debug()
            ));
        }
        warnings
    }

    fn weak_key_warnings(&self) -> Vec<String> {
        let file = &self.file;
        let mut warnings = Vec::new();
        for (index, certificate) in self.certificates.iter().enumerate() {
            let algorithm = certificate.public_key().algorithm.oid().to_id_string();
            let name = self.certificate_name_for_warning(index);
            match algorithm.as_str() {
                ED25519 => warnings.push(format!(
                    "{name} in {file} has an Ed25519 key, which many senders cannot use; use one with an RSA or ECDSA P-256 key"
                )),
                _ => warnings.extend(rsa_bits(certificate).filter(|bits| *bits < MIN_RSA_BITS).map(|bits| {
                    format!("{name} in {file} has an RSA key of {bits} bits, which clients may refuse; they expect {MIN_RSA_BITS}")
                })),
            }
        }
        warnings
    }

    /// Returns the indexes of the server's certificate, its issuer, the issuer's issuer and so on, until an issuer is not in
    /// the file.
    fn issuer_chain_indexes(&self) -> Vec<usize> {
        let mut path = vec![0];
        let mut last = 0;
        while self.issuer_name_der(last) != self.subject_name_der(last) {
            let issuer = self.issuer_name_der(last);
            let is_next =
                |index: &usize| !path.contains(index) && self.subject_name_der(*index) == issuer;
            // Several certificates have the issuer's name if it is cross-signed. Takes the first one after `last` in the file,
            // because a chain file has each issuer after its certificate; if there is none, the first one before `last`.
            let following = last + 1..self.certificates.len();
            let Some(next) = following.chain(0..last).find(is_next) else {
                break;
            };
            path.push(next);
            last = next;
        }
        path
    }

    fn subject_name_der(&self, index: usize) -> &[u8] {
        let certificate = self.certificates.get(index);
        certificate.map_or(&[], |certificate| certificate.subject().as_raw())
    }

    fn issuer_name_der(&self, index: usize) -> &[u8] {
        let certificate = self.certificates.get(index);
        certificate.map_or(&[], |certificate| certificate.issuer().as_raw())
    }

    fn certificate_name_for_warning(&self, index: usize) -> String {
        if index == 0 {
            return "the certificate".to_owned();
        }
        let certificate = self.certificates.get(index);
        let subject = certificate.map(|certificate| certificate.subject().to_string());
        let subject = subject.unwrap_or_default();
        format!("certificate {}, \"{}\",", index + 1, subject.escape_debug())
    }
}

fn parse<'a>(der: &'a CertificateDer) -> Option<X509Certificate<'a>> {
    Some(X509Certificate::from_der(der).ok()?.1)
}

fn asn1_to_system_time(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.timestamp().max(0) as u64)
}

const ED25519: &str = "1.3.101.112";
/// If the server's certificate expires within this time, a warning is issued. Two weeks leave time to repair a failed renewal.
const RENEW_WITHIN: Duration = Duration::from_secs(14 * 86_400);
