//! GM_HOLD_SECONDS with databases: mail waits while the database restarts or another node takes over.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use testkit::galera::Galera;
use testkit::galera_faults;
use testkit::load::{Load, assert_no_loss_or_duplicate};
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::status::{get, wait_for_metric};
use testkit::steps::send_mail;
use testkit::{AT_ONCE, Server, assert_took, let_time_pass, note, test, wait_for_within};

use crate::partitioning::stored_markers;

const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");
const HELD: &str = "goguerrilla_mails_held";
/// MariaDB restarts in about a second, and ten times as slowly on a busy machine.
const RECOVERY_LIMIT: Duration = Duration::from_secs(40);

#[test]
fn mariadb_killed_and_restarted_after_five_seconds_under_load_defers_no_mail() {
    let mut database = MariaDb::start();
    let server = database.server(&[
        STATUS,
        ("GM_HOLD_SECONDS", "60"),
        ("GM_MAX_CLIENTS", "4000"),
    ]);
    let load = Load::start(server.address, 200, "restart");
    load.wait_for_more(100);
    database.kill();
    let_time_pass(Duration::from_secs(5), "the database is away");
    let (status, reason) = get(&server, "/readyz");
    assert_eq!(status, 503, "{reason}");
    let before = load.acknowledged();
    let started_at = Instant::now();
    database.run();
    load.wait_for_more_within(100, RECOVERY_LIMIT);
    let took = started_at.elapsed();
    note!("{before} mails before; 100 more {took:?} after the start of MariaDB began");
    let account = load.stop();
    assert_eq!(account.temporary_failures(), "none");
    assert_eq!((account.unanswered.len(), account.cut), (0, 0));
    assert_no_loss_or_duplicate(&account, &stored_markers(&database));
    wait_for_metric(&server, HELD, 0.0);
}

#[test]
fn mail_gets_451_when_mariadb_stays_away_for_longer_than_the_hold() {
    let mut database = MariaDb::start();
    let server = database.server(&[STATUS, ("GM_HOLD_SECONDS", "3")]);
    send_mail(&server, "before").expect("250 2.0.0 ");
    database.kill();
    for subject in ["first", "second"] {
        let sent_at = Instant::now();
        let mut waiting = send_mail(&server, subject);
        let mut client = server.client();
        client.command("EHLO client.test", "250");
        client.command("NOOP", "250 2.0.0 ");
        waiting.expect("451 4.3.0 ");
        assert_eq!(get(&server, "/readyz").0, 503);
        let waited = sent_at.elapsed();
        assert!(waited >= Duration::from_secs(3), "{waited:?}");
        assert_took(waited, Duration::from_secs(3));
    }
    let mut waiting = send_mail(&server, "third");
    database.run();
    // On a busy machine the start of the database may take longer than the hold.
    if waiting.read_reply().expect("a reply").code == 451 {
        wait_for_within("the database to be used again", RECOVERY_LIMIT, || {
            (get(&server, "/readyz").0 == 200).then_some(())
        });
        send_mail(&server, "third").expect("250 2.0.0 ");
    }
    let subjects: Vec<String> = database.rows("SELECT subject FROM new_mail ORDER BY mail_id");
    assert_eq!(subjects, ["before", "third"]);
}

#[test]
fn mail_gets_451_within_a_second_if_it_may_not_wait_for_mariadb() {
    let mut database = MariaDb::start();
    let server = database.server(&[("GM_HOLD_SECONDS", "0")]);
    send_mail(&server, "before").expect("250 2.0.0 ");
    database.kill();
    for _ in 0..2 {
        let sent_at = Instant::now();
        send_mail(&server, "not saved").expect("451 4.3.0 ");
        let waited = sent_at.elapsed();
        note!("451 after {waited:?}");
        assert_took(waited, AT_ONCE);
    }
}

#[test]
fn locked_table_is_waited_for_as_long_as_the_hold_says_and_for_5_seconds_without_one() {
    let database = MariaDb::start();
    let mut holder = database.connection();
    let mut time_until_451 = |hold: &str| {
        let server = database.server(&[("GM_HOLD_SECONDS", hold)]);
        send_mail(&server, "before").expect("250 2.0.0 ");
        holder
            .query_drop("LOCK TABLES new_mail WRITE")
            .expect("locked");
        let sent_at = Instant::now();
        send_mail(&server, "not saved").expect("451 4.3.0 ");
        let waited = sent_at.elapsed();
        holder.query_drop("UNLOCK TABLES").expect("unlocked");
        note!("GM_HOLD_SECONDS {hold}: 451 after {waited:?}");
        waited
    };
    let (held, not_held) = (time_until_451("1"), time_until_451("0"));
    assert!(held >= Duration::from_secs(1), "{held:?}");
    assert!(not_held >= Duration::from_secs(4), "{not_held:?}");
    assert!(held * 2 < not_held, "{held:?}, {not_held:?}");
    assert_eq!(database.count(), 2);
}

#[test]
fn killed_galera_node_defers_no_mail() {
    let mut galera = Galera::start();
    let server = Server::start(&with_hosts(&galera.hosts(), &[("GM_HOLD_SECONDS", "60")]));
    let load = Load::start(server.address, 20, "node");
    load.wait_for_more_within(100, RECOVERY_LIMIT);
    galera.kill(0);
    let lost_at = Instant::now();
    load.wait_for_more_within(100, RECOVERY_LIMIT);
    note!(
        "100 mails more {:?} after the node was lost",
        lost_at.elapsed()
    );
    let account = load.stop();
    let stored = galera_faults::stored_markers(&galera);
    note!("{}", galera_faults::summary(&account, &stored));
    assert_eq!(account.temporary_failures(), "none");
    assert_no_loss_or_duplicate(&account, &stored);
}
