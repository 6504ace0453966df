//! SMTP listeners inherited from systemd (socket activation).

use std::io;
use std::sync::Arc;

use listenfd::ListenFd;

use super::DaemonError;
use crate::config::Config;
use crate::net::listener::Listener;

/// Returns the listening sockets that systemd passed to this process (sd_listen_fds(3)); empty if there are none. A socket on a
/// port of GSMTPS_LISTEN_INTERFACE uses implicit TLS.
///
/// # Errors
/// [`DaemonError::Inherited`] for the first descriptor that is not a listening TCP socket.
pub fn inherited_listeners(config: &Config) -> Result<Vec<Arc<Listener>>, DaemonError> {
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
            let port = socket.local_addr()?.port();
            let implicit_tls = config
                .tls_listen_addresses
                .iter()
                .any(|address| address.port() == port);
            Listener::from_inherited_socket(socket, implicit_tls)
        });
        listeners.push(Arc::new(listener.map_err(DaemonError::Inherited)?));
    }
    Ok(listeners)
}
