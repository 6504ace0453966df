//! Errors that prevent the program from starting as a server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::os::privileges::PrivilegeError;
use crate::server::StartError;

/// Why the program could not start as a server. The text names what failed, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum ServerProcessError {
    /// The server itself could not start.
    #[error("{}", .0.error_in_one_line())]
    Start(StartError),
    /// A descriptor passed by systemd is not a listening TCP socket.
    #[error("LISTEN_FDS: {0}; the .socket unit may have only ListenStream= lines with TCP ports")]
    Inherited(io::Error),
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
        source: io::Error,
    },
    /// The log file cannot be opened.
    #[error("GSMTP_LOG_FILE: cannot open {file}: {source}; name a file that this user may append to", file = .file.display())]
    Log {
        /// The path of the log file.
        file: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// The thread of the server panicked; standard error shows where.
    #[error("the server panicked; report it with the line above")]
    Panicked,
    /// A thread or signal handler cannot be created.
    #[error("cannot start: {0}; raise the limits of processes and memory of this user")]
    Thread(io::Error),
}

impl From<StartError> for ServerProcessError {
    fn from(error: StartError) -> ServerProcessError {
        ServerProcessError::Start(error)
    }
}
