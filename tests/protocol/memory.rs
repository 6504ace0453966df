//! Memory is used only for content that is held, never for declared sizes, and all of it is released.

use std::time::Duration;

use socket2::SockRef;
use tempfile::TempDir;

use testkit::steps::cost_of_mail;
use testkit::{Client, Server, incompressible, note, test, wait_for};

#[test]
fn content_over_the_memory_budget_gets_452_and_the_budget_is_released() {
    let server = start_with_budget_for_one_mail();
    let mut clients: Vec<Client> = (0..20).map(|_| in_data(&server)).collect();
    // All clients send content, twice the budget in total, before the first message ends.
    for client in &mut clients {
        client.send(content_of_size(LIMIT / 10));
    }
    let mut deferred = 0;
    for client in &mut clients {
        client.send(".\r\n");
        let reply = client.read_reply().expect("a reply");
        if reply.code != 250 {
            assert!(reply.text().starts_with("452 4.3.1 "), "{}", reply.text());
            deferred += 1;
        }
        client.command("NOOP", "250");
    }
    assert!((1..20).contains(&deferred), "{deferred} of 20");
    assert_eq!(server.list().len(), 20 - deferred);
    assert_budget_is_free(&server);
}

#[test]
fn memory_budget_is_released_when_a_client_disconnects() {
    let server = start_with_budget_for_one_mail();
    let idle_sockets = server.sockets();
    for is_reset in [false, true] {
        let mut clients: Vec<Client> = (0..8).map(|_| in_data(&server)).collect();
        for client in &mut clients {
            client.send(content_of_size(20_000));
        }
        for client in clients {
            if is_reset {
                let socket = SockRef::from(client.socket());
                socket
                    .set_linger(Some(Duration::ZERO))
                    .expect("an open socket");
            }
        }
        wait_until_gone(&server, idle_sockets);
        assert_budget_is_free(&server);
    }
}

#[test]
fn memory_budget_is_released_when_chunks_are_abandoned() {
    let server = start_with_budget_for_one_mail();
    let idle_sockets = server.sockets();
    let mut client = in_transaction(&server);
    client.send("BDAT 100000\r\n");
    client.send(content_of_size(100_000));
    client.expect("250 2.0.0 ");
    client.command("RSET", "250");
    assert_budget_is_free(&server);
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.send("BDAT 100000\r\n");
    client.send(content_of_size(90_000));
    drop(client);
    wait_until_gone(&server, idle_sockets);
    assert_budget_is_free(&server);
}

#[test]
fn content_of_20_mib_over_the_size_limit_is_discarded_at_constant_memory() {
    let server = Server::start(&[]);
    let mut client = in_data(&server);
    client.send(content_of_size(131_000));
    let before = server.status_kib("VmHWM");
    for _ in 0..20 {
        client.send(content_of_size(1 << 20));
    }
    client.send(".\r\n");
    client.expect("552 5.3.4 ");
    let grown = server.status_kib("VmHWM").saturating_sub(before);
    note!("20 MiB swallowed: {grown} KiB more at most");
    assert!(grown < 1_024, "{grown} KiB");
    let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: small\r\n");
    assert_eq!(reply.code, 250);
    assert_eq!(server.contents(), [b"Subject: small\r\n"]);
}

/// Starts a server with a single malloc arena. glibc reserves 64 MiB of address space for some threads only; a large
/// mail could fit into such a reserve although the process is at its limit.
fn start_with_one_malloc_arena(settings: &[(&str, &str)]) -> Server {
    let folder = TempDir::new().expect("a temporary folder");
    Server::start_with(folder, settings, |mut program| {
        program.env("MALLOC_ARENA_MAX", "1");
        program
    })
}

#[test]
fn allocation_failure_defers_a_mail_and_the_server_survives() {
    let server = start_with_one_malloc_arena(&[("GSMTP_MAX_SIZE", "50000000")]);
    let small = b"Subject: small\r\n";
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", small);
    assert_eq!(reply.code, 250);
    let octets = server.status_kib("VmSize") * 1_024 + (24 << 20);
    server.limit(&format!("--as={octets}:"));
    // Some mails fit, some fit only uncompressed, and some do not fit at all. Incompressible content may fit into the
    // server's buffers but not into what the store needs.
    let deflates =
        [6, 12, 18, 24, 30, 36, 42].map(|mebibytes| (content_of_size(1 << 20), mebibytes));
    let does_not =
        [17, 18, 19, 20, 21, 22, 23].map(|mebibytes| (incompressible(1 << 20), mebibytes));
    let mut codes = Vec::new();
    for (content, mebibytes) in does_not.into_iter().chain(deflates) {
        let mut client = in_data(&server);
        for _ in 0..mebibytes {
            client.send(&content);
        }
        client.send(".\r\n");
        let reply = client.read_reply().expect("a reply");
        let is_deferred = reply.text().starts_with("452 4.3.1 ");
        assert!(reply.code == 250 || is_deferred, "{}", reply.text());
        codes.push(reply.code);
        let reply = client.deliver("a@client.test", "u@ours.test", small);
        assert_eq!(reply.code, 250);
    }
    note!("17 to 23 MiB, 6 to 42 MiB with room for 24: {codes:?}");
    assert_eq!(codes.last(), Some(&452), "{codes:?}");
}

#[test]
fn one_hundred_recipients_share_memory_and_compression_of_a_large_mail() {
    let server = Server::start(&[("GSMTP_MAX_SIZE", "20000000")]);
    // This content compresses well, so the cost of 100 recipients is in processing the content.
    let large = content_of_size(16 << 20);
    let (alone, _) = cost_of_mail(&server, 1, &large);
    let (together, grown) = cost_of_mail(&server, 100, &large);
    note!("16 MiB to 1: {alone:?}, to 100: {together:?} and {grown} KiB more");
    assert!(together < 2 * alone + Duration::from_millis(500));
    assert!(grown < 16_384, "{grown} KiB");
    // This content does not compress, so the cost is one large row per recipient, one at a time.
    let (_, grown) = cost_of_mail(&server, 100, &incompressible(1 << 20));
    note!("1 MiB as it is to 100: {grown} KiB more");
    assert!(grown < 32_768, "{grown} KiB");
    assert_eq!(server.list().len(), 201);
}

#[test]
fn allocation_failure_while_compressing_defers_only_that_mail() {
    let small = b"Subject: small\r\n";
    let large = incompressible(30 << 20);
    // If GM_MAX_MEMORY has room for small mails only, the writer compresses the large one instead of the connection.
    for (max_memory, who_deflates) in [("50100000", "writer"), ("500000000", "connection")] {
        let mut codes = Vec::new();
        // Memory grows in steps: the content buffer, the compressed content, a row's stream, and SQLite's copy.
        for room in [30, 50, 70, 90, 110, 130, 150, 170] {
            let server = start_with_one_malloc_arena(&[
                ("GSMTP_MAX_SIZE", "50000000"),
                ("GM_MAX_MEMORY", max_memory),
            ]);
            let reply = server
                .client()
                .deliver("a@client.test", "u@ours.test", small);
            assert_eq!(reply.code, 250);
            let octets = server.status_kib("VmSize") * 1_024 + (room << 20);
            server.limit(&format!("--as={octets}:"));
            let mut client = in_data(&server);
            client.send(&large);
            client.send("\r\n.\r\n");
            let reply = client.read_reply().expect("a reply");
            let is_deferred = reply.text().starts_with("452 4.3.1 ");
            assert!(reply.code == 250 || is_deferred, "{}", reply.text());
            codes.push(reply.code);
            let reply = client.deliver("a@client.test", "u@ours.test", small);
            assert_eq!(reply.code, 250);
            assert!(!server.log().contains("panicked"), "{}", server.log());
        }
        note!("30 MiB, deflated by the {who_deflates}, with room for 30 to 170: {codes:?}");
        assert_eq!(codes.first(), Some(&452), "{codes:?}");
        assert_eq!(codes.last(), Some(&250), "{codes:?}");
    }
}

#[test]
fn declared_size_reserves_no_memory() {
    let server = Server::start(&[]);
    let mut clients: Vec<Client> = (0..300).map(|_| server.client()).collect();
    for client in &mut clients {
        client.command("EHLO client.test", "250");
    }
    let before = server.status_kib("VmRSS");
    for client in &mut clients {
        client.command("MAIL FROM:<a@client.test> SIZE=131072", "250");
        client.command("RCPT TO:<u@ours.test>", "250");
        client.command("DATA", "354");
    }
    let grown = server.status_kib("VmRSS").saturating_sub(before);
    note!("300 times SIZE=131072: {grown} KiB more");
    // Allows the read buffer of each client, far below the 128 KiB that each declared.
    assert!(grown < 300 * 16, "{grown} KiB");
}

#[test]
fn unparsable_bdat_size_replies_501_and_closes() {
    let server = Server::start(&[]);
    for size in [
        "99999999999999999999",
        "-1",
        "1x",
        "",
        "18446744073709551616",
    ] {
        let mut client = in_transaction(&server);
        client.send(format!("BDAT {size}\r\nMAIL FROM:<x@client.test>\r\n"));
        client.expect("501 5.5.4 ");
        client.expect_close();
    }
    assert!(server.list().is_empty());
}

#[test]
fn endless_bdat_chunk_is_discarded_at_constant_memory() {
    let server = Server::start(&[]);
    let mut client = in_transaction(&server);
    client.send("BDAT 18446744073709551615 LAST\r\n");
    client.send(content_of_size(1 << 20));
    let before = server.status_kib("VmHWM");
    for _ in 0..10 {
        client.send(content_of_size(1 << 20));
    }
    let grown = server.status_kib("VmHWM").saturating_sub(before);
    assert!(grown < 1_024, "{grown} KiB");
}

#[test]
fn endless_command_line_is_discarded_at_constant_memory() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.send([b'x'; 100_000]);
    client.command("", "500 5.5.2 ");
    let before = server.status_kib("VmHWM");
    for _ in 0..20 {
        client.send(vec![b'x'; 1 << 20]);
    }
    client.command("", "500 5.5.2 ");
    let grown = server.status_kib("VmHWM").saturating_sub(before);
    assert!(grown < 1_024, "{grown} KiB");
    client.command("NOOP", "250");
}

/// Starts a server whose memory budget holds exactly one message of the maximum size.
fn start_with_budget_for_one_mail() -> Server {
    let limit = LIMIT.to_string();
    Server::start(&[("GM_MAX_MEMORY", &limit), ("GSMTP_MAX_SIZE", &limit)])
}

/// Asserts that the whole budget is free by sending a message that needs all of it.
fn assert_budget_is_free(server: &Server) {
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &content_of_size(LIMIT));
    assert!(reply.text().starts_with("250 2.0.0 "), "{}", reply.text());
}

/// Waits until all connections have been closed; a connection releases its memory before its socket.
///
/// `idle_sockets` is the number of sockets that the server has without clients.
fn wait_until_gone(server: &Server, idle_sockets: usize) {
    // The socket is the last resource that a connection releases.
    wait_for("all connections to be closed", || {
        (server.sockets() == idle_sockets).then_some(())
    });
}

fn in_transaction(server: &Server) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client
}

fn in_data(server: &Server) -> Client {
    let mut client = in_transaction(server);
    client.command("DATA", "354");
    client
}

/// Returns lines of text with `octets` octets in total.
fn content_of_size(octets: usize) -> Vec<u8> {
    let line = [&[b'x'; 62][..], b"\r\n"].concat();
    let mut lines = line.repeat(octets.div_ceil(64));
    lines.drain(..lines.len() - octets);
    lines
}

const LIMIT: usize = 262_144;
