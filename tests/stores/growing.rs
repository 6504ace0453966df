//! Retention as documented in docs/operations.md, word for word: partitions by day, and deleting old mail while new mail
//! arrives.

use std::collections::HashMap;
use std::io::Write;
use std::process::Stdio;

use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::front::{dist_file, documented_block, with};
use testkit::load::{Load, assert_no_loss_or_duplicate, content_of};
use testkit::mariadb::MariaDb;
use testkit::steps::run_script;
use testkit::{test, without_trace};

#[test]
fn mariadb_table_is_partitioned_by_day_under_load() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    let said_before = server.check();
    let load = Load::start(server.address, 4, "day");
    load.wait_for_more(20);
    client_on_day(&database, 0, &dist_file("mysql-partitions.sql"));
    load.wait_for_more(20);
    for _ in 0..2 {
        // A second call in the same night must change nothing.
        client_on_day(&database, 0, &nightly_call());
        load.wait_for_more(20);
    }
    let mut account = load.stop();
    assert_eq!(account.deferred, Vec::<String>::new());

    // An unanswered COMMIT is looked up by hash, also in a partitioned table. If both connections are lost at once,
    // mail is deferred for a moment.
    let load = Load::start(server.address, 4, "cut");
    load.wait_for_more(20);
    proxy.cut(Fault::CutAfter("COMMIT"), 2);
    proxy.wait_for_cuts(2);
    load.wait_for_more(20);
    let more = load.stop();
    account.sent.extend(more.sent);
    account.acknowledged.extend(more.acknowledged);

    assert_no_loss_or_duplicate(&account, &stored_markers(&database));
    assert_eq!(
        partitions(&database),
        9,
        "expected the partitions past, seven days, later"
    );
    assert_eq!(server.check(), said_before);
    let newest = &server.list()[0];
    let shown = server.show(newest["hash"].as_str().expect("a hash"));
    let subject = newest["subject"].as_str().expect("a subject");
    assert_eq!(without_trace(&shown), content_of(subject).as_bytes());
}

#[test]
fn day_partitions_in_mariadb_are_dropped_under_load_without_loss() {
    let database = MariaDb::start();
    for days in [41, 36, 25] {
        insert_old_mails(&database, days, 1);
    }
    // Simulates a table that was partitioned forty days ago; each call is the nightly call of another day.
    client_on_day(&database, 40, &dist_file("mysql-partitions.sql"));
    for days_ago in [40, 8, 1] {
        client_on_day(&database, days_ago, &nightly_call());
    }
    let server = database.server(&[]);
    let load = Load::start(server.address, 4, "night");
    load.wait_for_more(20);
    client_on_day(&database, 0, &nightly_call());
    load.wait_for_more(20);
    let account = load.stop();

    let mut stored = stored_markers(&database);
    assert_eq!(stored.remove("25 days old"), Some(1));
    assert_no_loss_or_duplicate(&account, &stored);
    assert_eq!(account.deferred, Vec::<String>::new());
    assert_eq!(
        partitions(&database),
        16,
        "expected seven days, today, seven days, later"
    );
}

#[test]
fn old_rows_in_mariadb_are_deleted_in_small_steps_under_load() {
    let database = MariaDb::start();
    insert_old_mails(&database, 31, 2_500);
    insert_old_mails(&database, 29, 1);
    let server = database.server(&[]);
    let load = Load::start(server.address, 4, "piece");
    load.wait_for_more(20);
    let client = format!(
        "mariadb --no-defaults -u root -S {} -N mail",
        database.socket()
    );
    let script = documented_block("operations.md", "SELECT ROW_COUNT()");
    run_script(&with(&script, &[("mariadb -N mail", &client)]));
    load.wait_for_more(20);
    let account = load.stop();

    let mut stored = stored_markers(&database);
    assert_eq!(stored.remove("29 days old"), Some(1));
    assert_no_loss_or_duplicate(&account, &stored);
    assert_eq!(account.deferred, Vec::<String>::new());
}

/// Returns the nightly SQL call of the documented crontab line.
fn nightly_call() -> String {
    let line = documented_block("operations.md", "CALL new_day(30)");
    let (_, call) = line
        .split_once(" root mariadb mail -e '")
        .expect("a line for cron");
    call.trim_end().trim_end_matches('\'').to_owned()
}

/// Returns the number of partitions, after checking that partition `later` is empty and that every mail_id is unique.
fn partitions(database: &MariaDb) -> u64 {
    assert_eq!(
        database.number("SELECT COUNT(*) FROM new_mail PARTITION (later)"),
        0
    );
    let repeated = "SELECT COUNT(*) - COUNT(DISTINCT mail_id) FROM new_mail";
    assert_eq!(database.number(repeated), 0);
    database
        .number("SELECT COUNT(*) FROM information_schema.PARTITIONS WHERE TABLE_NAME = 'new_mail'")
}

fn insert_old_mails(database: &MariaDb, days: u32, count: u32) {
    database.sql(&format!(
        "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash, content_type,
           recipient, has_attach, ip_addr, attach_info)
         SELECT NOW() - INTERVAL {days} DAY, '', '', '{days} days old', '', '', '', 0, MD5(RAND()), '', '', 0, '', ''
         FROM seq_1_to_{count}"
    ));
}

/// Runs statements with the `mariadb` client as if it were `days_ago` days ago.
fn client_on_day(database: &MariaDb, days_ago: u32, statements: &str) {
    let mut child = testkit::command("mariadb")
        .args(["--no-defaults", "-u", "root", "-S", &database.socket()])
        .arg(format!(
            "--init-command=SET timestamp = UNIX_TIMESTAMP() - {days_ago} * 86400"
        ))
        .arg("mail")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mariadb is installed: tests/install-tools");
    let mut input = child.stdin.take().expect("a pipe");
    input
        .write_all(statements.as_bytes())
        .expect("mariadb reads its input");
    drop(input);
    let output = child.wait_with_output().expect("mariadb ends");
    let output_text =
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output_text, "");
}

/// Counts the rows of each subject and checks the content of those that [`Load`] sent.
fn stored_markers(database: &MariaDb) -> HashMap<String, usize> {
    let mut markers = HashMap::new();
    for (marker, stream) in database.rows::<(String, Vec<u8>)>("SELECT subject, mail FROM new_mail")
    {
        if !stream.is_empty() {
            let mail =
                goguerrilla::internals::mail::inflate(&stream, 10_000).expect("a zlib stream");
            assert_eq!(without_trace(&mail), content_of(&marker).as_bytes());
        }
        *markers.entry(marker).or_default() += 1;
    }
    markers
}
