//! Errors of a client's connection.

use std::io;

use super::io_timeout::IoExpiryReason;

/// Why a read, a write or a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientIoError {
    /// The deadline at normal load passed.
    #[error("timed out")]
    TimedOut,
    /// The deadline passed only because it was shortened at high load; the deadline at normal load had not passed yet.
    #[error("slow while slots ran out")]
    Shed,
    /// The client or the network ended the connection.
    #[error("{0}")]
    ConnectionReset(io::Error),
    /// The TLS handshake failed, or a record was malformed.
    #[error("{0}")]
    Tls(rustls::Error),
}

impl From<IoExpiryReason> for ClientIoError {
    fn from(expiry: IoExpiryReason) -> ClientIoError {
        match expiry {
            IoExpiryReason::TimedOut => ClientIoError::TimedOut,
            IoExpiryReason::Shed => ClientIoError::Shed,
        }
    }
}
