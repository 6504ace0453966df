//! Old rows in an SQLite file: `prune` next to a running server, `prune` alone, and what it refuses.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

use testkit::load::{Load, assert_no_loss_or_duplicate, stored_markers};
use testkit::process::run;
use testkit::{Server, TEST_TIMEOUT, check_for, run_in, short_mail, test, write_config};

#[test]
fn prune_removes_old_sqlite_rows_under_load_and_keeps_the_others() {
    let server = Server::start(&[]);
    let database = open(&server.path("goguerrilla.db"));
    insert_rows(&database, 31, 2_500);
    insert_rows(&database, 29, 5);
    let load = Load::start(server.address, 4, "piece");
    load.wait_for_more(20);
    let counted = server.command(&["prune", "-days=30", "-dry-run"]);
    assert!(text(counted).starts_with("2500 rows were saved before "));
    assert_eq!(count(&database, "31 days"), 2_500);
    let removed = server.command(&["prune", "--days", "30"]);
    assert!(text(removed).starts_with("2500 rows removed, which were saved before "));
    load.wait_for_more(20);
    let account = load.stop();
    assert_eq!(count(&database, "31 days"), 0);
    assert_eq!(count(&database, "29 days"), 5);
    // Their bodies are not streams of zlib, which the next check expects.
    database
        .execute("DELETE FROM new_mail WHERE subject = '29 days'", [])
        .expect("rows");
    let stored = stored_markers(&server.path("goguerrilla.db"));
    assert_no_loss_or_duplicate(&account, &stored);
    assert_eq!(account.deferred, Vec::<String>::new());
}

#[test]
fn prune_without_a_server_takes_a_fraction_of_a_day_and_gives_pages_back() {
    let mut server = Server::start(&[]);
    let file = server.path("goguerrilla.db");
    server.stop();
    let database = open(&file);
    database
        .execute_batch("PRAGMA auto_vacuum=INCREMENTAL; VACUUM; PRAGMA journal_mode=WAL")
        .expect("an idle file");
    insert_rows(&database, 1, 2_000);
    drop(database);
    let before = size(&file);
    let removed = text(server.command(&["prune", "--days=0.9"]));
    assert!(removed.starts_with("2000 rows removed"), "{removed}");
    assert!(
        size(&file) < before / 2,
        "{before} before, {} after",
        size(&file)
    );
    assert!(!server.path("goguerrilla.db-wal").exists());
    let removed = text(server.command(&["prune", "--days=0.9"]));
    assert!(removed.starts_with("0 rows removed"), "{removed}");
    let database = open(&file);
    let intact: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .expect("a result");
    assert_eq!(intact, "ok");
}

#[test]
fn rows_whose_date_is_not_a_date_stay() {
    let server = Server::start(&[]);
    let database = open(&server.path("goguerrilla.db"));
    insert_rows(&database, 40, 3);
    for (hash, date) in [
        ("a", "0"),
        ("b", "1700000000"),
        ("c", "'0000-00-00 00:00:00'"),
        ("d", "''"),
    ] {
        database
            .execute(
                &format!(
                    "UPDATE new_mail SET hash = ?1, `date` = {date}
                     WHERE hash = (SELECT hash FROM new_mail WHERE length(hash) > 1 LIMIT 1)"
                ),
                [hash],
            )
            .expect("a row");
        insert_rows(&database, 40, 1);
    }
    let removed = text(server.command(&["prune", "--days=30"]));
    assert!(removed.starts_with("3 rows removed"), "{removed}");
    let left: i64 = database
        .query_row("SELECT count(*) FROM new_mail", [], |row| row.get(0))
        .expect("a number");
    assert_eq!(left, 4);
}

#[test]
fn prune_ends_although_a_trigger_keeps_old_rows() {
    let server = Server::start(&[]);
    let database = open(&server.path("goguerrilla.db"));
    database
        .execute_batch(
            "CREATE TRIGGER keep BEFORE DELETE ON new_mail WHEN OLD.subject LIKE '4_ days'
             BEGIN SELECT RAISE(IGNORE); END",
        )
        .expect("a trigger");
    // More than one query of `prune` returns, older and newer than those that can be removed.
    insert_rows(&database, 45, 1_500);
    insert_rows(&database, 42, 1_500);
    insert_rows(&database, 43, 10);
    insert_rows(&database, 50, 10);
    insert_rows(&database, 35, 10);
    let removed = text(server.command(&["prune", "--days=30"]));
    assert!(removed.starts_with("20 rows removed"), "{removed}");
    assert_eq!(count_all(&database), 3_010);
}

#[test]
fn old_row_whose_date_is_not_utf_8_does_not_keep_others_from_being_removed() {
    let server = Server::start(&[]);
    let database = open(&server.path("goguerrilla.db"));
    insert_rows(&database, 40, 1);
    database
        .execute(
            "UPDATE new_mail SET `date` = CAST(x'323031352D30312D3031FF' AS TEXT)",
            [],
        )
        .expect("a row");
    insert_rows(&database, 35, 1_500);
    let removed = text(server.command(&["prune", "--days=30"]));
    assert!(removed.starts_with("1501 rows removed"), "{removed}");
}

#[test]
fn prune_waits_for_a_lock_of_another_program() {
    let server = Server::start(&[]);
    let database = open(&server.path("goguerrilla.db"));
    insert_rows(&database, 31, 10);
    database.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    let folder = server.folder.path().to_owned();
    let pruning = std::thread::spawn(move || run_in(&folder, &["prune", "--days=30"]));
    // Longer than the command waits for a lock at once.
    check_for(Duration::from_millis(1_500), || {
        assert!(!pruning.is_finished())
    });
    database.execute_batch("COMMIT").expect("an end");
    let removed = text(pruning.join().expect("no panic"));
    assert!(removed.starts_with("10 rows removed"), "{removed}");
}

#[test]
fn prune_removes_nothing_from_a_view_a_foreign_table_or_a_missing_file() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[]);
    let error = |want: &str| {
        let ended = run(folder.path(), &["prune", "--days=1"]);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""));
        assert!(ended.stderr.contains(want), "{want}: {}", ended.stderr);
    };
    error("goguerrilla.db: no such file");
    let database = open(&folder.path().join("goguerrilla.db"));
    let view = "CREATE TABLE old (`date` text); INSERT INTO old VALUES ('2001-01-01');
                CREATE VIEW new_mail AS SELECT * FROM old";
    database.execute_batch(view).expect("a view");
    error("to be a table, but found view");
    database
        .execute_batch("DROP VIEW new_mail; ALTER TABLE old RENAME TO new_mail")
        .expect("a table");
    error("has no column `from`");
    assert_eq!(count_all(&database), 1);
}

#[test]
fn prune_requires_a_number_of_days() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[("GM_STORE", "discard")]);
    for arguments in [
        &["prune"][..],
        &["prune", "--days=x"],
        &["prune", "--days=-1"],
    ] {
        let ended = run(folder.path(), arguments);
        assert_eq!(ended.status, 2, "{arguments:?}: {}", ended.stderr);
    }
    let ended = run(folder.path(), &["prune", "--days=1"]);
    assert_eq!(ended.status, 1);
    assert!(
        ended.stderr.contains("discard keeps no mail"),
        "{}",
        ended.stderr
    );
}

#[test]
fn new_mail_uses_the_pages_of_removed_rows_in_a_file_without_auto_vacuum() {
    let server = Server::start(&[]);
    let file = server.path("goguerrilla.db");
    let database = open(&file);
    let mode: i64 = database
        .query_row("PRAGMA auto_vacuum", [], |row| row.get(0))
        .expect("a mode");
    insert_rows(&database, 31, 2_000);
    text(server.command(&["prune", "--days=30"]));
    let pages = |pragma: &str| -> i64 {
        database
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            .expect("a number")
    };
    if mode == 0 {
        let (size, free) = (pages("page_count"), pages("freelist_count"));
        assert!(free > 100, "{free} of {size}");
        let reply = server
            .client()
            .deliver("a@client.test", "u@ours.test", &short_mail("new"));
        assert_eq!(reply.code, 250);
        assert_eq!(pages("page_count"), size);
    } else {
        assert!(pages("freelist_count") <= pages("page_count") / 10 + 1);
    }
}

fn open(file: &Path) -> Connection {
    let database = Connection::open(file).expect("a database");
    database.busy_timeout(TEST_TIMEOUT).expect("an open file");
    database
}

/// Inserts rows of this age in days, whose subject tells the age.
fn insert_rows(database: &Connection, days: u32, count: u32) {
    let insert = "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash,
                    content_type, recipient, has_attach, ip_addr, attach_info)
                  WITH RECURSIVE mails(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM mails WHERE number < ?2)
                  SELECT datetime('now', '-' || ?1 || ' days'), '', '', ?1 || ' days', 'gzencode', '', randomblob(1000), 0,
                    lower(hex(randomblob(16))), '', '', 0, '', '' FROM mails";
    database
        .execute(insert, params![days, count])
        .expect("rows");
}

fn count(database: &Connection, subject: &str) -> i64 {
    let sql = "SELECT count(*) FROM new_mail WHERE subject = ?1";
    database
        .query_row(sql, [subject], |row| row.get(0))
        .expect("a number")
}

fn count_all(database: &Connection) -> i64 {
    database
        .query_row("SELECT count(*) FROM new_mail", [], |row| row.get(0))
        .expect("a number")
}

fn text(output: Result<Vec<u8>, String>) -> String {
    String::from_utf8(output.expect("a command that succeeds")).expect("UTF-8")
}

/// Returns the size of the database file in octets.
fn size(file: &Path) -> u64 {
    std::fs::metadata(file).expect("a file").len()
}
