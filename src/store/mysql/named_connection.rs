//! Connecting by the name of a host, so that its certificate is verified for that name, and not by an address of the name.
//!
//! The driver resolves the name itself. Without a bind address it tries only the first address; with one it tries all addresses
//! of the same family. The address that it connected to is read from its socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mysql::{Conn, DriverError, Error};
use nix::sys::socket::{SockaddrStorage, getpeername};

/// Connects to the host `name` with `connect`, which gets the bind address. Returns the connection and the address that it
/// leads to: `only_address`, if it is given.
///
/// # Errors
/// The name cannot be resolved, no address accepts the connection, or none of [`TRIES`] connections reached `only_address`.
pub fn connect_by_name(
    (name, port): (&str, u16),
    only_address: Option<SocketAddr>,
    tcp_timeout: Duration,
    connect: impl Fn(SocketAddr) -> mysql::Result<Conn>,
) -> mysql::Result<(Conn, SocketAddr)> {
    let addresses: Vec<SocketAddr> = (name, port).to_socket_addrs()?.collect();
    let connect_to_family = |address: SocketAddr| {
        let connection = connect(any_address_of_family(address))
            .map_err(|error| connect_error_of_address(error, address, &addresses, tcp_timeout))?;
        let peer = peer_address(&connection)?;
        Ok((connection, peer))
    };
    if let Some(address) = only_address {
        if addresses != [address] {
            // A refused connection shows that the server has ended, whatever addresses the name has now.
            TcpStream::connect_timeout(&address, tcp_timeout)?;
        }
        for _ in 0..TRIES {
            let connected = connect_to_family(address)?;
            if connected.1 == address {
                return Ok(connected);
            }
        }
        return Err(io::Error::other(format!(
            "{TRIES} connections to {name} did not reach its address {}",
            address.ip()
        ))
        .into());
    }
    let mut outcome = Err(io::Error::other(format!("{name} has no address")).into());
    let mut tried = Vec::new();
    for address in &addresses {
        if !tried.contains(&address.is_ipv4()) {
            tried.push(address.is_ipv4());
            outcome = connect_to_family(*address);
            if outcome.is_ok() {
                break;
            }
        }
    }
    outcome
}

fn any_address_of_family(address: SocketAddr) -> SocketAddr {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    (any, 0).into()
}

/// Returns the error of the driver. If the name also has addresses of the other family, the driver fails last because it cannot
/// bind such an address; the reason why `address` fails then is found by connecting to it.
fn connect_error_of_address(
    error: Error,
    address: SocketAddr,
    addresses: &[SocketAddr],
    tcp_timeout: Duration,
) -> Error {
    let has_other_family = (addresses.iter()).any(|other| other.is_ipv4() != address.is_ipv4());
    let is_tcp_error = matches!(error, Error::DriverError(DriverError::CouldNotConnect(_)));
    match has_other_family && is_tcp_error {
        true => match TcpStream::connect_timeout(&address, tcp_timeout) {
            Ok(_) => error,
            Err(reason) => reason.into(),
        },
        false => error,
    }
}

fn peer_address(connection: &Conn) -> io::Result<SocketAddr> {
    let peer: SockaddrStorage = getpeername(connection.as_raw_fd())?;
    let ipv4 = || Some((*peer.as_sockaddr_in()?).into());
    let ipv6 = || Some(SocketAddr::V6((*peer.as_sockaddr_in6()?).into()));
    (ipv4().map(SocketAddr::V4))
        .or_else(ipv6)
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// How many connections are made to reach one of several addresses of a name: a resolver returns the addresses in an order
/// that changes.
const TRIES: usize = 5;
