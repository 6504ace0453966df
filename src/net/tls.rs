//! Keys and certificates: PEM files to a rustls configuration, checked before anybody meets it, renewed without a restart.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, version};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem_file::{self, Wanted};
use super::{certificate_chain, key_fault};
use crate::sync;

/// The files of a pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: our certificate first, then the ones that vouch for it.
    pub chain_file: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

/// A pair in service: one configuration, swapped whole when the files have changed. Clones share it.
#[derive(Clone)]
pub struct TlsCredentials {
    files: TlsFiles,
    loaded: Arc<RwLock<LoadedConfig>>,
}

#[derive(Clone)]
struct LoadedConfig {
    config: Arc<ServerConfig>,
    chain: Arc<[CertificateDer<'static>]>,
    seen: FileFingerprint,
}

/// What tells one state of the two files from another, without reading them.
type FileFingerprint = [Option<(u64, i64, i64, u64)>; 2];

/// What is wrong with a pair; the text names the key, the file and the cure.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{key}: cannot read {}: {source}; name a file this user may read", .file.display())]
    Unreadable {
        /// The configuration's key.
        key: &'static str,
        /// Which file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{key}: expected {expected} in {}, but found {found}", .file.display())]
    NotPem {
        /// The configuration's key.
        key: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// Which file.
        file: PathBuf,
        /// What it holds, and the cure.
        found: String,
    },
    /// Certificate or key cannot be used, or their order is wrong; the text names the configuration's key first.
    #[error("{0}")]
    Unusable(String),
    /// The key belongs to another certificate.
    #[error(
        "GSMTP_PRV_KEY: the key in {} does not fit the certificate in {}: {reason}; take both from the same place",
        .files.key_file.display(), .files.chain_file.display()
    )]
    Unfit {
        /// Both files.
        files: TlsFiles,
        /// What the TLS library said.
        reason: rustls::Error,
    },
}

impl TlsError {
    /// Whether it is for want of a right that root had before the privilege drop.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, TlsError::Unreadable { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl TlsCredentials {
    /// Reads both files and checks that they belong together.
    ///
    /// # Errors
    /// [`TlsError`] for the first thing that is wrong.
    pub fn load(files: &TlsFiles) -> Result<TlsCredentials, TlsError> {
        let loaded = Arc::new(RwLock::new(LoadedConfig::read(files)?));
        Ok(TlsCredentials {
            files: files.clone(),
            loaded,
        })
    }

    /// The files it is read from.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// Whether both are the same pair in service, not only equal files.
    pub fn ptr_eq(&self, other: &TlsCredentials) -> bool {
        Arc::ptr_eq(&self.loaded, &other.loaded)
    }

    /// The configuration for the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.read().config)
    }

    /// When the certificate expires.
    pub fn expires_at(&self) -> SystemTime {
        certificate_chain::expires_at(&self.read().chain)
    }

    /// Whether the files are not the ones last tried.
    pub fn files_have_changed(&self) -> bool {
        self.read().seen != file_fingerprint(&self.files)
    }

    /// Reads the files again. A bad pair leaves the one in service.
    ///
    /// # Errors
    /// [`TlsError`]; the files are not tried again by themselves until they change once more.
    pub fn reload(&self) -> Result<(), TlsError> {
        let seen = file_fingerprint(&self.files);
        let read = LoadedConfig::read(&self.files);
        let mut loaded = sync::write(&self.loaded);
        match read {
            Ok(read) => *loaded = read,
            Err(error) => {
                loaded.seen = seen;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns warnings for the start and for `check`: faults of the certificates, and a key file that others may read.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let chain = self.read().chain;
        let mut warnings = certificate_chain::warnings(&chain, &self.files.chain_file, now);
        let mode = fs::metadata(&self.files.key_file).map_or(0, |metadata| metadata.mode());
        if mode & 0o004 != 0 {
            let file = self.files.key_file.display();
            warnings.push(format!(
                "GSMTP_PRV_KEY: everybody may read {file}; run: chmod o-r {file}"
            ));
        }
        warnings
    }

    /// Files that can no longer be read, as after a privilege drop: a renewed pair would not be taken up.
    pub fn unreadable_files(&self) -> Vec<String> {
        let files = [
            ("GSMTP_PUB_KEY", &self.files.chain_file),
            ("GSMTP_PRV_KEY", &self.files.key_file),
        ];
        let unreadable = files.into_iter().filter_map(|(key, file)| {
            let error = File::open(file).err()?;
            let (file, user) = (file.display(), nix::unistd::geteuid());
            Some(format!(
                "{key}: user {user} cannot read {file}: {error}; a renewed pair will not be served before the next \
                 start; give the group of SGID the right to read it"
            ))
        });
        unreadable.collect()
    }

    fn read(&self) -> LoadedConfig {
        sync::read(&self.loaded).clone()
    }
}

impl LoadedConfig {
    fn read(files: &TlsFiles) -> Result<LoadedConfig, TlsError> {
        // Looked at before reading: a change in between is then noticed again.
        let seen = file_fingerprint(files);
        let chain = read_chain(&files.chain_file)?;
        let key = read_pem(Wanted::Key, &files.key_file, |mut pem| {
            rustls_pemfile::private_key(&mut pem)
        })?;
        let mut config = server_config(chain.clone(), key.clone_key())
            .map_err(|reason| refused(files, &chain, &key, reason))?;
        // Some senders, Exchange among them, break off STARTTLS when they are handed tickets.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(LoadedConfig {
            config: Arc::new(config),
            chain: chain.into(),
            seen,
        })
    }
}

/// X25519, the cheapest that everybody has, and the post-quantum hybrid. Which of these is used is the client's choice:
/// rustls takes the first of the client's groups that stands here.
fn provider() -> CryptoProvider {
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

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)
}

fn refused(
    files: &TlsFiles,
    chain: &[CertificateDer],
    key: &PrivateKeyDer,
    reason: rustls::Error,
) -> TlsError {
    let cause = key_fault::cause(chain, key, &files.chain_file, &files.key_file);
    let unfit = || TlsError::Unfit {
        files: files.clone(),
        reason,
    };
    cause.map_or_else(unfit, TlsError::Unusable)
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    read_pem(Wanted::Chain, file, |mut pem| {
        let chain = rustls_pemfile::certs(&mut pem).collect::<io::Result<Vec<_>>>()?;
        let is_certificate = chain
            .first()
            .is_some_and(|first| X509Certificate::from_der(first).is_ok());
        Ok(is_certificate.then_some(chain))
    })
}

fn read_pem<T>(
    wanted: Wanted,
    file: &Path,
    read: impl Fn(&[u8]) -> io::Result<Option<T>>,
) -> Result<T, TlsError> {
    let key = wanted.config_key();
    let octets = pem_file::read(file).map_err(|source| TlsError::Unreadable {
        key,
        file: file.to_owned(),
        source,
    })?;
    match read(&octets) {
        Ok(Some(found)) => Ok(found),
        Ok(None) | Err(_) => Err(TlsError::NotPem {
            key,
            expected: wanted.expected(),
            file: file.to_owned(),
            found: pem_file::found_instead(&octets, wanted, file),
        }),
    }
}

fn file_fingerprint(files: &TlsFiles) -> FileFingerprint {
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
