//! An unanswered COMMIT holds up only its own mails: the writer goes on with other mail, also when the database restarts.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::load::Load;
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::recovery::Recovery;
use testkit::{Client, Server, release_or_debug, short_mail, stuffed, test, wait_for};

/// How soon a mail must be answered while the COMMIT of other mails is in doubt.
const PROMPT: Duration = release_or_debug(Duration::from_secs(2), Duration::from_secs(5));
/// The time limit for the reply to a mail whose COMMIT is in doubt: 32 seconds, and a margin.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// A standalone database behind a proxy.
struct Host {
    database: MariaDb,
    proxy: FaultProxy,
}

impl Host {
    fn start() -> Host {
        let database = MariaDb::start();
        let proxy = FaultProxy::start(database.address());
        Host { database, proxy }
    }

    fn count(&self, subject: &str) -> u64 {
        self.database.number(&format!(
            "SELECT COUNT(*) FROM new_mail WHERE subject = '{subject}'"
        ))
    }
}

/// Sends a mail whose COMMIT this host carries out without an answer; then the host refuses connections.
fn send_into_doubt(server: &Server, host: &Host, subject: &str) -> Client {
    wait_until_saved_at(server, host);
    host.proxy.cut(Fault::CutAfterAndRefuse("COMMIT"), 1);
    let mut client = server.client();
    client.set_reply_timeout(REPLY_LIMIT);
    client.begin_data("a@client.test", "u@ours.test");
    client.send(stuffed(&short_mail(subject)));
    host.proxy.wait_for_cuts(1);
    client
}

fn wait_until_saved_at(server: &Server, host: &Host) {
    wait_for("mail to go to the host", || {
        let before = host.database.count();
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("any"));
        (reply.code == 250 && host.database.count() > before).then_some(())
    });
}

fn assert_saved_promptly(server: &Server, subject: &str) {
    let started_at = Instant::now();
    let mut client = server.client();
    let reply = client.deliver("a@client.test", "u@ours.test", &short_mail(subject));
    let took = started_at.elapsed();
    testkit::note!("{subject}: {} after {took:.1?}", reply.code);
    assert!(reply.code == 250 && took < PROMPT, "{took:?}: {reply:?}");
}

#[test]
fn commit_in_doubt_delays_no_other_mail() {
    let hosts = [Host::start(), Host::start()];
    let addresses = [hosts[0].proxy.address(), hosts[1].proxy.address()].join(",");
    let server = Server::start(&with_hosts(&addresses, &[("GM_SAVE_WORKERS", "1")]));
    let mut client = send_into_doubt(&server, &hosts[0], "doubtful");
    for number in 0..3 {
        assert_saved_promptly(&server, &format!("other {number}"));
    }
    assert_eq!(server.threads_named("commit-in-doubt"), 1);
    // A second batch in doubt does not wait for the first one.
    hosts[1].proxy.cut(Fault::CutAfter("COMMIT"), 1);
    assert_saved_promptly(&server, "doubtful for a moment");
    assert_eq!(hosts[1].count("doubtful for a moment"), 1);
    hosts[0].proxy.set(Fault::Pass);
    let reply = client.read_reply().expect("a reply to the final dot");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert_eq!(
        (hosts[0].count("doubtful"), hosts[1].count("doubtful")),
        (1, 0)
    );
    wait_for("the thread to end", || {
        (server.threads_named("commit-in-doubt") == 0).then_some(())
    });
}

#[test]
fn batch_in_doubt_beyond_the_limit_gets_451_at_once() {
    let hosts = [Host::start(), Host::start(), Host::start()];
    let addresses: Vec<String> = hosts.iter().map(|host| host.proxy.address()).collect();
    let server = Server::start(&with_hosts(
        &addresses.join(","),
        &[("GM_SAVE_WORKERS", "1")],
    ));
    let mut first = send_into_doubt(&server, &hosts[0], "first");
    let mut second = send_into_doubt(&server, &hosts[1], "second");
    let mut third = send_into_doubt(&server, &hosts[2], "third");
    let started_at = Instant::now();
    let reply = third.read_reply().expect("a reply to the final dot");
    assert!(
        reply.code == 451 && started_at.elapsed() < PROMPT,
        "{reply:?} after {:?}",
        started_at.elapsed()
    );
    server.wait_for_log("because 2 other COMMITs are being looked up");
    for host in &hosts {
        host.proxy.set(Fault::Pass);
    }
    for (client, host, subject) in [
        (&mut first, &hosts[0], "first"),
        (&mut second, &hosts[1], "second"),
    ] {
        let reply = client.read_reply().expect("a reply to the final dot");
        assert_eq!(reply.code, 250, "{reply:?}");
        assert_eq!(host.count(subject), 1);
    }
    assert!(hosts[2].count("third") <= 1, "its client sends it again");
}

#[test]
fn sigterm_waits_for_a_batch_in_doubt() {
    let host = Host::start();
    let mut server = Server::start(&with_hosts(&host.proxy.address(), &[]));
    let mut client = send_into_doubt(&server, &host, "doubtful");
    server.wait_for_log(" commit_in_doubt ");
    server.signal(Signal::SIGTERM);
    server.wait_for_log(" shutdown ");
    host.proxy.set(Fault::Pass);
    let reply = client.read_reply().expect("a reply to the final dot");
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(server.wait().success());
    assert_eq!(host.count("doubtful"), 1);
}

#[test]
fn mail_is_saved_soon_after_a_database_restart_and_stored_once() {
    let mut database = MariaDb::start();
    database.sql("CREATE TABLE writes (id int AUTO_INCREMENT PRIMARY KEY)");
    let server = database.server(&[]);
    for what in ["kill -9", "SIGTERM"] {
        let prefix = what.replace(' ', "");
        let load = Load::start(server.address, 16, &prefix);
        load.wait_for_more(100);
        match what {
            "kill -9" => database.kill(),
            _ => database.stop(),
        }
        let lost_at = Instant::now();
        let node = database.root();
        let recovery = thread::scope(|scope| {
            let recovery = scope.spawn(|| Recovery::measure(&server, &[node], lost_at));
            let reason = "r2d2 and the look-ups reach their longest pauses";
            testkit::let_time_pass(Duration::from_secs(4), reason);
            database.run();
            recovery.join().expect("a recovery")
        });
        recovery.assert_soon(what);
        load.wait_for_more(100);
        assert_acknowledged_once(&database, load);
    }
}

#[test]
fn database_stopped_during_commits_stores_each_acknowledged_mail_once() {
    let Host { database, proxy } = Host::start();
    database.sql("CREATE TABLE writes (id int AUTO_INCREMENT PRIMARY KEY)");
    let server = database.server_at(&proxy.address(), &[]);
    let load = Load::start(server.address, 16, "stopped");
    load.wait_for_more(100);
    // The database is stopped before the COMMIT arrives there.
    proxy.cut(Fault::HoldAt("COMMIT"), 1);
    proxy.wait_for_cuts(1);
    database.signal(Signal::SIGSTOP);
    proxy.set(Fault::Pass);
    // COMMITs are aborted after ten seconds and then looked up.
    server.wait_for_log(" commit_in_doubt ");
    database.signal(Signal::SIGCONT);
    let recovery = Recovery::measure(&server, &[database.root()], Instant::now());
    recovery.assert_soon("SIGCONT");
    load.wait_for_more(100);
    assert_acknowledged_once(&database, load);
}

/// Ends the load and asserts acknowledged ⊆ stored, each mail stored once.
fn assert_acknowledged_once(database: &MariaDb, load: Load) {
    let account = load.stop();
    let stored: Vec<String> =
        database.rows("SELECT subject FROM new_mail WHERE `from` = 'a@client.test'");
    let mut counts = std::collections::HashMap::<&str, usize>::new();
    for subject in &stored {
        *counts.entry(subject).or_default() += 1;
    }
    for marker in &account.acknowledged {
        assert_eq!(counts.get(marker.as_str()), Some(&1), "{marker} got a 250");
    }
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    testkit::note!(
        "{} sent, {} acknowledged, {} deferred, {} stored",
        account.sent.len(),
        account.acknowledged.len(),
        account.deferred.len(),
        stored.len()
    );
}
