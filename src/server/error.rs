//! Errors of the server's start.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::net::tls::TlsError;
use crate::os::privileges::PrivilegeError;
use crate::store::SaveError;

/// Why the server could not start: what, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot bind {address}: {source}; {fix}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The kernel's error.
        source: std::io::Error,
        /// A suggestion.
        fix: &'static str,
    },
    /// A descriptor passed by systemd is not a listening TCP socket.
    #[error("LISTEN_FDS: {0}; let the .socket unit have ListenStream= with TCP ports only")]
    Inherited(std::io::Error),
    /// The server would run as root on an address that other machines can reach.
    #[error(
        "started as root, and {0} can be reached from other machines: set GUID and SGID to the ids of another user and \
         group, or listen on loopback only"
    )]
    StaysRoot(SocketAddr),
    /// Privileges could not be dropped.
    #[error("GUID, SGID: {0}")]
    Privileges(#[from] PrivilegeError),
    /// The PID file cannot be written.
    #[error("PID_FILE: cannot write {file}: {source}; name a file in a folder that exists", file = .file.display())]
    Pid {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The log file cannot be opened.
    #[error("GSMTP_LOG_FILE: cannot open {file}: {source}; name a file this user may append to", file = .file.display())]
    Log {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The key or certificate cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The SQLite file cannot be opened.
    #[error("GM_SQLITE_FILE: {0}")]
    Store(SaveError),
    /// REDIS_INTERFACE is not a URL.
    #[error(
        "{0}; expected \"127.0.0.1:6379\", a socket path or \"redis://user:pass@host:port/db\""
    )]
    Redis(String),
    /// A thread or signal handler cannot be created.
    #[error("cannot start: {0}; raise the limits of processes and memory for this user")]
    Kernel(std::io::Error),
}
