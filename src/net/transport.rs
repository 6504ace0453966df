//! A client's socket as reads and writes with deadlines, plain or in TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ServerConfig, ServerConnection};

use super::deadline::Deadline;
use super::io_timeout::{Expiry, IoTimeout, WaitKind};

/// One client's stream of octets.
pub struct Transport {
    socket: Socket,
    tls: Option<Box<ServerConnection>>,
}

/// The socket itself.
struct Socket {
    socket: Arc<TcpStream>,
    /// Octets of TLS records that came before their handshake, or while the TLS machine held all the plaintext it may.
    pending: Vec<u8>,
    io_timeout: Arc<IoTimeout>,
    /// How long one batch of replies may take.
    write_timeout: Duration,
}

/// Why octets did not move.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The deadline came first.
    #[error("timed out")]
    TimedOut,
    /// The client was slow while slots ran out, when deadlines are earlier.
    #[error("slow while slots ran out")]
    Shed,
    /// The client is gone.
    #[error("{0}")]
    ConnectionReset(io::Error),
    /// The client does not speak TLS as we do.
    #[error("{0}")]
    Tls(rustls::Error),
}

/// What a handshake agreed on, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiatedTls {
    /// `TLSv1_3` or `TLSv1_2`.
    pub version: &'static str,
    /// The cipher suite's registered name.
    pub cipher: &'static str,
}

impl Transport {
    /// Takes over a fresh socket, whose reads and writes `watch` ends. `write_timeout` is how long one batch of replies may
    /// take.
    ///
    /// # Errors
    /// When the socket refuses its options: the client is gone already.
    pub fn new(
        socket: Arc<TcpStream>,
        watch: Arc<IoTimeout>,
        write_timeout: Duration,
    ) -> io::Result<Transport> {
        socket.set_nodelay(true)?;
        let wire = Socket {
            socket,
            pending: Vec::new(),
            io_timeout: watch,
            write_timeout,
        };
        Ok(Transport {
            socket: wire,
            tls: None,
        })
    }

    /// Takes octets that were read already, as the beginning of a handshake that comes next.
    pub fn prepend(&mut self, octets: Vec<u8>) {
        self.socket.pending = octets;
    }

    /// Does the handshake, within `deadline` in all. After an error nothing may be said in plain.
    ///
    /// # Errors
    /// [`TransportError`] as it says.
    pub fn start_tls(
        &mut self,
        config: Arc<ServerConfig>,
        deadline: &Deadline,
    ) -> Result<NegotiatedTls, TransportError> {
        let mut tls = ServerConnection::new(config).map_err(TransportError::Tls)?;
        // Replies wait in our own buffer, which has a ceiling; this one holds what was encrypted of it.
        tls.set_buffer_limit(None);
        let tls = self.tls.insert(Box::new(tls));
        while tls.is_handshaking() {
            self.socket.write_tls(tls, deadline)?;
            if tls.is_handshaking() && self.socket.read_tls(tls, deadline)? == 0 {
                return Err(TransportError::ConnectionReset(
                    ErrorKind::UnexpectedEof.into(),
                ));
            }
        }
        self.socket.write_tls(tls, deadline)?;
        let suite = tls.negotiated_cipher_suite();
        Ok(NegotiatedTls {
            version: tls
                .protocol_version()
                .and_then(|version| version.as_str())
                .unwrap_or("unknown"),
            cipher: suite
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("unknown"),
        })
    }

    /// Reads what is there, at least one octet; 0 when the client has finished sending.
    ///
    /// # Errors
    /// [`TransportError`] as it says.
    pub fn read(&mut self, room: &mut [u8], deadline: &Deadline) -> Result<usize, TransportError> {
        let Some(tls) = &mut self.tls else {
            return self.socket.read(room, deadline);
        };
        loop {
            match tls.reader().read(room) {
                Ok(count) => return Ok(count),
                // The client left without close_notify, as many do.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(TransportError::ConnectionReset(error)),
            }
            self.socket.read_tls(tls, deadline)?;
            // Key updates and alerts of the client's may want an answer.
            self.socket.write_tls(tls, deadline)?;
        }
    }

    /// Writes all of `octets`, within the time for one batch of replies.
    ///
    /// # Errors
    /// [`TransportError`] as it says; how much was written is then unknown.
    pub fn write_all(&mut self, octets: &[u8]) -> Result<(), TransportError> {
        let deadline = self.socket.write_deadline();
        let Some(tls) = &mut self.tls else {
            return self.socket.write_all(octets, &deadline);
        };
        tls.writer()
            .write_all(octets)
            .map_err(TransportError::ConnectionReset)?;
        self.socket.write_tls(tls, &deadline)
    }

    /// Returns whether the client has finished sending or reset the connection, also if octets of its are unread. In TLS
    /// its close_notify counts as well, which is found behind 16 KiB of unread plaintext at most.
    pub fn client_left(&mut self) -> bool {
        if self.socket.is_shut_by_peer() {
            return true;
        }
        match &mut self.tls {
            Some(tls) => self.socket.has_close_notify(tls),
            None => false,
        }
    }

    /// Says that nothing more comes: close_notify in TLS, so that the client can tell an end from a cut.
    pub fn send_close_notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let deadline = self.socket.write_deadline();
            // A client that is gone by now needs no farewell.
            let _ = self.socket.write_tls(tls, &deadline);
        }
    }

    /// Closes after a last reply that the client may still be sending against: `close` with unread octets would make
    /// the kernel reset the connection, which can cost the client that reply. Reads and drops, for a bounded time.
    // Never inlined: its room would be part of every connection's stack, touched or not.
    #[inline(never)]
    pub fn lingering_close(&mut self) {
        self.send_close_notify();
        if self.socket.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let linger = match self.socket.io_timeout.has_expired_nearly_full() {
            true => LINGER_NEARLY_FULL,
            false => LINGER,
        };
        let give_up_at = Instant::now() + linger;
        let mut dropped = 0;
        let mut room = [0; 4_096];
        // A short time-out each: the reading side may have been shut, and then reads no longer wait for anything.
        if self
            .socket
            .socket
            .set_read_timeout(Some(LINGER_TICK))
            .is_err()
        {
            return;
        }
        let was_shut = self.socket.io_timeout.expiry().is_some();
        while dropped < MAX_DROPPED_OCTETS && Instant::now() < give_up_at {
            match (&*self.socket.socket).read(&mut room) {
                Ok(0) if was_shut => thread::sleep(LINGER_TICK),
                Ok(0) => return,
                Ok(count) => dropped += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

impl Socket {
    fn read(&mut self, room: &mut [u8], deadline: &Deadline) -> Result<usize, TransportError> {
        loop {
            let expiry = self.io_timeout.expiry();
            if let Some(expiry) = expiry.or_else(|| self.io_timeout.expiry_without_wait(deadline)) {
                return Err(expiry.into());
            }
            self.io_timeout.arm(WaitKind::Read, deadline);
            let read = (&*self.socket).read(room);
            match (read, self.io_timeout.disarm()) {
                // Shut down from outside; octets that had arrived by then are still read first.
                (Ok(0), Some(expiry)) => return Err(expiry.into()),
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (read, _) => return read.map_err(TransportError::ConnectionReset),
            }
        }
    }

    /// Returns the deadline of the replies that are written next. After a timeout only a last reply is left, and a client
    /// that left no room for it has not read for long.
    fn write_deadline(&self) -> Deadline {
        let timeout = match self.io_timeout.expiry() {
            None => self.write_timeout,
            Some(_) => self.write_timeout.min(LINGER),
        };
        Deadline::for_command(Instant::now(), timeout)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a write takes no more than it was given"
    )]
    fn write_all(&mut self, octets: &[u8], deadline: &Deadline) -> Result<(), TransportError> {
        let mut rest = octets;
        while !rest.is_empty() {
            self.io_timeout.arm(WaitKind::Write, deadline);
            let written = (&*self.socket).write(rest);
            match (written, self.io_timeout.disarm()) {
                (Ok(0), _) => {
                    return Err(TransportError::ConnectionReset(ErrorKind::WriteZero.into()));
                }
                (Ok(count), _) => rest = &rest[count..],
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                // Shut down from outside.
                (Err(_), Some(expiry)) => return Err(expiry.into()),
                (Err(error), None) => return Err(TransportError::ConnectionReset(error)),
            }
            if !rest.is_empty()
                && let Some(expiry) = self.io_timeout.expiry_without_wait(deadline)
            {
                return Err(expiry.into());
            }
        }
        Ok(())
    }

    /// What was held, or else one read from the socket, into the TLS machine; 0 at the end of the stream.
    // Never inlined: its room would be part of every connection's stack, touched or not.
    #[inline(never)]
    #[expect(
        clippy::indexing_slicing,
        reason = "a read fills no more than the room it was given"
    )]
    fn read_tls(
        &mut self,
        tls: &mut ServerConnection,
        deadline: &Deadline,
    ) -> Result<usize, TransportError> {
        let mut room = [0; TLS_READ_OCTETS];
        let held = mem::take(&mut self.pending);
        if !held.is_empty() {
            return self.process(tls, &held);
        }
        let count = self.read(&mut room, deadline)?;
        self.process(tls, &room[..count])
    }

    /// Gives octets to the TLS machine, and holds those that it has no room for.
    fn process(
        &mut self,
        tls: &mut ServerConnection,
        mut received: &[u8],
    ) -> Result<usize, TransportError> {
        let count = received.len();
        loop {
            let taken = tls
                .read_tls(&mut received)
                .map_err(TransportError::ConnectionReset)?;
            match tls.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > MAX_PLAINTEXT_OCTETS => {
                    self.pending = received.to_vec();
                    return Ok(count);
                }
                Ok(_) if received.is_empty() || taken == 0 => return Ok(count),
                Ok(_) => {}
                Err(error) => {
                    // The alert tells the client what was wrong; nothing else is ever said after a failure.
                    let deadline = self.write_deadline();
                    let _ = self.write_tls(tls, &deadline);
                    return Err(TransportError::Tls(error));
                }
            }
        }
    }

    /// Returns whether a FIN or a reset has arrived. `poll` tells that whatever is unread, and reads nothing.
    fn is_shut_by_peer(&self) -> bool {
        // nix has no name for it.
        let events = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut sockets = [PollFd::new(self.socket.as_fd(), events)];
        // Errors and hang-ups are reported too, and nothing else.
        poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Reads what has arrived without waiting, up to the plaintext that may be unread, and returns whether a close_notify
    /// is in it or the stream is broken.
    // Never inlined: its room would be part of every connection's stack, touched or not.
    #[inline(never)]
    #[expect(
        clippy::indexing_slicing,
        reason = "a read fills no more than the room it was given"
    )]
    fn has_close_notify(&mut self, tls: &mut ServerConnection) -> bool {
        let mut room = [0; TLS_READ_OCTETS];
        loop {
            let Ok(state) = tls.process_new_packets() else {
                return true;
            };
            if state.peer_has_closed() {
                return true;
            }
            if !self.pending.is_empty() || state.plaintext_bytes_to_read() > MAX_PLAINTEXT_OCTETS {
                return false;
            }
            let count = match recv(self.socket.as_raw_fd(), &mut room, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return true,
                Ok(count) => count,
                Err(Errno::EAGAIN | Errno::EINTR) => return false,
                Err(_) => return true,
            };
            if self.process(tls, &room[..count]).is_err() {
                return true;
            }
        }
    }

    /// Sends what the TLS machine has to say, in one write: a batch of replies is one record.
    fn write_tls(
        &mut self,
        tls: &mut ServerConnection,
        deadline: &Deadline,
    ) -> Result<(), TransportError> {
        if !tls.wants_write() {
            return Ok(());
        }
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)
                .map_err(TransportError::ConnectionReset)?;
        }
        self.write_all(&records, deadline)
    }
}

impl From<Expiry> for TransportError {
    fn from(expiry: Expiry) -> TransportError {
        match expiry {
            Expiry::TimedOut => TransportError::TimedOut,
            Expiry::Shed => TransportError::Shed,
        }
    }
}

/// One read of TLS records. A record may hold 16 KiB, but this stands on the stack of each client that waits.
const TLS_READ_OCTETS: usize = 4_096;
/// With more plaintext than this in it, unread, the TLS machine takes no octets.
const MAX_PLAINTEXT_OCTETS: usize = 16_384;
/// How long a client may go on sending after our last reply. It holds its place meanwhile, so slow clients on all places
/// are gone within a second of their time.
const LINGER: Duration = Duration::from_millis(900);
/// The same while slots run out, for a socket whose reading side was shut down: its client is not seen to close.
const LINGER_NEARLY_FULL: Duration = Duration::from_millis(250);
/// Between two looks at the clock meanwhile.
const LINGER_TICK: Duration = Duration::from_millis(50);
/// How much it may send meanwhile.
const MAX_DROPPED_OCTETS: usize = 1 << 20;
