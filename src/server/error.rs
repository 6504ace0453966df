//! Why a server does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::net::tls::TlsError;
use crate::privileges::PrivilegeError;
use crate::storage::SaveError;

/// Why the server could not start: what, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening address is not to be had.
    #[error("cannot bind {address}: {source}; {fix}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
        /// What may help.
        fix: &'static str,
    },
    /// What systemd handed over is no listening socket.
    #[error("LISTEN_FDS: {0}; let the .socket unit have ListenStream= with TCP ports only")]
    Inherited(std::io::Error),
    /// Nobody should serve strangers as root.
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
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The log file cannot be opened.
    #[error("GSMTP_LOG_FILE: cannot open {file}: {source}; name a file this user may append to", file = .file.display())]
    Log {
        /// Which.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Key or certificate are no good.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The embedded store cannot be opened.
    #[error("GM_SQLITE_FILE: {0}")]
    Store(SaveError),
    /// The URL of Redis is none.
    #[error(
        "{0}; expected \"127.0.0.1:6379\", a socket path or \"redis://user:pass@host:port/db\""
    )]
    Redis(String),
    /// The kernel refuses a thread or a signal handler.
    #[error("cannot start: {0}; raise the limits of processes and memory for this user")]
    Kernel(std::io::Error),
}
