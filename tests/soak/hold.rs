//! GM_HOLD_SECONDS at its default, with 200 new mails a second, GM_MAX_CLIENTS 4000, feed and retention, and TLS to Galera.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use testkit::galera::Galera;
use testkit::galera_faults;
use testkit::load::{Account, Load, assert_no_loss_or_duplicate, stored_markers};
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::soak_settings::SOAK_SETTINGS;
use testkit::status::{figures, get};
use testkit::{Server, assert_took, let_time_pass, note, test, wait_for_within};

#[test]
fn soak_of_hold_mariadb_restarts_after_five_seconds() {
    let mut database = MariaDb::start();
    let server = database.server(&settings());
    let load = Load::start_paced(server.address, RATE, "restart");
    load.wait_for_more(MAILS_BEFORE);
    database.kill();
    let_time_pass(AWAY, "the database is away");
    let held = figures(&server)[HELD];
    database.run();
    load.wait_for_more_within(MAILS_AFTER, LIMIT);
    let account = load.stop();
    let stored = subjects_in(&database);
    assert_none_deferred("MariaDB restarted", held, &account, &stored);
}

#[test]
fn soak_of_hold_a_galera_node_is_killed() {
    let mut galera = Galera::start_with_soak_settings();
    let settings = [galera.settings(), settings()].concat();
    let server = Server::start(&with_hosts(&galera.hosts(), &settings));
    let load = Load::start_paced(server.address, RATE, "node");
    load.wait_for_more_within(MAILS_BEFORE, LIMIT);
    galera.kill(0);
    let_time_pass(AWAY, "the node is away");
    let held = figures(&server)[HELD];
    load.wait_for_more_within(MAILS_AFTER, LIMIT);
    let account = load.stop();
    let stored = galera_faults::stored_markers(&galera);
    assert_none_deferred("Galera node killed", held, &account, &stored);
}

#[test]
fn soak_of_hold_the_sqlite_file_is_locked_for_five_seconds() {
    let server = Server::start(&settings());
    let load = Load::start_paced(server.address, RATE, "lock");
    load.wait_for_more(MAILS_BEFORE);
    let other = Connection::open(server.path("goguerrilla.db")).expect("a file");
    other.busy_timeout(LIMIT).expect("an open file");
    other.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let_time_pass(AWAY, "the file is locked");
    let held = figures(&server)[HELD];
    other.execute_batch("ROLLBACK").expect("a lock");
    load.wait_for_more_within(MAILS_AFTER, LIMIT);
    let account = load.stop();
    let stored = stored_markers(Path::new(&server.path("goguerrilla.db")));
    assert_none_deferred("SQLite file locked", held, &account, &stored);
}

/// Held mails alone do not fill the slots: new clients get their greeting at any time.
#[test]
fn soak_of_hold_mariadb_is_away_for_a_minute() {
    let mut database = MariaDb::start();
    let server = database.server(&settings());
    let load = Load::start_paced(server.address, RATE, "minute");
    load.wait_for_more(MAILS_BEFORE);
    database.kill();
    let killed_at = Instant::now();
    let (mut slowest, mut most_held, mut most_clients) = (Duration::ZERO, 0.0_f64, 0.0_f64);
    while killed_at.elapsed() < Duration::from_secs(60) {
        let_time_pass(Duration::from_millis(500), "the interval between dialogues");
        let started_at = Instant::now();
        let mut client = server.client();
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<a@client.test>", "250 2.1.0 ");
        client.command("RCPT TO:<u@ours.test>", "250 2.1.5 ");
        client.command("QUIT", "221 2.0.0 ");
        slowest = slowest.max(started_at.elapsed());
        most_held = most_held.max(figures(&server)[HELD]);
        most_clients = most_clients.max(figures(&server)["goguerrilla_connections_active"]);
    }
    assert_eq!(get(&server, "/readyz").0, 503);
    database.run();
    wait_for_within("the database to be used again", LIMIT, || {
        (get(&server, "/readyz").0 == 200).then_some(())
    });
    load.wait_for_more_within(MAILS_AFTER, LIMIT);
    let account = load.stop();
    let stored = subjects_in(&database);
    note!(
        "MariaDB away for a minute: {}; 451 after {}; at most {most_held} held, {most_clients} connections; other dialogues took \
         {slowest:?} at most",
        galera_faults::summary(&account, &stored),
        times(&account, 451),
    );
    assert_no_loss_or_duplicate(&account, &stored);
    assert_eq!(account.cut, 0, "a client found no slot");
    let (_, longest) = account.reply_times[&451];
    assert_took(longest, Duration::from_secs(10));
    assert!(most_clients < 4000.0 * 0.75, "{most_clients}");
}

fn assert_none_deferred(case: &str, held: f64, account: &Account, stored: &HashMap<String, usize>) {
    note!(
        "{case}: {}; {held} held after {AWAY:?}; 250 after {}",
        galera_faults::summary(account, stored),
        times(account, 250),
    );
    assert_eq!(account.temporary_failures(), "none");
    assert_eq!((account.unanswered.len(), account.cut), (0, 0));
    assert_no_loss_or_duplicate(account, stored);
}

fn times(account: &Account, code: u16) -> String {
    match account.reply_times.get(&code) {
        Some((shortest, longest)) => format!("{shortest:.1?} to {longest:.1?}"),
        None => "never".to_owned(),
    }
}

fn subjects_in(database: &MariaDb) -> HashMap<String, usize> {
    let rows: Vec<String> = database.rows("SELECT subject FROM new_mail");
    let mut markers = HashMap::new();
    for marker in rows {
        *markers.entry(marker).or_default() += 1;
    }
    markers
}

fn settings() -> Vec<(&'static str, &'static str)> {
    [SOAK_SETTINGS, &[("GM_MAX_CLIENTS", "4000")]].concat()
}

const HELD: &str = "goguerrilla_mails_held";
/// New mails a second.
const RATE: u32 = 200;
/// How long a store is away.
const AWAY: Duration = Duration::from_secs(5);
/// The longest wait for a goal.
const LIMIT: Duration = Duration::from_secs(60);
/// Mails before a failure.
const MAILS_BEFORE: usize = 400;
/// Mails after a failure: those that waited, and new ones.
const MAILS_AFTER: usize = 3_000;
