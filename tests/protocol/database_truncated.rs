//! Another program truncates or overwrites the SQLite file, its `-wal` or its `-shm` while the server has them open. Mail
//! gets 451, and acknowledged mail stays in the files.

use std::fs::{self, OpenOptions};
use std::path::Path;

use testkit::load::{content_of, stored_markers};
use testkit::status::get;
use testkit::{Server, test, wait_for};

const FILE: &str = "goguerrilla.db";
const LOG: &str = "goguerrilla.db-wal";
const INDEX: &str = "goguerrilla.db-shm";

#[test]
fn truncated_wal_defers_mail_and_does_not_damage_the_database() {
    for octets in [0, 32, 40_000] {
        let mut server = Server::start(&[]);
        deliver_each(&server, "checkpointed");
        checkpoint(&server.path(FILE));
        deliver_each(&server, "only in the log");
        truncate(&server.path(LOG), octets);
        assert_eq!(deliver(&server, "after"), 451, "{octets}");
        server.wait_for_log(&format!(" database_moved file={LOG} "));
        assert_eq!(deliver(&server, "after"), 451, "{octets}");
        assert!(server.stop().success());
        // The frames that the truncation left are still valid, and the pages in the database file are whole.
        let stored = stored_markers(&server.path(FILE));
        assert_eq!(stored.get("checkpointed"), Some(&MAILS), "{octets}");
        assert!(!stored.contains_key("after"), "{octets}");
        assert_eq!(integrity(&server.path(FILE)), "ok");
        server.start_again();
        assert_eq!(deliver(&server, "new"), 250, "{octets}");
    }
}

#[test]
fn truncated_shm_file_defers_mail_without_a_crash_and_loses_none() {
    for octets in [0, 100] {
        let mut server = Server::start(&[]);
        deliver_each(&server, "before");
        truncate(&server.path(INDEX), octets);
        assert_eq!(deliver(&server, "after"), 451, "{octets}");
        server.wait_for_log(&format!(" database_moved file={INDEX} "));
        assert!(server.stop().success(), "{octets}");
        assert_eq!(
            stored_markers(&server.path(FILE)).get("before"),
            Some(&MAILS)
        );
        server.start_again();
        assert_eq!(deliver(&server, "new"), 250, "{octets}");
    }
}

#[test]
fn database_file_overwritten_by_a_smaller_one_gets_no_mail() {
    let mut server = Server::start(&[]);
    for _ in 0..20 {
        deliver_each(&server, "before");
    }
    checkpoint(&server.path(FILE));
    assert_eq!(deliver(&server, "before"), 250);
    let small = server.path("small.db");
    let other = rusqlite::Connection::open(&small).expect("another database");
    other
        .execute_batch("CREATE TABLE other(a)")
        .expect("a table");
    drop(other);
    let content = fs::read(&small).expect("another database");
    fs::write(server.path(FILE), &content).expect("the same inode");
    assert_eq!(deliver(&server, "after"), 451);
    server.wait_for_log(&format!(" database_moved file={FILE} "));
    assert!(server.stop().success());
    assert_eq!(fs::read(server.path(FILE)).expect("the file"), content);
    assert!(server.path(LOG).exists(), "the log holds acknowledged mail");
}

#[test]
fn wal_of_a_database_replaced_by_its_copy_is_kept_at_shutdown() {
    let mut server = Server::start(&[]);
    deliver_each(&server, "before");
    fs::copy(server.path(FILE), server.path("copy.db")).expect("a copy");
    fs::rename(server.path("copy.db"), server.path(FILE)).expect("the copy replaces the file");
    assert_eq!(deliver(&server, "after"), 451);
    assert!(server.stop().success());
    server.wait_for_log(&format!(" wal_preserved file={LOG} "));
    assert_eq!(
        stored_markers(&server.path(FILE)).get("before"),
        Some(&MAILS)
    );
}

#[test]
fn server_is_not_ready_while_its_sqlite_file_is_gone() {
    let server = Server::start(&[("GM_STATUS_INTERFACE", "127.0.0.1:0")]);
    assert_eq!(get(&server, "/readyz").0, 200);
    fs::rename(server.path(FILE), server.path("moved.db")).expect("the file exists");
    // No mail is delivered: the check itself finds the failure.
    let (code, reason) = get(&server, "/readyz");
    assert!(
        code == 503 && reason.contains("moved, removed"),
        "{code} {reason}"
    );
    fs::rename(server.path("moved.db"), server.path(FILE)).expect("the file exists");
    wait_for("/readyz 200", || {
        (get(&server, "/readyz").0 == 200).then_some(())
    });
}

#[test]
fn database_shortened_by_vacuum_and_grown_in_the_wal_gets_mail() {
    for vacuum in ["VACUUM", "PRAGMA incremental_vacuum"] {
        let server = Server::start(&[]);
        let other = rusqlite::Connection::open(server.path(FILE)).expect("the file");
        let fill = "CREATE TABLE other(a); INSERT INTO other SELECT zeroblob(4000) FROM \
                    (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 200) SELECT i FROM n);";
        other.execute_batch(fill).expect("rows");
        checkpoint(&server.path(FILE));
        assert_eq!(deliver(&server, "large"), 250);
        let octets = || fs::metadata(server.path(FILE)).expect("the file").len();
        let octets_before = octets();
        other.execute_batch("DELETE FROM other").expect("a table");
        let mut vacuum_statement = other.prepare(vacuum).expect("a valid statement");
        // Each row of incremental_vacuum is one page.
        let mut steps = vacuum_statement.raw_query();
        while steps.next().expect("a file that nobody locks").is_some() {}
        checkpoint(&server.path(FILE));
        let grow = "INSERT INTO other SELECT zeroblob(4000) FROM \
                    (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20) SELECT i FROM n);";
        other.execute_batch(grow).expect("rows");
        assert!(octets() < octets_before / 2, "{vacuum}");
        for _ in 0..3 {
            assert_eq!(deliver(&server, "short"), 250);
        }
        assert!(
            !server.log().contains(" database_moved "),
            "{}",
            server.log()
        );
    }
}

fn deliver(server: &Server, subject: &str) -> u16 {
    let mail = content_of(subject).into_bytes();
    let mut client = server.client();
    client.deliver("a@client.test", "u@ours.test", &mail).code
}

fn deliver_each(server: &Server, subject: &str) {
    for _ in 0..MAILS {
        assert_eq!(deliver(server, subject), 250);
    }
}

fn truncate(file: &Path, octets: u64) {
    let opened = OpenOptions::new().write(true).open(file);
    opened
        .and_then(|opened| opened.set_len(octets))
        .expect("the file exists");
}

fn checkpoint(file: &Path) {
    let connection = rusqlite::Connection::open(file).expect("the file exists");
    let is_busy: i64 = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .expect("a checkpoint");
    assert_eq!(is_busy, 0);
}

fn integrity(file: &Path) -> String {
    let connection = rusqlite::Connection::open(file).expect("the file exists");
    let result = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0));
    result.expect("a result")
}

const MAILS: usize = 5;
