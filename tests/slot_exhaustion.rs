//! All connection slots held by clients of one kind: a client that behaves delivers all the same within 15 s.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::tls::TlsServer;
use crate::support::{Server, connect_with_small_buffers, stuffed, wait_for};

#[test]
fn clients_that_send_only_noop_cannot_hold_all_slots() {
    hold_all_slots(&commands("NOOP\r\n"));
}

#[test]
fn clients_that_send_only_vrfy_cannot_hold_all_slots() {
    hold_all_slots(&commands("VRFY u\r\n"));
}

#[test]
fn clients_that_send_only_help_cannot_hold_all_slots() {
    hold_all_slots(&commands("HELP\r\n"));
}

#[test]
fn clients_that_send_only_rset_cannot_hold_all_slots() {
    hold_all_slots(&commands("RSET\r\n"));
}

#[test]
fn clients_that_send_only_helo_cannot_hold_all_slots() {
    hold_all_slots(&commands("HELO client.test\r\n"));
}

#[test]
fn clients_that_send_only_ehlo_cannot_hold_all_slots() {
    hold_all_slots(&commands("EHLO client.test\r\n"));
}

#[test]
fn clients_that_begin_and_reset_transactions_cannot_hold_all_slots() {
    hold_all_slots(&commands("MAIL FROM:<a@client.test>\r\nRSET\r\n"));
}

#[test]
fn clients_whose_recipients_are_refused_cannot_hold_all_slots() {
    let refused = "RCPT TO:<u@elsewhere.test>\r\n";
    hold_all_slots(&commands(refused).after("MAIL FROM:<a@client.test>\r\n"));
}

#[test]
fn clients_whose_mail_is_refused_at_its_end_cannot_hold_all_slots() {
    let mail = "MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nBDAT 2000 LAST\r\n";
    let octets = "x".repeat(2_000);
    hold_all_slots(&commands(&format!("{mail}{octets}")));
}

#[test]
fn clients_that_send_content_slowly_cannot_hold_all_slots() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "50")]);
    let kind = content(SLOW).after("DATA\r\n");
    hold_all_slots_of(&server, server.address, &kind);
}

#[test]
fn clients_whose_content_is_discarded_cannot_hold_all_slots() {
    let beyond_the_limit = format!("DATA\r\n{}", "x".repeat(2_000));
    hold_all_slots(&content(SLOW).after(&beyond_the_limit));
}

#[test]
fn clients_that_send_an_endless_chunk_cannot_hold_all_slots() {
    hold_all_slots(&content(20_000).after("BDAT 18446744073709551614 LAST\r\n"));
}

#[test]
fn clients_that_send_an_endless_chunk_out_of_sequence_cannot_hold_all_slots() {
    let chunk = "RSET\r\nBDAT 18446744073709551614\r\n";
    hold_all_slots(&content(20_000).after(chunk));
}

#[test]
fn clients_that_send_empty_chunks_cannot_hold_all_slots() {
    hold_all_slots(&commands("BDAT 0\r\n").after(ENVELOPE));
}

#[test]
fn clients_that_send_empty_chunks_of_a_refused_message_cannot_hold_all_slots() {
    let refused = format!("{ENVELOPE}BDAT 2000\r\n{}", "x".repeat(2_000));
    hold_all_slots(&commands("BDAT 0\r\n").after(&refused));
}

#[test]
fn clients_that_pipeline_and_never_read_cannot_hold_all_slots() {
    let refused = "RCPT TO:<u@elsewhere.test>\r\n".repeat(1_000);
    let kind = Kind {
        reads: false,
        every: Duration::from_millis(100),
        ..commands(&refused).after("MAIL FROM:<a@client.test>\r\n")
    };
    hold_all_slots(&kind);
}

#[test]
fn idle_clients_cannot_hold_all_slots() {
    hold_all_slots(&Kind::default());
}

#[test]
fn idle_clients_cannot_hold_all_slots_with_a_short_timeout() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "50"), ("GSMTP_TIMEOUT", "3")]);
    hold_all_slots_of(&server, server.address, &Kind::default());
}

#[test]
fn clients_that_idle_after_a_delivery_cannot_hold_all_slots() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "50"), ("GM_STORE", "discard")]);
    let mail =
        "EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nBDAT 0 LAST\r\n";
    let kind = commands("NOOP\r\n").after(mail);
    hold_all_slots_of(&server, server.address, &kind);
}

#[test]
fn clients_in_a_slow_handshake_after_starttls_cannot_hold_all_slots() {
    let tls = TlsServer::start(&SETTINGS);
    let handshake = commands("").after("EHLO client.test\r\nSTARTTLS\r\n");
    hold_all_slots_of(&tls.server, tls.server.address, &handshake.then(HANDSHAKE));
}

#[test]
fn clients_in_a_slow_handshake_on_a_tls_port_cannot_hold_all_slots() {
    let tls = TlsServer::start(&SETTINGS);
    hold_all_slots_of(
        &tls.server,
        tls.implicit_tls_address,
        &Kind::default().then(HANDSHAKE),
    );
}

/// What the clients that hold the slots do.
struct Kind {
    /// Sent when connected.
    first: Vec<u8>,
    /// Sent again and again after that.
    then: Vec<u8>,
    every: Duration,
    reads: bool,
}

impl Default for Kind {
    fn default() -> Kind {
        Kind {
            first: Vec::new(),
            then: Vec::new(),
            every: Duration::from_secs(1),
            reads: true,
        }
    }
}

impl Kind {
    fn after(mut self, first: &str) -> Kind {
        self.first.extend_from_slice(first.as_bytes());
        self
    }

    fn then(mut self, octets: &[u8]) -> Kind {
        self.then = octets.to_vec();
        self
    }
}

/// EHLO, then the same commands once a second.
fn commands(then: &str) -> Kind {
    let kind = match then {
        "" => Kind::default(),
        _ => Kind::default().after("EHLO client.test\r\n"),
    };
    kind.then(then.as_bytes())
}

/// An envelope; what stands after it comes with so many octets a second.
fn content(octets_a_second: usize) -> Kind {
    let kind = Kind::default()
        .after("EHLO client.test\r\n")
        .after(ENVELOPE);
    Kind {
        every: Duration::from_millis(500),
        ..kind.then(&vec![b'x'; octets_a_second / 2])
    }
}

/// One of the clients that hold the slots; comes again a second after it was closed.
struct Attacker {
    socket: Option<TcpStream>,
    unsent: Vec<u8>,
    next_at: Instant,
}

impl Attacker {
    fn new() -> Attacker {
        Attacker {
            socket: None,
            unsent: Vec::new(),
            next_at: Instant::now(),
        }
    }

    fn act(&mut self, address: SocketAddr, kind: &Kind) {
        let outcome = match self.socket.take() {
            None if Instant::now() < self.next_at => return,
            None => connect(address).inspect(|_| {
                self.unsent.clone_from(&kind.first);
                self.next_at = Instant::now() + kind.every;
            }),
            Some(socket) => self.go_on(&socket, kind).map(|()| socket),
        };
        match outcome {
            Ok(socket) => self.socket = Some(socket),
            Err(_) => self.next_at = Instant::now() + Duration::from_secs(1),
        }
    }

    /// Sends what is due and reads what is there; an error when the server has closed.
    fn go_on(&mut self, mut socket: &TcpStream, kind: &Kind) -> io::Result<()> {
        if self.unsent.is_empty() && Instant::now() >= self.next_at {
            self.unsent.clone_from(&kind.then);
            self.next_at = Instant::now() + kind.every;
        }
        if !self.unsent.is_empty() {
            let sent = unless_blocked(socket.write(&self.unsent))?;
            self.unsent.drain(..sent.unwrap_or(0));
        }
        match kind.reads {
            true => match unless_blocked(socket.read(&mut [0; 4_096]))? {
                Some(0) => Err(ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
            false => Ok(()),
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = connect_with_small_buffers(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn unless_blocked(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn hold_all_slots(kind: &Kind) {
    let server = Server::start(&SETTINGS);
    hold_all_slots_of(&server, server.address, kind);
}

/// Has clients of this kind take all slots, and measures how long one that behaves needs to deliver.
fn hold_all_slots_of(server: &Server, attacked: SocketAddr, kind: &Kind) {
    let sockets_before = server.sockets();
    let is_over = AtomicBool::new(false);
    let served_after = thread::scope(|scope| {
        scope.spawn(|| {
            let mut attackers: Vec<Attacker> = (0..SLOTS).map(|_| Attacker::new()).collect();
            while !is_over.load(Ordering::SeqCst) {
                for attacker in &mut attackers {
                    attacker.act(attacked, kind);
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        // Also when an assertion fails, or the scope would never end.
        let _over = SetOnDrop(&is_over);
        wait_for("all slots to be taken", || {
            (server.sockets() >= sockets_before + SLOTS).then_some(())
        });
        let full_since = Instant::now();
        loop {
            let tried_at = Instant::now();
            match deliver(server.address) {
                Ok(()) => break full_since.elapsed(),
                Err(error) => assert!(
                    full_since.elapsed() < MUST_DELIVER_WITHIN,
                    "no mail was delivered within {MUST_DELIVER_WITHIN:?}; the last attempt: {error}"
                ),
            }
            thread::sleep((tried_at + Duration::from_millis(200)) - Instant::now());
        }
    });
    println!("delivered after {served_after:?}");
    assert!(served_after < MUST_DELIVER_WITHIN, "{served_after:?}");
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One mail, as a sender that behaves delivers it; an error when there was no slot or the server closed.
fn deliver(address: SocketAddr) -> io::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(MUST_DELIVER_WITHIN))?;
    let content = stuffed(b"Subject: from a client that behaves\r\n\r\nText.\r\n");
    let mail = "MAIL FROM:<b@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n";
    for (send, last_line) in [
        (&b""[..], "220 "),
        (b"EHLO behaves.test\r\n", "250 "),
        (mail.as_bytes(), "354 "),
        (&content, "250 2.0.0 OK : queued as "),
    ] {
        socket.write_all(send)?;
        let mut received = Vec::new();
        let has_last_line = |received: &[u8]| {
            let text = String::from_utf8_lossy(received);
            text.ends_with("\r\n") && text.lines().any(|line| line.starts_with(last_line))
        };
        while !has_last_line(&received) {
            let mut room = [0; 4_096];
            match socket.read(&mut room)? {
                0 => {
                    let text = String::from_utf8_lossy(&received).into_owned();
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
                }
                count => received.extend_from_slice(&room[..count]),
            }
        }
    }
    Ok(())
}

const SLOTS: usize = 50;
const SETTINGS: [(&str, &str); 4] = [
    ("GM_MAX_CLIENTS", "50"),
    ("GM_ALLOWED_HOSTS", "ours.test"),
    ("GSMTP_MAX_SIZE", "1000"),
    ("GM_MAX_RECIPIENTS", "10000"),
];
const MUST_DELIVER_WITHIN: Duration = Duration::from_secs(15);
const ENVELOPE: &str = "MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\n";
/// Octets a second: more than the rate that is enough on a server that is not busy.
const SLOW: usize = 1_000;
/// The header of a TLS record of 16 KiB, or a few octets of its content.
const HANDSHAKE: &[u8] = &[22, 3, 1, 0x40, 0];
