//! Errors that prevent the server from starting.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::net::tls::TlsFilesError;
use crate::os::privileges::PrivilegeError;
use crate::store::SaveError;

/// Why the server could not start. The text names what failed, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be bound.
    #[error("cannot bind {address}: {source}; {fix}")]
    Bind {
        /// The address and port.
        address: SocketAddr,
        /// The error of socket(2), bind(2) or listen(2).
        source: std::io::Error,
        /// Advice that leads to an address that can be bound.
        fix: &'static str,
    },
    /// A descriptor passed by systemd is not a listening TCP socket.
    #[error("LISTEN_FDS: {0}; the .socket unit may have only ListenStream= lines with TCP ports")]
    Inherited(std::io::Error),
    /// The server would run as root on an address that other machines can reach.
    #[error(
        "started as root, and {0} can be reached from other machines: set GUID and SGID to the ids of another user and \
         group, or listen on loopback only"
    )]
    StaysRoot(SocketAddr),
    /// The process could not change to the configured user (GUID) and group (SGID).
    #[error("GUID, SGID: {0}")]
    Privileges(#[from] PrivilegeError),
    /// The PID file cannot be written.
    #[error("PID_FILE: cannot write {file}: {source}; name a file in a folder that exists", file = .file.display())]
    Pid {
        /// The path of the PID file.
        file: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The log file cannot be opened.
    #[error("GSMTP_LOG_FILE: cannot open {file}: {source}; name a file that this user may append to", file = .file.display())]
    Log {
        /// The path of the log file.
        file: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The TLS key or certificate cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsFilesError),
    /// The SQLite file cannot be opened for writing.
    #[error("GM_SQLITE_FILE: {0}")]
    Store(SaveError),
    /// REDIS_INTERFACE is not a valid address or URL.
    #[error(
        "{0}; expected \"127.0.0.1:6379\", a socket path or \"redis://user:pass@host:port/db\""
    )]
    Redis(String),
    /// A thread or signal handler cannot be created.
    #[error("cannot start: {0}; raise the limits of processes and memory of this user")]
    Kernel(std::io::Error),
}
