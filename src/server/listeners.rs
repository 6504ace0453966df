//! The SMTP listeners: bound by this process or inherited from systemd.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use listenfd::ListenFd;
use nix::libc;

use super::StartError;
use crate::config::Config;
use crate::net::listener::Listener;

/// Binds all SMTP listeners. Sockets inherited from systemd replace GSTMP_LISTEN_INTERFACE; an inherited socket on a port
/// of GSMTPS_LISTEN_INTERFACE replaces that address and uses implicit TLS.
///
/// # Errors
/// [`StartError::Bind`] for the first address that cannot be bound.
pub fn listen(config: &Config) -> Result<Vec<Arc<Listener>>, StartError> {
    let mut listeners = inherit_all(config)?;
    let plain = match listeners.is_empty() {
        true => config.listen_addresses.as_slice(),
        false => &[],
    };
    let is_covered = |address: &SocketAddr, listeners: &[Arc<Listener>]| {
        let mut ports = listeners.iter().map(|listener| listener.address().port());
        ports.any(|port| port == address.port() && port != 0)
    };
    let tls: Vec<_> = config
        .tls_listen_addresses
        .iter()
        .filter(|address| !is_covered(address, &listeners))
        .collect();
    for address in plain {
        listeners.push(bind(config, *address, false)?);
    }
    for address in tls {
        listeners.push(bind(config, *address, true)?);
    }
    Ok(listeners)
}

/// Takes the sockets that systemd has bound (sd_listen_fds(3)).
fn inherit_all(config: &Config) -> Result<Vec<Arc<Listener>>, StartError> {
    // The variables may be meant for the parent process; LISTEN_PID tells.
    let ours = std::process::id().to_string();
    if std::env::var("LISTEN_PID") != Ok(ours) {
        return Ok(Vec::new());
    }
    let mut handed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for number in 0..handed.len() {
        let listener = handed.take_tcp_listener(number).and_then(|socket| {
            let socket = socket.ok_or(io::ErrorKind::NotFound)?;
            let port = socket.local_addr()?.port();
            let tls_at_once = config
                .tls_listen_addresses
                .iter()
                .any(|address| address.port() == port);
            Listener::inherit(socket, tls_at_once)
        });
        listeners.push(Arc::new(listener.map_err(StartError::Inherited)?));
    }
    Ok(listeners)
}

fn bind(
    config: &Config,
    address: SocketAddr,
    tls_at_once: bool,
) -> Result<Arc<Listener>, StartError> {
    let has_v4_wildcard = |port| {
        let is_it = |address: &SocketAddr| address.is_ipv4() && address.ip().is_unspecified();
        listen_addresses(config).any(|address| is_it(&address) && address.port() == port)
    };
    let only_v6 = address.is_ipv6() && has_v4_wildcard(address.port());
    let bound = Listener::bind(address, only_v6, tls_at_once);
    bound
        .map(Arc::new)
        .map_err(|source| bind_error(address, source, tls_at_once))
}

/// Returns an error for each address that a start could not bind, for `check`. An address in use is not an error: the
/// running server may use it.
pub fn unbindable(config: &Config) -> impl Iterator<Item = StartError> {
    let plain = config
        .listen_addresses
        .iter()
        .map(|address| (address, false));
    let tls = config
        .tls_listen_addresses
        .iter()
        .map(|address| (address, true));
    let mut seen = Vec::new();
    plain.chain(tls).filter_map(move |(address, tls_at_once)| {
        let is_taken = address.port() != 0 && seen.contains(address);
        seen.push(*address);
        let source = match is_taken {
            true => io::Error::from_raw_os_error(libc::EADDRINUSE),
            false => Listener::probe_bind(*address).err()?,
        };
        Some(bind_error(*address, source, tls_at_once))
    })
}

fn bind_error(address: SocketAddr, source: io::Error, tls_at_once: bool) -> StartError {
    let fix = match (source.kind(), tls_at_once) {
        (io::ErrorKind::PermissionDenied, false) => "start as root or choose -if=127.0.0.1:2525",
        (io::ErrorKind::PermissionDenied, true) => {
            "start as root or choose another port in GSMTPS_LISTEN_INTERFACE"
        }
        (io::ErrorKind::AddrInUse, false) => {
            "end the program that listens there or choose another port with -if="
        }
        (io::ErrorKind::AddrInUse, true) => {
            "end the program that listens there or choose another port in GSMTPS_LISTEN_INTERFACE"
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
pub fn listen_addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let plain = config.listen_addresses.iter();
    plain.chain(&config.tls_listen_addresses).copied()
}
