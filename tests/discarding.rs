//! Content that is refused is read to its end so that the sender learns why, but not without bounds.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::support::{Client, Server, value, wait_for};

#[test]
fn oversized_content_of_20_mib_gets_552_while_most_slots_are_free() {
    let server = Server::start(&[("GSMTP_MAX_SIZE", "100000")]);
    for (announce, end) in [
        ("DATA\r\n".to_owned(), "\r\n.\r\n"),
        (format!("BDAT {} LAST\r\n", 20 << 20), ""),
    ] {
        let mut client = client_with_recipient(&server);
        client.send(announce);
        for _ in 0..20 {
            client.send([b'x'; 1 << 20]);
        }
        client.send(end);
        if !end.is_empty() {
            client.expect("354 ");
        }
        client.expect("552 5.3.4 ");
        let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: smaller\r\n");
        assert_eq!(reply.code, 250);
    }
}

#[test]
fn discarded_content_is_limited_when_half_of_the_slots_are_taken() {
    let server = half_full(&[("GSMTP_MAX_SIZE", "100000")]);
    let _other = server.client();
    for announce in ["DATA\r\n", ENDLESS_CHUNK, "BDAT 100001\r\n"] {
        let mut client = client_with_recipient(&server);
        client.send(announce);
        if announce.starts_with("DATA") {
            client.expect("354 ");
        }
        if announce.starts_with("BDAT 100001") {
            // The chunks that follow belong to the message that was refused.
            client.send(vec![b'x'; 100_001]);
            client.expect("552 5.3.4 ");
            client.send(ENDLESS_CHUNK);
        }
        let reply = match announce.starts_with("BDAT 100001") {
            true => "503 5.5.1 ",
            false => "552 5.3.4 ",
        };
        expect_bounded(&server, &mut client, reply);
    }
}

#[test]
fn slightly_oversized_message_is_read_to_its_end_when_half_of_the_slots_are_taken() {
    let server = half_full(&[("GSMTP_MAX_SIZE", "100000")]);
    let _other = server.client();
    let mut client = client_with_recipient(&server);
    client.command("DATA", "354 ");
    client.send(vec![b'x'; 1 << 20]);
    client.send("\r\n.\r\n");
    client.expect("552 5.3.4 ");
    client.command("NOOP", "250 ");
}

#[test]
fn discard_limits_apply_to_bdat_out_of_sequence_and_over_the_memory_budget() {
    let server = half_full(&[("GSMTP_MAX_SIZE", "100000"), ("GM_MAX_MEMORY", "50000")]);
    let _other = server.client();

    let mut out_of_sequence = server.client();
    out_of_sequence.command("EHLO client.test", "250-");
    out_of_sequence.send(ENDLESS_CHUNK);
    expect_bounded(&server, &mut out_of_sequence, "503 5.5.1 ");

    let mut without_memory = client_with_recipient(&server);
    without_memory.command("DATA", "354 ");
    expect_bounded(&server, &mut without_memory, "452 4.3.1 ");
}

#[test]
fn minimum_data_rate_spans_all_bdat_chunks_of_a_message() {
    let server = Server::start(&[("GSMTP_TIMEOUT", "2")]);
    for (chunk, reply) in [
        ("BDAT 0\r\n", "250 2.0.0"),
        ("BDAT 10\r\n01234567\r\n", "250 2.0.0"),
    ] {
        let mut client = client_with_recipient(&server);
        let started_at = Instant::now();
        let slow = loop {
            client.send(chunk);
            let answer = client.read_reply().expect("a reply");
            if !answer.text().starts_with(reply) {
                break answer;
            }
            assert!(
                started_at.elapsed() < Duration::from_secs(10),
                "{chunk:?} is taken for ever"
            );
            std::thread::sleep(Duration::from_millis(100));
        };
        assert!(slow.text().starts_with("421 4.4.2 "), "{}", slow.text());
        let waited = started_at.elapsed();
        assert!(waited > Duration::from_millis(1_900), "{waited:?}");
        client.expect_close();
    }
    assert!(server.list().is_empty());
}

/// Four slots, of which two clients take half.
fn half_full(settings: &[(&str, &str)]) -> Server {
    Server::start(&[settings, &[("GM_MAX_CLIENTS", "4")]].concat())
}

fn client_with_recipient(server: &Server) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250-");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client
}

/// Sends content until a reply comes, which has to be this one and the last; expects that little more was read than may be.
fn expect_bounded(server: &Server, client: &mut Client, reply: &str) {
    let ended = || server.log().matches(" disconnected ").count();
    let ended_before = ended();
    let mut sent = 0;
    while !has_reply(client) {
        sent += client
            .socket()
            .write(&[b'x'; 10_000])
            .expect("the server reads");
        assert!(sent < 64 << 20, "{sent} octets were discarded");
    }
    client.expect(reply);
    client.expect_close();
    wait_for("its line in the log", || {
        (ended() > ended_before).then_some(())
    });
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains(" disconnected "));
    let octets = value(line.expect("a line"), "octets").expect("a figure");
    let octets: usize = octets.parse().expect("a figure");
    println!("{octets} octets were read");
    // Commands, content that was kept, and the end of the last read come on top.
    let bound = 2 * MAX_SIZE + (1 << 20) + MAX_SIZE + 65_536;
    assert!(octets < bound, "{octets}");
}

fn has_reply(client: &Client) -> bool {
    let socket = client.socket();
    socket.set_nonblocking(true).expect("an open socket");
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false).expect("an open socket");
    matches!(peeked, Ok(1))
}

const MAX_SIZE: usize = 100_000;
const ENDLESS_CHUNK: &str = "BDAT 18446744073709551614 LAST\r\n";
