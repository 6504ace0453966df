//! Listening sockets: bind or inherit, accept with back-off, close.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket;
use socket2::{Domain, Protocol, Socket, Type};

use super::close_signal::CloseSignal;
use crate::sync;

/// One listening socket.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    implicit_tls: bool,
    /// Present if a service manager opened the socket. The service manager then keeps the socket listening after this process
    /// ends, and the next process serves the connections that wait.
    inherited: Option<CloseSignal>,
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
        Listener::new(TcpListener::from(socket), None, implicit_tls)
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
        // Threads wait in poll(2). `accept` must not block if another thread was faster.
        socket.set_nonblocking(true)?;
        Listener::new(socket, Some(CloseSignal::new()?), implicit_tls)
    }

    fn new(
        socket: TcpListener,
        inherited: Option<CloseSignal>,
        implicit_tls: bool,
    ) -> io::Result<Listener> {
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
        match &self.inherited {
            Some(close_signal) => close_signal.send(),
            // Wakes every thread that blocks in `accept`.
            None => {
                let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
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
            if let Some(close_signal) = &self.inherited {
                close_signal.wait_for_connection(&self.socket)?;
            }
            // Read after the wait: connections that arrive after `close` are left to the next process.
            if self.closed.load(Ordering::SeqCst) {
                return Ok(None);
            }
            match self.socket.accept() {
                Ok(client) => return Ok(Some(client)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
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
/// Pause before `accept` is retried while descriptors or memory are exhausted.
const BACKOFF: Duration = Duration::from_millis(50);
/// Minimum time between two log lines about failing `accept` calls.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
