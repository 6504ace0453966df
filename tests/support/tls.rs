//! A server with a pair of its own, and a client that speaks TLS and trusts that pair alone.

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
use super::{Client, PATIENCE, Server, value, wait_for};

/// A server that offers STARTTLS on its plain port and listens on another one for TLS from the first octet.
pub struct TlsServer {
    pub server: Server,
    pub at_once: SocketAddr,
    pub pair: Pair,
}

impl TlsServer {
    /// Starts with an ECDSA pair and these keys beside the defaults.
    pub fn start(settings: &[(&str, &str)]) -> TlsServer {
        let folder = TempDir::new().expect("a temporary folder");
        let pair = Pair::make(folder.path(), "mx", KeyKind::EcdsaP256, 90);
        TlsServer::start_with(folder, pair, settings)
    }

    /// Starts with a pair that there is already.
    pub fn start_with(folder: TempDir, pair: Pair, settings: &[(&str, &str)]) -> TlsServer {
        TlsServer::start_around(folder, pair, settings, |program| program)
    }

    /// The same with a command of its own around the program.
    pub fn start_around(
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
        let at_once = wait_for("the port of TLS", || {
            let log = server.log();
            let line = log.lines().find(|line| line.contains(" tls=true "))?;
            value(line, "address")?.parse().ok()
        });
        TlsServer {
            server,
            at_once,
            pair,
        }
    }

    /// A client that has begun TLS by STARTTLS and said nothing in it.
    pub fn client(&self) -> TlsClient {
        let config = config_trusting(&[&self.pair.chain]);
        TlsClient::over(starttls(self.server.client()), config).expect("a handshake")
    }

    /// A client in TLS from its first octet, which has read its greeting.
    pub fn client_at_once(&self) -> TlsClient {
        let socket = TcpStream::connect(self.at_once).expect("the server accepts");
        let config = config_trusting(&[&self.pair.chain]);
        let mut client = TlsClient::over(socket, config).expect("a handshake");
        client.expect("220 mx.test ESMTP");
        client
    }
}

/// EHLO and STARTTLS to the 220; the socket, with nothing unread.
pub fn starttls(mut client: Client) -> TcpStream {
    client.command("EHLO before.test", "250");
    client.command("STARTTLS", "220 2.0.0 ");
    client.socket().try_clone().expect("a descriptor")
}

/// Trusts these self-signed certificates and nobody else.
pub fn config_trusting(chains: &[&Path]) -> Arc<ClientConfig> {
    config_with(aws_lc_rs::default_provider(), chains)
}

/// The same with ciphers and groups of the test's own.
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

/// The first certificate of a file.
pub fn certificate(chain: &Path) -> CertificateDer<'static> {
    let pem = fs::read(chain).expect("a certificate");
    CertificateDer::from_pem_slice(&pem).expect("a certificate")
}

/// A client's side of TLS that has done nothing yet.
pub fn connection(config: Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("mx.test").expect("a name");
    ClientConnection::new(config, name).expect("a configuration that fits")
}

/// An SMTP client in TLS.
pub struct TlsClient {
    reader: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl TlsClient {
    /// Does the handshake, in which the certificate has to be one that is trusted.
    pub fn over(socket: TcpStream, config: Arc<ClientConfig>) -> io::Result<TlsClient> {
        TlsClient::resume(socket, connection(config))
    }

    /// Goes on with a handshake that may have begun.
    pub fn resume(mut socket: TcpStream, mut tls: ClientConnection) -> io::Result<TlsClient> {
        socket.set_read_timeout(Some(PATIENCE))?;
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

    /// The TLS machine.
    pub fn tls(&mut self) -> &mut ClientConnection {
        &mut self.reader.get_mut().conn
    }

    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        &self.reader.get_ref().sock
    }

    /// The certificate that was shown.
    pub fn certificate(&mut self) -> CertificateDer<'static> {
        let shown = self.tls().peer_certificates().expect("a certificate");
        shown[0].clone().into_owned()
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.try_send(octets.as_ref()).expect("the server reads");
    }

    /// The same to a server that may have left.
    pub fn try_send(&mut self, octets: &[u8]) -> io::Result<()> {
        let stream = self.reader.get_mut();
        stream.write_all(octets).and_then(|()| stream.flush())
    }

    /// Reads a reply that begins so; its lines.
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

    /// Sends a line with its CR LF and expects a reply that begins so.
    pub fn command(&mut self, line: &str, beginning: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.expect(beginning)
    }

    /// From MAIL to 354.
    pub fn begin_mail(&mut self) {
        self.command("MAIL FROM:<a@client.test>", "250 2.1.0");
        self.command("RCPT TO:<u@ours.test>", "250 2.1.5");
        self.command("DATA", "354 ");
    }

    /// Expects close_notify and nothing before it.
    pub fn expect_close_notify(&mut self) {
        let count = self.reader.read(&mut [0; 512]);
        assert_eq!(count.expect("close_notify in front of the end"), 0);
    }
}
