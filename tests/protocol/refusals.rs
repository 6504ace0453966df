//! Replies for faults and shortages on the server's side: always temporary, never 5xx.

use std::fs;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::{Client, Server, test};

#[test]
fn unavailable_store_replies_451_and_recovered_store_replies_250() {
    let server = Server::start(&[]);
    let deliver = |content: &[u8]| {
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", content);
        // The session continues in either case.
        client.command("NOOP", "250 2.0.0 ");
        reply.text()
    };
    assert!(deliver(b"Subject: before\r\n\r\n").starts_with("250 2.0.0 OK : queued as "));
    let file = server.path("goguerrilla.db");
    let moved = server.path("moved.db");
    fs::rename(&file, &moved).expect("the store");
    fs::create_dir(&file).expect("a folder in place of the store");
    let refusal = deliver(b"Subject: meanwhile\r\n\r\n");
    assert!(refusal.starts_with("451 4.3.0 "), "{refusal}");
    fs::remove_dir(&file).expect("the folder in place of the store");
    fs::rename(&moved, &file).expect("the store");
    assert!(deliver(b"Subject: behind\r\n\r\n").starts_with("250 2.0.0 OK : queued as "));
    let contents = [
        b"Subject: behind\r\n\r\n".as_slice(),
        b"Subject: before\r\n\r\n",
    ];
    assert_eq!(server.contents(), contents);
}

#[test]
fn full_disk_replies_452() {
    let folder = TempDir::new().expect("a temporary folder");
    // A file size limit makes writes fail like a full disk.
    let server = Server::start_with(folder, &[("GSMTP_MAX_SIZE", "1000000")], |command| {
        let mut limited = testkit::command("prlimit");
        limited.arg("--fsize=200000").arg(command.get_program());
        limited.args(command.get_args());
        limited
    });
    let mut noise = Vec::new();
    let mut state = 1u64;
    while noise.len() < 300_000 {
        // Incompressible octets (George Marsaglia's xorshift64).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.extend_from_slice(b"\r\n");
    let mut client = server.client();
    let refusal = client.deliver("a@client.test", "u@ours.test", &noise);
    assert_eq!(refusal.code, 452, "{}", refusal.text());
    assert!(
        refusal.text().starts_with("452 4.3.1 "),
        "{}",
        refusal.text()
    );
    let small = client.deliver("a@client.test", "u@ours.test", b"small\r\n");
    assert_eq!(small.code, 250, "{}", small.text());
    assert_eq!(server.contents(), [b"small\r\n"]);
}

#[test]
fn client_over_the_limit_gets_421_at_once_and_a_freed_slot_is_reused() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "2")]);
    let mut first = server.client();
    let _second = server.client();
    for _ in 0..3 {
        let mut third = Client::connect(server.address);
        third.expect("421 4.3.2 ");
        third.expect_close();
    }
    first.command("QUIT", "221 2.0.0 ");
    first.expect_close();
    testkit::wait_for("a free slot", || {
        let mut client = Client::connect(server.address);
        (client.read_reply()?.code == 220).then_some(())
    });
}

#[test]
fn shutdown_sends_421_to_idle_clients_and_saves_the_message_in_progress() {
    let mut server = Server::start(&[]);
    let mut idle = server.client();
    let mut busy = server.client();
    busy.command("EHLO client.test", "250");
    busy.command("MAIL FROM:<a@client.test>", "250");
    busy.command("RCPT TO:<u@ours.test>", "250");
    busy.command("DATA", "354 ");
    server.signal(Signal::SIGTERM);
    idle.expect("421 4.3.2 ");
    idle.expect_close();
    // The server waits for a client to close after the last reply.
    drop(idle);
    busy.send("Subject: last\r\n\r\n.\r\n");
    busy.expect("250 2.0.0 OK : queued as ");
    busy.expect("421 4.3.2 ");
    busy.expect_close();
    drop(busy);
    assert!(server.wait().success());
    assert_eq!(server.contents(), [b"Subject: last\r\n\r\n"]);
}
