//! The cost of TLS for the server: full TLS 1.3 handshakes compared with `openssl s_server`, and mails compared with
//! plaintext ones.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};
use testkit::certificates::{KeyKind, Pair};
use testkit::report::{Table, whole};

use crate::counts::{COUNTS, is_quick, median};
use crate::load::{Message, SENDER, USER, expect, open};
use crate::peer::{Server, free_address, goguerrilla};
use crate::program::program;

/// A server with a certificate, and a client configuration that trusts it.
struct TlsServer {
    name: &'static str,
    kind: KeyKind,
    server: Server,
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// Measures full handshakes.
pub fn handshakes() -> Table {
    let columns = ["certificate", "server", "CPU ms per handshake", "× openssl"];
    let title = "Full TLS 1.3 handshakes";
    let mut table = Table::new("handshakes", title, &columns, &["CPU ms per handshake"]);
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
        let servers = [start_openssl(kind), start_goguerrilla(kind, "discard")];
        let run = |server: &TlsServer, count| {
            let before = server.server.cpu_seconds();
            shake_hands(server, count);
            (server.server.cpu_seconds() - before) * 1_000.0 / count as f64
        };
        let mut runs = [Vec::new(), Vec::new()];
        for server in &servers {
            run(server, THREADS * 50);
        }
        for _ in 0..COUNTS.rounds {
            for (server, runs) in servers.iter().zip(&mut runs) {
                runs.push(run(server, COUNTS.handshakes));
            }
        }
        let medians = runs.map(|runs| median(runs.into_iter()));
        for (server, milliseconds) in servers.iter().zip(medians) {
            table.push(vec![
                name_of(server.kind).to_owned(),
                server.name.to_owned(),
                format!("{milliseconds:.3}"),
                format!("{:.2}", milliseconds / medians[0]),
            ]);
        }
    }
    table
}

/// Measures mails over plaintext and over TLS with the same server. The figures include the handshakes.
pub fn mails() -> Table {
    let columns = [
        "load",
        "server",
        "mails/s",
        "CPU s per 1,000 mails",
        "× plaintext",
    ];
    let drawn = ["mails/s", "CPU s per 1,000 mails"];
    let title = "Mails of 2 KB over TLS 1.3";
    let mut table = Table::new("tls", title, &columns, &drawn);
    table.note(
        "8 connections, implicit TLS with a full handshake on each connection, certificate ECDSA P-256; the client shares the processors and \
         encrypts as well. Commands are not pipelined, so each reply is a record of its own.",
    );
    for store in ["discard", "sqlite"] {
        let tls = start_goguerrilla(KeyKind::EcdsaP256, store);
        for (mails, connections) in [(1, 3_000), (50, 120)] {
            let connections = if is_quick() { THREADS } else { connections };
            let run = |in_tls: bool| {
                let (before, started_at) = (tls.server.cpu_seconds(), Instant::now());
                deliver(&tls, in_tls, connections, mails);
                let count = (connections * mails) as f64;
                let rate = count / started_at.elapsed().as_secs_f64();
                (rate, (tls.server.cpu_seconds() - before) * 1_000.0 / count)
            };
            let mut runs = [Vec::new(), Vec::new()];
            for round in 0..=COUNTS.rounds {
                for (runs, in_tls) in runs.iter_mut().zip([false, true]) {
                    let figures = run(in_tls);
                    // The first round only warms up.
                    if round > 0 {
                        runs.push(figures);
                    }
                }
            }
            let medians = runs.map(|runs| {
                let rate = median(runs.iter().map(|run| run.0));
                (rate, median(runs.iter().map(|run| run.1)))
            });
            for (how, (rate, cpu)) in ["plaintext", "TLS 1.3"].iter().zip(medians) {
                table.push(vec![
                    format!("{mails} mails per connection, store {store}")
                        .replace("1 mails", "1 mail"),
                    format!("goguerrilla, {how}"),
                    whole(rate),
                    format!("{cpu:.3}"),
                    format!("{:.2}", cpu / medians[0].1),
                ]);
            }
        }
    }
    table
}

fn name_of(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::EcdsaP256 => "ECDSA P-256",
        KeyKind::Rsa2048 => "RSA-2048",
    }
}

/// Starts goguerrilla with implicit TLS, because the handshake is what is measured.
fn start_goguerrilla(kind: KeyKind, store: &str) -> TlsServer {
    let address = free_address();
    let at_once = address.to_string();
    let (server, pair) = start_with_pair("goguerrilla", kind, |folder, plain| {
        let settings = [
            ("GM_STORE", store),
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

/// Delivers mails over `connections` connections, [`THREADS`] at a time.
fn deliver(server: &TlsServer, in_tls: bool, connections: usize, mails: usize) {
    in_threads(|| {
        for _ in 0..connections / THREADS {
            if in_tls {
                deliver_over(connect(server), mails);
            } else {
                deliver_over(open(server.server.address), mails);
            }
        }
    });
}

/// Delivers messages without pipelining, which is the worst case for TLS: each reply is a separate record.
fn deliver_over(stream: impl Read + Write, mails: usize) {
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
    for _ in 0..mails {
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

fn in_threads(run: impl Fn() + Sync) {
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(&run);
        }
    });
}

const THREADS: usize = 8;
