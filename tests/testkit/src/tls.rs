//! A server with its own certificate, and a TLS client that trusts only this certificate.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use super::certificates::{KeyKind, Pair};
use super::{Client, Server, TEST_TIMEOUT, value, wait_for};

/// A server that offers STARTTLS on one port and implicit TLS on another.
pub struct TlsServer {
    pub server: Server,
    pub implicit_tls_address: SocketAddr,
    pub pair: Pair,
}

impl TlsServer {
    /// Starts a server with an ECDSA certificate and these keys in addition to the test defaults.
    pub fn start(settings: &[(&str, &str)]) -> TlsServer {
        let folder = TempDir::new().expect("a temporary folder");
        let pair = Pair::make(folder.path(), "mx", KeyKind::EcdsaP256, 90);
        TlsServer::start_with(folder, pair, settings)
    }

    /// Starts a server with an existing certificate and key.
    pub fn start_with(folder: TempDir, pair: Pair, settings: &[(&str, &str)]) -> TlsServer {
        TlsServer::start_with_wrapper(folder, pair, settings, |program| program)
    }

    /// Starts a server with an existing certificate and key, wrapped by another command.
    pub fn start_with_wrapper(
        folder: TempDir,
        pair: Pair,
        settings: &[(&str, &str)],
        around: impl FnOnce(Command) -> Command,
    ) -> TlsServer {
        let text = |file: &Path| file.to_str().expect("a path in UTF-8").to_owned();
        let (chain, key) = (text(&pair.chain), text(&pair.key));
        let mut all = vec![
            ("GSMTPS_LISTEN_INTERFACE", "127.0.0.1:0"),
            ("GSMTP_PUB_KEY", &chain),
            ("GSMTP_PRV_KEY", &key),
        ];
        all.extend(settings);
        let server = Server::start_with(folder, &all, around);
        let implicit_tls_address = wait_for("the implicit TLS port", || {
            let log = server.log();
            let line = log.lines().find(|line| line.contains(" tls=true "))?;
            value(line, "address")?.parse().ok()
        });
        TlsServer {
            server,
            implicit_tls_address,
            pair,
        }
    }

    /// Connects a client that has completed STARTTLS and sent nothing after the handshake.
    pub fn client(&self) -> TlsClient {
        let config = config_trusting(&[&self.pair.chain]);
        TlsClient::over(starttls(self.server.client()), config).expect("a handshake")
    }

    /// Connects a client to the implicit TLS port and reads the greeting.
    pub fn implicit_tls_client(&self) -> TlsClient {
        let socket = TcpStream::connect(self.implicit_tls_address).expect("the server accepts");
        let config = config_trusting(&[&self.pair.chain]);
        let mut client = TlsClient::over(socket, config).expect("a handshake");
        client.expect("220 mx.test ESMTP");
        client
    }
}

/// Sends EHLO and STARTTLS and reads the 220. Returns the socket, with nothing unread.
pub fn starttls(mut client: Client) -> TcpStream {
    client.command("EHLO before.test", "250");
    client.command("STARTTLS", "220 2.0.0 ");
    client.socket().try_clone().expect("a descriptor")
}

/// Returns a configuration that trusts only these self-signed certificates.
pub fn config_trusting(chains: &[&Path]) -> Arc<ClientConfig> {
    config_with(aws_lc_rs::default_provider(), chains)
}

/// Returns a configuration that trusts only these certificates, with the ciphers and groups of `provider`.
pub fn config_with(provider: CryptoProvider, chains: &[&Path]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for chain in chains {
        roots.add(certificate(chain)).expect("a certificate");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("ciphers for each version");
    let builder = builder.with_root_certificates(roots);
    Arc::new(builder.with_no_client_auth())
}

/// Returns the first certificate of a file.
pub fn certificate(chain: &Path) -> CertificateDer<'static> {
    let pem = fs::read(chain).expect("a certificate");
    CertificateDer::from_pem_slice(&pem).expect("a certificate")
}

/// Returns a TLS client state before the handshake.
pub fn connection(config: Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("mx.test").expect("a name");
    ClientConnection::new(config, name).expect("a configuration that fits")
}

/// An SMTP client over TLS.
pub struct TlsClient {
    reader: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsClient {
    /// Performs the handshake and verifies the server's certificate.
    pub fn over(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<TlsClient> {
        TlsClient::resume(socket, connection(config))
    }

    /// Completes a handshake that may have begun.
    pub fn resume(mut socket: TcpStream, mut tls: ClientConnection) -> io::Result<TlsClient> {
        socket.set_read_timeout(Some(TEST_TIMEOUT))?;
        socket.set_nodelay(true)?;
        while tls.is_handshaking() {
            if tls.complete_io(&mut socket)?.0 == 0 && tls.is_handshaking() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(TlsClient {
            reader: BufReader::new(StreamOwned::new(tls, socket)),
        })
    }

    /// Returns the TLS state.
    pub fn tls(&mut self) -> &mut ClientConnection {
        &mut self.reader.get_mut().conn
    }

    /// Returns the socket.
    pub fn socket(&self) -> &TcpStream {
        &self.reader.get_ref().sock
    }

    /// Returns the server's certificate.
    pub fn certificate(&mut self) -> CertificateDer<'static> {
        let shown = self.tls().peer_certificates().expect("a certificate");
        shown[0].clone().into_owned()
    }

    /// Sends octets unchanged.
    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets.as_ref()).expect("the server reads");
    }

    /// Sends octets unchanged; returns an error if the server has closed.
    pub fn try_send(&mut self, octets: &[u8]) -> io::Result<()> {
        let stream = self.reader.get_mut();
        stream.write_all(octets).and_then(|()| stream.flush())
    }

    /// Reads a reply that must start with `beginning` and returns its text.
    pub fn expect(&mut self, beginning: &str) -> String {
        let mut text = String::new();
        loop {
            let start = text.len();
            self.reader.read_line(&mut text).expect("a reply");
            assert!(text.ends_with("\r\n"), "closed instead of {beginning}");
            if text.as_bytes().get(start + 3) == Some(&b' ') {
                break;
            }
        }
        assert!(
            text.starts_with(beginning),
            "expected {beginning}, but found {text}"
        );
        text
    }

    /// Sends a line with CR LF and reads a reply that must start with `beginning`.
    pub fn command(&mut self, line: &str, beginning: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.expect(beginning)
    }

    /// Sends MAIL, RCPT and DATA and reads the 354.
    pub fn begin_mail(&mut self) {
        self.command("MAIL FROM:<a@client.test>", "250 2.1.0");
        self.command("RCPT TO:<u@ours.test>", "250 2.1.5");
        self.command("DATA", "354 ");
    }

    /// Asserts that close_notify follows and no octet before it.
    pub fn expect_close_notify(&mut self) {
        let count = self.reader.read(&mut [0; 512]);
        assert_eq!(count.expect("close_notify before the end"), 0);
    }
}
