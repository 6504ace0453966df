//! Faults of the SQLite store: of its disk, of its file, and through other programs that use the file.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use testkit::load::content_of;
use testkit::steps::{deliver_together, send_mail, stored_subjects};
use testkit::{AT_ONCE, Server, assert_took, binary, test, wait_for, write_config};

#[test]
fn mail_waits_for_a_locked_sqlite_file_while_its_client_is_connected() {
    let server = Server::start(&[]);
    let other = lock(&server);
    let mut patient = send_mail(&server, "patient");
    let leaving = send_mail(&server, "leaving");
    patient.expect_silence(Duration::from_millis(300));
    drop(leaving);
    // A waiting connection checks once a second whether its client is still connected.
    patient.expect_silence(Duration::from_millis(2_500));
    other.execute_batch("ROLLBACK").expect("valid statements");
    patient.expect("250 2.0.0 ");
    assert_eq!(stored_subjects(&server), ["patient"]);
}

#[test]
fn sqlite_lock_is_released_after_its_mail_was_withdrawn() {
    let server = Server::start(&[]);
    let other = lock(&server);
    drop(send_mail(&server, "leaving"));
    wait_for("the mail to be withdrawn", || {
        server.log().contains(" not_saved ").then_some(())
    });
    other.execute_batch("ROLLBACK").expect("valid statements");
    // The server takes the lock for a mail whose client has left, and must release it.
    for _ in 0..3 {
        other
            .execute_batch("SELECT * FROM new_mail")
            .expect("it can be read");
        server.wait_until_idle();
        other
            .execute_batch("BEGIN IMMEDIATE; ROLLBACK")
            .expect("an unlocked file");
    }
    assert_eq!(stored_subjects(&server), [""; 0]);
}

#[test]
fn long_sqlite_reader_delays_no_mail_and_keeps_its_snapshot() {
    let server = Server::start(&[]);
    send_mail(&server, "before").expect("250 2.0.0 ");
    let reader = Connection::open(server.path("goguerrilla.db")).expect("the file is there");
    reader.execute_batch("BEGIN").expect("valid statements");
    let count = || -> u32 {
        let count = reader.query_row("SELECT count(*) FROM new_mail", [], |row| row.get(0));
        count.expect("the table is there")
    };
    assert_eq!(count(), 1);
    let started_at = Instant::now();
    for number in 0..20 {
        send_mail(&server, &format!("{number:02}")).expect("250 2.0.0 ");
    }
    // A single wait for a lock would take five seconds.
    assert_took(started_at.elapsed(), AT_ONCE);
    assert_eq!(count(), 1);
    reader.execute_batch("ROLLBACK").expect("valid statements");
    assert_eq!(count(), 21);
}

#[test]
fn write_ahead_log_over_1_gib_logs_one_warning() {
    let mut server = Server::start(&[]);
    send_mail(&server, "before").expect("250 ");
    let reader = Connection::open(server.path("goguerrilla.db")).expect("the file is there");
    let read = "BEGIN; SELECT count(*) FROM new_mail";
    reader.execute_batch(read).expect("valid statements");
    // The log has the size that a long reader can cause; on the disk it is a sparse file.
    let log = fs::OpenOptions::new()
        .write(true)
        .open(server.path("goguerrilla.db-wal"));
    log.expect("the log")
        .set_len((1 << 30) + 1)
        .expect("a sparse file");
    let warnings = |server: &Server| server.log().matches(" warn - wal_large ").count();
    assert_eq!(warnings(&server), 0);
    for number in 0..3 {
        send_mail(&server, &format!("mail {number}")).expect("250 ");
    }
    let log = server.wait_for_log(" wal_large ");
    assert!(
        log.contains("goguerrilla.db-wal octets=1073741825 "),
        "{log}"
    );
    server.kill();
    assert_eq!(warnings(&server), 1, "once");
    // The warning appears again after a restart.
    server.start_again();
    server.wait_for_log(" wal_large ");
    drop(reader);
    send_mail(&server, "after").expect("250 ");
    assert_eq!(stored_subjects(&server).len(), 5);
}

#[test]
fn sqlite_lock_held_longer_than_the_time_limit_defers_mail() {
    let server = Server::start(&[]);
    let other = lock(&server);
    let sent_at = Instant::now();
    let mut client = send_mail(&server, "batch_failed");
    client.expect("451 4.3.0 ");
    let waited = sent_at.elapsed();
    assert!(waited >= Duration::from_millis(4_900), "{waited:?}");
    assert_took(waited, Duration::from_secs(5));
    other.execute_batch("ROLLBACK").expect("valid statements");
    send_mail(&server, "later").expect("250 2.0.0 ");
    assert_eq!(stored_subjects(&server), ["later"]);
}

#[test]
fn mail_rejected_by_an_sqlite_trigger_does_not_fail_its_batch() {
    let server = Server::start(&[]);
    for raise in [
        "ABORT, 'poisoned'",
        "FAIL, 'poisoned'",
        "ROLLBACK, 'poisoned'",
        // Drops the row without an error.
        "IGNORE",
    ] {
        execute(
            &server,
            &format!(
                "DELETE FROM new_mail; DROP TRIGGER IF EXISTS poison;
                 CREATE TRIGGER poison BEFORE INSERT ON new_mail WHEN NEW.subject = 'poison'
                 BEGIN SELECT RAISE({raise}); END"
            ),
        );
        let mut wanted: Vec<String> = (0..49).map(|number| format!("mail {number:02}")).collect();
        let mut sent = wanted.clone();
        sent.insert(25, "poison".to_owned());
        for (subject, code) in deliver_together(&server, &sent) {
            let want = if subject == "poison" { 451 } else { 250 };
            assert_eq!(code, want, "{subject} with RAISE({raise})");
        }
        wanted.sort();
        assert_eq!(stored_subjects(&server), wanted, "RAISE({raise})");
    }
}

#[test]
fn sqlite_stores_all_rows_of_100_recipients_or_none() {
    let server = Server::start(&[]);
    execute(
        &server,
        "CREATE TRIGGER poison BEFORE INSERT ON new_mail WHEN NEW.recipient = 'u63@ours.test' AND NEW.subject = 'none'
         BEGIN SELECT RAISE(ABORT, 'poisoned'); END",
    );
    for (subject, reply) in [("none", "451 4.3.0 "), ("all", "250 2.0.0 ")] {
        let mut client = server.client();
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<a@client.test>", "250");
        for number in 0..100 {
            client.command(&format!("RCPT TO:<u{number}@ours.test>"), "250");
        }
        client.command("DATA", "354");
        client.send(format!("{}.\r\n", content_of(subject)));
        client.expect(reply);
    }
    let mails = server.list();
    assert_eq!(mails.len(), 100);
    let distinct = |key: &str| {
        let values: std::collections::HashSet<_> = mails.iter().map(|mail| &mail[key]).collect();
        values.len()
    };
    assert_eq!(
        (distinct("hash"), distinct("to"), distinct("subject")),
        (100, 100, 1)
    );
}

#[test]
fn mail_gets_452_while_the_file_size_limit_is_reached() {
    let server = Server::start(&[]);
    send_mail(&server, "before").expect("250 ");
    // After an error the server opens the file again and begins the log anew. So the limit is that of a file with an empty log,
    // in which the mail has no room either.
    let file = server.path("goguerrilla.db");
    let other = Connection::open(&file).expect("the file is there");
    let truncated = other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    truncated.expect("a checkpoint");
    let limit = fs::metadata(&file).expect("the file is there").len() + 8_192;
    server.limit(&format!("--fsize={limit}:"));
    for _ in 0..3 {
        let reply = server
            .client()
            .deliver("a@client.test", "u@ours.test", &incompressible());
        assert!(reply.text().starts_with("452 4.3.1 "), "{}", reply.text());
    }
    server.limit("--fsize=unlimited:");
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &incompressible());
    assert_eq!(reply.code, 250);
    assert_eq!(server.list().len(), 2);
}

#[test]
fn file_that_is_not_a_database_is_a_one_line_start_error() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[]);
    let text = "This is a letter to somebody, and no database at all.\n".repeat(100);
    fs::write(folder.path().join("goguerrilla.db"), &text).expect("a file is written");
    let output = Command::new(binary())
        .arg("-config=goguerrilla.conf")
        .current_dir(folder.path())
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(
        errors.contains("GM_SQLITE_FILE: goguerrilla.db: "),
        "{errors}"
    );
    let found = fs::read_to_string(folder.path().join("goguerrilla.db")).expect("a text file");
    assert_eq!(found, text);
}

/// Locks the SQLite file, as another program that writes to it does.
fn lock(server: &Server) -> Connection {
    let other = Connection::open(server.path("goguerrilla.db")).expect("the file is there");
    other
        .execute_batch("BEGIN IMMEDIATE")
        .expect("an unlocked file");
    other
}

fn execute(server: &Server, statements: &str) {
    let other = Connection::open(server.path("goguerrilla.db")).expect("the file is there");
    other.execute_batch(statements).expect("valid statements");
}

/// Returns 100 kB of content that zlib cannot compress much.
fn incompressible() -> Vec<u8> {
    let mut state = 1_u32;
    let mut content: Vec<u8> = (0..100_000)
        .map(|_| {
            // The generator of Numerical Recipes; its high octets are random enough.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'0' + (state >> 25) as u8 % 64
        })
        .collect();
    content.extend_from_slice(b"\r\n");
    content
}
