//! Rejected content is read to its end, so that the sender gets the reply, but only within limits.

use std::io::Write;
use std::time::{Duration, Instant};

use testkit::{Client, Server, assert_took, let_time_pass, note, test, value, wait_for};

#[test]
fn oversized_content_of_20_mib_gets_552_while_most_slots_are_free() {
    let server = Server::start(&[("GSMTP_MAX_SIZE", "100000")]);
    for (command, end) in [
        ("DATA\r\n".to_owned(), "\r\n.\r\n"),
        (format!("BDAT {} LAST\r\n", 20 << 20), ""),
    ] {
        let mut client = client_with_recipient(&server);
        client.send(command);
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
    let server = start_with_four_slots(&[("GSMTP_MAX_SIZE", "100000")]);
    let _other = server.client();
    for command in ["DATA\r\n", ENDLESS_CHUNK, "BDAT 100001\r\n"] {
        let mut client = client_with_recipient(&server);
        client.send(command);
        if command.starts_with("DATA") {
            client.expect("354 ");
        }
        if command.starts_with("BDAT 100001") {
            // Further chunks belong to the rejected message.
            client.send(vec![b'x'; 100_001]);
            client.expect("552 5.3.4 ");
            client.send(ENDLESS_CHUNK);
        }
        let reply = match command.starts_with("BDAT 100001") {
            true => "503 5.5.1 ",
            false => "552 5.3.4 ",
        };
        expect_limited_discard(&server, &mut client, reply);
    }
}

#[test]
fn slightly_oversized_message_is_read_to_its_end_when_half_of_the_slots_are_taken() {
    let server = start_with_four_slots(&[("GSMTP_MAX_SIZE", "100000")]);
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
    let server = start_with_four_slots(&[("GSMTP_MAX_SIZE", "100000"), ("GM_MAX_MEMORY", "50000")]);
    let _other = server.client();

    let mut out_of_sequence = server.client();
    out_of_sequence.command("EHLO client.test", "250-");
    out_of_sequence.send(ENDLESS_CHUNK);
    expect_limited_discard(&server, &mut out_of_sequence, "503 5.5.1 ");

    let mut without_memory = client_with_recipient(&server);
    without_memory.command("DATA", "354 ");
    expect_limited_discard(&server, &mut without_memory, "452 4.3.1 ");
}

/// GSMTP_TIMEOUT of the test of the data rate.
const TIMEOUT: Duration = Duration::from_secs(2);

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
            assert_took(started_at.elapsed(), TIMEOUT);
            let_time_pass(Duration::from_millis(100), "the data rate of the chunks");
        };
        assert!(slow.text().starts_with("421 4.4.2 "), "{}", slow.text());
        let elapsed = started_at.elapsed();
        assert!(
            elapsed > TIMEOUT - Duration::from_millis(100),
            "{elapsed:?}"
        );
        client.expect_close();
    }
    assert!(server.list().is_empty());
}

/// Starts a server with four slots, of which the two clients of a test take half.
fn start_with_four_slots(settings: &[(&str, &str)]) -> Server {
    Server::start(&[settings, &[("GM_MAX_CLIENTS", "4")]].concat())
}

fn client_with_recipient(server: &Server) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250-");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client
}

/// Sends content until a reply arrives; asserts that it is `reply`, that the server then closes, and that the server
/// has not read much more than the limit.
fn expect_limited_discard(server: &Server, client: &mut Client, reply: &str) {
    let disconnects = || server.log().matches(" disconnected ").count();
    let disconnects_before = disconnects();
    let mut sent = 0;
    while !has_reply(client) {
        // The server may already have replied and closed the connection.
        let Ok(written) = client.socket().write(&[b'x'; 10_000]) else {
            break;
        };
        sent += written;
        assert!(sent < 64 << 20, "{sent} octets were discarded");
    }
    client.expect(reply);
    client.expect_close();
    wait_for("the log line of the disconnect", || {
        (disconnects() > disconnects_before).then_some(())
    });
    let log = server.log();
    let line = log.lines().rfind(|line| line.contains(" disconnected "));
    let octets = value(line.expect("a line"), "octets").expect("a figure");
    let octets: usize = octets.parse().expect("a figure");
    note!("{octets} octets were read");
    // The limit, 2 × GSMTP_MAX_SIZE + 1 MiB, plus content that was kept, commands and the last read.
    let limit = 2 * MAX_SIZE + (1 << 20) + MAX_SIZE + 65_536;
    assert!(octets < limit, "{octets}");
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
