//! A client's socket as reads and writes with deadlines.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::deadline::Deadline;

/// One client's stream of octets.
pub struct Transport {
    socket: Arc<TcpStream>,
    /// The read time-out last given to the kernel. It restarts with each read, so it is only set anew when less than it
    /// remains, which spares a system call for nearly every read.
    armed: Duration,
    write_patience: Duration,
}

/// Why octets did not move.
#[derive(Debug)]
pub enum TransportError {
    /// The deadline came first.
    TimedOut,
    /// The client is gone.
    Lost(io::Error),
}

impl Transport {
    /// Takes over a fresh socket. `write_patience` is how long one batch of replies may take.
    ///
    /// # Errors
    /// When the socket refuses its options: the client is gone already.
    pub fn new(socket: Arc<TcpStream>, write_patience: Duration) -> io::Result<Transport> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(write_patience))?;
        socket.set_write_timeout(Some(write_patience))?;
        Ok(Transport {
            socket,
            armed: write_patience,
            write_patience,
        })
    }

    /// Reads what is there, at least one octet; 0 when the client has finished sending.
    ///
    /// # Errors
    /// [`TransportError`] as it says.
    pub fn read(&mut self, room: &mut [u8], deadline: &Deadline) -> Result<usize, TransportError> {
        loop {
            let remaining = deadline
                .remaining(Instant::now())
                .ok_or(TransportError::TimedOut)?;
            if remaining < self.armed {
                self.arm(remaining)?;
            }
            match (&*self.socket).read(room) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // Armed for less than what remains by now: go on with that.
                    if let Some(remaining) = deadline.remaining(Instant::now()) {
                        self.arm(remaining)?;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => return other.map_err(TransportError::Lost),
            }
        }
    }

    /// Writes all of `octets`, within the patience for one batch of replies.
    ///
    /// # Errors
    /// [`TransportError`] as it says; how much was written is then unknown.
    pub fn write_all(&mut self, octets: &[u8]) -> Result<(), TransportError> {
        let started_at = Instant::now();
        let mut rest = octets;
        while !rest.is_empty() {
            match (&*self.socket).write(rest) {
                Ok(0) => return Err(TransportError::Lost(ErrorKind::WriteZero.into())),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(TransportError::TimedOut);
                }
                Err(error) => return Err(TransportError::Lost(error)),
            }
            if !rest.is_empty() && started_at.elapsed() >= self.write_patience {
                return Err(TransportError::TimedOut);
            }
        }
        Ok(())
    }

    /// Whether the client has closed its end or reset the connection, with nothing left to read.
    pub fn client_left(&self) -> bool {
        let looked = self.socket.set_nonblocking(true).and_then(|()| {
            let looked = self.socket.peek(&mut [0]);
            self.socket.set_nonblocking(false)?;
            looked
        });
        match looked {
            Ok(octets) => octets == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        }
    }

    /// Closes after a last reply that the client may still be sending against: `close` with unread octets would make
    /// the kernel reset the connection, which can cost the client that reply. Reads and drops, for a bounded time.
    pub fn close_gently(&mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let deadline = Deadline::for_command(Instant::now(), LINGER);
        let mut dropped = 0;
        let mut room = [0; 4_096];
        while dropped < MAX_DROPPED_OCTETS {
            match self.read(&mut room, &deadline) {
                Ok(0) | Err(_) => return,
                Ok(count) => dropped += count,
            }
        }
    }

    fn arm(&mut self, timeout: Duration) -> Result<(), TransportError> {
        // Zero would mean no time-out at all.
        let timeout = timeout.max(Duration::from_millis(1));
        let set = self.socket.set_read_timeout(Some(timeout));
        set.map_err(TransportError::Lost)?;
        self.armed = timeout;
        Ok(())
    }
}

/// How long a client may go on sending after our last reply. It holds its place meanwhile, so slow clients on all places
/// are gone within a second of their time.
const LINGER: Duration = Duration::from_millis(900);
/// How much it may send meanwhile.
const MAX_DROPPED_OCTETS: usize = 1 << 20;
