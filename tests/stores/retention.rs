//! Old rows in MariaDB and Galera, and the rounds of a running server.

use std::thread;
use std::time::Duration;

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;
use rusqlite::Connection;

use testkit::galera::Galera;
use testkit::load::{Load, assert_no_loss_or_duplicate};
use testkit::mariadb::{MariaDb, PASSWORD, USER, with_hosts};
use testkit::old_rows::OldRows;
use testkit::process::run;
use testkit::project_files::dist_file;
use testkit::status::{STATUS, figures};
use testkit::{Server, test, wait_for_within, write_config};

use crate::partitioning::stored_markers;

#[test]
fn servers_remove_old_rows_a_minute_after_the_start_or_a_reload() {
    let database = MariaDb::start();
    database.insert_old_rows(31, 2_500);
    database.insert_old_rows(29, 1);
    let settings = [STATUS, ("GM_KEEP_DAYS", "30")];
    let started = database.server(&settings);
    // A second receiver on the same database.
    let second = database.server(&settings);
    let reloaded = Server::start(&[STATUS]);
    insert_into_sqlite(&reloaded);
    let config = std::fs::read_to_string(reloaded.path("goguerrilla.conf")).expect("a file");
    let with_key = config.replacen('{', "{\"GM_KEEP_DAYS\":\"30\",", 1);
    std::fs::write(reloaded.path("goguerrilla.conf"), with_key).expect("a file");
    reloaded.signal(Signal::SIGHUP);
    for server in [&started, &second, &reloaded] {
        let line = wait_for_within("a round", Duration::from_secs(600), || {
            let log = server.log();
            log.lines()
                .find(|line| line.contains(" pruned "))
                .map(str::to_owned)
        });
        assert!(!server.log().contains("prune_failed"), "{line}");
    }
    let pruned = |server: &Server| figures(server)["goguerrilla_pruned_rows_total"];
    // The second receiver may have come too late or too early.
    assert_eq!(pruned(&started) + pruned(&second), 2_500.0);
    assert_eq!(pruned(&reloaded), 40.0);
    assert_eq!(database.count(), 1);
}

#[test]
fn prune_removes_old_rows_of_mariadb_under_load_and_counts_them() {
    let database = MariaDb::start();
    database.insert_old_rows(31, 2_500);
    database.insert_old_rows(29, 1);
    let server = database.server(&[("GM_KEEP_DAYS", "30")]);
    assert_eq!(retention_finding(&server), None);
    let load = Load::start(server.address, 4, "piece");
    load.wait_for_more(20);
    let counted = prune(&server, &["--days=30", "--dry-run"]);
    assert!(
        counted.starts_with("2500 rows were saved before "),
        "{counted}"
    );
    let removed = prune(&server, &["--days=30"]);
    assert!(removed.starts_with("2500 rows removed"), "{removed}");
    load.wait_for_more(20);
    let account = load.stop();
    let mut stored = stored_markers(&database);
    assert_eq!(stored.remove("29 days old"), Some(1));
    assert_no_loss_or_duplicate(&account, &stored);
    assert_eq!(account.deferred, Vec::<String>::new());
}

#[test]
fn prune_waits_for_a_row_lock_and_leaves_the_table_to_another_receiver() {
    let database = MariaDb::start();
    database.insert_old_rows(31, 10);
    let server = database.server(&[]);
    let mut other = database.connection();
    other.query_drop("BEGIN").expect("a transaction");
    other
        .query_drop("SELECT * FROM new_mail ORDER BY mail_id LIMIT 1 FOR UPDATE")
        .expect("a lock");
    let folder = server.folder.path().to_owned();
    let pruning = thread::spawn(move || testkit::run_in(&folder, &["prune", "--days=30"]));
    wait_for_within("a DELETE that waits", Duration::from_secs(60), || {
        let waiting =
            "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'DELETE FROM%'";
        (database.number(waiting) > 0).then_some(())
    });
    other.query_drop("COMMIT").expect("an end");
    let removed = pruning
        .join()
        .expect("no panic")
        .expect("a command that succeeds");
    assert!(removed.starts_with(b"10 rows removed"));
    // The connection of the first command may still be about to end.
    let locked: Option<u64> = other
        .query_first("SELECT GET_LOCK(CONCAT('goguerrilla prune ', MD5('mail.new_mail')), 20)")
        .expect("a lock");
    assert_eq!(locked, Some(1));
    let ended = run(server.folder.path(), &["prune", "--days=30"]);
    assert_eq!(ended.status, 1);
    assert!(
        ended
            .stderr
            .contains("another receiver removes old rows now"),
        "{}",
        ended.stderr
    );
}

#[test]
fn no_row_is_removed_without_a_table_of_mails_an_index_or_the_right_time() {
    let database = MariaDb::start();
    database.insert_old_rows(31, 1);
    let server = database.server(&[("GM_KEEP_DAYS", "30")]);
    let refused = |want: &str| {
        let ended = run(server.folder.path(), &["prune", "--days=30"]);
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{want}");
        assert!(ended.stderr.contains(want), "{want}: {}", ended.stderr);
    };
    database.sql("ALTER TABLE new_mail RENAME base");
    refused("does not exist");
    database.sql("CREATE VIEW new_mail AS SELECT * FROM base");
    refused("is a view");
    database.sql("DROP VIEW new_mail");
    database.sql("ALTER TABLE base RENAME new_mail, DROP INDEX `date`");
    refused("has no index on `date`; run: ALTER TABLE `new_mail` ADD INDEX (`date`)");
    let (_, findings) = server.check();
    assert!(
        findings.contains("GM_KEEP_DAYS: GM_MAIL_TABLE: `new_mail` has no index"),
        "{findings}"
    );
    database.sql("ALTER TABLE new_mail ADD INDEX (`date`), MODIFY `date` varchar(30) NOT NULL");
    refused("to be a datetime, but found varchar");
    database.sql("ALTER TABLE new_mail MODIFY `date` datetime NOT NULL, DROP COLUMN dkim_valid");
    refused("has no column `dkim_valid`");
    database.sql("ALTER TABLE new_mail ADD COLUMN dkim_valid tinyint(4)");
    database.sql("SET GLOBAL init_connect = 'SET timestamp = UNIX_TIMESTAMP() + 7200'");
    refused("s apart, so no row is removed");
    assert_eq!(database.count(), 1);
}

#[test]
fn missing_rights_to_remove_rows_and_partitions_are_named_by_check_and_prune() {
    let database = MariaDb::start();
    database.insert_old_rows(31, 1);
    let server = database.server(&[("GM_KEEP_DAYS", "30")]);
    database.sql(&format!("REVOKE ALL ON mail.* FROM {USER}@'%'"));
    database.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE ON mail.new_mail TO {USER}@'%'"
    ));
    let ended = run(server.folder.path(), &["prune", "--days=30"]);
    assert_eq!(ended.status, 1);
    assert!(
        ended.stderr.contains("grant MYSQL_USER the right DELETE"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains(PASSWORD));
    let (is_usable, findings) = server.check();
    assert!(
        is_usable && findings.contains("grant DELETE on it to MYSQL_USER"),
        "{findings}"
    );
    database.sql(&format!("GRANT DELETE ON mail.new_mail TO {USER}@'%'"));
    assert_eq!(retention_finding(&server), None);
    partition_by_day(&database);
    let (_, findings) = server.check();
    assert!(
        findings.contains("grant ALTER, CREATE, DROP on it to MYSQL_USER"),
        "{findings}"
    );
    database.sql(&format!(
        "GRANT ALTER, CREATE, DROP ON mail.new_mail TO {USER}@'%'"
    ));
    assert_eq!(retention_finding(&server), None);
    let removed = prune(&server, &["--days=30"]);
    assert!(removed.starts_with("1 rows removed"), "{removed}");
}

#[test]
fn old_partitions_are_dropped_and_those_of_the_next_days_are_made_under_load() {
    let database = MariaDb::start();
    for days in [41, 36, 25] {
        database.insert_old_rows(days, 3);
    }
    // Before any mail: MariaDB 10.11 assigns a mail_id twice when it splits a partition that holds rows during writes.
    partition_by_day(&database);
    split_past(&database, 40);
    let server = database.server(&[("GM_KEEP_DAYS", "30")]);
    let load = Load::start(server.address, 4, "night");
    load.wait_for_more(20);
    let removed = prune(&server, &["--days=30"]);
    assert!(removed.starts_with("6 rows removed"), "{removed}");
    load.wait_for_more(20);
    let removed = prune(&server, &["--days=30"]);
    assert!(removed.starts_with("0 rows removed"), "{removed}");
    load.wait_for_more(20);
    let account = load.stop();
    let mut stored = stored_markers(&database);
    assert_eq!(stored.remove("25 days old"), Some(3));
    assert_no_loss_or_duplicate(&account, &stored);
    let in_later = "SELECT COUNT(*) FROM new_mail PARTITION (later)";
    assert_eq!(database.number(in_later), 0);
    let repeated = "SELECT COUNT(*) - COUNT(DISTINCT mail_id) FROM new_mail";
    assert_eq!(database.number(repeated), 0);
    // Thirty days, today, the next seven, and later.
    let partitions =
        "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_NAME = 'new_mail'";
    assert_eq!(database.number(partitions), 30 + 1 + 7 + 1);
    assert_eq!(retention_finding(&server), None);
}

#[test]
fn partitions_of_the_next_days_are_made_although_an_old_one_cannot_be_dropped() {
    let database = MariaDb::start();
    database.insert_old_rows(41, 3);
    partition_by_day(&database);
    split_past(&database, 40);
    let server = database.server(&[]);
    database.sql(&format!("REVOKE ALL ON mail.* FROM {USER}@'%'"));
    database.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE, ALTER, CREATE ON mail.new_mail TO {USER}@'%'"
    ));
    let partitions =
        "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_NAME = 'new_mail'";
    let before = database.number(partitions);
    let ended = run(server.folder.path(), &["prune", "--days=30"]);
    assert_eq!(ended.status, 1, "{}", ended.stdout);
    assert!(ended.stderr.contains("DROP"), "{}", ended.stderr);
    assert_eq!(database.number(partitions), before + 7);
    assert_eq!(database.rows_older_than(40), 3);
}

#[test]
fn partition_that_holds_mail_is_not_split() {
    let database = MariaDb::start();
    database.insert_old_rows(31, 1);
    partition_by_day(&database);
    database.insert_old_rows(30, 1);
    database
        .sql("UPDATE new_mail SET `date` = NOW() + INTERVAL 3 DAY WHERE subject = '30 days old'");
    let server = database.server(&[]);
    let removed = prune(&server, &["--days=30"]);
    assert!(removed.starts_with("1 rows removed"), "{removed}");
    assert_eq!(
        database.number("SELECT COUNT(*) FROM new_mail PARTITION (later)"),
        1
    );
    let partitions =
        "SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_NAME = 'new_mail'";
    assert_eq!(database.number(partitions), 2);
}

#[test]
fn two_receivers_prune_two_galera_nodes_at_once_and_remove_each_row() {
    let galera = Galera::start();
    let insert = "INSERT INTO mail.new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash,
           content_type, recipient, has_attach, ip_addr, attach_info)
         SELECT NOW() - INTERVAL 31 DAY, '', '', 'old', '', '', '', 0, MD5(RAND()), '', '', 0, '', '' FROM mail_seq";
    galera.sql_at(0, &insert.replace("mail_seq", "mail.seq_1_to_3000"));
    let pruning: Vec<_> = [0, 1]
        .map(|node| {
            let host = galera.host(node);
            let folder = tempfile::TempDir::new().expect("a temporary folder");
            write_config(folder.path(), &with_hosts(&host, &[]));
            thread::spawn(move || testkit::run_in(folder.path(), &["prune", "--days=30"]))
        })
        .into();
    for thread in pruning {
        let removed = thread
            .join()
            .expect("no panic")
            .expect("a command that succeeds");
        assert!(removed.ends_with(b"\n"));
    }
    let left: Option<u64> = galera
        .connection(2)
        .query_first("SELECT COUNT(*) FROM new_mail")
        .expect("a node that answers");
    assert_eq!(left, Some(0));
}

fn prune(server: &Server, arguments: &[&str]) -> String {
    let arguments = [&["prune"], arguments].concat();
    let output = server.command(&arguments).expect("a command that succeeds");
    String::from_utf8(output).expect("UTF-8")
}

/// Returns the line of `check` about GM_KEEP_DAYS, which must not be an error.
fn retention_finding(server: &Server) -> Option<String> {
    let (is_usable, findings) = server.check();
    assert!(is_usable, "{findings}");
    let mut lines = findings.lines();
    lines
        .find(|line| line.contains("GM_KEEP_DAYS"))
        .map(str::to_owned)
}

/// Runs dist/mysql-partitions.sql.
fn partition_by_day(database: &MariaDb) {
    let mut connection = database.connection();
    for statement in dist_file("mysql-partitions.sql").split(";\n") {
        if !statement.trim().is_empty() {
            connection.query_drop(statement).expect("a valid statement");
        }
    }
}

/// Splits partition `past` as if the table had been partitioned `days` days ago.
fn split_past(database: &MariaDb, days: u64) {
    let today = database.number("SELECT TO_DAYS(CURDATE())");
    let ends = (today - days + 1..=today + 1)
        .map(|end| format!("PARTITION p{end} VALUES LESS THAN ({end})"));
    let ends = ends.collect::<Vec<_>>().join(", ");
    database.sql(&format!(
        "ALTER TABLE new_mail REORGANIZE PARTITION past INTO ({ends})"
    ));
}

fn insert_into_sqlite(server: &Server) {
    let database = Connection::open(server.path("goguerrilla.db")).expect("a database");
    database
        .busy_timeout(testkit::TEST_TIMEOUT)
        .expect("an open file");
    let insert = "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash,
                    content_type, recipient, has_attach, ip_addr, attach_info)
                  WITH RECURSIVE mails(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM mails WHERE number < 40)
                  SELECT datetime('now', '-31 days'), '', '', 'old', 'gzencode', '', randomblob(1000), 0,
                    lower(hex(randomblob(16))), '', '', 0, '', '' FROM mails";
    database.execute(insert, []).expect("rows");
}
