//! `/readyz` returns 503 while the store cannot save mail, and an unreachable database is detected at once.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;

use testkit::mariadb::{MariaDb, with_hosts};
use testkit::status::get;
use testkit::steps::deliver_from;
use testkit::{
    AT_ONCE, Server, assert_took, check_for, let_time_pass, test, wait_for, wait_for_within,
};

const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");

/// Maximum time until a failure is detected without mail: ten times the expected 7 s, of which 5 s are for an answer and 2 s
/// the interval between checks.
const MAX_DETECTION_TIME: Duration = Duration::from_secs(70);

/// Longer than 20 ms: a connection that committed less than 20 ms ago is reused without a ping.
const PING_AFTER: Duration = Duration::from_millis(100);

fn deliver(server: &Server) -> (u16, Duration) {
    deliver_from(server, Ipv4Addr::LOCALHOST)
}

fn wait_for_state(server: &Server, wanted: u16) -> String {
    wait_for_within(&format!("/readyz {wanted}"), MAX_DETECTION_TIME, || {
        let (code, text) = get(server, "/readyz");
        (code == wanted).then_some(text)
    })
}

#[test]
fn database_refusing_connections_defers_the_first_mail_at_once() {
    let mut database = MariaDb::start();
    let socket = database.socket();
    let address = database.address().to_string();
    for hosts in [
        address.clone(),
        socket.clone(),
        format!("{socket},{address}"),
    ] {
        let server = Server::start(&with_hosts(&hosts, &[]));
        for is_killed in [true, false] {
            wait_for("mail to be saved", || {
                (deliver(&server).0 == 250).then_some(())
            });
            let_time_pass(
                PING_AFTER,
                "the time in which a connection is used without a ping",
            );
            if is_killed {
                // The socket file remains and refuses connections.
                database.kill();
            } else {
                database.stop();
            }
            let (code, took) = deliver(&server);
            assert_eq!(code, 451, "{hosts}");
            assert_took(took, AT_ONCE);
            let (code, took) = deliver(&server);
            assert_eq!(code, 451, "{hosts}");
            assert_took(took, AT_ONCE);
            database.run();
        }
    }
}

#[test]
fn mail_in_progress_is_deferred_at_once_when_every_host_refuses_connections() {
    let mut database = MariaDb::start();
    let server = database.server(&[("GM_SAVE_WORKERS", "1")]);
    assert_eq!(deliver(&server).0, 250);
    // The batch waits for a lock in the middle of its transaction.
    let mut locker = database.connection();
    locker
        .query_drop("LOCK TABLES new_mail WRITE")
        .expect("locked");
    let (code, took) = thread::scope(|scope| {
        let waiting = scope.spawn(|| deliver(&server));
        wait_for("the mail to wait", || {
            (database.running_inserts("") > 0).then_some(())
        });
        database.kill();
        waiting.join().expect("a reply")
    });
    assert_eq!(code, 451);
    // Less than the 20 s for which a batch is tried again.
    assert_took(took, Duration::from_secs(1));
}

#[test]
fn readyz_is_503_only_when_all_database_hosts_are_down() {
    let (mut first, mut second) = (MariaDb::start(), MariaDb::start());
    let hosts = format!("{},{}", first.address(), second.address());
    // The mail may wait until the second host is used.
    let settings = [STATUS, ("GM_HOLD_SECONDS", "10")];
    let server = Server::start(&with_hosts(&hosts, &settings));
    wait_for_two_hosts(&server);
    first.kill();
    assert_eq!(deliver(&server).0, 250);
    let lines = wait_for_state(&server, 200);
    assert!(lines.starts_with("ok\n"), "{lines}");
    // No mail is sent that could detect the failure.
    second.kill();
    let reason = wait_for_state(&server, 503);
    assert!(
        reason.starts_with("store: ") && reason.lines().count() == 3,
        "{reason}"
    );
    first.run();
    second.run();
    wait_for_two_hosts(&server);
    for database in [&first, &second] {
        database.signal(Signal::SIGSTOP);
    }
    wait_for("both hosts to be found hanging", || {
        let (status, reason) = get(&server, "/readyz");
        let is_down = status == 503 && reason.starts_with("store: ");
        (is_down && !reason.contains(": well\n")).then_some(())
    });
    for database in [&first, &second] {
        database.signal(Signal::SIGCONT);
    }
    wait_for_state(&server, 200);
}

fn wait_for_two_hosts(server: &Server) {
    wait_for("both hosts to be well", || {
        let (status, lines) = get(server, "/readyz");
        (status == 200 && lines.matches(": well\n").count() == 2).then_some(())
    });
}

#[test]
fn readyz_is_503_while_the_database_hangs_even_if_no_mail_arrives() {
    let database = MariaDb::start();
    let server = database.server(&[STATUS]);
    wait_for_state(&server, 200);
    database.signal(Signal::SIGSTOP);
    let reason = wait_for_state(&server, 503);
    assert!(reason.starts_with("store: "), "{reason}");
    // The state stays the same while pings and attempts to connect alternate.
    check_for(Duration::from_secs(15), || {
        assert_eq!(get(&server, "/readyz").0, 503);
    });
    database.signal(Signal::SIGCONT);
    wait_for_state(&server, 200);
    assert_eq!(deliver(&server).0, 250);
}

#[test]
fn read_only_host_is_a_standby_until_it_is_writable() {
    let (mut first, second) = (MariaDb::start(), MariaDb::start());
    second.sql("SET GLOBAL read_only = 1");
    let hosts = format!("{},{}", first.address(), second.address());
    let server = Server::start(&with_hosts(&hosts, &[STATUS]));
    server.wait_for_log(" node_standby ");
    let lines = wait_for_state(&server, 200);
    let line = format!(
        "node {}: standby: it is read-only (read_only)\n",
        second.address()
    );
    assert!(lines.contains(&line), "{lines}");
    assert_eq!(deliver(&server).0, 250);
    let (is_ok, output) = server.check();
    assert!(is_ok && !output.contains("not healthy"), "{output}");
    let log = server.log();
    assert!(!log.contains(" db_host_down "), "{log}");
    assert_eq!(log.matches(" info - node_standby ").count(), 1, "{log}");

    first.kill();
    let reason = wait_for_state(&server, 503);
    assert!(
        reason.contains("none of 2 hosts takes mail") || reason.contains("refused"),
        "{reason}"
    );
    second.sql("SET GLOBAL read_only = 0");
    wait_for("mail to go to the second host", || {
        (deliver(&server).0 == 250).then_some(())
    });
    assert_eq!(second.count(), 1);
    server.wait_for_log(" node_writable ");
}
