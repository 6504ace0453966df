//! Listening sockets: a long backlog, and calm when descriptors run out.

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

use crate::locks;

/// One address that clients connect to.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls_at_once: bool,
    /// Somebody else holds this socket too, and goes on listening when we no longer do.
    inherited: bool,
    closed: AtomicBool,
    /// Threads that wait in [`accept`](Listener::accept) or are on their way there.
    waiting: AtomicUsize,
    trouble: Mutex<Option<Instant>>,
}

impl Listener {
    /// Binds `address` and listens. With `only_v6`, `[::]` leaves IPv4 to another listener; with `tls_at_once`, clients
    /// begin with their handshake.
    ///
    /// # Errors
    /// Whatever the kernel says: the address is in use, or its port needs root.
    pub fn bind(address: SocketAddr, only_v6: bool, tls_at_once: bool) -> io::Result<Listener> {
        let socket = bound(address, only_v6)?;
        socket.listen(BACKLOG)?;
        Listener::new(TcpListener::from(socket), false, tls_at_once)
    }

    /// Whether `address` could be bound, for a moment in which nobody is kept from listening there. One that is in use
    /// could: perhaps it is the server that runs.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn try_address(address: SocketAddr) -> io::Result<()> {
        match bound(address, address.is_ipv6()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes over a socket that listens already, from a service manager that keeps it open.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn inherit(socket: TcpListener, tls_at_once: bool) -> io::Result<Listener> {
        // Threads block in accept; the manager may have set it up for a program that polls.
        socket.set_nonblocking(false)?;
        Listener::new(socket, true, tls_at_once)
    }

    fn new(socket: TcpListener, inherited: bool, tls_at_once: bool) -> io::Result<Listener> {
        Ok(Listener {
            address: socket.local_addr()?,
            socket,
            tls_at_once,
            inherited,
            closed: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            trouble: Mutex::new(None),
        })
    }

    /// The address bound, with the port the kernel chose if it was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether clients begin with their handshake (port 465, RFC 8314).
    pub fn tls_at_once(&self) -> bool {
        self.tls_at_once
    }

    /// Threads that wait in [`accept`](Listener::accept) or are on their way there, as the crew counts them.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// One more of them.
    pub(super) fn add_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    /// One less of them.
    pub(super) fn remove_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits for the next client; `None` once [`close`](Listener::close) was called.
    ///
    /// Never spins: when the process or the machine has no descriptor or memory left, one thread tries again every
    /// 50 ms and the others wait behind it.
    pub fn accept(&self) -> Option<(TcpStream, SocketAddr)> {
        match self.try_accept() {
            Ok(client) => client,
            Err(_) => self.accept_in_trouble(),
        }
    }

    /// Ends all waiting for clients.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if self.inherited {
            self.wake_threads();
        } else {
            // Wakes every thread that blocks in accept.
            let _ = socket::shutdown(self.socket.as_raw_fd(), socket::Shutdown::Both);
        }
    }

    /// Shutting a shared socket would end the listening of whoever holds it too, so each thread that blocks in accept
    /// gets a connection of our own.
    fn wake_threads(&self) {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, self.address.port());
        for _ in 0..self.waiting.load(Ordering::SeqCst) {
            // A thread that is not reached ends with the process, and where one is not, the others are not either.
            if TcpStream::connect_timeout(&address, PAUSE).is_err() {
                return;
            }
        }
    }

    fn accept_in_trouble(&self) -> Option<(TcpStream, SocketAddr)> {
        let mut last_said = locks::lock(&self.trouble);
        loop {
            match self.try_accept() {
                Ok(client) => return client,
                Err(error) => {
                    if last_said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
                        *last_said = Some(Instant::now());
                        log::error!(address:% = self.address, reason:% = error; "accept_failed");
                    }
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    /// `Ok(None)`: closed. Errors are those that take time to pass.
    fn try_accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            if self.closed.load(Ordering::SeqCst) {
                return Ok(None);
            }
            match self.socket.accept() {
                Ok(client) => return Ok(Some(client)),
                // The client was gone before we looked, or a signal came.
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    // Shut down by us, accept says EINVAL.
                    if !self.closed.load(Ordering::SeqCst) {
                        return Err(error);
                    }
                }
            }
        }
    }
}

fn bound(address: SocketAddr, only_v6: bool) -> io::Result<Socket> {
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

/// Errors of the one connection that was to be accepted (accept(2)); all others take time to pass.
fn is_the_clients(error: &io::Error) -> bool {
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

/// Connections the kernel may hold for us: with the usual 128, a burst of 500 waits a second for its SYNs to be sent again.
const BACKLOG: i32 = 4_096;
/// Between tries while descriptors or memory are short.
const PAUSE: Duration = Duration::from_millis(50);
/// Between log lines about it.
const SAY_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_waits_for_no_thread_that_cannot_be_reached() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any_port.into()).unwrap();
        socket.listen(0).unwrap();
        let listener = Listener::inherit(socket.into(), false).unwrap();
        // Until the backlog is full, and one more finds no room.
        let connect = || TcpStream::connect_timeout(&listener.address(), PAUSE);
        let waiting: Vec<TcpStream> = std::iter::from_fn(|| connect().ok()).take(10).collect();
        assert!(waiting.len() < 10);
        listener.waiting.store(100, Ordering::SeqCst);
        let started_at = Instant::now();
        listener.close();
        assert!(started_at.elapsed() < Duration::from_secs(1));
    }
}
