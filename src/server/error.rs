//! Errors of starting and reloading a server.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::password_files::{PASSWORD_FILE_FIX, PasswordFileError};
use crate::net::tls::TlsFilesError;
use crate::store::SaveError;

/// Why a server could not start. The text names what failed, where, and how to fix it; [`source`](Error::source) returns the
/// cause, which the text does not repeat.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be bound.
    Bind {
        /// The address and port.
        address: SocketAddr,
        /// The error of socket(2), bind(2) or listen(2).
        source: io::Error,
        /// Advice that leads to an address that can be bound.
        fix: &'static str,
    },
    /// The TLS certificate, its key, or a file of authorities cannot be used.
    Tls {
        /// The configuration key, the file and what is wrong with it.
        what: String,
        /// The error of the file system or of the TLS library, if there is one.
        source: Option<Box<dyn Error + Send + Sync>>,
        /// How to fix it; empty if `what` says that.
        fix: &'static str,
    },
    /// The configuration selects a store that this program was built without.
    StoreNotBuilt {
        /// The selected value of GM_STORE, which is also the name of the Cargo feature.
        store: &'static str,
        /// The condition under which the configuration selects this store although GM_STORE does not name it.
        selected_by: &'static str,
        /// The possible values of GM_STORE, and how to build the program with the store.
        fix: String,
    },
    /// The store cannot be opened: for example, the SQLite file cannot be written.
    Store(SaveError),
    /// REDIS_INTERFACE is not a valid address or URL. The field says why.
    Redis(String),
    /// A file with a password (MYSQL_PASS_FILE, REDIS_PASS_FILE) or with domains (GM_ALLOWED_HOSTS) cannot be used.
    ConfiguredFile {
        /// The configuration key, the file and what is wrong with its content. The content of a password file is not shown.
        what: String,
        /// Why the file cannot be read, if that is the reason.
        source: Option<io::Error>,
        /// How to fix it; empty if `what` says that.
        fix: &'static str,
    },
    /// A thread cannot be started: the limits of processes or memory of this user are too low.
    Thread(io::Error),
}

impl StartError {
    /// Returns what failed, without cause and fix.
    fn what_failed(&self) -> String {
        match self {
            StartError::Bind { address, .. } => format!("cannot bind {address}"),
            StartError::Tls { what, .. } | StartError::ConfiguredFile { what, .. } => what.clone(),
            StartError::StoreNotBuilt {
                store, selected_by, ..
            } => format!("GM_STORE: \"{store}\" ({selected_by}) is not part of this program"),
            StartError::Store(_) => "GM_SQLITE_FILE".to_owned(),
            StartError::Redis(reason) => reason.clone(),
            StartError::Thread(_) => "cannot start".to_owned(),
        }
    }

    /// Returns how to fix the error, or an empty text if `what` or the cause says that.
    fn fix_text(&self) -> &str {
        match self {
            StartError::Bind { fix, .. }
            | StartError::Tls { fix, .. }
            | StartError::ConfiguredFile { fix, .. } => fix,
            StartError::StoreNotBuilt { fix, .. } => fix,
            StartError::Store(_) => "",
            StartError::Redis(_) => {
                "expected \"127.0.0.1:6379\", a socket path or \"redis://user:pass@host:port/db\""
            }
            StartError::Thread(_) => "raise the limits of processes and memory of this user",
        }
    }

    /// Returns the whole error in one line, as the program prints it: what failed, the causes, the fix.
    pub(crate) fn error_in_one_line(&self) -> String {
        let mut report = self.what_failed();
        let mut cause = self.source();
        while let Some(error) = cause {
            report = format!("{report}: {error}");
            cause = error.source();
        }
        match self.fix_text() {
            "" => report,
            fix => format!("{report}; {fix}"),
        }
    }
}

impl From<PasswordFileError> for StartError {
    fn from(error: PasswordFileError) -> StartError {
        StartError::ConfiguredFile {
            what: error.what_failed(),
            source: Some(error.into_source()),
            fix: PASSWORD_FILE_FIX,
        }
    }
}

impl From<TlsFilesError> for StartError {
    fn from(error: TlsFilesError) -> StartError {
        match error {
            TlsFilesError::Unreadable { key, file, source } => StartError::Tls {
                what: format!("{key}: cannot read {}", file.display()),
                source: Some(Box::new(source)),
                fix: "name a file this user may read",
            },
            TlsFilesError::KeyMismatch { files, reason } => StartError::Tls {
                what: format!(
                    "GSMTP_PRV_KEY: the key in {} does not fit the certificate in {}",
                    files.key_file.display(),
                    files.chain_file.display()
                ),
                source: Some(Box::new(reason)),
                fix: "use the certificate that was issued for this key",
            },
            TlsFilesError::NotPem { .. } | TlsFilesError::Unusable(_) => StartError::Tls {
                what: error.to_string(),
                source: None,
                fix: "",
            },
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.fix_text()) {
            (StartError::Store(_), _) => f.write_str("GM_SQLITE_FILE: the store cannot be opened"),
            (_, "") => f.write_str(&self.what_failed()),
            (_, fix) => write!(f, "{}; {fix}", self.what_failed()),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Bind { source, .. } | StartError::Thread(source) => Some(source),
            StartError::ConfiguredFile { source, .. } => source.as_ref().map(|error| error as _),
            StartError::Store(error) => Some(error),
            StartError::Tls { source, .. } => source.as_deref().map(|error| error as _),
            StartError::StoreNotBuilt { .. } | StartError::Redis(_) => None,
        }
    }
}

/// Why a new configuration was not applied. The previous configuration stays in force.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReloadError {
    /// The certificate cannot be used or the new store cannot be opened.
    Start(StartError),
    /// The new configuration has no certificate, but this listener, which needs a restart to be closed, uses implicit TLS.
    NoCertificate {
        /// The address of the listener.
        address: SocketAddr,
    },
    /// The log cannot be switched to the new file. The field says why. Occurs only in the program `goguerrilla`,
    /// because a server in another program opens no log.
    Log(String),
    /// The server has stopped or is shutting down.
    Stopped,
}

impl ReloadError {
    /// Returns the whole error in one line, with its causes.
    pub(crate) fn error_in_one_line(&self) -> String {
        match self {
            ReloadError::Start(error) => error.error_in_one_line(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Start(error) => error.fmt(f),
            ReloadError::NoCertificate { address } => write!(
                f,
                "GSMTP_PUB_KEY: {address} uses implicit TLS, which needs a certificate; set it, or restart the server without \
                 GSMTPS_LISTEN_INTERFACE"
            ),
            ReloadError::Log(reason) => f.write_str(reason),
            ReloadError::Stopped => f.write_str("the server has stopped or is shutting down"),
        }
    }
}

impl Error for ReloadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReloadError::Start(error) => error.source(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_error_prints_its_cause_once_in_the_report_and_in_a_chain() {
        let error = StartError::Bind {
            address: "127.0.0.1:25".parse().unwrap(),
            source: io::Error::other("the cause"),
            fix: "choose another port",
        };
        assert_eq!(
            error.error_in_one_line(),
            "cannot bind 127.0.0.1:25: the cause; choose another port"
        );
        assert_eq!(
            error.to_string(),
            "cannot bind 127.0.0.1:25; choose another port"
        );
        assert_eq!(error.source().unwrap().to_string(), "the cause");
    }
}
