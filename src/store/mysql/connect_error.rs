//! Errors of an attempt to connect.

use std::io;

/// Returns whether an attempt to connect failed without a timeout: no server listens at the address, or the address cannot be
/// reached.
pub fn is_immediate_connect_failure(error: &mysql::Error) -> bool {
    use std::io::ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound,
        PermissionDenied,
    };
    let immediate = [
        ConnectionRefused,
        NotFound,
        PermissionDenied,
        HostUnreachable,
        NetworkUnreachable,
        AddrNotAvailable,
    ];
    io_error_kind(error).is_some_and(|kind| immediate.contains(&kind))
}

/// Returns whether the connection was refused. No process listens at the address then, so the server process and all its
/// transactions have ended.
pub fn is_connection_refused(error: &mysql::Error) -> bool {
    io_error_kind(error) == Some(io::ErrorKind::ConnectionRefused)
}

fn io_error_kind(error: &mysql::Error) -> Option<io::ErrorKind> {
    match error {
        mysql::Error::IoError(error) => Some(error.kind()),
        mysql::Error::DriverError(mysql::DriverError::CouldNotConnect(Some((_, _, kind)))) => {
            Some(*kind)
        }
        _ => None,
    }
}
