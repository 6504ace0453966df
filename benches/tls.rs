//! The cost of TLS for the server: full TLS 1.3 handshakes compared with `openssl s_server`, and messages compared with
//! plaintext ones.

use std::fmt::Write as _;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};

use crate::load::{Message, SENDER, USER, expect};
use crate::median;
use crate::peer::{Server, free_address, goguerrilla};
use crate::program::program;
use testkit::certificates::{KeyKind, Pair};

/// The filter that selects this part alone.
pub const NAME: &str = "handshakes";

/// A server with a certificate, and a client configuration that trusts it.
struct TlsServer {
    name: &'static str,
    kind: KeyKind,
    server: Server,
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// Measures both and returns two tables.
pub fn measure() -> String {
    let mut text = measure_handshakes();
    text.push('\n');
    text += &measure_messages();
    text
}

fn measure_handshakes() -> String {
    let mut text = String::from(
        "| TLS 1.3 full handshake | server | CPU ms each | × openssl | rounds |\n|---|---|---:|---:|---:|\n",
    );
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
        let servers = [start_openssl(kind), start_goguerrilla(kind)];
        let run = |server: &TlsServer, count| {
            let before = server.server.cpu_seconds();
            shake_hands(server, count);
            (server.server.cpu_seconds() - before) * 1_000.0 / count as f64
        };
        let mut runs = [Vec::new(), Vec::new()];
        for server in &servers {
            run(server, THREADS * 50);
        }
        for _ in 0..ROUNDS {
            for (server, runs) in servers.iter().zip(&mut runs) {
                runs.push(run(server, HANDSHAKES));
            }
        }
        let medians = runs.map(|runs| median(runs.into_iter()));
        for (server, milliseconds) in servers.iter().zip(medians) {
            let (kind, name, times) = (server.kind, server.name, milliseconds / medians[0]);
            let _ = writeln!(
                text,
                "| {kind:?} | {name} | {milliseconds:.3} | {times:.2} | {ROUNDS} |"
            );
        }
    }
    text
}

/// Measures messages over plaintext and over TLS with the same server. The TLS figures include the handshakes.
fn measure_messages() -> String {
    let tls = start_goguerrilla(KeyKind::EcdsaP256);
    let run = |in_tls: bool| {
        let before = tls.server.cpu_seconds();
        deliver(&tls, in_tls);
        (tls.server.cpu_seconds() - before) * 1_000.0 / (CONNECTIONS * MESSAGES) as f64
    };
    let mut runs = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (runs, in_tls) in runs.iter_mut().zip([false, true]) {
            let milliseconds = run(in_tls);
            // The first round only warms up.
            if round > 0 {
                runs.push(milliseconds);
            }
        }
    }
    let medians = runs.map(|runs| median(runs.into_iter()));
    let mut text = format!(
        "| {MESSAGES} messages of 2 KB a connection | CPU ms each | × plain | rounds |\n|---|---:|---:|---:|\n"
    );
    for (name, milliseconds) in ["plain", "TLS 1.3"].iter().zip(medians) {
        let times = milliseconds / medians[0];
        let _ = writeln!(
            text,
            "| {name} | {milliseconds:.4} | {times:.2} | {ROUNDS} |"
        );
    }
    text
}

/// Starts goguerrilla with implicit TLS, because the handshake is what is measured.
fn start_goguerrilla(kind: KeyKind) -> TlsServer {
    let address = free_address();
    let at_once = address.to_string();
    let (server, pair) = start_with_pair("goguerrilla", kind, |folder, plain| {
        let settings = [
            ("GM_STORE", "discard"),
            ("GSMTPS_LISTEN_INTERFACE", &at_once),
            ("GSMTP_PUB_KEY", "mx.cert.pem"),
            ("GSMTP_PRV_KEY", "mx.key.pem"),
        ];
        goguerrilla(folder, plain, &settings)
    });
    let name = "goguerrilla";
    let config = config_trusting(&pair);
    TlsServer {
        name,
        kind,
        server,
        address,
        config,
    }
}

/// Starts `openssl s_server`, which serves one client after another. In web mode it does not read standard input.
fn start_openssl(kind: KeyKind) -> TlsServer {
    let (server, pair) = start_with_pair("openssl s_server", kind, |_, address| {
        let mut command = program("openssl");
        command.args([
            "s_server",
            "-www",
            "-quiet",
            "-accept",
            &address.to_string(),
        ]);
        command.args(["-cert", "mx.cert.pem", "-key", "mx.key.pem"]);
        command.args(["-tls1_3", "-num_tickets", "0", "-no_cache"]);
        command
    });
    TlsServer {
        name: "openssl s_server",
        kind,
        address: server.address,
        server,
        config: config_trusting(&pair),
    }
}

fn start_with_pair(
    name: &str,
    kind: KeyKind,
    command: impl FnOnce(&Path, SocketAddr) -> Command,
) -> (Server, CertificateDer<'static>) {
    let mut certificate = None;
    let server = Server::start_command(name, |folder, address| {
        let pair = Pair::make(folder, "mx", kind, 90);
        let read = CertificateDer::from_pem_file(&pair.chain).expect("a certificate");
        certificate = Some(read);
        command(folder, address)
    });
    (server, certificate.expect("a pair that was made"))
}

fn config_trusting(certificate: &CertificateDer<'static>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a certificate");
    let builder = ClientConfig::builder_with_protocol_versions(&[&version::TLS13]);
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Performs `count` handshakes over [`THREADS`] threads. Each waits until the server has closed the connection.
fn shake_hands(server: &TlsServer, count: usize) {
    in_threads(|| {
        for _ in 0..count / THREADS {
            let mut stream = connect(server);
            while stream.conn.is_handshaking() {
                stream
                    .conn
                    .complete_io(&mut stream.sock)
                    .expect("a handshake");
            }
            stream.conn.send_close_notify();
            stream
                .conn
                .complete_io(&mut stream.sock)
                .expect("an open socket");
            // A reset also ends the connection: the server may have sent octets that were not read.
            let _ = stream.sock.read_to_end(&mut Vec::new());
        }
    });
}

/// Delivers [`MESSAGES`] messages over each of [`CONNECTIONS`] connections.
fn deliver(server: &TlsServer, in_tls: bool) {
    in_threads(|| {
        for _ in 0..CONNECTIONS / THREADS {
            if in_tls {
                deliver_over(connect(server));
            } else {
                deliver_over(open(server.server.address));
            }
        }
    });
}

/// Delivers messages without pipelining, which is the worst case for TLS: each reply is a separate record.
fn deliver_over(stream: impl Read + Write) {
    let content = format!("{}.\r\n", Message::Short.text("\r\n"));
    let mut stream = BufReader::new(stream);
    expect(&mut stream, "220");
    let mut say = |line: &str, code: &str| {
        let to = stream.get_mut();
        let sent = to.write_all(line.as_bytes()).and_then(|()| to.flush());
        sent.expect("the server reads");
        expect(&mut stream, code);
    };
    say("EHLO client.test\r\n", "250");
    for _ in 0..MESSAGES {
        say(&format!("MAIL FROM:<{SENDER}>\r\n"), "250");
        say(&format!("RCPT TO:<{USER}>\r\n"), "250");
        say("DATA\r\n", "354");
        say(&content, "250");
    }
    say("QUIT\r\n", "221");
}

fn connect(server: &TlsServer) -> StreamOwned<ClientConnection, TcpStream> {
    let name = ServerName::try_from("mx.test").expect("a name");
    let connection = ClientConnection::new(Arc::clone(&server.config), name);
    StreamOwned::new(connection.expect("a client"), open(server.address))
}

fn open(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the server accepts");
    socket.set_nodelay(true).expect("an open socket");
    let timeout = Some(Duration::from_secs(20));
    socket.set_read_timeout(timeout).expect("an open socket");
    socket
}

fn in_threads(run: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(&run);
        }
    });
}

const ROUNDS: usize = 3;
const THREADS: usize = 4;
const HANDSHAKES: usize = 2_000;
const CONNECTIONS: usize = 120;
const MESSAGES: usize = 50;
