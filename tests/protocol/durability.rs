//! Durability with SQLite: a mail that got 250 is stored exactly once, whatever happens to the server.

use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::SockRef;

use testkit::kill_rounds::kill_and_check;
use testkit::load::{Load, assert_no_loss_or_duplicate, content_of, stored_markers};
use testkit::{Server, test};

#[test]
fn kill_9_neither_loses_nor_duplicates_acknowledged_mail() {
    kill_and_check(20, 1);
}

#[test]
fn sigterm_under_load_answers_every_final_dot_and_loses_no_mail() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&[]);
        let load = Load::start(server.address, 16, "drained");
        load.wait_for_more(100);
        server.signal(signal);
        assert!(server.wait().success());
        let account = load.stop();
        assert_eq!(account.unanswered, [""; 0], "a final dot was not answered");
        assert_eq!(
            account.deferred, [""; 0],
            "mail was deferred although the store was available"
        );
        let stored = stored_markers(&server.path("goguerrilla.db"));
        assert_no_loss_or_duplicate(&account, &stored);
        assert_eq!(stored.len(), account.acknowledged.len());
    }
}

#[test]
fn client_that_disconnects_after_the_final_dot_has_its_mail_once_or_never() {
    let mut server = Server::start(&[]);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("DATA", "354");
    client.send(content_of("finished"));
    client.send(".\r\n");
    client.finish_sending();
    client.expect("250 2.0.0 ");
    client.expect_close();
    for number in 0..50 {
        let mut client = server.client();
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<a@client.test>", "250");
        client.command("RCPT TO:<u@ours.test>", "250");
        client.command("DATA", "354");
        client.send(content_of(&format!("reset {number}")));
        client.send(".\r\n");
        let socket = SockRef::from(client.socket());
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("an open socket");
    }
    assert!(server.stop().success());
    let stored = stored_markers(&server.path("goguerrilla.db"));
    assert_eq!(stored.get("finished"), Some(&1));
    assert!(stored.values().all(|count| *count == 1), "{stored:?}");
    // Every session is logged, even if the client did not receive the reply.
    let log = server.log();
    assert_eq!(log.matches(" disconnected ").count(), 51);
    assert_eq!(log.matches(" saved ").count(), stored.len());
}
