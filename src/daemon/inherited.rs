//! SMTP listeners inherited from systemd (socket activation).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use listenfd::ListenFd;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;

use super::ServerProcessError;
use crate::config::Config;
use crate::net::listener::Listener;

/// Returns the listening sockets that systemd passed to this process (sd_listen_fds(3)); empty if there are none. A socket on a
/// port of GSMTPS_LISTEN_INTERFACE uses implicit TLS.
///
/// # Errors
/// [`ServerProcessError::Inherited`] for the first descriptor that is not a listening TCP socket.
pub fn inherited_listeners(config: &Config) -> Result<Vec<Arc<Listener>>, ServerProcessError> {
    // LISTEN_PID is the id of the process to which systemd passed the sockets. If that is another process, this process
    // only inherited the environment variables from it, not the sockets.
    let own_pid = std::process::id().to_string();
    if std::env::var("LISTEN_PID") != Ok(own_pid) {
        return Ok(Vec::new());
    }
    let mut inherited = ListenFd::from_env();
    let mut listeners = Vec::new();
    for number in 0..inherited.len() {
        let listener = inherited.take_tcp_listener(number).and_then(|socket| {
            let socket = socket.ok_or(io::ErrorKind::NotFound)?;
            let address = socket.local_addr()?;
            check_listens(&socket, address)?;
            let port = address.port();
            let implicit_tls = config
                .tls_listen_addresses
                .iter()
                .any(|address| address.port() == port);
            Listener::from_inherited_socket(socket, implicit_tls)
        });
        listeners.push(Arc::new(listener.map_err(ServerProcessError::Inherited)?));
    }
    Ok(listeners)
}

/// Returns an error for a socket that does not listen, such as the connection that systemd passes with `Accept=yes`.
fn check_listens(socket: &TcpListener, address: SocketAddr) -> io::Result<()> {
    match getsockopt(socket, AcceptConn)? {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "expected a listening socket, but the socket with the address {address} does not listen; set Accept=no"
        ))),
    }
}
