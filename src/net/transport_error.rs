//! Errors of a client's connection.

use std::io;

use super::io_timeout::Expiry;

/// Why octets did not move.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// Slots ran out, and the shorter deadline that holds then passed.
    #[error("slow while slots ran out")]
    Shed,
    /// The client or the network ended the connection.
    #[error("{0}")]
    ConnectionReset(io::Error),
    /// The TLS handshake failed, or a record was malformed.
    #[error("{0}")]
    Tls(rustls::Error),
}

impl From<Expiry> for TransportError {
    fn from(expiry: Expiry) -> TransportError {
        match expiry {
            Expiry::TimedOut => TransportError::TimedOut,
            Expiry::Shed => TransportError::Shed,
        }
    }
}
