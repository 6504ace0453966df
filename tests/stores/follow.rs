//! `list --follow` next to several receivers on one MariaDB.

use mysql::prelude::Queryable;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::follow::FollowedList;
use testkit::load::{Load, assert_no_loss_or_duplicate};
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::process::run;
use testkit::redis::Redis;
use testkit::{short_mail, test, wait_for, write_config};

/// A row with `mail_id` of its own and this subject.
fn insert(subject: &str) -> String {
    format!(
        "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash, content_type,
           recipient, has_attach, ip_addr, attach_info)
         VALUES (NOW(), '', 'u@primary.test', '{subject}', 'gzencode', '', '', 0, MD5(RAND()), '', '', 0, '', '')"
    )
}

#[test]
fn list_waits_longer_for_the_rows_of_a_recipient_than_a_writer_would() {
    let database = MariaDb::start();
    database.sql(&insert("slow"));
    database.sql("CREATE VIEW slow_mail AS SELECT * FROM new_mail WHERE SLEEP(12) = 0");
    let folder = TempDir::new().expect("a temporary folder");
    let hosts = database.address().to_string();
    write_config(
        folder.path(),
        &with_hosts(&hosts, &[("GM_MAIL_TABLE", "slow_mail")]),
    );
    let ended = run(folder.path(), &["list", "--to=u@primary.test"]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
    assert!(ended.stdout.contains(" slow"), "{}", ended.stdout);
}

#[test]
fn list_follow_says_that_the_database_does_not_answer_and_goes_on_later() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    let followed = FollowedList::start(server.folder.path(), &["--json", ALL]);
    database.sql(&insert("before"));
    followed.wait_for_lines(1);
    database.signal(Signal::SIGSTOP);
    followed.wait_for_stderr("trying again every second");
    database.signal(Signal::SIGCONT);
    database.sql(&insert("after"));
    followed.wait_for_lines(2);
}

#[test]
fn list_follow_prints_each_row_once_although_receivers_commit_in_another_order() {
    let database = MariaDb::start();
    let servers = [(); 2].map(|()| database.server(&[("GM_SAVE_WORKERS", "4")]));
    let folder = servers[0].folder.path();
    let mut followed = FollowedList::start(folder, &["--json", ALL]);
    let mut of_one = FollowedList::start(folder, &["--json", ALL, "--to=u@primary.test"]);
    let loads =
        [0, 1].map(|index| Load::start(servers[index].address, 8, &format!("receiver-{index}")));
    let mut transactions: Vec<_> = (0..20)
        .map(|number| {
            let mut transaction = database.connection();
            transaction.query_drop("BEGIN").expect("a transaction");
            let row = insert(&format!("late-{number}"));
            transaction.query_drop(row).expect("a row");
            loads[number % 2].wait_for_more(10);
            transaction
        })
        .collect();
    loads[0].wait_for_more(200);
    assert!(!followed.subjects().contains_key("late-0"));
    for transaction in transactions.iter_mut().rev() {
        transaction.query_drop("COMMIT").expect("an end");
        loads[1].wait_for_more(10);
    }
    let accounts = loads.map(Load::stop);
    let in_all = database.count();
    for list in [&mut followed, &mut of_one] {
        list.wait_for_lines(usize::try_from(in_all).expect("few mails"));
        let mut subjects = list.subjects();
        for number in 0..20 {
            assert_eq!(subjects.remove(&format!("late-{number}")), Some(1));
        }
        for (index, account) in accounts.iter().enumerate() {
            let prefix = format!("receiver-{index}");
            let mut of_receiver = subjects.clone();
            of_receiver.retain(|subject, _| subject.starts_with(&prefix));
            assert_no_loss_or_duplicate(account, &of_receiver);
        }
        assert_eq!(list.end_with(Signal::SIGINT).code(), Some(0));
        assert_eq!(list.stderr(), "");
    }
}

#[test]
fn list_follow_prints_the_mails_of_a_table_that_was_emptied_just_now() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    let mut connection = database.connection();
    for number in 0..5 {
        connection
            .query_drop(insert(&format!("before-{number}")))
            .expect("a row");
    }
    let followed = FollowedList::start(server.folder.path(), &["--json", ALL]);
    followed.wait_for_lines(5);
    // A query of the command finds the empty table.
    connection.query_drop("TRUNCATE new_mail").expect("a table");
    let statements = || -> u64 {
        let status: Vec<(String, u64)> =
            database.rows("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'");
        status[0].1
    };
    let before = statements();
    wait_for("further queries", || {
        (statements() >= before + 6).then_some(())
    });
    for number in 0..3 {
        connection
            .query_drop(insert(&format!("after-{number}")))
            .expect("a row");
    }
    followed.wait_for_lines(8);
    let subjects = followed.subjects();
    assert!(subjects.values().all(|times| *times == 1), "{subjects:?}");
}

#[test]
fn list_follow_goes_on_after_the_database_was_killed_and_misses_no_mail() {
    let mut database = MariaDb::start();
    let server = database.server(&[]);
    let followed = FollowedList::start(server.folder.path(), &["--json", ALL]);
    let load = Load::start(server.address, 4, "killed");
    load.wait_for_more(50);
    database.kill();
    followed.wait_for_stderr("trying again every second");
    database.run();
    load.wait_for_more(50);
    let account = load.stop();
    followed.wait_for_stderr("the store can be read again");
    wait_for("every stored row", || {
        (followed.lines().len() as u64 == database.count()).then_some(())
    });
    assert_no_loss_or_duplicate(&account, &followed.subjects());
    let lines = followed.stderr().lines().count();
    assert!((2..=4).contains(&lines), "{}", followed.stderr());
}

#[test]
fn list_follow_prints_sizes_of_bodies_in_redis_again_after_redis_was_away() {
    let database = MariaDb::start();
    let mut redis = Redis::start();
    let address = redis.address().to_string();
    let server = database.server(&[("REDIS_INTERFACE", &address)]);
    let followed = FollowedList::start(server.folder.path(), &["--json"]);
    let deliver = |subject: &str| {
        let reply = server
            .client()
            .deliver("a@client.test", "u@ours.test", &short_mail(subject));
        assert_eq!(reply.code, 250);
    };
    deliver("one");
    followed.wait_for_lines(1);
    let one = followed.mails().remove(0);
    let hash = one["hash"].as_str().expect("a hash");
    assert_eq!(one["size"], server.show(hash).len());
    redis.kill();
    database.sql(&insert("two").replace("'gzencode'", "'redis'"));
    followed.wait_for_lines(2);
    followed.wait_for_stderr("so 1 of these mails have no size");
    redis.run();
    deliver("three");
    deliver("four");
    wait_for("a size after a restart of Redis", || {
        followed
            .mails()
            .last()
            .filter(|mail| !mail["size"].is_null() && mail["subject"] == "four")
            .map(drop)
    });
    let sizes: Vec<bool> = followed
        .mails()
        .iter()
        .map(|mail| mail["size"].is_number())
        .collect();
    assert_eq!(sizes, [true, false, true, true]);
    assert_eq!(followed.stderr().lines().count(), 1);
}

/// The first mails may have arrived before the command has read the table for the first time.
const ALL: &str = "--limit=50000";
