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
use super::io_timeout::{BlockingIoDeadlines, IoDirection};
use super::transport_error::ClientIoError;

/// The socket of one client and the deadlines of its reads and writes.
pub struct TimedSocket {
    socket: Arc<TcpStream>,
    io_timeout: Arc<BlockingIoDeadlines>,
    /// Time limit for one batch of replies.
    write_timeout: Duration,
}

/// Result of a read that does not block.
pub enum NonBlockingReadOutcome {
    /// The number of octets read.
    Octets(usize),
    /// Nothing has arrived.
    Nothing,
    /// The client has finished sending, or the connection is broken.
    End,
}

impl TimedSocket {
    /// Returns a socket whose blocking reads and writes end at the deadline armed in `io_timeout`. `write_timeout` is the time
    /// limit for one batch of replies.
    pub fn new(
        socket: Arc<TcpStream>,
        io_timeout: Arc<BlockingIoDeadlines>,
        write_timeout: Duration,
    ) -> TimedSocket {
        TimedSocket {
            socket,
            io_timeout,
            write_timeout,
        }
    }

    /// Waits until octets arrive, but not beyond `deadline`, and reads them into `buffer`. Returns their number, or 0 if the
    /// client has finished sending.
    ///
    /// # Errors
    /// [`ClientIoError`].
    pub fn read(&mut self, buffer: &mut [u8], deadline: &Deadline) -> Result<usize, ClientIoError> {
        loop {
            let expiry = self.io_timeout.io_expiry_reason();
            if let Some(expiry) =
                expiry.or_else(|| self.io_timeout.reason_if_deadline_passed(deadline))
            {
                return Err(expiry.into());
            }
            self.io_timeout.set_io_deadline(IoDirection::Read, deadline);
            let read = (&*self.socket).read(buffer);
            match (read, self.io_timeout.clear_io_deadline()) {
                // The deadlines thread shut the socket down for reading, and all octets that had arrived before have been read.
                (Ok(0), Some(expiry)) => return Err(expiry.into()),
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                (read, _) => return read.map_err(ClientIoError::ConnectionReset),
            }
        }
    }

    /// Reads the octets that have already arrived into `buffer`, without blocking.
    pub fn read_available(&self, buffer: &mut [u8]) -> NonBlockingReadOutcome {
        match recv(self.socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => NonBlockingReadOutcome::End,
            Ok(count) => NonBlockingReadOutcome::Octets(count),
            Err(Errno::EAGAIN | Errno::EINTR) => NonBlockingReadOutcome::Nothing,
            Err(_) => NonBlockingReadOutcome::End,
        }
    }

    /// Returns the deadline for writing the next replies. After a timeout, one last reply is written within 900 ms at most:
    /// if a write blocks that long, the client has stopped reading, and a longer wait would not help.
    pub fn write_deadline(&self) -> Deadline {
        let timeout = match self.io_timeout.io_expiry_reason() {
            None => self.write_timeout,
            Some(_) => self.write_timeout.min(LINGER),
        };
        Deadline::new_command_deadline(Instant::now(), timeout)
    }

    /// Writes all of `octets` until `deadline`.
    ///
    /// # Errors
    /// [`ClientIoError`]; an unknown part of `octets` was then written.
    #[expect(
        clippy::indexing_slicing,
        reason = "a write takes no more than it was given"
    )]
    pub fn write_all(&mut self, octets: &[u8], deadline: &Deadline) -> Result<(), ClientIoError> {
        let mut rest = octets;
        while !rest.is_empty() {
            self.io_timeout
                .set_io_deadline(IoDirection::Write, deadline);
            let written = (&*self.socket).write(rest);
            match (written, self.io_timeout.clear_io_deadline()) {
                (Ok(0), _) => {
                    return Err(ClientIoError::ConnectionReset(ErrorKind::WriteZero.into()));
                }
                (Ok(count), _) => rest = &rest[count..],
                (Err(error), _) if error.kind() == ErrorKind::Interrupted => {}
                // The deadlines thread shut the socket down in both directions.
                (Err(_), Some(expiry)) => return Err(expiry.into()),
                (Err(error), None) => return Err(ClientIoError::ConnectionReset(error)),
            }
            if !rest.is_empty()
                && let Some(expiry) = self.io_timeout.reason_if_deadline_passed(deadline)
            {
                return Err(expiry.into());
            }
        }
        Ok(())
    }

    /// Returns whether a FIN or a reset has arrived, even if octets before it are unread. Reads no octets.
    pub fn is_shut_by_peer(&self) -> bool {
        // nix has no constant for POLLRDHUP.
        let events = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let mut sockets = [PollFd::new(self.socket.as_fd(), events)];
        // Besides the requested event, `poll` reports only errors and hang-ups.
        poll(&mut sockets, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Shuts down writing, then discards what the client still sends, for a bounded time. Without this, `close` could find
    /// unread octets; the kernel would then reset the connection, and the client might lose the last reply.
    // Not inlined: otherwise the buffer of `discard_input_before_close` would take stack space in every connection, even before
    // `discard_input_before_close` is called.
    #[inline(never)]
    pub fn discard_input_before_close(&mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let linger = match self.io_timeout.expired_while_slots_nearly_full() {
            true => LINGER_NEARLY_FULL,
            false => LINGER,
        };
        let give_up_at = Instant::now() + linger;
        let mut dropped = 0;
        let mut buffer = [0; 4_096];
        // The read timeout is short, so that the loop checks `give_up_at` often. After a shutdown for reading, a read returns 0
        // without waiting, so the loop sleeps instead.
        if self.socket.set_read_timeout(Some(LINGER_TICK)).is_err() {
            return;
        }
        let was_shut = self.io_timeout.io_expiry_reason().is_some();
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

/// Maximum time for discarding the client's octets after the last reply, and for writing the last reply after a timeout. The
/// client holds its connection slot during this time.
const LINGER: Duration = Duration::from_millis(900);
/// Maximum time for discarding the client's octets if a deadline ended the connection while at least 90 % of the connection
/// slots were taken. The full time passes even if the client closes, because its FIN is not visible once the socket is shut
/// down for reading.
const LINGER_NEARLY_FULL: Duration = Duration::from_millis(250);
/// Interval at which `discard_input_before_close` checks whether its maximum time has passed.
const LINGER_TICK: Duration = Duration::from_millis(50);
/// Maximum number of octets that are discarded after the last reply (1 MiB); the connection is then closed.
const MAX_DROPPED_OCTETS: usize = 1 << 20;
