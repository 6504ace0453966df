//! Faults of MariaDB: every acknowledged mail is stored, none is stored twice, and the server recovers without intervention.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::mariadb::{EXISTING_TABLE, MariaDb, PASSWORD, with_hosts};
use testkit::ports::free_address;
use testkit::redis::Redis;
use testkit::steps::send_mail;
use testkit::{
    AT_ONCE, Client, Reply, Server, assert_took, binary, incompressible, let_time_pass, short_mail,
    test, value, wait_for, wait_for_within,
};

/// The maximum time until a 451 while a database hangs: ten times the expected 30 s, 20 s of retries and 10 s for the last
/// call.
const REPLY_LIMIT: Duration = Duration::from_secs(300);
/// The maximum time until mail is saved again after the database has recovered: ten times the expected ten seconds.
const RECOVERY_LIMIT: Duration = Duration::from_secs(100);
/// The expected time of a refusal that is not tried again. A batch that is tried again is given up after 20 s.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// A call without an answer ends after ten seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

fn deliver(server: &Server, subject: &str) -> (Reply, Duration) {
    let mut client = server.client();
    client.set_reply_timeout(REPLY_LIMIT);
    client.begin_data("a@client.test", "u@ours.test");
    client.send_content(&short_mail(subject))
}

fn assert_saved(reply: &Reply) {
    assert!(reply.text().starts_with("250 2.0.0 "), "{}", reply.text());
}

fn assert_deferred(reply: &Reply) {
    assert!(reply.text().starts_with("451 4.3.0 "), "{}", reply.text());
}

/// Delivers mails until one is saved and returns the time that this took.
fn wait_until_saved(server: &Server, subject: &str) -> Duration {
    let started_at = Instant::now();
    wait_for_within("mail to be saved again", RECOVERY_LIMIT, || {
        let (reply, _) = deliver(server, subject);
        if reply.code != 250 {
            assert_deferred(&reply);
            return None;
        }
        Some(())
    });
    started_at.elapsed()
}

/// Starts a server with its own /etc/hosts; needs root.
pub fn server_with_hosts_file(hosts: &str, host: &str, settings: &[(&str, &str)]) -> Server {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("hosts"), hosts).expect("a file");
    Server::start_with(folder, &with_hosts(host, settings), |program| {
        let mut unshare = testkit::command("unshare");
        let script = "mount --bind hosts /etc/hosts && exec \"$@\"";
        unshare.args(["-m", "sh", "-c", script, "sh"]);
        unshare.arg(program.get_program()).args(program.get_args());
        unshare
    })
}

fn subjects(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("mail {number}")).collect()
}

/// Returns the subjects of all rows, sorted.
fn stored(database: &MariaDb) -> Vec<String> {
    let mut stored: Vec<String> = database.rows("SELECT subject FROM new_mail");
    stored.sort();
    stored
}

/// Returns the subjects whose mail got 250, sorted.
fn acknowledged(subjects: &[String], replies: &[(Reply, Duration)]) -> Vec<String> {
    let both = subjects.iter().zip(replies);
    let saved = both.filter(|(_, (reply, _))| reply.code == 250);
    let mut saved: Vec<String> = saved.map(|(subject, _)| subject.clone()).collect();
    saved.sort();
    saved
}

fn sorted(mut subjects: Vec<String>) -> Vec<String> {
    subjects.sort();
    subjects
}

/// Returns the findings about the store in the log.
fn findings(server: &Server) -> String {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(" store_check "));
    lines.filter_map(|line| value(line, "finding")).collect()
}

#[test]
fn database_down_at_start_defers_mail_at_once_and_is_used_when_it_comes_up() {
    let mut database = MariaDb::start();
    database.kill();
    let server = database.server(&[]);
    let (reply, took) = deliver(&server, "while down");
    assert_deferred(&reply);
    assert_took(took, AT_ONCE);

    let threads = server.status_kib("Threads");
    let replies = server.deliver_at_once(&subjects(100));
    for (reply, took) in &replies {
        assert_deferred(reply);
        assert_took(*took, AT_ONCE);
    }
    // Threads of connections may stay for later connections, but a second hundred needs no additional threads.
    let after_one = server.status_kib("Threads");
    server.deliver_at_once(&subjects(100));
    let after_two = server.status_kib("Threads");
    assert!(
        after_two <= after_one.max(threads) + 100 && after_two <= 130,
        "{threads}, {after_one}, {after_two} threads"
    );
    let (is_ok, output) = server.check();
    assert!(!is_ok && output.contains("MYSQL_HOST"), "{output}");

    database.run();
    let took = wait_until_saved(&server, "back");
    assert_eq!(stored(&database), ["back"], "after {took:?}");
    server.wait_for_log(" store_unavailable ");
    server.wait_for_log(" store_recovered");
    assert!(!(server.output() + &output).contains(PASSWORD));
}

#[test]
fn connection_lost_before_commit_stores_the_mail_once() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    assert_saved(&deliver(&server, "first").0);
    proxy.cut(Fault::CutBefore("COMMIT"), 3);
    assert_saved(&deliver(&server, "second").0);
    assert_eq!(proxy.cuts(), 3);
    assert_eq!(stored(&database), ["first", "second"]);
}

#[test]
fn commit_with_a_lost_answer_is_looked_up_and_stored_once() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    assert_saved(&deliver(&server, "first").0);
    proxy.cut(Fault::CutAfter("COMMIT"), 1);
    assert_saved(&deliver(&server, "second").0);
    assert_eq!(proxy.cuts(), 1);
    server.wait_for_log(" commit_resolved ");

    // The COMMIT of the lookup may be lost as well.
    proxy.cut(Fault::CutAfter("COMMIT"), 3);
    assert_saved(&deliver(&server, "third").0);
    assert_eq!(proxy.cuts(), 4);
    assert_eq!(stored(&database), ["first", "second", "third"]);
}

#[test]
fn many_mails_over_connections_lost_at_commit_are_stored_once_each() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    for (round, fault) in [Fault::CutBefore("COMMIT"), Fault::CutAfter("COMMIT")]
        .into_iter()
        .enumerate()
    {
        database.sql("TRUNCATE new_mail");
        let cuts = proxy.cuts();
        proxy.cut(fault.clone(), 4);
        let subjects: Vec<String> = (0..40).map(|number| format!("{round}-{number}")).collect();
        let replies = server.deliver_at_once(&subjects);
        let saved = acknowledged(&subjects, &replies);
        assert_eq!(stored(&database), saved, "{fault:?}");
        assert_eq!(saved.len(), 40, "{fault:?}: four cuts within patience");
        assert!(proxy.cuts() > cuts, "{fault:?} happened");
    }
}

#[test]
fn unknown_commit_on_a_lost_host_is_never_acknowledged() {
    let mut database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    assert_saved(&deliver(&server, "first").0);
    proxy.cut(Fault::CutAfterAndRefuse("COMMIT"), 1);
    let mut client = server.client();
    client.set_reply_timeout(REPLY_LIMIT);
    client.begin_data("a@client.test", "u@ours.test");
    client.send(testkit::stuffed(&short_mail("doubtful")));
    proxy.wait_for_cuts(1);
    database.kill();
    let reply = client.read_reply().expect("a reply to the final dot");
    assert_deferred(&reply);
    server.wait_for_log("COMMIT was not answered");
    proxy.set(Fault::Pass);
    database.run();
    wait_until_saved(&server, "later");
    let stored = stored(&database);
    let others: Vec<&String> = stored.iter().filter(|one| *one != "doubtful").collect();
    assert_eq!(others, ["first", "later"]);
    // The client got 451, so the mail may be stored or not, but not twice.
    assert!(stored.len() <= 3);
}

#[test]
fn commit_that_never_arrived_is_not_repeated_after_its_451() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    assert_saved(&deliver(&server, "first").0);
    proxy.cut(Fault::CutBeforeAndRefuse("COMMIT"), 1);
    assert_deferred(&deliver(&server, "doubtful").0);
    assert_eq!(proxy.cuts(), 1);
    server.wait_for_log("COMMIT was not answered");
    proxy.set(Fault::Pass);
    wait_until_saved(&server, "later");
    assert_eq!(stored(&database), ["first", "later"]);
}

#[test]
fn commit_lookup_rejects_another_server_with_the_same_name() {
    testkit::needs_root();
    let (asked, other) = (MariaDb::start(), MariaDb::start());
    let proxy = FaultProxy::start(asked.address());
    let address = proxy.address();
    let (_, port) = address.rsplit_once(':').expect("a port");
    let second: SocketAddr = format!("127.0.0.2:{port}").parse().expect("an address");
    let _second = FaultProxy::start_at(second, other.address());
    let server = server_with_hosts_file(
        "127.0.0.1 db.test\n127.0.0.2 db.test\n",
        &format!("db.test:{port}"),
        &[],
    );
    assert_saved(&deliver(&server, "first").0);
    assert_eq!(stored(&asked), ["first"]);
    proxy.cut(Fault::CutAfterAndRefuse("COMMIT"), 1);
    assert_deferred(&deliver(&server, "doubtful").0);
    assert_eq!(proxy.cuts(), 1);
    // Other mail already uses the other host.
    assert_saved(&deliver(&server, "later").0);
    assert_eq!(stored(&other), ["later"]);
    assert_eq!(stored(&asked), ["doubtful", "first"]);
}

#[test]
fn database_paused_for_two_seconds_delays_but_loses_no_mail() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    assert_saved(&deliver(&server, "before").0);
    database.signal(Signal::SIGSTOP);
    let subjects = subjects(10);
    let replies = thread::scope(|scope| {
        let delivering = scope.spawn(|| server.deliver_at_once(&subjects));
        let_time_pass(Duration::from_secs(2), "the pause of the database");
        database.signal(Signal::SIGCONT);
        delivering.join().expect("replies")
    });
    for (reply, took) in &replies {
        assert_saved(reply);
        assert_took(*took, Duration::from_secs(2));
    }
    database.sql("DELETE FROM new_mail WHERE subject = 'before'");
    assert_eq!(stored(&database), sorted(subjects));
}

#[test]
fn hanging_database_defers_mail_in_bounded_time_and_stores_nothing_later() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    assert_saved(&deliver(&server, "before").0);
    database.signal(Signal::SIGSTOP);
    let (reply, took) = deliver(&server, "hanging");
    database.signal(Signal::SIGCONT);
    assert_deferred(&reply);
    assert!(took < REPLY_LIMIT, "{took:?}");
    wait_until_saved(&server, "after");
    // The abandoned transactions are rolled back, not finished.
    assert_eq!(stored(&database), ["after", "before"]);
}

#[test]
fn slow_database_connections_lose_no_mail() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[]);
    for (subject, fault) in [
        ("slow", Fault::Delay(Duration::from_millis(100))),
        ("narrow", Fault::Throttle(64)),
        ("gone for a moment", Fault::Refuse),
    ] {
        proxy.set(fault.clone());
        let mut client = server.client();
        client.begin_data("a@client.test", "u@ours.test");
        if fault == Fault::Refuse {
            proxy.set(Fault::Pass);
        }
        let reply = client.send_content(&short_mail(subject)).0;
        // A writer that meets the refusal reports it, and mail gets 451 until the next attempt to connect.
        if fault == Fault::Refuse && reply.code == 451 {
            wait_until_saved(&server, subject);
        } else {
            assert_saved(&reply);
        }
    }
    proxy.set(Fault::Pass);
    assert_eq!(stored(&database), ["gone for a moment", "narrow", "slow"]);
}

#[test]
fn mail_waits_for_a_locked_database_table() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    assert_saved(&deliver(&server, "before").0);
    let mut holder = database.connection();
    for (lock, unlock) in [
        ("LOCK TABLES new_mail WRITE", "UNLOCK TABLES"),
        ("SELECT * FROM new_mail FOR UPDATE", "ROLLBACK"),
    ] {
        holder
            .query_drop("START TRANSACTION")
            .expect("a transaction");
        holder.query_drop(lock).expect("locked");
        let (reply, _) = thread::scope(|scope| {
            let delivering = scope.spawn(|| deliver(&server, lock));
            wait_for("the mail to wait for the lock", || {
                (database.running_inserts("") > 0).then_some(())
            });
            assert!(!delivering.is_finished());
            holder.query_drop(unlock).expect("unlocked");
            delivering.join().expect("a reply")
        });
        assert_saved(&reply);
    }
    assert_eq!(stored(&database).len(), 3);
}

#[test]
fn transient_database_errors_are_retried() {
    let database = MariaDb::start();
    // The first INSERT with each error code fails; the MyISAM table keeps the code after the rollback.
    database.sql("CREATE TABLE once (code int PRIMARY KEY) ENGINE=MyISAM");
    database.sql(
        "CREATE TRIGGER passing BEFORE INSERT ON new_mail FOR EACH ROW BEGIN
            DECLARE code int DEFAULT CAST(NEW.subject AS unsigned);
            IF code > 0 AND NOT EXISTS (SELECT 1 FROM once WHERE once.code = code) THEN
                INSERT INTO once VALUES (code);
                SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = code;
            END IF;
        END",
    );
    let server = database.server(&[]);
    for code in [1213, 1205, 1047, 1317, 1020] {
        let (reply, took) = deliver(&server, &code.to_string());
        assert_saved(&reply);
        assert_took(took, AT_ONCE);
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM once"), 5);
    assert_eq!(stored(&database), ["1020", "1047", "1205", "1213", "1317"]);
}

#[test]
fn full_tablespace_replies_452_until_space_is_free() {
    let shared = "--innodb-file-per-table=OFF";
    let small = "--innodb-data-file-path=ibdata1:12M:autoextend:max:20M";
    let mut database = MariaDb::start_with(&[shared, small]);
    database.sql(EXISTING_TABLE);
    let server = database.server(&[]);
    let mut client = server.client();
    let large = incompressible(120_000);
    let mut saved = 0;
    let full = loop {
        let reply = client.deliver("a@client.test", "u@ours.test", &large);
        if reply.code != 250 {
            break reply;
        }
        saved += 1;
        assert!(saved < 200, "20 MB hold no 24 MB");
    };
    assert!(full.text().starts_with("452 4.3.1 "), "{}", full.text());
    assert_eq!(database.count(), saved);
    database.restart_with(&[shared]);
    wait_until_saved(&server, "room");
    assert_eq!(database.count(), saved + 1);
}

#[test]
fn killed_database_connections_store_no_mail_twice() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    let subjects = subjects(60);
    let replies = thread::scope(|scope| {
        let delivering = scope.spawn(|| server.deliver_at_once(&subjects));
        let mut kills = 0;
        while !delivering.is_finished() && kills < 20 {
            kills += database.kill_connections();
        }
        delivering.join().expect("replies")
    });
    // Every connection is killed, and the next one as soon as it is open, so some clients may get 451; none may get a 250 in
    // doubt.
    assert_eq!(stored(&database), acknowledged(&subjects, &replies));
    wait_until_saved(&server, "after");
}

#[test]
fn fewer_database_connections_than_writers_lose_no_mail() {
    let database = MariaDb::start();
    database.sql("ALTER USER mailer@'%' WITH MAX_USER_CONNECTIONS 1");
    let server = database.server(&[("GM_SAVE_WORKERS", "3")]);
    // At the start the only connection may be in use by the check of the table.
    wait_until_saved(&server, "first");
    // The rounds last long enough for the server to retry refused connections.
    for round in 0..3 {
        let subjects: Vec<String> = (0..20).map(|number| format!("{round}-{number}")).collect();
        for (reply, took) in server.deliver_at_once(&subjects) {
            assert_saved(&reply);
            assert_took(took, AT_ONCE);
        }
        let_time_pass(
            Duration::from_millis(300),
            "the pause before a refused connection is retried",
        );
    }
    assert_eq!(database.count(), 61);
}

#[test]
fn idle_connection_closed_by_the_database_is_replaced_without_a_log_line() {
    let database = MariaDb::start_with(&["--wait-timeout=1"]);
    database.sql(&EXISTING_TABLE.replace("varchar(15)", "varchar(45)"));
    let server = database.server(&[]);
    assert_saved(&deliver(&server, "first").0);
    wait_for_within("idle connections to end", RECOVERY_LIMIT, || {
        let count = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'mailer'";
        (database.number(count) == 0).then_some(())
    });
    let (reply, took) = deliver(&server, "second");
    assert_saved(&reply);
    assert_took(took, AT_ONCE);
    let log = server.log();
    // Findings about the table precede the first mail and are not about this fault.
    let (_, log) = log.split_once(" saved ").expect("the first mail");
    assert!(
        !log.contains(" error ") && !log.contains(" warn "),
        "not silent: {log}"
    );
    assert_eq!(stored(&database), ["first", "second"]);
}

#[test]
fn mail_rejected_by_the_database_does_not_fail_its_batch() {
    let database = MariaDb::start();
    database.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON new_mail FOR EACH ROW BEGIN
            IF NEW.subject = 'mail 25' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'poison'; END IF;
        END",
    );
    let server = database.server(&[("GM_SAVE_WORKERS", "1")]);
    // A lock makes mails queue up, so that they share batches.
    let mut holder = database.connection();
    holder
        .query_drop("LOCK TABLES new_mail WRITE")
        .expect("locked");
    let subjects = subjects(50);
    let clients: Vec<Client> = subjects
        .iter()
        .map(|subject| send_mail(&server, subject))
        .collect();
    server.wait_until_idle();
    holder.query_drop("UNLOCK TABLES").expect("unlocked");
    let replies: Vec<(Reply, Duration)> = clients
        .into_iter()
        .map(|mut client| client.read_reply().expect("a reply"))
        .map(|reply| (reply, Duration::ZERO))
        .collect();
    for (subject, (reply, _)) in subjects.iter().zip(&replies) {
        match subject.as_str() {
            "mail 25" => assert_deferred(reply),
            _ => assert_saved(reply),
        }
    }
    assert_eq!(stored(&database), acknowledged(&subjects, &replies));
}

#[test]
fn advertised_size_fits_max_allowed_packet_and_such_a_mail_is_saved() {
    let database = MariaDb::start_with(&["--max-allowed-packet=1M"]);
    database.sql(EXISTING_TABLE);
    let server = database.server(&[("GSMTP_MAX_SIZE", "4000000")]);
    assert_saved(&deliver(&server, "first").0);
    let mut client = server.client();
    let greeting = client.command("EHLO client.test", "250");
    let size: usize = greeting
        .lines
        .iter()
        .find_map(|line| line.strip_prefix("250-SIZE ")?.parse().ok())
        .expect("SIZE with a figure");
    assert!((800_000..1 << 20).contains(&size), "{size}");
    server.wait_for_log("GSMTP_MAX_SIZE");
    let warned = findings(&server);
    assert!(
        warned.contains("GSMTP_MAX_SIZE") && warned.contains("max_allowed_packet"),
        "{warned}"
    );
    client.command(
        &format!("MAIL FROM:<a@b.test> SIZE={}", size + 1),
        "552 5.3.4",
    );

    let largest = incompressible(size);
    assert_saved(&client.deliver("a@client.test", "u@ours.test", &largest));
    let too_large = incompressible(size + 1);
    let reply = client.deliver("a@client.test", "u@ours.test", &too_large);
    assert!(reply.text().starts_with("552 5.3.4 "), "{}", reply.text());
    // Several mails at once must be sent in several statements.
    let replies = thread::scope(|scope| {
        let one = || server.client().deliver("a@b.test", "u@ours.test", &largest);
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(one)).collect();
        let join = |thread: thread::ScopedJoinHandle<Reply>| thread.join().expect("a reply");
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    replies.iter().for_each(assert_saved);
    let contents = server.contents();
    assert_eq!(contents.len(), 8);
    assert!(contents[..7].iter().all(|content| *content == largest));
    let (is_ok, output) = server.check();
    assert!(
        is_ok && output.contains("warning: GSMTP_MAX_SIZE"),
        "{output}"
    );
}

#[test]
fn advertised_size_fits_the_mail_column() {
    let database = MariaDb::start();
    database.sql("ALTER TABLE new_mail MODIFY mail blob NOT NULL");
    let server = database.server(&[]);
    assert_saved(&deliver(&server, "first").0);
    let (is_ok, output) = server.check();
    assert!(
        is_ok && output.contains("MODIFY `mail` longblob NOT NULL"),
        "{output}"
    );
    let mut client = server.client();
    let offer = client.command("EHLO client.test", "250");
    let size = offer
        .lines
        .iter()
        .find_map(|line| line.strip_prefix("250-SIZE ")?.parse().ok());
    let size: usize = size.expect("SIZE with a figure");
    assert!((62_000..65_535).contains(&size), "{size}");
    let largest = incompressible(size);
    assert_saved(&client.deliver("a@client.test", "u@ours.test", &largest));
    assert_eq!(server.contents()[0], largest);
}

#[test]
fn missing_table_or_column_is_reported_with_its_remedy() {
    let database = MariaDb::start_with(&[]);
    let server = database.server(&[]);
    let check_and_fix = |what: &str, fix: &str, statement: &str| {
        let (reply, took) = deliver(&server, what);
        assert_deferred(&reply);
        assert_took(took, REFUSAL_TIME);
        let (is_ok, output) = server.check();
        assert!(!is_ok && output.contains(fix), "{what}: {output}");
        database.sql(statement);
        wait_until_saved(&server, "healed");
        let (is_ok, output) = server.check();
        assert!(is_ok, "{what}: {output}");
    };
    check_and_fix("no table", "CREATE TABLE", EXISTING_TABLE);
    database.sql("ALTER TABLE new_mail DROP COLUMN charset");
    check_and_fix(
        "no column",
        "ADD COLUMN",
        "ALTER TABLE new_mail ADD COLUMN charset varchar(32) NOT NULL",
    );
    database.sql("ALTER TABLE new_mail ADD COLUMN own int NOT NULL");
    check_and_fix(
        "an unfilled column",
        "ALTER COLUMN `own` SET DEFAULT",
        "ALTER TABLE new_mail DROP COLUMN own",
    );
    for named in [
        "`goguerrilla schema`",
        "CREATE TABLE",
        "no column `charset`",
        "column `own`",
    ] {
        server.wait_for_log(named);
    }
    assert_eq!(database.count(), 3);
}

#[test]
fn missing_database_privileges_are_reported_and_mail_resumes_after_the_grant() {
    let database = MariaDb::start();
    database.sql("CREATE USER reader@'%' IDENTIFIED BY 's3cr3t-of-reader'");
    database.sql("GRANT SELECT ON mail.* TO reader@'%'");
    let server = database.server(&[("MYSQL_USER", "reader"), ("MYSQL_PASS", "s3cr3t-of-reader")]);
    let (reply, took) = deliver(&server, "no rights");
    assert_deferred(&reply);
    assert_took(took, REFUSAL_TIME);
    let (is_ok, output) = server.check();
    assert!(!is_ok && output.contains("grant INSERT"), "{output}");
    server.wait_for_log("INSERT command denied");
    database.sql("GRANT INSERT ON mail.* TO reader@'%'");
    wait_until_saved(&server, "healed");
    assert_eq!(stored(&database), ["healed"]);
    let (is_ok, output) = server.check();
    assert!(is_ok, "{output}");
    assert!(!(server.output() + &output).contains("s3cr3t"));
}

#[test]
fn read_only_database_fails_over_to_the_next_host_or_replies_451() {
    let database = MariaDb::start();
    let other = MariaDb::start();
    database.sql("SET GLOBAL read_only = 1");
    let hosts = format!("{},{}", database.address(), other.address());
    let server = database.server_at(&hosts, &[]);
    let (reply, took) = deliver(&server, "elsewhere");
    assert_saved(&reply);
    assert_took(took, AT_ONCE);
    assert_eq!((database.count(), other.count()), (0, 1));

    let alone = database.server(&[]);
    let (is_ok, output) = alone.check();
    assert!(!is_ok && output.contains("read-only"), "{output}");
    let (reply, took) = deliver(&alone, "nowhere");
    assert_deferred(&reply);
    assert_took(took, AT_ONCE);
    database.sql("SET GLOBAL read_only = 0");
    let (reply, _) = deliver(&alone, "in the end");
    assert_saved(&reply);
    assert_eq!(stored(&database), ["in the end"]);
}

#[test]
fn database_hosts_are_tried_in_order() {
    let mut first = MariaDb::start();
    let second = MariaDb::start();
    let hosts = format!("{},{}", first.address(), second.address());
    first.kill();
    let server = first.server_at(&hosts, &[]);
    let (reply, took) = deliver(&server, "to the second");
    assert_saved(&reply);
    assert_took(took, AT_ONCE);
    assert_eq!(second.count(), 1);
    let (is_ok, output) = server.check();
    assert!(is_ok, "{output}");

    // Failover in the other direction, after the second host fails.
    first.run();
    let mut second = second;
    second.kill();
    wait_until_saved(&server, "to the first");
    assert_eq!(stored(&first), ["to the first"]);
}

#[test]
fn host_that_hangs_during_a_large_mail_fails_over_to_the_next_host() {
    let hanging = MariaDb::start_with(&["--max-allowed-packet=64M"]);
    let second = MariaDb::start_with(&["--max-allowed-packet=64M"]);
    for database in [&hanging, &second] {
        database.sql(EXISTING_TABLE);
    }
    let proxy = FaultProxy::start(hanging.address());
    let hosts = format!("{},{}", proxy.address(), second.address());
    let server = hanging.server_at(&hosts, &[("GSMTP_MAX_SIZE", "20000000")]);
    assert_saved(&deliver(&server, "before").0);
    proxy.set(Fault::Hang);
    let mut client = server.client();
    client.set_reply_timeout(REPLY_LIMIT);
    client.begin_data("a@client.test", "u@ours.test");
    // The content is larger than the socket buffers on both sides.
    let (reply, took) = client.send_content(&incompressible(18_000_000));
    assert_saved(&reply);
    assert_took(took, CALL_TIMEOUT);
    assert_eq!(second.count(), 1);
    proxy.set(Fault::Pass);
    assert_eq!(stored(&hanging), ["before"]);
}

#[test]
fn host_too_slow_for_a_large_mail_fails_over_to_the_next_host() {
    let narrow = MariaDb::start();
    let second = MariaDb::start();
    let proxy = FaultProxy::start(narrow.address());
    let hosts = format!("{},{}", proxy.address(), second.address());
    let server = narrow.server_at(&hosts, &[("GSMTP_MAX_SIZE", "8000000")]);
    assert_saved(&deliver(&server, "before").0);
    // Octets arrive continuously, so no single read or write times out.
    proxy.set(Fault::Throttle(2_048));
    let mut client = server.client();
    client.set_reply_timeout(REPLY_LIMIT);
    client.begin_data("a@client.test", "u@ours.test");
    let (reply, took) = client.send_content(&incompressible(7_500_000));
    assert_saved(&reply);
    assert_took(took, CALL_TIMEOUT);
    assert_eq!(second.count(), 1);
}

#[test]
fn every_address_of_a_database_host_name_is_tried() {
    testkit::needs_root();
    let database = MariaDb::start();
    let host = format!("db.test:{}", database.address().port());
    let server = server_with_hosts_file("::1 db.test\n127.0.0.1 db.test\n", &host, &[]);
    wait_until_saved(&server, "by its second address");
}

#[test]
fn one_mail_rejected_by_the_database_leaves_readyz_at_200() {
    let database = MariaDb::start();
    database.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON new_mail FOR EACH ROW BEGIN
            IF NEW.subject = 'poison' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'poison'; END IF;
        END",
    );
    let status = free_address(Ipv4Addr::LOCALHOST.into()).to_string();
    let server = database.server(&[("GM_STATUS_INTERFACE", &status)]);
    assert_saved(&deliver(&server, "before").0);
    assert_deferred(&deliver(&server, "poison").0);
    server.wait_for_log(" batch_failed ");
    let mut ready = TcpStream::connect(&status).expect("it listens");
    ready
        .write_all(b"GET /readyz HTTP/1.0\r\n\r\n")
        .expect("sent");
    let mut answer = String::new();
    ready.read_to_string(&mut answer).expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 "),
        "{answer}"
    );
}

#[test]
fn database_settings_that_weaken_durability_cause_warnings() {
    let database = MariaDb::start_with(&["--innodb-flush-log-at-trx-commit=2"]);
    database.sql(&EXISTING_TABLE.replace("InnoDB", "MyISAM"));
    let server = database.server(&[]);
    assert_saved(&deliver(&server, "weak").0);
    let (is_ok, output) = server.check();
    assert!(is_ok, "{output}");
    server.wait_for_log("innodb_flush_log_at_trx_commit");
    for text in [output, findings(&server)] {
        assert!(text.contains("ENGINE=InnoDB"), "{text}");
        assert!(
            text.contains("SET GLOBAL innodb_flush_log_at_trx_commit = 1"),
            "{text}"
        );
    }
}

#[test]
fn passwords_never_appear_in_output_or_log() {
    let redis = Redis::start_with(&["--requirepass", "s3cr3t-of-redis"]);
    let database = MariaDb::start();
    let wrong_redis = format!("redis://:s3cr3t-wrong@{}/", redis.address());
    let right_redis = format!("redis://:s3cr3t-of-redis@{}/", redis.address());
    for (password, interface) in [("s3cr3t-wrong", &wrong_redis), (PASSWORD, &right_redis)] {
        let server = database.server(&[
            ("MYSQL_PASS", password),
            ("REDIS_INTERFACE", interface),
            ("GSMTP_VERBOSE", "Y"),
        ]);
        let (reply, took) = deliver(&server, "a mail");
        assert_eq!(reply.code == 250, password == PASSWORD, "{}", reply.text());
        assert_took(took, REFUSAL_TIME);
        let (_, output) = server.check();
        let listed = server.command(&["list", "-config=goguerrilla.conf"]);
        let all = format!("{}{output}{listed:?}{}", server.output(), reply.text());
        assert!(!all.contains("s3cr3t"), "{all}");
    }
}

#[test]
fn list_whose_output_is_not_read_holds_no_table_lock() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    assert_saved(&deliver(&server, "many").0);
    let columns = "`date`, `from`, `to`, `subject`, `body`, `charset`, `mail`, `spam_score`, `hash`, `content_type`, \
                   `recipient`, `has_attach`, `ip_addr`, `delivered`, `attach_info`";
    for _ in 0..11 {
        database.sql(&format!(
            "INSERT INTO new_mail ({columns}) SELECT {columns} FROM new_mail"
        ));
    }
    // The output is much larger than a pipe buffer; the reader stops after the first line, as a pager does.
    let mut list = Command::new(binary())
        .args(["list", "-config=goguerrilla.conf", "--limit=100000"])
        .current_dir(server.path("."))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut pages = list.stdout.take().expect("a pipe");
    pages.read_exact(&mut [0]).expect("a first line");
    let mut administrator = database.connection();
    let waits = administrator.query_drop("SET SESSION lock_wait_timeout = 3");
    let alters = "ALTER TABLE new_mail MODIFY ip_addr varchar(64) NOT NULL";
    let altered = waits.and_then(|()| administrator.query_drop(alters));
    list.kill().expect("it is still there");
    list.wait().expect("it ends");
    altered.expect("an unlocked table");
}
