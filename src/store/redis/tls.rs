//! TLS to Redis. The redis crate would use another TLS library, which panics if a handshake fails.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConnection, Error, StreamOwned};

use crate::net::authorities::{load_authorities, tls_client_config};
use crate::net::tls::TlsFilesError;
use crate::net::tls_client_error::{VerifiedServer, describe_tls_client_error};

/// How to verify the certificate of one Redis server.
pub struct RedisTls {
    host: String,
    /// `host:port`, for error texts.
    address: String,
    ca_file: Option<PathBuf>,
}

/// A TLS connection to Redis after the handshake. Its errors name the server and the fix.
pub struct RedisTlsStream {
    stream: StreamOwned<ClientConnection, TcpStream>,
    tls: Arc<RedisTls>,
}

impl RedisTls {
    /// Returns the settings for a server that is reached as `host`, a name or an IP address. `ca_file` is REDIS_CA.
    pub fn new(host: &str, port: u16, ca_file: Option<&Path>) -> RedisTls {
        RedisTls {
            host: host.to_owned(),
            address: format!("{host}:{port}"),
            ca_file: ca_file.map(Path::to_owned),
        }
    }

    /// Performs the handshake, which ends within `timeout`, and verifies the server's certificate. REDIS_CA is read at each
    /// call, so that a changed file applies to the next connection.
    ///
    /// # Errors
    /// The text of the error names the server, the cause and the fix.
    pub fn handshake(
        self: &Arc<RedisTls>,
        mut socket: TcpStream,
        timeout: Duration,
    ) -> io::Result<RedisTlsStream> {
        let deadline = Instant::now() + timeout;
        let authorities = load_redis_authorities(self.ca_file.as_deref())
            .map_err(|error| tls_fault(&error.to_string()))?;
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| tls_fault(&format!("{} is not a name of a host", self.host)))?;
        let config = tls_client_config(authorities).map_err(|error| self.describe(&error))?;
        let mut connection =
            ClientConnection::new(Arc::new(config), name).map_err(|error| self.describe(&error))?;
        complete_handshake(&mut connection, &mut socket, deadline)
            .map_err(|error| self.describe_handshake_error(error, timeout))?;
        Ok(RedisTlsStream {
            stream: StreamOwned::new(connection, socket),
            tls: Arc::clone(self),
        })
    }

    fn describe_handshake_error(&self, error: io::Error, timeout: Duration) -> io::Error {
        let address = &self.address;
        match error.kind() {
            // A Redis without TLS reads the ClientHello as the beginning of a command and waits for the rest.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => tls_fault(&format!(
                "{address} has not completed the handshake within {timeout:?}, like a port without TLS; {PLAINTEXT_FIX}"
            )),
            io::ErrorKind::UnexpectedEof => tls_fault(&format!(
                "{address} closed the connection during the handshake; its log may say why"
            )),
            _ => self.describe_io_error(error),
        }
    }

    /// Replaces an error of rustls by its description. Returns any other error unchanged.
    fn describe_io_error(&self, error: io::Error) -> io::Error {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(fault) => self.describe(fault),
            None => error,
        }
    }

    /// Returns one line that names the server, the file of REDIS_CA, the cause and the fix.
    fn describe(&self, error: &rustls::Error) -> io::Error {
        let address = &self.address;
        let server = VerifiedServer {
            address,
            address_key: "REDIS_INTERFACE",
            ca_key: "REDIS_CA",
            ca_file: self.ca_file.as_deref(),
        };
        let described = describe_tls_client_error(error, &server);
        let (text, fix) = (described.text, described.fix);
        tls_fault(&match (error, &self.ca_file) {
            (Error::InvalidMessage(_), _) => {
                format!("{address} answers without TLS; {PLAINTEXT_FIX}")
            }
            (Error::AlertReceived(AlertDescription::CertificateRequired), _) => {
                format!("{address} wants a certificate of the client; {CLIENT_CERTIFICATE_FIX}")
            }
            (Error::AlertReceived(AlertDescription::HandshakeFailure), _) => {
                format!(
                    "{text}; {fix}; if it wants a certificate of the client, {CLIENT_CERTIFICATE_FIX}"
                )
            }
            (Error::InvalidCertificate(_), Some(file)) if !text.contains("REDIS_CA") => {
                format!("{text}; {fix} (verified with REDIS_CA {})", file.display())
            }
            _ => format!("{text}; {fix}"),
        })
    }
}

impl RedisTlsStream {
    /// Returns the TCP connection, for its timeouts and for closing it.
    pub fn socket(&self) -> &TcpStream {
        &self.stream.sock
    }
}

impl Read for RedisTlsStream {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(octets) {
            // Redis closed the connection without close_notify, which means the same as with it: the end of a reply is known
            // from the reply.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read.map_err(|error| self.tls.describe_io_error(error)),
        }
    }
}

impl Write for RedisTlsStream {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.stream.write(octets);
        written.map_err(|error| self.tls.describe_io_error(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.stream.flush();
        flushed.map_err(|error| self.tls.describe_io_error(error))
    }
}

/// Returns Mozilla's authorities and those in the file of REDIS_CA.
///
/// # Errors
/// The file cannot be read, or contains no certificate.
pub fn load_redis_authorities(
    ca_file: Option<&Path>,
) -> Result<rustls::RootCertStore, TlsFilesError> {
    load_authorities("REDIS_CA", ca_file)
}

/// Returns whether an error text comes from TLS, and so contains its own fix.
pub fn is_tls_fault(text: &str) -> bool {
    text.contains(TLS_FAULT)
}

fn tls_fault(text: &str) -> io::Error {
    io::Error::other(format!("{TLS_FAULT}{text}"))
}

/// Reads and writes until the handshake is complete. The timeout of a socket restarts with each octet, so the remaining time is
/// set before each system call.
fn complete_handshake(
    tls: &mut ClientConnection,
    socket: &mut TcpStream,
    deadline: Instant,
) -> io::Result<()> {
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if tls.wants_write() {
            socket.set_write_timeout(Some(remaining))?;
            tls.write_tls(socket)?;
        } else if tls.is_handshaking() {
            socket.set_read_timeout(Some(remaining))?;
            if tls.read_tls(socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = tls.process_new_packets() {
                // Tells the server why, for its log.
                let _ = tls.write_tls(socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        } else {
            return Ok(());
        }
    }
}

const PLAINTEXT_FIX: &str = "name its tls-port in REDIS_INTERFACE, or write redis://";
const CLIENT_CERTIFICATE_FIX: &str = "set tls-auth-clients no in the configuration of Redis";
/// The beginning of each error text of TLS.
const TLS_FAULT: &str = "TLS: ";
