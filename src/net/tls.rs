//! The TLS certificate and private key: loaded from PEM files, checked, and replaced without a restart.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, version};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem_file::{self, PemKind};
use super::{certificate_chain, key_fault};

/// The files of a certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM file: the server's certificate first, then its issuers.
    pub chain_file: PathBuf,
    /// PEM file: a key in PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

/// A certificate chain and its private key, as loaded from their files.
#[derive(Clone)]
pub struct TlsCredentials {
    files: TlsFiles,
    config: Arc<ServerConfig>,
    chain: Arc<[CertificateDer<'static>]>,
    fingerprint: TlsFilesFingerprint,
}

/// Inode, modification time (seconds, nanoseconds) and size of the chain file and the key file; `None` for a missing file.
pub type TlsFilesFingerprint = [Option<(u64, i64, i64, u64)>; 2];

/// Why certificate and key cannot be loaded; the text names the configuration key, the file and the fix.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}; name a file this user may read", .file.display())]
    Unreadable {
        /// The configuration key.
        key: &'static str,
        /// The file that this key names.
        file: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// A file does not hold the expected PEM block.
    #[error("{key}: expected {expected} in {}, but found {found}", .file.display())]
    NotPem {
        /// The configuration key.
        key: &'static str,
        /// The expected content.
        expected: &'static str,
        /// The file that this key names.
        file: PathBuf,
        /// A description of what the file contains instead, and how to fix it.
        found: String,
    },
    /// The certificate or the key cannot be used, or the certificates are in the wrong order. The text begins with the
    /// configuration key.
    #[error("{0}")]
    Unusable(String),
    /// The key belongs to another certificate.
    #[error(
        "GSMTP_PRV_KEY: the key in {} does not fit the certificate in {}: {reason}; use the certificate that was issued for this key",
        .files.key_file.display(), .files.chain_file.display()
    )]
    KeyMismatch {
        /// The chain file and the key file.
        files: TlsFiles,
        /// The error of rustls.
        reason: rustls::Error,
    },
}

impl TlsFilesError {
    /// Returns whether a file could not be read because of its permissions. This happens on a reload if only root may read the
    /// file, because the server has dropped its privileges by then.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, TlsFilesError::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl TlsCredentials {
    /// Reads the chain file and the key file, and checks that certificate and key belong together.
    ///
    /// # Errors
    /// [`TlsFilesError`] for the first fault found.
    pub fn load(files: &TlsFiles) -> Result<TlsCredentials, TlsFilesError> {
        // The fingerprint is taken before the files are read; so a file that changes meanwhile differs from it later.
        let fingerprint = tls_files_fingerprint(files);
        let chain = read_certificate_chain(&files.chain_file)?;
        let key = read_pem(PemKind::Key, &files.key_file, |mut pem| {
            rustls_pemfile::private_key(&mut pem)
        })?;
        let mut config = tls_server_config(chain.clone(), key.clone_key())
            .map_err(|reason| certificate_key_pair_error(files, &chain, &key, reason))?;
        // Some senders, for example Exchange, abort STARTTLS when they receive session tickets.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(TlsCredentials {
            files: files.clone(),
            config: Arc::new(config),
            chain: chain.into(),
            fingerprint,
        })
    }

    /// Returns the files from which certificate and key are read.
    pub fn certificate_and_key_paths(&self) -> &TlsFiles {
        &self.files
    }

    /// Returns whether `self` and `other` have the same certificates. The key then is the same too, because it fits the
    /// certificate.
    pub fn has_same_certificates(&self, other: &TlsCredentials) -> bool {
        self.chain == other.chain
    }

    /// Returns whether `self` and `other` are clones of the same credentials. Returns `false` for credentials that were loaded
    /// separately, even from the same files.
    pub fn ptr_eq(&self, other: &TlsCredentials) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// Returns the rustls configuration for new TLS handshakes.
    pub fn rustls_server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Returns the expiry time of the server's certificate.
    pub fn certificate_expiry_time(&self) -> SystemTime {
        certificate_chain::certificate_expiry_time(&self.chain)
    }

    /// Returns the fingerprint of the files at the time they were loaded.
    pub fn fingerprint_of_loaded_files(&self) -> TlsFilesFingerprint {
        self.fingerprint
    }

    /// Returns the fingerprint of the files as they are now.
    pub fn fingerprint_of_files_now(&self) -> TlsFilesFingerprint {
        tls_files_fingerprint(&self.files)
    }

    /// Returns warnings for the startup log and `check`: faults of the certificates, and a key file that all users can read.
    pub fn certificate_warnings(&self, now: SystemTime) -> Vec<String> {
        let mut warnings =
            certificate_chain::certificate_warnings(&self.chain, &self.files.chain_file, now);
        let mode = fs::metadata(&self.files.key_file).map_or(0, |metadata| metadata.mode());
        if mode & 0o004 != 0 {
            let file = self.files.key_file.display();
            warnings.push(format!(
                "GSMTP_PRV_KEY: everybody may read {file}; run: chmod o-r {file}"
            ));
        }
        warnings
    }

    /// Returns a warning for each file that the current user cannot read. Call it after the privilege drop: a reload cannot
    /// load a renewed certificate or key from such a file.
    pub fn unreadable_tls_file_warnings(&self) -> Vec<String> {
        let files = [
            ("GSMTP_PUB_KEY", &self.files.chain_file),
            ("GSMTP_PRV_KEY", &self.files.key_file),
        ];
        let unreadable = files.into_iter().filter_map(|(key, file)| {
            let error = File::open(file).err()?;
            let (file, user) = (file.display(), nix::unistd::geteuid());
            Some(format!(
                "{key}: user {user} cannot read {file}: {error}; a renewed certificate or key will not be loaded before the next \
                 start; give the group of SGID read permission"
            ))
        });
        unreadable.collect()
    }
}

/// Returns the crypto provider with the supported key exchange groups. rustls uses the first group in the client's list that
/// is also in this list. X25519 needs the least CPU; X25519MLKEM768 is the post-quantum hybrid.
fn crypto_provider() -> CryptoProvider {
    use aws_lc_rs::kx_group;
    CryptoProvider {
        kx_groups: vec![
            kx_group::X25519,
            kx_group::X25519MLKEM768,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn tls_server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    ServerConfig::builder_with_provider(Arc::new(crypto_provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
}

fn certificate_key_pair_error(
    files: &TlsFiles,
    chain: &[CertificateDer],
    key: &PrivateKeyDer,
    reason: rustls::Error,
) -> TlsFilesError {
    let cause =
        key_fault::find_certificate_or_key_fault(chain, key, &files.chain_file, &files.key_file);
    let mismatch = || TlsFilesError::KeyMismatch {
        files: files.clone(),
        reason,
    };
    cause.map_or_else(mismatch, TlsFilesError::Unusable)
}

fn read_certificate_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    read_pem(PemKind::Chain, file, |mut pem| {
        let chain = rustls_pemfile::certs(&mut pem).collect::<io::Result<Vec<_>>>()?;
        let is_certificate = chain
            .first()
            .is_some_and(|first| X509Certificate::from_der(first).is_ok());
        Ok(is_certificate.then_some(chain))
    })
}

fn read_pem<T>(
    wanted: PemKind,
    file: &Path,
    read: impl Fn(&[u8]) -> io::Result<Option<T>>,
) -> Result<T, TlsFilesError> {
    let key = wanted.pem_file_config_key();
    let octets = pem_file::read(file).map_err(|source| TlsFilesError::Unreadable {
        key,
        file: file.to_owned(),
        source,
    })?;
    match read(&octets) {
        Ok(Some(found)) => Ok(found),
        Ok(None) | Err(_) => Err(TlsFilesError::NotPem {
            key,
            expected: wanted.expected_pem_content(),
            file: file.to_owned(),
            found: pem_file::describe_wrong_pem_content(&octets, wanted, file),
        }),
    }
}

fn tls_files_fingerprint(files: &TlsFiles) -> TlsFilesFingerprint {
    [&files.chain_file, &files.key_file].map(|file| {
        let metadata = fs::metadata(file).ok()?;
        Some((
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.len(),
        ))
    })
}
