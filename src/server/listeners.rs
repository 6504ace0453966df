//! The listeners: bound here, or SMTP listeners that the program inherited.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use nix::libc;

use super::{StartError, http_endpoints};
use crate::config::Config;
use crate::net::listener::Listener;

/// The bound listeners, by service.
pub struct BoundListeners {
    /// SMTP, plaintext first.
    pub smtp: Vec<Arc<Listener>>,
    /// The status endpoints.
    pub status: Option<Arc<Listener>>,
    /// auth_http for nginx.
    pub nginx: Option<Arc<Listener>>,
}

/// Binds all configured addresses. `inherited` are SMTP listeners that are bound already.
///
/// # Errors
/// [`StartError::Bind`] for the first address that cannot be bound.
pub fn bind_smtp_listeners(
    config: &Config,
    inherited: Vec<Arc<Listener>>,
) -> Result<BoundListeners, StartError> {
    Ok(BoundListeners {
        smtp: bind_smtp(config, inherited)?,
        status: http_endpoints::bind(config.status_address, http_endpoints::STATUS_BIND_FIX)?,
        nginx: http_endpoints::bind(config.nginx_auth_address, http_endpoints::NGINX_BIND_FIX)?,
    })
}

/// Binds the SMTP listeners. Inherited listeners replace GSTMP_LISTEN_INTERFACE. An inherited listener on a port of
/// GSMTPS_LISTEN_INTERFACE replaces that address.
fn bind_smtp(
    config: &Config,
    mut listeners: Vec<Arc<Listener>>,
) -> Result<Vec<Arc<Listener>>, StartError> {
    let plain = match listeners.is_empty() {
        true => config.listen_addresses.as_slice(),
        false => &[],
    };
    let is_inherited = |address: &SocketAddr, listeners: &[Arc<Listener>]| {
        let mut ports = listeners
            .iter()
            .map(|listener| listener.bound_address().port());
        ports.any(|port| port == address.port() && port != 0)
    };
    let tls: Vec<_> = config
        .tls_listen_addresses
        .iter()
        .filter(|address| !is_inherited(address, &listeners))
        .collect();
    for address in plain {
        listeners.push(bind(config, *address, false)?);
    }
    for address in tls {
        listeners.push(bind(config, *address, true)?);
    }
    Ok(listeners)
}

fn bind(
    config: &Config,
    address: SocketAddr,
    implicit_tls: bool,
) -> Result<Arc<Listener>, StartError> {
    let has_v4_wildcard = |port| {
        let is_v4_wildcard =
            |address: &SocketAddr| address.is_ipv4() && address.ip().is_unspecified();
        all_smtp_listen_addresses(config)
            .any(|address| is_v4_wildcard(&address) && address.port() == port)
    };
    let only_v6 = address.is_ipv6() && has_v4_wildcard(address.port());
    let listener = Listener::bind(address, only_v6, implicit_tls);
    listener
        .map(Arc::new)
        .map_err(|source| bind_error(address, source, implicit_tls))
}

/// Returns an error for each address that the server could not bind, for `check`. An address that another process uses is
/// not an error, because that process may be the running server. If two configured addresses conflict, the second
/// is an error.
pub fn find_bind_problems(config: &Config) -> Vec<StartError> {
    let mut seen: Vec<SocketAddr> = Vec::new();
    let mut probe = |address: SocketAddr| {
        let source = match seen
            .iter()
            .any(|other| do_bind_addresses_conflict(*other, address))
        {
            true => Some(io::Error::from_raw_os_error(libc::EADDRINUSE)),
            false => Listener::test_bind_ignoring_in_use(address).err(),
        };
        seen.push(address);
        source
    };
    let mut errors = Vec::new();
    let plain = config.listen_addresses.iter().map(|one| (*one, false));
    let tls = config.tls_listen_addresses.iter().map(|one| (*one, true));
    for (address, implicit_tls) in plain.chain(tls) {
        errors.extend(probe(address).map(|source| bind_error(address, source, implicit_tls)));
    }
    for (address, fix) in http_endpoints::http_endpoint_addresses(config) {
        let error = |source| StartError::Bind {
            address,
            source,
            fix,
        };
        errors.extend(probe(address).map(error));
    }
    errors
}

/// Returns whether the two addresses cannot be bound at the same time. A listener on `[::]` also accepts IPv4 connections, so
/// it conflicts with an IPv4 address on the same port.
fn do_bind_addresses_conflict(first: SocketAddr, second: SocketAddr) -> bool {
    let covers = |wide: SocketAddr, other: SocketAddr| {
        wide.ip().is_unspecified()
            && (wide.is_ipv6() || other.is_ipv4())
            && !other.ip().is_unspecified()
    };
    let is_same_port = first.port() == second.port() && first.port() != 0;
    is_same_port && (first == second || covers(first, second) || covers(second, first))
}

fn bind_error(address: SocketAddr, source: io::Error, implicit_tls: bool) -> StartError {
    let fix = match (source.kind(), implicit_tls) {
        (io::ErrorKind::PermissionDenied, false) => "start as root or choose -if=127.0.0.1:2525",
        (io::ErrorKind::PermissionDenied, true) => {
            "start as root or choose another port in GSMTPS_LISTEN_INTERFACE"
        }
        (io::ErrorKind::AddrInUse, false) => {
            "stop the program that listens there, or choose another port with -if="
        }
        (io::ErrorKind::AddrInUse, true) => {
            "stop the program that listens there, or choose another port in GSMTPS_LISTEN_INTERFACE"
        }
        (_, false) => "name an address of this machine in GSTMP_LISTEN_INTERFACE or with -if=",
        (_, true) => "name an address of this machine in GSMTPS_LISTEN_INTERFACE",
    };
    StartError::Bind {
        address,
        source,
        fix,
    }
}

/// Returns the addresses of all SMTP listeners, plaintext and implicit TLS.
pub fn all_smtp_listen_addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let plain = config.listen_addresses.iter();
    plain.chain(&config.tls_listen_addresses).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_conflict_if_one_includes_the_other() {
        for (first, second, want) in [
            ("127.0.0.1:25", "127.0.0.1:25", true),
            ("0.0.0.0:25", "127.0.0.1:25", true),
            ("127.0.0.1:25", "[::]:25", true),
            ("[::]:25", "[::1]:25", true),
            ("0.0.0.0:25", "[::]:25", false),
            ("0.0.0.0:25", "[::1]:25", false),
            ("127.0.0.1:25", "127.0.0.2:25", false),
            ("127.0.0.1:25", "127.0.0.1:26", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (first, second) = (first.parse().unwrap(), second.parse().unwrap());
            assert_eq!(
                do_bind_addresses_conflict(first, second),
                want,
                "{first} {second}"
            );
            assert_eq!(
                do_bind_addresses_conflict(second, first),
                want,
                "{second} {first}"
            );
        }
    }
}
