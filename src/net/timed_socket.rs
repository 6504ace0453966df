//! A client's socket: blocking reads and writes with deadlines.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::deadline::Deadline;
use super::io_timeout::{IoDirection, IoTimeout};
use super::transport_error::ClientIoError;

/// The socket of one client and the deadlines of its reads and writes.
pub struct TimedSocket {
    socket: Arc<TcpStream>,
    io_timeout: Arc<IoTimeout>,
    /// Time limit for one batch of replies.
    write_timeout: Duration,
}

/// Result of a read that does not block.
pub enum ReadOutcome {
    /// The number of octets read.
    Octets(usize),
    /// Nothing has arrived.
    Nothing,
    /// The client has finished sending, or the connection is broken.
    End,
}

impl TimedSocket {
    /// Returns a socket whose blocking calls end at the deadlines in `io_timeout`.
    pub fn new(
        socket: Arc<TcpStream>,
        io_timeout: Arc<IoTimeout>,
        write_timeout: Duration,
    ) -> TimedSocket {
        TimedSocket {
            socket,
            io_timeout,
            write_timeout,
        }
    }

    /// Reads at least one octet; returns 0 if the client has finished sending.
    ///
    /// # Errors
    /// [`ClientIoError`].
    pub fn read(&mut self, buffer: &mut [u8], deadline: &Deadline) -> Result<usize, ClientIoError> {
        loop {
            let expiry = self.io_timeout.expiry();
            if let Some(expiry) = expiry.or_else(|| self.io_timeout.expiry_without_wait(deadline)) {
                return Err(expiry.into());
            }
            self.io_timeout.arm(IoDirection::Read, deadline);
            let read = (&*self.socket).read(buffer);
            match (read, self.io_timeout.disarm()) {
                // The deadlines thread shut the socket down; octets that had arrived before are read first.
                (Ok(0), Some(expiry)) => return Err(expiry.into()),
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (read, _) => return read.map_err(ClientIoError::ConnectionReset),
            }
        }
    }

    /// Reads what has arrived, without blocking.
    pub fn read_available(&self, buffer: &mut [u8]) -> ReadOutcome {
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => ReadOutcome::End,
            Ok(count) => ReadOutcome::Octets(count),
            Err(Errno::EAGAIN | Errno::EINTR) => ReadOutcome::Nothing,
            Err(_) => ReadOutcome::End,
        }
    }

    /// Returns the deadline for the next replies. After a timeout only one last reply is written, with a short time limit:
    /// if it does not fit into the client's receive buffer, the client has stopped reading, and a longer wait would not help.
    pub fn write_deadline(&self) -> Deadline {
        let timeout = match self.io_timeout.expiry() {
            None => self.write_timeout,
            Some(_) => self.write_timeout.min(LINGER),
        };
        Deadline::for_command(Instant::now(), timeout)
    }

    /// Writes all of `octets`.
    ///
    /// # Errors
    /// [`ClientIoError`]; it is then unknown how much was written.
    #[expect(
        clippy::indexing_slicing,
        reason = "a write takes no more than it was given"
    )]
    pub fn write_all(&mut self, octets: &[u8], deadline: &Deadline) -> Result<(), ClientIoError> {
        let mut rest = octets;
        while !rest.is_empty() {
            self.io_timeout.arm(IoDirection::Write, deadline);
            let written = (&*self.socket).write(rest);
            match (written, self.io_timeout.disarm()) {
                (Ok(0), _) => {
                    return Err(ClientIoError::ConnectionReset(ErrorKind::WriteZero.into()));
                }
                (Ok(count), _) => rest = &rest[count..],
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                // The deadlines thread shut the socket down.
                (Err(_), Some(expiry)) => return Err(expiry.into()),
                (Err(error), None) => return Err(ClientIoError::ConnectionReset(error)),
            }
            if !rest.is_empty()
                && let Some(expiry) = self.io_timeout.expiry_without_wait(deadline)
            {
                return Err(expiry.into());
            }
        }
        Ok(())
    }

    /// Returns whether a FIN or a reset has arrived. `poll` reports both even if octets are unread, and reads nothing.
    pub fn is_shut_by_peer(&self) -> bool {
        // nix has no constant for POLLRDHUP.
        let events = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut sockets = [PollFd::new(self.socket.as_fd(), events)];
        // Besides the requested event, `poll` reports only errors and hang-ups.
        poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Shuts down writing, then discards what the client still sends, for a bounded time. If `close` finds unread octets, the
    /// kernel resets the connection and the client may lose the last reply.
    // Not inlined: if it were, its buffer would take stack space in every connection, even if it is never called.
    #[inline(never)]
    pub fn linger(&mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let linger = match self.io_timeout.has_expired_nearly_full() {
            true => LINGER_NEARLY_FULL,
            false => LINGER,
        };
        let give_up_at = Instant::now() + linger;
        let mut dropped = 0;
        let mut buffer = [0; 4_096];
        // The read timeout is short, so that the loop checks its time limit. If the socket was shut down for reading, reads
        // return 0 at once and the loop sleeps instead.
        if self.socket.set_read_timeout(Some(LINGER_TICK)).is_err() {
            return;
        }
        let was_shut = self.io_timeout.expiry().is_some();
        while dropped < MAX_DROPPED_OCTETS && Instant::now() < give_up_at {
            match (&*self.socket).read(&mut buffer) {
                Ok(0) if was_shut => thread::sleep(LINGER_TICK),
                Ok(0) => return,
                Ok(count) => dropped += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }
}

/// How long the client's octets are discarded after the last reply. The client holds its connection slot during this time.
/// With this value the slot is free within a second after the deadline.
const LINGER: Duration = Duration::from_millis(900);
/// Replaces [`LINGER`] if a deadline ended the connection while slots ran out. After a shutdown for reading, the server cannot
/// detect that the client has closed.
const LINGER_NEARLY_FULL: Duration = Duration::from_millis(250);
/// Interval at which the loop in `linger` checks its time limit.
const LINGER_TICK: Duration = Duration::from_millis(50);
/// Maximum number of octets that are discarded after the last reply.
const MAX_DROPPED_OCTETS: usize = 1 << 20;
