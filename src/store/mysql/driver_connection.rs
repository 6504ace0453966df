//! Opening a connection of the driver to one host: each address of its name is tried.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use mysql::{Conn, OptsBuilder};

use super::connect_options::connection_options;
use super::driver_panic::{catch_panic, is_panic};
use super::settings::{MySqlHostAddress, MySqlSettings};
use crate::metrics::Metrics;

/// Connects to the host with index `host` in `settings`; `configure` adds options. Returns the connection and the address that
/// answered (`None` for a Unix socket).
///
/// Tries all addresses of the host's name, or only `only_address` if it is given. Panics of the driver are counted in
/// `metrics`.
///
/// # Errors
/// The host's name cannot be resolved, or no address accepts the connection.
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
    let options = || configure(connection_options(settings));
    let password = settings.password.as_str();
    let (name, port) = match &settings.hosts[host] {
        MySqlHostAddress::Socket(path) => {
            return Ok((
                connect(metrics, options().socket(Some(path)), password)?,
                None,
            ));
        }
        MySqlHostAddress::Tcp(name, port) => (name.as_str(), *port),
    };
    let addresses = match only_address {
        Some(address) => vec![address],
        None => (name, port).to_socket_addrs()?.collect(),
    };
    let mut outcome = Err(io::Error::other(format!("{name} has no address")).into());
    for address in addresses {
        let ip = address.ip().to_string();
        outcome = connect(
            metrics,
            options().ip_or_hostname(Some(ip)).tcp_port(port),
            password,
        )
        .map(|connection| (connection, Some(address)));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn connect(metrics: &Metrics, options: OptsBuilder, password: &str) -> mysql::Result<Conn> {
    catch_panic(metrics, || Conn::new(options)).map_err(|error| match is_panic(&error) {
        true if password.len() > MAX_PASSWORD_OCTETS => io::Error::other(format!(
            "a password of {} octets may be too long for the server's key: it holds {MAX_PASSWORD_OCTETS} if it has 2,048 \
             bits; shorten MYSQL_PASS, or connect to the server's socket: {error}",
            password.len()
        ))
        .into(),
        _ => error,
    })
}

/// Maximum octets of a password that RSA with OAEP and SHA-1 can encrypt with a key of 2,048 bits: 256, minus 42 for padding
/// and 1 for the NUL after the password.
const MAX_PASSWORD_OCTETS: usize = 213;
