//! Slot exhaustion: while attacking clients hold all connection slots, a well-behaved client must deliver within
//! 15 s.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use testkit::tls::TlsServer;
use testkit::{
    Server, connect_with_small_buffers, let_time_pass, note, stuffed, test, wait_for,
    wait_for_within,
};

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
    let behaviour = content(SLOW).after("DATA\r\n");
    hold_all_slots_of(&server, server.address, &behaviour);
}

#[test]
fn clients_whose_content_is_discarded_cannot_hold_all_slots() {
    let oversized = format!("DATA\r\n{}", "x".repeat(2_000));
    hold_all_slots(&content(SLOW).after(&oversized));
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
    let behaviour = Behaviour {
        reads: false,
        every: Duration::from_millis(100),
        ..commands(&refused).after("MAIL FROM:<a@client.test>\r\n")
    };
    hold_all_slots(&behaviour);
}

#[test]
fn idle_clients_cannot_hold_all_slots() {
    hold_all_slots(&Behaviour::default());
}

#[test]
fn idle_clients_cannot_hold_all_slots_with_a_short_timeout() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "50"), ("GSMTP_TIMEOUT", "3")]);
    hold_all_slots_of(&server, server.address, &Behaviour::default());
}

#[test]
fn clients_that_idle_after_a_delivery_cannot_hold_all_slots() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "50"), ("GM_STORE", "discard")]);
    let mail =
        "EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nBDAT 0 LAST\r\n";
    let behaviour = commands("NOOP\r\n").after(mail);
    hold_all_slots_of(&server, server.address, &behaviour);
}

#[test]
fn clients_in_a_slow_handshake_after_starttls_cannot_hold_all_slots() {
    let tls = TlsServer::start(&SETTINGS);
    let handshake = commands("").after("EHLO client.test\r\nSTARTTLS\r\n");
    hold_all_slots_of(
        &tls.server,
        tls.server.address,
        &handshake.then_repeat(HANDSHAKE),
    );
}

#[test]
fn clients_in_a_slow_handshake_on_a_tls_port_cannot_hold_all_slots() {
    let tls = TlsServer::start(&SETTINGS);
    hold_all_slots_of(
        &tls.server,
        tls.implicit_tls_address,
        &Behaviour::default().then_repeat(HANDSHAKE),
    );
}

/// The behaviour of the clients that hold the slots.
struct Behaviour {
    /// Sent after connecting.
    first: Vec<u8>,
    /// Sent repeatedly after `first`.
    then: Vec<u8>,
    every: Duration,
    reads: bool,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            first: Vec::new(),
            then: Vec::new(),
            every: Duration::from_secs(1),
            reads: true,
        }
    }
}

impl Behaviour {
    fn after(mut self, first: &str) -> Behaviour {
        self.first.extend_from_slice(first.as_bytes());
        self
    }

    fn then_repeat(mut self, octets: &[u8]) -> Behaviour {
        self.then = octets.to_vec();
        self
    }
}

/// Sends EHLO, then `commands` once a second.
fn commands(then: &str) -> Behaviour {
    let behaviour = match then {
        "" => Behaviour::default(),
        _ => Behaviour::default().after("EHLO client.test\r\n"),
    };
    behaviour.then_repeat(then.as_bytes())
}

/// Sends an envelope, then content at `octets_per_second` after the command that the caller adds.
fn content(octets_per_second: usize) -> Behaviour {
    let behaviour = Behaviour::default()
        .after("EHLO client.test\r\n")
        .after(ENVELOPE);
    Behaviour {
        every: Duration::from_millis(500),
        ..behaviour.then_repeat(&vec![b'x'; octets_per_second / 2])
    }
}

/// One of the clients that hold the slots. It reconnects a second after the server has closed the connection.
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

    fn act(&mut self, address: SocketAddr, behaviour: &Behaviour) {
        let outcome = match self.socket.take() {
            None if Instant::now() < self.next_at => return,
            None => connect(address).inspect(|_| {
                self.unsent.clone_from(&behaviour.first);
                self.next_at = Instant::now() + behaviour.every;
            }),
            Some(socket) => self.exchange(&socket, behaviour).map(|()| socket),
        };
        match outcome {
            Ok(socket) => self.socket = Some(socket),
            Err(_) => self.next_at = Instant::now() + Duration::from_secs(1),
        }
    }

    /// Sends what is due and reads what has arrived; returns an error if the server has closed the connection.
    fn exchange(&mut self, mut socket: &TcpStream, behaviour: &Behaviour) -> io::Result<()> {
        if self.unsent.is_empty() && Instant::now() >= self.next_at {
            self.unsent.clone_from(&behaviour.then);
            self.next_at = Instant::now() + behaviour.every;
        }
        if !self.unsent.is_empty() {
            let sent = ignore_would_block(socket.write(&self.unsent))?;
            self.unsent.drain(..sent.unwrap_or(0));
        }
        match behaviour.reads {
            true => match ignore_would_block(socket.read(&mut [0; 4_096]))? {
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

fn ignore_would_block(outcome: io::Result<usize>) -> io::Result<Option<usize>> {
    match outcome {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn hold_all_slots(behaviour: &Behaviour) {
    let server = Server::start(&SETTINGS);
    hold_all_slots_of(&server, server.address, behaviour);
}

/// Takes all slots with clients of this behaviour and asserts that a well-behaved client can deliver in time.
fn hold_all_slots_of(server: &Server, attacked: SocketAddr, behaviour: &Behaviour) {
    let sockets_before = server.sockets();
    let is_finished = AtomicBool::new(false);
    let delivered_after = thread::scope(|scope| {
        scope.spawn(|| {
            let mut attackers: Vec<Attacker> = (0..SLOTS).map(|_| Attacker::new()).collect();
            while !is_finished.load(Ordering::SeqCst) {
                for attacker in &mut attackers {
                    attacker.act(attacked, behaviour);
                }
                let_time_pass(Duration::from_millis(10), "the rate of the attackers");
            }
        });
        // Stops the attackers also after a failed assertion; otherwise the scope would never end.
        let _finish_on_drop = SetOnDrop(&is_finished);
        wait_for("all slots to be taken", || {
            (server.sockets() >= sockets_before + SLOTS).then_some(())
        });
        let full_since = Instant::now();
        wait_for_within("a mail to be delivered", MAX_DELIVERY_TIME, || {
            let delivered = deliver(server.address);
            delivered.inspect_err(|error| note!("{error}")).ok()
        });
        full_since.elapsed()
    });
    note!("delivered after {delivered_after:?}");
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Delivers one mail as a well-behaved client does; returns an error if there is no slot or the server closes.
fn deliver(address: SocketAddr) -> io::Result<()> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(MAX_DELIVERY_TIME))?;
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
            let mut buffer = [0; 4_096];
            match socket.read(&mut buffer)? {
                0 => {
                    let text = String::from_utf8_lossy(&received).into_owned();
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
                }
                count => received.extend_from_slice(&buffer[..count]),
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
/// Maximum time from full slots to the delivery of the well-behaved client: ten times the five seconds that a client in the
/// last slots has for a mail.
const MAX_DELIVERY_TIME: Duration = Duration::from_secs(50);
const ENVELOPE: &str = "MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\n";
/// Octets per second: above the minimum rate of a server with free slots.
const SLOW: usize = 1_000;
/// The header of a TLS record of 16 KiB; sent again, it is content of that record.
const HANDSHAKE: &[u8] = &[22, 3, 1, 0x40, 0];
