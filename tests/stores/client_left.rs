//! A mail whose client disconnects while the mail is queued is not saved, no matter what the client sent before. A mail
//! whose client waits for the reply is saved.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use mysql::prelude::Queryable;
use socket2::SockRef;

use testkit::mariadb::{MariaDb, with_hosts};
use testkit::tls::{TlsClient, TlsServer};
use testkit::{Client, Server, TEST_TIMEOUT, short_mail, stuffed, test, wait_for, wait_for_within};

/// How a client disconnects.
#[derive(Clone, Copy, Debug)]
enum Disconnect {
    Close,
    HalfClose,
    Reset,
    /// TLS only: the client sends close_notify and keeps the connection open.
    CloseNotify,
}

/// Octets after the final dot, in the same write.
const AFTER_FINAL_DOT: &[&str] = &["", "QUIT\r\n", "NOOP\r\n"];

/// Returns the number of mails that were withdrawn because the client had disconnected.
fn withdrawn_mails(server: &Server) -> usize {
    let log = server.log();
    log.matches("the client disconnected before its mail was saved")
        .count()
}

/// Runs `during` while the only writer is busy with another mail, so that further mails are queued.
fn while_the_writer_is_busy(database: &MariaDb, server: &Server, during: impl FnOnce()) {
    let mut locker = database.connection();
    locker
        .query_drop("LOCK TABLES new_mail WRITE")
        .expect("locked");
    thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut client = server.client();
            client.deliver("a@client.test", "u@ours.test", &short_mail("busy"))
        });
        wait_for_within("the writer to be busy", TEST_TIMEOUT, || {
            (database.running_inserts("") > 0).then_some(())
        });
        during();
        locker.query_drop("UNLOCK TABLES").expect("unlocked");
        assert_eq!(busy.join().expect("a reply").code, 250);
    });
}

fn mail(subject: &str, after: &str) -> Vec<u8> {
    [&stuffed(&short_mail(subject))[..], after.as_bytes()].concat()
}

fn disconnect_plain(client: &Client, disconnect: Disconnect) {
    match disconnect {
        Disconnect::Close => {}
        Disconnect::HalfClose => client.socket().shutdown(Shutdown::Write).expect("a socket"),
        Disconnect::Reset => reset(client.socket()),
        Disconnect::CloseNotify => unreachable!("not in TLS"),
    }
}

fn disconnect_tls(client: &mut TlsClient, disconnect: Disconnect) {
    match disconnect {
        Disconnect::Close => {}
        Disconnect::HalfClose => client.socket().shutdown(Shutdown::Write).expect("a socket"),
        Disconnect::Reset => reset(client.socket()),
        Disconnect::CloseNotify => {
            client.tls().send_close_notify();
            client.try_send(b"").expect("it is sent");
        }
    }
}

/// Sends RST instead of FIN when the last descriptor of the connection is closed.
fn reset(socket: &std::net::TcpStream) {
    let linger = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    linger.expect("an open socket");
}

#[test]
fn client_that_sent_octets_and_disconnected_is_detected_as_gone() {
    let database = MariaDb::start();
    let hosts = database.address().to_string();
    let tls = TlsServer::start(&with_hosts(&hosts, &[("GM_SAVE_WORKERS", "1")]));
    let server = &tls.server;
    let (mut open, mut open_in_tls) = (Vec::new(), Vec::new());
    let (mut waiting, mut waiting_in_tls) = (Vec::new(), Vec::new());
    let mut disconnected = 0;
    let begin_plain = || {
        let mut client = server.client();
        client.begin_data("a@client.test", "u@ours.test");
        client
    };
    let begin_tls = || {
        let mut client = tls.implicit_tls_client();
        client.command("EHLO client.test", "250");
        client.begin_mail();
        client
    };
    while_the_writer_is_busy(&database, server, || {
        for after in AFTER_FINAL_DOT {
            for disconnect in [
                Disconnect::Close,
                Disconnect::HalfClose,
                Disconnect::Reset,
                Disconnect::CloseNotify,
            ] {
                let subject = format!("disconnected {disconnect:?} {}", after.trim());
                let mut in_tls = begin_tls();
                in_tls.send(mail(&subject, after));
                disconnect_tls(&mut in_tls, disconnect);
                disconnected += 1;
                if matches!(disconnect, Disconnect::HalfClose | Disconnect::CloseNotify) {
                    open_in_tls.push(in_tls);
                }
                if matches!(disconnect, Disconnect::CloseNotify) {
                    continue;
                }
                let mut plain = begin_plain();
                plain.send(mail(&subject, after));
                disconnect_plain(&plain, disconnect);
                disconnected += 1;
                if matches!(disconnect, Disconnect::HalfClose) {
                    open.push(plain);
                }
            }
        }
        // These clients stay. The last of them sends more than the server reads at once after the final dot.
        let long = "NOOP\r\n".repeat(2_000);
        for after in AFTER_FINAL_DOT.iter().copied().chain([long.as_str()]) {
            let mut plain = begin_plain();
            plain.send(mail("waits", after));
            waiting.push(plain);
            let mut in_tls = begin_tls();
            in_tls.send(mail("waits", after));
            waiting_in_tls.push(in_tls);
        }
        wait_for_within(
            "the disconnected clients to be detected",
            TEST_TIMEOUT,
            || (withdrawn_mails(server) == disconnected).then_some(()),
        );
    });
    for mut client in waiting {
        client.expect("250 2.0.0 OK : queued as ");
    }
    for mut client in waiting_in_tls {
        client.expect("250 2.0.0 OK : queued as ");
    }
    assert_eq!(withdrawn_mails(server), disconnected);
    let mut subjects: Vec<String> = database.rows("SELECT subject FROM new_mail");
    subjects.sort();
    let waits = 2 * (AFTER_FINAL_DOT.len() + 1);
    assert_eq!(subjects[0], "busy");
    assert_eq!(subjects[1..], vec!["waits".to_owned(); waits]);
}

#[test]
fn commands_sent_while_a_mail_waits_are_answered_in_order() {
    let database = MariaDb::start();
    let hosts = database.address().to_string();
    let tls = TlsServer::start(&with_hosts(&hosts, &[("GM_SAVE_WORKERS", "1")]));
    let mut client = tls.implicit_tls_client();
    client.command("EHLO client.test", "250");
    client.begin_mail();
    while_the_writer_is_busy(&database, &tls.server, || {
        client.send(mail("first", ""));
        // Separate TLS records, which arrive while the mail is queued.
        client.send("NOOP\r\n");
        client.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n");
        // When the server has found that a later client left, it has also checked whether this one is still connected.
        let mut leaves = tls.server.client();
        leaves.begin_data("a@client.test", "u@ours.test");
        leaves.send(mail("leaves", ""));
        drop(leaves);
        wait_for("the later mail to be withdrawn", || {
            (withdrawn_mails(&tls.server) == 1).then_some(())
        });
    });
    for reply in [
        "250 2.0.0 OK : queued",
        "250 2.0.0",
        "250 2.1.0",
        "250 2.1.5",
        "354 ",
    ] {
        client.expect(reply);
    }
    client.send(mail("second", "QUIT\r\n"));
    client.expect("250 2.0.0 OK : queued");
    client.expect("221 ");
    client.expect_close_notify();
    assert_eq!(database.count(), 3);
}
