//! One connection to Redis. The size and nesting of its replies are limited.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use r2d2_redis::redis::{ConnectionAddr, ConnectionLike, RedisError, RedisResult, Value};

use super::reply::read_resp_value;
use super::tls::{RedisTls, RedisTlsStream};

/// A connection to Redis over TCP, TLS or a Unix socket.
pub struct RedisConnection {
    stream: BufReader<RedisSocket>,
    is_open: bool,
}

enum RedisSocket {
    Tcp(TcpStream),
    Tls(Box<RedisTlsStream>),
    Unix(UnixStream),
}

impl RedisConnection {
    /// Connects to the Unix socket, or to the first IP address of the host that accepts the connection, there with TLS if `tls`
    /// is set. `timeout` applies to each TCP connection attempt, to the whole TLS handshake and to each later read and write.
    ///
    /// # Errors
    /// No address accepts the connection (the error is the one from the last address), or the TLS handshake fails.
    pub fn open(
        address: &ConnectionAddr,
        tls: Option<&Arc<RedisTls>>,
        timeout: Duration,
    ) -> io::Result<RedisConnection> {
        let stream = match (address, tls) {
            (ConnectionAddr::Unix(path), _) => RedisSocket::Unix(UnixStream::connect(path)?),
            (ConnectionAddr::Tcp(host, port), None) => {
                RedisSocket::Tcp(connect(host, *port, timeout)?)
            }
            (ConnectionAddr::Tcp(host, port), Some(tls)) => {
                let socket = connect(host, *port, timeout)?;
                RedisSocket::Tls(Box::new(tls.handshake(socket, timeout)?))
            }
            // Only a redis crate with its own TLS returns this address.
            (ConnectionAddr::TcpTls { .. }, _) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let connection = RedisConnection {
            stream: BufReader::new(stream),
            is_open: true,
        };
        connection.set_timeout(timeout)?;
        Ok(connection)
    }

    /// Sets the timeout of each following read and write.
    ///
    /// # Errors
    /// The socket option cannot be set.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        let timeout = Some(timeout);
        let stream = match self.stream.get_ref() {
            RedisSocket::Tcp(stream) => stream,
            RedisSocket::Tls(stream) => stream.socket(),
            RedisSocket::Unix(stream) => {
                stream.set_read_timeout(timeout)?;
                return stream.set_write_timeout(timeout);
            }
        };
        stream.set_read_timeout(timeout)?;
        stream.set_write_timeout(timeout)
    }

    /// Returns whether the server has neither closed the connection nor sent anything that was not asked for.
    pub fn is_idle(&self) -> bool {
        let descriptor = match self.stream.get_ref() {
            RedisSocket::Tcp(stream) => stream.as_raw_fd(),
            RedisSocket::Tls(stream) => stream.socket().as_raw_fd(),
            RedisSocket::Unix(stream) => stream.as_raw_fd(),
        };
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        self.is_open && recv(descriptor, &mut [0], flags) == Err(Errno::EAGAIN)
    }

    /// Sends commands and reads the reply to each, an error reply included, until `timeout` is over. Returns the replies, and
    /// the error because of which further ones are missing; the connection is then closed.
    pub fn run_pipeline(
        &mut self,
        commands: &[u8],
        count: usize,
        timeout: Duration,
    ) -> (Vec<RedisResult<Value>>, Option<RedisError>) {
        let until = Instant::now() + timeout;
        let mut replies = Vec::with_capacity(count);
        if let Err(error) = self.write(commands) {
            return (replies, Some(error.into()));
        }
        for _ in 0..count {
            if Instant::now() >= until {
                self.close();
                let late = io::Error::from(io::ErrorKind::TimedOut);
                return (replies, Some(late.into()));
            }
            match self.read_redis_reply() {
                Err(error) if !self.is_open => return (replies, Some(error)),
                reply => replies.push(reply),
            }
        }
        (replies, None)
    }

    fn read_redis_reply(&mut self) -> RedisResult<Value> {
        let reply = read_resp_value(&mut self.stream);
        if reply
            .as_ref()
            .is_err_and(|error| !is_redis_error_reply(error))
        {
            // Without closing, the rest of this reply would be read as the reply to the next command.
            self.close();
        }
        reply
    }

    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        let stream = self.stream.get_mut();
        let written = stream.write_all(octets).and_then(|()| stream.flush());
        if written.is_err() {
            self.close();
        }
        written
    }

    fn close(&mut self) {
        self.is_open = false;
        let _ = match self.stream.get_ref() {
            RedisSocket::Tcp(stream) => stream.shutdown(Shutdown::Both),
            RedisSocket::Tls(stream) => stream.socket().shutdown(Shutdown::Both),
            RedisSocket::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

fn connect(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let mut outcome = Err(io::Error::other(format!("{host} has no address")));
    for address in (host, port).to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&address, timeout);
        if let Ok(stream) = &outcome {
            stream.set_nodelay(true)?;
            break;
        }
    }
    outcome
}

/// Returns whether the server sent this error as a reply. The connection can still be used after such an error.
pub fn is_redis_error_reply(error: &RedisError) -> bool {
    use r2d2_redis::redis::ErrorKind;
    error.kind() == ErrorKind::ExtensionError || error.to_string().starts_with(SERVER_ERROR_PREFIX)
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command(&mut self, command: &[u8]) -> RedisResult<Value> {
        self.write(command)?;
        self.read_redis_reply()
    }

    fn req_packed_commands(
        &mut self,
        commands: &[u8],
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        self.write(commands)?;
        let mut replies = Vec::with_capacity(count);
        let mut first_error = None;
        for number in 0..offset + count {
            match self.read_redis_reply() {
                Ok(reply) if number >= offset => replies.push(reply),
                Ok(_) => {}
                // The connection is closed, so no further reply can be read.
                Err(error) if !self.is_open => return Err(first_error.unwrap_or(error)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            None => Ok(replies),
            Some(error) => Err(error),
        }
    }

    fn get_db(&self) -> i64 {
        0
    }

    fn check_connection(&mut self) -> bool {
        self.is_open
    }

    fn is_open(&self) -> bool {
        self.is_open
    }
}

impl Read for RedisSocket {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        match self {
            RedisSocket::Tcp(stream) => stream.read(octets),
            RedisSocket::Tls(stream) => stream.read(octets),
            RedisSocket::Unix(stream) => stream.read(octets),
        }
    }
}

impl Write for RedisSocket {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            RedisSocket::Tcp(stream) => stream.write(octets),
            RedisSocket::Tls(stream) => stream.write(octets),
            RedisSocket::Unix(stream) => stream.write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            RedisSocket::Tls(stream) => stream.flush(),
            RedisSocket::Tcp(_) | RedisSocket::Unix(_) => Ok(()),
        }
    }
}

/// Beginning of the redis crate's text for an error that the server sent.
const SERVER_ERROR_PREFIX: &str = "An error was signalled by the server";
