//! A client's connection as a stream of octets, plain or in TLS.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};

use super::deadline::Deadline;
use super::io_timeout::BlockingIoDeadlines;
use super::timed_socket::{NonBlockingReadOutcome, TimedSocket};
pub use super::transport_error::ClientIoError;

/// The stream of octets from and to one client.
pub struct ClientTransport {
    records: SocketWithUndecryptedOctets,
    tls: Option<Box<ServerConnection>>,
}

/// The client's socket, with the octets that were read from it but not yet given to rustls.
struct SocketWithUndecryptedOctets {
    socket: TimedSocket,
    /// Octets of TLS records that arrived before the handshake started, or while rustls held the maximum of unread plaintext.
    pending: Vec<u8>,
}

/// TLS version and cipher suite that a handshake agreed on, for the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiatedTls {
    /// `TLSv1_3` or `TLSv1_2`.
    pub version: &'static str,
    /// The registered name of the cipher suite.
    pub cipher: &'static str,
}

impl ClientTransport {
    /// Takes over an accepted socket, whose blocking reads and writes end at the deadline armed in `io_timeout`.
    /// `write_timeout` is the time limit for one batch of replies.
    ///
    /// # Errors
    /// The socket options cannot be set, because the client has already reset the connection.
    pub fn new(
        socket: Arc<TcpStream>,
        io_timeout: Arc<BlockingIoDeadlines>,
        write_timeout: Duration,
    ) -> io::Result<ClientTransport> {
        socket.set_nodelay(true)?;
        Ok(ClientTransport {
            records: SocketWithUndecryptedOctets {
                socket: TimedSocket::new(socket, io_timeout, write_timeout),
                pending: Vec::new(),
            },
            tls: None,
        })
    }

    /// Sets octets that were already read from the socket; the next TLS handshake begins with them. Plaintext reads ignore
    /// them.
    pub fn set_octets_before_handshake(&mut self, octets: Vec<u8>) {
        self.records.pending = octets;
    }

    /// Does the TLS handshake before `deadline`. After an error the caller must not send anything in plaintext.
    ///
    /// # Errors
    /// [`ClientIoError`].
    pub fn do_tls_handshake(
        &mut self,
        config: Arc<ServerConfig>,
        deadline: &Deadline,
    ) -> Result<NegotiatedTls, ClientIoError> {
        let mut tls = ServerConnection::new(config).map_err(ClientIoError::Tls)?;
        // rustls needs no limit for its buffer: it holds only one batch of replies, whose size the caller bounds.
        tls.set_buffer_limit(None);
        let tls = self.tls.insert(Box::new(tls));
        while tls.is_handshaking() {
            self.records.write_tls(tls, deadline)?;
            if tls.is_handshaking() && self.records.read_from_tls_connection(tls, deadline)? == 0 {
                return Err(ClientIoError::ConnectionReset(
                    ErrorKind::UnexpectedEof.into(),
                ));
            }
        }
        self.records.write_tls(tls, deadline)?;
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

    /// Reads into `buffer` until `deadline`. Returns the number of octets, or 0 if the client has finished sending.
    ///
    /// # Errors
    /// [`ClientIoError`].
    pub fn read(&mut self, buffer: &mut [u8], deadline: &Deadline) -> Result<usize, ClientIoError> {
        let Some(tls) = &mut self.tls else {
            return self.records.socket.read(buffer, deadline);
        };
        loop {
            match tls.reader().read(buffer) {
                Ok(count) => return Ok(count),
                // The client closed without close_notify, as many clients do.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(ClientIoError::ConnectionReset(error)),
            }
            self.records.read_from_tls_connection(tls, deadline)?;
            // A key update or an alert of the client may require an answer.
            self.records.write_tls(tls, deadline)?;
        }
    }

    /// Writes all of `octets` within the time limit for one batch of replies.
    ///
    /// # Errors
    /// [`ClientIoError`]; an unknown part of `octets` was then written.
    pub fn write_all(&mut self, octets: &[u8]) -> Result<(), ClientIoError> {
        let deadline = self.records.socket.write_deadline();
        let Some(tls) = &mut self.tls else {
            return self.records.socket.write_all(octets, &deadline);
        };
        tls.writer()
            .write_all(octets)
            .map_err(ClientIoError::ConnectionReset)?;
        self.records.write_tls(tls, &deadline)
    }

    /// Returns whether the client has finished sending or reset the connection, even if octets from it are unread. In TLS a
    /// close_notify counts too, if at most 16 KiB of unread plaintext precede it.
    pub fn has_client_left(&mut self) -> bool {
        if self.records.socket.is_shut_by_peer() {
            return true;
        }
        match &mut self.tls {
            Some(tls) => self.records.has_tls_client_closed(tls),
            None => false,
        }
    }

    /// Sends close_notify in TLS, so that the client can distinguish a complete stream from a truncated one.
    pub fn send_close_notify(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let deadline = self.records.socket.write_deadline();
            // An error is ignored: the connection ends anyway.
            let _ = self.records.write_tls(tls, &deadline);
        }
    }

    /// Ends the connection after a last reply, while the client may still be sending. Sends close_notify, then discards what
    /// the client sends, for a bounded time.
    pub fn lingering_close(&mut self) {
        self.send_close_notify();
        self.records.socket.discard_input_before_close();
    }
}

impl SocketWithUndecryptedOctets {
    /// Passes the octets in `pending` to rustls or, if there are none, the octets of one read from the socket. Returns the
    /// number of octets; 0 means that the client has finished sending.
    // Not inlined: otherwise its buffer would take stack space in every connection, even in one without TLS.
    #[inline(never)]
    #[expect(
        clippy::indexing_slicing,
        reason = "a read fills no more than the buffer it was given"
    )]
    fn read_from_tls_connection(
        &mut self,
        tls: &mut ServerConnection,
        deadline: &Deadline,
    ) -> Result<usize, ClientIoError> {
        let mut buffer = [0; TLS_READ_OCTETS];
        let pending = mem::take(&mut self.pending);
        let passed = match pending.is_empty() {
            true => {
                let count = self.socket.read(&mut buffer, deadline)?;
                self.pass_to_rustls(tls, &buffer[..count])
            }
            false => self.pass_to_rustls(tls, &pending),
        };
        if let Err(ClientIoError::Tls(_)) = passed {
            // Sends the TLS alert that names the fault; nothing else is sent after it.
            let deadline = self.socket.write_deadline();
            let _ = self.write_tls(tls, &deadline);
        }
        passed
    }

    /// Passes `received` to rustls, and keeps in `pending` the octets that rustls does not take yet. Returns the number of
    /// octets in `received`. Sends nothing, because the caller may hold a lock that a writer needs.
    fn pass_to_rustls(
        &mut self,
        tls: &mut ServerConnection,
        mut received: &[u8],
    ) -> Result<usize, ClientIoError> {
        let count = received.len();
        loop {
            let taken = tls
                .read_tls(&mut received)
                .map_err(ClientIoError::ConnectionReset)?;
            match tls.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > MAX_PLAINTEXT_OCTETS => {
                    self.pending = received.to_vec();
                    return Ok(count);
                }
                Ok(_) if received.is_empty() || taken == 0 => return Ok(count),
                Ok(_) => {}
                Err(error) => return Err(ClientIoError::Tls(error)),
            }
        }
    }

    /// Reads the octets that have arrived, without blocking, until rustls holds more than [`MAX_PLAINTEXT_OCTETS`]. Returns
    /// `true` if a close_notify has arrived, or if the connection has ended or is broken.
    // Not inlined: otherwise its buffer would take stack space in every connection, even in one without TLS.
    #[inline(never)]
    #[expect(
        clippy::indexing_slicing,
        reason = "a read fills no more than the buffer it was given"
    )]
    fn has_tls_client_closed(&mut self, tls: &mut ServerConnection) -> bool {
        let mut buffer = [0; TLS_READ_OCTETS];
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
            let count = match self.socket.read_available(&mut buffer) {
                NonBlockingReadOutcome::Octets(count) => count,
                NonBlockingReadOutcome::Nothing => return false,
                NonBlockingReadOutcome::End => return true,
            };
            if self.pass_to_rustls(tls, &buffer[..count]).is_err() {
                return true;
            }
        }
    }

    /// Sends all TLS records that rustls has ready, in one write.
    fn write_tls(
        &mut self,
        tls: &mut ServerConnection,
        deadline: &Deadline,
    ) -> Result<(), ClientIoError> {
        if !tls.wants_write() {
            return Ok(());
        }
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)
                .map_err(ClientIoError::ConnectionReset)?;
        }
        self.socket.write_all(&records, deadline)
    }
}

/// Size in octets of the buffer for one read of TLS records. A record may hold 16 KiB, but the buffer is smaller, because it is
/// on the stack of every connection that waits in TLS.
const TLS_READ_OCTETS: usize = 4_096;
/// Number of octets of unread plaintext in rustls beyond which further octets are kept in `pending`.
const MAX_PLAINTEXT_OCTETS: usize = 16_384;
