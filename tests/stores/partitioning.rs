//! A table that is partitioned by day while mail arrives.

use std::collections::HashMap;
use std::io::Write;
use std::process::Stdio;

use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::load::{Load, assert_no_loss_or_duplicate, content_of};
use testkit::mariadb::MariaDb;
use testkit::project_files::dist_file;
use testkit::{test, without_trace};

#[test]
fn mariadb_table_is_partitioned_by_day_under_load() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    let checked_before = server.check();
    let load = Load::start(server.address, 4, "day");
    load.wait_for_more(20);
    run_with_client(&database, &dist_file("mysql-partitions.sql"));
    load.wait_for_more(20);
    for _ in 0..2 {
        // The second time must change nothing.
        server
            .command(&["prune", "--days=30"])
            .expect("a command that succeeds");
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
    assert_eq!(server.check(), checked_before);
    let newest = &server.list()[0];
    let shown = server.show(newest["hash"].as_str().expect("a hash"));
    let subject = newest["subject"].as_str().expect("a subject");
    assert_eq!(without_trace(&shown), content_of(subject).as_bytes());
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

/// Runs statements with the `mariadb` client.
fn run_with_client(database: &MariaDb, statements: &str) {
    let mut child = testkit::command("mariadb")
        .args(["--no-defaults", "-u", "root", "-S", &database.socket()])
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
pub fn stored_markers(database: &MariaDb) -> HashMap<String, usize> {
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
