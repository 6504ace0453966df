//! What strangers send costs no more memory than was granted, and what was granted comes back.

use std::thread;

use crate::support::{Client, Server, stuffed, wait_for};

#[test]
fn a_message_far_too_large_is_swallowed_at_constant_memory() {
    let server = Server::start(&[]);
    let mut client = server.client();
    begin(&mut client, "");
    client.command("DATA", "354 ");
    let before = server.status_kib("VmHWM");
    let piece = b"0123456789 RSET\r\n..\n.\r\nQUIT\r\n".repeat(1_000);
    for _ in 0..20_000_000 / piece.len() {
        client.send(&piece);
    }
    client.send(".\r\n");
    client.expect("552 5.3.4 ");
    client.command("NOOP", "250 2.0.0 ");
    let grown = server.status_kib("VmHWM") - before;
    assert!(grown < 2_048, "{grown} KiB for one message");
    assert!(server.list().is_empty());
}

#[test]
fn a_line_or_a_chunk_far_too_long_is_swallowed_at_constant_memory() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.command("NOOP", "250 2.0.0 ");
    let before = server.status_kib("VmHWM");
    let piece = [b'x'; 20_000];
    for _ in 0..1_000 {
        client.send(piece);
    }
    client.send("\r\n");
    client.expect("500 5.5.2 ");
    begin(&mut client, "");
    client.send("BDAT 20000000 LAST\r\n");
    for _ in 0..1_000 {
        client.send(piece);
    }
    client.expect("552 5.3.4 ");
    client.command("NOOP", "250 2.0.0 ");
    let grown = server.status_kib("VmHWM") - before;
    assert!(grown < 2_048, "{grown} KiB for one client");
}

#[test]
fn a_promised_size_claims_nothing() {
    let server = Server::start(&[
        ("GSMTP_MAX_SIZE", "10000000"),
        ("GM_MAX_MEMORY", "20000000"),
    ]);
    let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for client in &mut clients {
        begin(client, " SIZE=10000000");
        client.command("DATA", "354 ");
    }
    let resident = server.status_kib("VmRSS");
    assert!(resident < 100_000, "{resident} KiB");
    for client in &mut clients {
        client.send(".\r\n");
        client.expect("250 2.0.0 OK : queued as ");
    }
}

#[test]
fn what_is_held_at_once_has_a_ceiling_and_comes_back() {
    let server = Server::start(&[("GM_MAX_MEMORY", "500000")]);
    let content = b"0123456789\r\n".repeat(10_000);
    let wire = stuffed(&content);
    let (most, end) = wire.split_at(wire.len() - 3);
    for round in 0..3 {
        let mut clients: Vec<Client> = (0..10).map(|_| server.client()).collect();
        for client in &mut clients {
            begin(client, "");
            client.command("DATA", "354 ");
            client.send(most);
        }
        // Whoever hangs up gives back what is held for it.
        clients.pop();
        let codes: Vec<u16> = thread::scope(|scope| {
            let finish = |client: &mut Client| {
                client.send(end);
                client.read_reply().expect("a reply to the final dot").code
            };
            let threads: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(move || finish(client)))
                .collect();
            let codes = threads.into_iter().map(|thread| thread.join());
            codes.map(|code| code.expect("a code")).collect()
        });
        let saved = codes.iter().filter(|code| **code == 250).count();
        let refused = codes.iter().filter(|code| **code == 452).count();
        assert!(saved >= 1 && refused >= 1, "round {round}: {codes:?}");
        assert_eq!(saved + refused, 9, "round {round}: {codes:?}");
    }
    // Once all of it came back, the largest sum fits again.
    wait_for("everybody to be gone", || {
        let log = server.log();
        (log.matches(" disconnected ").count() == 30).then_some(())
    });
    let mut clients: Vec<Client> = (0..3).map(|_| server.client()).collect();
    for client in &mut clients {
        begin(client, "");
        client.command("DATA", "354 ");
        client.send(most);
    }
    for client in &mut clients {
        client.send(end);
        client.expect("250 2.0.0 OK : queued as ");
    }
}

fn begin(client: &mut Client, parameters: &str) {
    client.command("EHLO client.test", "250");
    client.command(
        &format!("MAIL FROM:<a@client.test>{parameters}"),
        "250 2.1.0 ",
    );
    client.command("RCPT TO:<u@ours.test>", "250 2.1.5 ");
}
