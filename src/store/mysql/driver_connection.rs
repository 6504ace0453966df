//! Opening a connection of the driver to one host: by its socket, by each address of its name, or with TLS by its name.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use mysql::{Conn, Error, Opts, OptsBuilder};

use super::connect_failure::MySqlConnectFailure;
use super::connect_options::{connection_options, tcp_connect_timeout};
use super::driver_panic::{catch_panic, is_panic};
use super::named_connection::connect_by_name;
use super::settings::{MySqlHostAddress, MySqlSettings};
use crate::metrics::Metrics;

/// Connects to the host with index `host` in `settings`; `configure` adds options. Returns the connection and the address that
/// answered (`None` for a Unix socket).
///
/// Tries all addresses of the host's name, or only `only_address` if it is given. Panics of the driver are counted in
/// `metrics`.
///
/// # Errors
/// The host's name cannot be resolved, no address accepts the connection, or the server may not get the password.
#[expect(
    clippy::indexing_slicing,
    reason = "`host` is an index of `settings.hosts`"
)]
pub fn open_mysql_driver_connection(
    settings: &MySqlSettings,
    metrics: &Metrics,
    host: usize,
    only_address: Option<SocketAddr>,
    configure: impl Fn(OptsBuilder) -> OptsBuilder,
) -> mysql::Result<(Conn, Option<SocketAddr>)> {
    let host = &settings.hosts[host];
    let options = || configure(connection_options(settings));
    let password = settings.password.as_str();
    let (name, port) = match host {
        MySqlHostAddress::Socket(path) => {
            let connection = connect(metrics, options().socket(Some(path)), password)?;
            return Ok((connection, None));
        }
        MySqlHostAddress::Tcp(name, port) => (name.as_str(), *port),
    };
    let tls = &settings.tls;
    tls.check_ca_file()?;
    let connected = if tls.is_on() && name.parse::<IpAddr>().is_err() {
        let options = || tls.add_driver_options(options(), None).tcp_port(port);
        let timeout = tcp_connect_timeout(settings);
        connect_by_name((name, port), only_address, timeout, |bind_address| {
            let options = options().ip_or_hostname(Some(name));
            connect(metrics, options.bind_address(Some(bind_address)), password)
        })
    } else {
        connect_by_address((name, port), only_address, |address| {
            let options = tls.add_driver_options(options(), Some(address));
            let options = options.ip_or_hostname(Some(address.to_string()));
            connect(metrics, options.tcp_port(port), password)
        })
    };
    match connected {
        Ok((connection, address)) => Ok((connection, Some(address))),
        Err(error) => Err(
            match MySqlConnectFailure::describe_driver_error(&error, settings, &host.to_string()) {
                Some(failure) => failure.into(),
                None => error,
            },
        ),
    }
}

/// Connects to the first address of `name` that accepts a connection, or to `only_address` if it is given.
fn connect_by_address(
    (name, port): (&str, u16),
    only_address: Option<SocketAddr>,
    connect: impl Fn(IpAddr) -> mysql::Result<Conn>,
) -> mysql::Result<(Conn, SocketAddr)> {
    let addresses = match only_address {
        Some(address) => vec![address],
        None => (name, port).to_socket_addrs()?.collect(),
    };
    let mut outcome = Err(io::Error::other(format!("{name} has no address")).into());
    for address in addresses {
        outcome = connect(address.ip()).map(|connection| (connection, address));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn connect(metrics: &Metrics, options: OptsBuilder, password: &str) -> mysql::Result<Conn> {
    let options = Opts::from(options);
    let log_in = || catch_panic(metrics, || Conn::new(options.clone()));
    let result = match log_in() {
        // The driver removes a last zero octet of the server's nonce, so that one of 256 logins with ed25519 or parsec fails.
        Err(Error::MySqlError(error)) if error.code == ACCESS_DENIED_ERROR => log_in(),
        result => result,
    };
    result.map_err(|error| match is_panic(&error) {
        true if password.len() > MAX_PASSWORD_OCTETS => io::Error::other(format!(
            "a password of {} octets may be too long for the server's key: it holds {MAX_PASSWORD_OCTETS} if it has 2,048 \
             bits; shorten MYSQL_PASS, set MYSQL_TLS to Y, or connect to the server's socket: {error}",
            password.len()
        ))
        .into(),
        _ => error,
    })
}

/// Error code of a refused login (ER_ACCESS_DENIED_ERROR).
const ACCESS_DENIED_ERROR: u16 = 1045;
/// Maximum octets of a password that RSA with OAEP and SHA-1 can encrypt with a key of 2,048 bits: 256, minus 42 for padding
/// and 1 for the NUL after the password.
const MAX_PASSWORD_OCTETS: usize = 213;
