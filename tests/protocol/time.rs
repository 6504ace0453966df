//! Timeouts: no client may keep the server waiting for longer than configured, and no client above the minimum data
//! rate is closed.

use std::io::{ErrorKind, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use testkit::{
    Client, Server, assert_took, connect_with_small_buffers, let_time_pass, note, test, value,
    wait_for,
};

#[test]
fn silent_client_times_out_in_every_session_state() {
    let server = server_with_2_s_timeout();
    let states: [Dialogue; 5] = [
        &[],
        &[("EHLO client.test", "250")],
        &[
            ("EHLO client.test", "250"),
            ("MAIL FROM:<a@client.test>", "250"),
        ],
        IN_DATA,
        &[
            ("EHLO client.test", "250"),
            ("MAIL FROM:<a@client.test>", "250"),
            ("RCPT TO:<u@ours.test>", "250"),
            ("BDAT 10\r\n12345678\r\nBDAT 10", "250"),
        ],
    ];
    thread::scope(|scope| {
        for state in states {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                let mut silent_since = Instant::now();
                for (line, reply) in state {
                    silent_since = Instant::now();
                    client.command(line, reply);
                }
                expect_timeout(&mut client, silent_since, Duration::from_secs(2));
            });
        }
    });
    assert!(server.list().is_empty());
}

#[test]
fn command_deadline_is_not_extended_by_octets_that_trickle_in() {
    let server = server_with_2_s_timeout();
    let mut client = server.client();
    let started_at = Instant::now();
    let _drip = SlowSender::start(&client, b"X", Duration::from_secs(1), 10);
    expect_timeout(&mut client, started_at, Duration::from_secs(2));
}

#[test]
fn message_below_the_minimum_data_rate_gets_421_and_is_not_stored() {
    let server = server_with_2_s_timeout();
    let mut client = server.client();
    say(&mut client, IN_DATA);
    let started_at = Instant::now();
    // 200 octets per second extend the deadline by 0.8 seconds every two seconds, and so on: 3.3 seconds in total.
    let _drip = SlowSender::start(&client, &[b'x'; 50], Duration::from_millis(250), 40);
    expect_timeout(&mut client, started_at, Duration::from_secs(3));
    assert!(server.list().is_empty());
}

#[test]
fn message_above_the_minimum_data_rate_may_exceed_the_client_timeout() {
    let server = server_with_2_s_timeout();
    let mut client = server.client();
    say(&mut client, IN_DATA);
    // 1,000 octets per second for more than three times the timeout.
    let drip = SlowSender::start(&client, &[b'x'; 250], Duration::from_millis(250), 28);
    drip.finish();
    client.send("\r\n.\r\n");
    client.expect("250 2.0.0 ");
    assert_eq!(server.contents()[0].len(), 28 * 250 + 2);
}

#[test]
fn client_that_never_reads_replies_is_closed_and_uses_no_memory() {
    let server = Server::start(&[
        ("GSMTP_TIMEOUT", "2"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
        ("GM_MAX_RECIPIENTS", "10000"),
    ]);
    let mut before = server.client();
    before.command("EHLO client.test", "250");
    let memory_before = server.status_kib("VmRSS");
    let socket = connect_with_small_buffers(server.address).expect("the server accepts");
    let recipients = "RCPT TO:<u@elsewhere.test>\r\n".repeat(10_000);
    let commands = format!("EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n{recipients}");
    socket
        .set_write_timeout(Some(Duration::from_secs(10)))
        .expect("an open socket");
    // The server stops reading while its replies are not read, so it may close before all of it was sent.
    if let Err(error) = (&socket).write_all(commands.as_bytes()) {
        let is_closed = matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        );
        assert!(is_closed, "{error}");
    }
    let log = server.wait_for_log("reason=write_timeout");
    let line = log.lines().find(|line| line.contains(" disconnected "));
    let octets = value(line.expect("a line"), "octets").expect("a figure");
    let octets: usize = octets.parse().expect("a figure");
    assert!(octets < commands.len(), "all {octets} octets were read");
    let grown = server.status_kib("VmRSS").saturating_sub(memory_before);
    note!("{octets} octets of RCPT unanswered: {grown} KiB more");
    assert!(grown < 1_024, "{grown} KiB");
}

#[test]
fn server_continues_after_sigstop_and_sigcont() {
    let server = server_with_2_s_timeout();
    let mut idle = server.client();
    let mut in_data = server.client();
    say(&mut in_data, IN_DATA);
    // A thread that is stopped just after it sent a reply would find the time limit of that write passed.
    server.wait_until_idle();
    server.signal(Signal::SIGSTOP);
    let_time_pass(
        Duration::from_secs(3),
        "longer than the timeout of the clients",
    );
    server.signal(Signal::SIGCONT);
    for client in [&mut idle, &mut in_data] {
        client.expect("421 4.4.2 ");
        client.expect_close();
    }
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: on\r\n");
    assert_eq!(reply.code, 250);
    assert!(!server.log().contains(" panicked "));
}

#[test]
fn last_reply_before_close_reaches_a_client_that_is_still_sending() {
    let server = server_with_2_s_timeout();
    let much = [b'x'; 100_000];
    let cases: [(Dialogue, &[u8], &str); 3] = [
        (&[], b"NOOP\n", "500 5.5.2 "),
        (&[], b"GET / HTTP/1.1\r\n", "500 5.5.2 "),
        (IN_DATA, b"", "421 4.4.2 "),
    ];
    for (dialogue, last, reply) in cases {
        let mut client = server.client();
        say(&mut client, dialogue);
        client.send(last);
        if last.is_empty() {
            // The timeout expires while the server receives nothing.
            wait_for("the session to time out", || {
                let mut peeked = [0; 4];
                let peeked = client.socket().peek(&mut peeked).ok();
                (peeked > Some(0)).then_some(())
            });
        }
        client.send(much);
        client.expect(reply);
        client.expect_close();
    }
}

#[test]
fn slots_held_by_silent_clients_are_free_one_second_after_the_timeout() {
    let server = Server::start(&[("GSMTP_TIMEOUT", "2"), ("GM_MAX_CLIENTS", "3")]);
    let connected_at = Instant::now();
    // The clients do not close their sockets either.
    let _clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    wait_for("a free slot", || {
        let reply = Client::connect(server.address).read_reply();
        (reply.expect("a reply").code == 220).then_some(())
    });
    assert_took(connected_at.elapsed(), Duration::from_secs(3));
}

fn server_with_2_s_timeout() -> Server {
    Server::start(&[("GSMTP_TIMEOUT", "2")])
}

fn say(client: &mut Client, dialogue: Dialogue) {
    for (line, reply) in dialogue {
        client.command(line, reply);
    }
}

/// Asserts 421 4.4.2 and the end of the connection, about `expected` after `since`.
fn expect_timeout(client: &mut Client, since: Instant, expected: Duration) {
    client.expect("421 4.4.2 ");
    let waited = since.elapsed();
    assert!(waited >= expected, "after {waited:?}");
    assert_took(waited, expected);
    client.expect_close();
}

/// A thread that sends the same octets repeatedly.
struct SlowSender(Option<thread::JoinHandle<()>>);

impl SlowSender {
    fn start(client: &Client, octets: &[u8], pause: Duration, times: usize) -> SlowSender {
        let mut socket = client.socket().try_clone().expect("a descriptor");
        let octets = octets.to_vec();
        SlowSender(Some(thread::spawn(move || {
            for _ in 0..times {
                if socket.write_all(&octets).is_err() {
                    return;
                }
                let_time_pass(pause, "the data rate of the sender");
            }
        })))
    }

    fn finish(mut self) {
        if let Some(thread) = self.0.take() {
            thread.join().expect("no panic");
        }
    }
}

/// Commands, and the beginning of the reply to each.
type Dialogue = &'static [(&'static str, &'static str)];

const IN_DATA: Dialogue = &[
    ("EHLO client.test", "250"),
    ("MAIL FROM:<a@client.test>", "250"),
    ("RCPT TO:<u@ours.test>", "250"),
    ("DATA", "354"),
];
