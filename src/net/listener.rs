//! Listening sockets: bind or inherit, accept with back-off, close.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket;
use socket2::{Domain, Protocol, Socket, Type};

use crate::sync;

/// One listening socket.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    implicit_tls: bool,
    /// Whether a service manager opened the socket. The service manager then keeps the socket listening after this process
    /// ends.
    inherited: bool,
    closed: AtomicBool,
    /// Number of threads that block in [`accept`](Listener::accept) or are about to call it.
    accepting: AtomicUsize,
    last_error_logged_at: Mutex<Option<Instant>>,
}

impl Listener {
    /// Binds `address` and listens. With `only_v6`, a listener on `[::]` accepts no IPv4 connections. With `implicit_tls`,
    /// connections use implicit TLS.
    ///
    /// # Errors
    /// The address is in use, or its port needs root.
    pub fn bind(address: SocketAddr, only_v6: bool, implicit_tls: bool) -> io::Result<Listener> {
        let socket = bind_socket(address, only_v6)?;
        socket.listen(BACKLOG)?;
        Listener::new(TcpListener::from(socket), false, implicit_tls)
    }

    /// Tests whether `address` can be bound, without listening. An address in use counts as success, because the running server
    /// may be using it.
    ///
    /// # Errors
    /// The address is not available, or its port needs root.
    pub fn test_bind_ignoring_in_use(address: SocketAddr) -> io::Result<()> {
        match bind_socket(address, address.is_ipv6()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns a listener on a socket that a service manager has opened.
    ///
    /// # Errors
    /// The descriptor is not a usable socket.
    pub fn from_inherited_socket(socket: TcpListener, implicit_tls: bool) -> io::Result<Listener> {
        // Threads must block in `accept`, but the service manager may have made the socket non-blocking.
        socket.set_nonblocking(false)?;
        Listener::new(socket, true, implicit_tls)
    }

    fn new(socket: TcpListener, inherited: bool, implicit_tls: bool) -> io::Result<Listener> {
        Ok(Listener {
            address: socket.local_addr()?,
            socket,
            implicit_tls,
            inherited,
            closed: AtomicBool::new(false),
            accepting: AtomicUsize::new(0),
            last_error_logged_at: Mutex::new(None),
        })
    }

    /// Returns the bound address. If port 0 was configured, the address contains the port that the kernel chose.
    pub fn bound_address(&self) -> SocketAddr {
        self.address
    }

    /// Returns whether TLS starts with the first octet (port 465, RFC 8314).
    pub fn implicit_tls(&self) -> bool {
        self.implicit_tls
    }

    /// Returns the number of threads that block in [`accept`](Listener::accept) or are about to call it.
    pub fn accepting_threads(&self) -> usize {
        self.accepting.load(Ordering::SeqCst)
    }

    /// Counts one more accepting thread.
    pub(super) fn increment_accepting_threads(&self) {
        self.accepting.fetch_add(1, Ordering::SeqCst);
    }

    /// Subtracts one from the number of accepting threads.
    pub(super) fn decrement_accepting_threads(&self) {
        self.accepting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Blocks until a client connects; returns `None` after [`close`](Listener::close).
    ///
    /// While descriptors or memory are exhausted, one thread retries every 50 ms; other threads wait for that thread.
    pub fn accept(&self) -> Option<(TcpStream, SocketAddr)> {
        match self.accept_one_connection() {
            Ok(client) => client,
            Err(_) => self.accept_with_backoff(),
        }
    }

    /// Makes every blocked and future `accept` return `None`.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if self.inherited {
            self.wake_accepting_threads();
        } else {
            // Wakes every thread that blocks in `accept`.
            let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
        }
    }

    /// Wakes the accepting threads by connecting to the socket once for each of them. `shutdown` cannot be used here, because
    /// the service manager shares the socket and keeps listening on it.
    fn wake_accepting_threads(&self) {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, self.address.port());
        for _ in 0..self.accepting.load(Ordering::SeqCst) {
            // If one connect fails, the next ones would fail too. Threads that stay blocked in `accept` end with the process.
            if TcpStream::connect_timeout(&address, BACKOFF).is_err() {
                return;
            }
        }
    }

    fn accept_with_backoff(&self) -> Option<(TcpStream, SocketAddr)> {
        let mut last_logged_at = sync::lock(&self.last_error_logged_at);
        loop {
            match self.accept_one_connection() {
                Ok(client) => return client,
                Err(error) => {
                    if last_logged_at.is_none_or(|logged_at| logged_at.elapsed() >= LOG_INTERVAL) {
                        *last_logged_at = Some(Instant::now());
                        log::error!(address:% = self.address, reason:% = error; "accept_failed");
                    }
                    thread::sleep(BACKOFF);
                }
            }
        }
    }

    /// Accepts one connection. Returns `Ok(None)` if the listener is closed. Returns an error only if the next `accept` would
    /// probably fail too, for example because descriptors are exhausted.
    fn accept_one_connection(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            if self.closed.load(Ordering::SeqCst) {
                return Ok(None);
            }
            match self.socket.accept() {
                Ok(client) => return Ok(Some(client)),
                // The error concerns only one connection, or a signal interrupted `accept`: it is called again without a pause.
                Err(error) if is_single_client_accept_error(&error) => {}
                Err(error) => {
                    // After `shutdown`, `accept` fails with EINVAL.
                    if !self.closed.load(Ordering::SeqCst) {
                        return Err(error);
                    }
                }
            }
        }
    }
}

fn bind_socket(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if only_v6 {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Returns whether `error` concerns only the connection that was being accepted, or means that a signal interrupted `accept`
/// (accept(2)).
fn is_single_client_accept_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

/// Maximum number of connections that wait to be accepted. Beyond it the kernel drops the SYN, and the client repeats it only
/// after a second; with the usual 128, this happens in a burst of 500 connections.
const BACKLOG: i32 = 4_096;
/// Pause before `accept` is retried while descriptors or memory are exhausted, and time limit of a connect that wakes a thread.
const BACKOFF: Duration = Duration::from_millis(50);
/// Minimum time between two log lines about failing `accept` calls.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listener_close_does_not_wait_when_the_backlog_is_full() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any_port.into()).unwrap();
        socket.listen(0).unwrap();
        let listener = Listener::from_inherited_socket(socket.into(), false).unwrap();
        // Fills the backlog until a connect times out.
        let connect = || TcpStream::connect_timeout(&listener.bound_address(), BACKOFF);
        let waiting: Vec<TcpStream> = std::iter::from_fn(|| connect().ok()).take(10).collect();
        assert!(waiting.len() < 10);
        listener.accepting.store(100, Ordering::SeqCst);
        let started_at = Instant::now();
        listener.close();
        // A connect that waits takes BACKOFF for each of the hundred threads.
        assert!(started_at.elapsed() < BACKOFF * 100 / 2);
    }
}
