//! `/readyz` returns 503 while the store cannot save mail, and an unreachable database is detected at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use rusqlite::Connection;

use testkit::status::get;
use testkit::steps::deliver_from;
use testkit::{Server, test};

const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");

fn deliver(server: &Server) -> (u16, Duration) {
    deliver_from(server, Ipv4Addr::LOCALHOST)
}

#[test]
fn readyz_is_503_while_another_program_locks_the_sqlite_file() {
    let server = Server::start(&[STATUS]);
    assert_eq!(deliver(&server).0, 250);
    assert_eq!(get(&server, "/readyz").0, 200);
    let locker = Connection::open(server.path("goguerrilla.db")).expect("a database");
    locker.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let (code, _) = deliver(&server);
    assert_eq!(code, 451);
    let (code, reason) = get(&server, "/readyz");
    assert!(
        code == 503 && reason.starts_with("store: "),
        "{code} {reason}"
    );
    locker.execute_batch("ROLLBACK").expect("unlocked");
    assert_eq!(deliver(&server).0, 250);
    assert_eq!(get(&server, "/readyz").0, 200);
}

#[test]
fn readyz_is_503_after_rejected_mails_of_several_clients_only() {
    let server = Server::start(&[STATUS]);
    let [first, second] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(Ipv4Addr::from);
    assert_eq!(deliver(&server).0, 250);
    let table = Connection::open(server.path("goguerrilla.db")).expect("a database");
    let refuse = "CREATE TRIGGER no BEFORE INSERT ON new_mail BEGIN SELECT RAISE(ABORT, 'no mail today'); END";
    table.execute_batch(refuse).expect("a trigger");
    for _ in 0..15 {
        assert_eq!(deliver_from(&server, first).0, 451);
    }
    assert_eq!(
        get(&server, "/readyz").0,
        200,
        "mails of one client do not count"
    );
    assert_eq!(deliver_from(&server, second).0, 451);
    let (code, reason) = get(&server, "/readyz");
    assert!(
        code == 503 && reason.contains("no mail today"),
        "{code} {reason}"
    );
    table.execute_batch("DROP TRIGGER no").expect("no trigger");
    assert_eq!(deliver(&server).0, 250);
    assert_eq!(
        get(&server, "/readyz").0,
        200,
        "a saved mail resets the count"
    );
    table.execute_batch(refuse).expect("a trigger");
    for address in [first, second].repeat(4) {
        assert_eq!(deliver_from(&server, address).0, 451);
    }
    assert_eq!(get(&server, "/readyz").0, 200, "fewer than ten in a row");
    deliver_from(&server, first);
    deliver_from(&server, second);
    assert_eq!(get(&server, "/readyz").0, 503);
}
