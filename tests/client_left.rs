//! A client that has gone while its mail queued is not saved, whatever it sent before; one that waits for its reply is.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use mysql::prelude::Queryable;
use socket2::SockRef;

use crate::support::mariadb::{MariaDb, with_hosts};
use crate::support::tls::{TlsClient, TlsServer};
use crate::support::{Client, Server, short_mail, stuffed, wait_for_within};

/// How a client goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Close,
    HalfClose,
    Reset,
    /// In TLS: close_notify, and the connection stays open.
    CloseNotify,
}

/// What follows on the final dot, in the same write.
const AFTER_THE_DOT: &[&str] = &["", "QUIT\r\n", "NOOP\r\n"];

/// Reasons of mails that were withdrawn.
fn withdrawn(server: &Server) -> usize {
    let log = server.log();
    log.matches("the client disconnected before its mail was saved")
        .count()
}

/// Runs `during` while a mail is with the only writer, so that others queue.
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
        let waits = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'INSERT%'";
        wait_for_within("the writer to be busy", Duration::from_secs(10), || {
            (database.number(waits) > 0).then_some(())
        });
        during();
        locker.query_drop("UNLOCK TABLES").expect("unlocked");
        assert_eq!(busy.join().expect("a reply").code, 250);
    });
}

fn mail(subject: &str, after: &str) -> Vec<u8> {
    [&stuffed(&short_mail(subject))[..], after.as_bytes()].concat()
}

fn go(client: &Client, way: Way) {
    match way {
        Way::Close => {}
        Way::HalfClose => client.socket().shutdown(Shutdown::Write).expect("a socket"),
        Way::Reset => reset(client.socket()),
        Way::CloseNotify => unreachable!("not in TLS"),
    }
}

fn go_in_tls(client: &mut TlsClient, way: Way) {
    match way {
        Way::Close => {}
        Way::HalfClose => client.socket().shutdown(Shutdown::Write).expect("a socket"),
        Way::Reset => reset(client.socket()),
        Way::CloseNotify => {
            client.tls().send_close_notify();
            client.try_send(b"").expect("it is sent");
        }
    }
}

/// The connection is reset once the last descriptor of it is closed.
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
    let mut gone = 0;
    let begun = || {
        let mut client = server.client();
        client.begin_data("a@client.test", "u@ours.test");
        client
    };
    let begun_in_tls = || {
        let mut client = tls.implicit_tls_client();
        client.command("EHLO client.test", "250");
        client.begin_mail();
        client
    };
    while_the_writer_is_busy(&database, server, || {
        for after in AFTER_THE_DOT {
            for way in [Way::Close, Way::HalfClose, Way::Reset, Way::CloseNotify] {
                let subject = format!("gone {way:?} {}", after.trim());
                let mut in_tls = begun_in_tls();
                in_tls.send(mail(&subject, after));
                go_in_tls(&mut in_tls, way);
                gone += 1;
                if matches!(way, Way::HalfClose | Way::CloseNotify) {
                    open_in_tls.push(in_tls);
                }
                if matches!(way, Way::CloseNotify) {
                    continue;
                }
                let mut plain = begun();
                plain.send(mail(&subject, after));
                go(&plain, way);
                gone += 1;
                if matches!(way, Way::HalfClose) {
                    open.push(plain);
                }
            }
        }
        // More than the server reads at once follows on the dot of these, and they stay.
        let much = "NOOP\r\n".repeat(2_000);
        for after in AFTER_THE_DOT.iter().copied().chain([much.as_str()]) {
            let mut plain = begun();
            plain.send(mail("waits", after));
            waiting.push(plain);
            let mut in_tls = begun_in_tls();
            in_tls.send(mail("waits", after));
            waiting_in_tls.push(in_tls);
        }
        wait_for_within(
            "those that left to be found",
            Duration::from_secs(12),
            || (withdrawn(server) == gone).then_some(()),
        );
    });
    for mut client in waiting {
        client.expect("250 2.0.0 OK : queued as ");
    }
    for mut client in waiting_in_tls {
        client.expect("250 2.0.0 OK : queued as ");
    }
    assert_eq!(withdrawn(server), gone);
    let mut subjects: Vec<String> = database.rows("SELECT subject FROM new_mail");
    subjects.sort();
    let waits = 2 * (AFTER_THE_DOT.len() + 1);
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
        // In records of their own, so that they arrive while the mail waits.
        client.send("NOOP\r\n");
        client.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n");
        // Long enough that the server has looked whether its client is there.
        thread::sleep(Duration::from_millis(2_500));
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
