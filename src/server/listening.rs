//! The addresses that clients connect to.

use std::net::SocketAddr;
use std::sync::Arc;

use super::StartError;
use crate::config::Config;
use crate::net::listener::Listener;

/// Binds them all.
///
/// # Errors
/// [`StartError::Bind`] for the first that is not to be had.
pub fn bind_all(config: &Config) -> Result<Vec<Arc<Listener>>, StartError> {
    let plain = config
        .listen_addresses
        .iter()
        .map(|address| (*address, false));
    let tls = config
        .tls_listen_addresses
        .iter()
        .map(|address| (*address, true));
    let has_v4_wildcard = |port| {
        let is_it = |address: &SocketAddr| address.is_ipv4() && address.ip().is_unspecified();
        listen_addresses(config).any(|address| is_it(&address) && address.port() == port)
    };
    plain
        .chain(tls)
        .map(|(address, tls_at_once)| {
            let only_v6 = address.is_ipv6() && has_v4_wildcard(address.port());
            let bound = Listener::bind(address, only_v6, tls_at_once);
            bound.map(Arc::new).map_err(|source| StartError::Bind {
                address,
                fix: bind_fix(&source),
                source,
            })
        })
        .collect()
}

/// Binds where nginx asks, if it is to be answered.
///
/// # Errors
/// [`StartError::Bind`].
pub fn bind_nginx_auth(config: &Config) -> Result<Option<Arc<Listener>>, StartError> {
    let bind = |address| {
        let bound = Listener::bind(address, false, false);
        bound.map(Arc::new).map_err(|source| StartError::Bind {
            address,
            source,
            fix: "name a free address of this machine in NGINX_AUTH",
        })
    };
    config.nginx_auth_address.map(bind).transpose()
}

/// Every address that anybody can reach us by.
pub fn all_addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    listen_addresses(config).chain(config.nginx_auth_address)
}

/// Where clients connect, plain and in TLS.
pub fn listen_addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    let plain = config.listen_addresses.iter();
    plain.chain(&config.tls_listen_addresses).copied()
}

fn bind_fix(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "start as root or choose -if=127.0.0.1:2525",
        std::io::ErrorKind::AddrInUse => {
            "end the program that listens there or choose another port with -if="
        }
        _ => "name an address of this machine in GSTMP_LISTEN_INTERFACE or with -if=",
    }
}
