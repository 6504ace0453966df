//! A COMMIT that hangs in the database: no further mail is sent to that host, and service recovers when the COMMIT
//! ends.

use std::thread;
use std::time::Duration;

use mysql::prelude::Queryable;

use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::mariadb::{EXISTING_TABLE, MariaDb, USER, with_hosts};
use testkit::server_programs::is_mysql;
use testkit::status::get;
use testkit::{
    AT_ONCE, Reply, Server, assert_took, short_mail, stuffed, test, wait_for, wait_for_within,
};

const STATUS: (&str, &str) = ("GM_STATUS_INTERFACE", "127.0.0.1:0");
/// Maximum time until the reply: ten times the expected 20 s, 10 s for the COMMIT and 10 s until the batch is given up.
const MAX_REPLY_TIME: Duration = Duration::from_secs(200);
/// Maximum time until mail is saved after the COMMIT has ended: ten times the expected ten seconds.
const MAX_RECOVERY_TIME: Duration = Duration::from_secs(100);

/// Starts a database whose COMMITs wait for a replica that does not exist, between [`hang`] and [`release`].
fn semi_synchronous() -> MariaDb {
    semi_synchronous_with(&[])
}

/// As [`semi_synchronous`], with additional options of the database.
pub fn semi_synchronous_with(options: &[&str]) -> MariaDb {
    let semi_sync: &[&str] = if is_mysql() {
        &[
            "--log-bin",
            "--server-id=1",
            "--plugin-load-add=semisync_source.so",
            "--rpl-semi-sync-source-timeout=3600000",
            "--rpl-semi-sync-source-wait-point=AFTER_SYNC",
        ]
    } else {
        &[
            "--log-bin",
            "--server-id=1",
            "--rpl-semi-sync-master-timeout=3600000",
            "--rpl-semi-sync-master-wait-point=AFTER_SYNC",
        ]
    };
    let database = MariaDb::start_with(&[semi_sync, options].concat());
    database.sql(EXISTING_TABLE);
    database
}

pub fn hang(database: &MariaDb) {
    database.sql(&format!("SET GLOBAL {} = ON", semi_sync_variable()));
}

pub fn release(database: &MariaDb) {
    database.sql(&format!("SET GLOBAL {} = OFF", semi_sync_variable()));
}

fn semi_sync_variable() -> &'static str {
    if is_mysql() {
        "rpl_semi_sync_source_enabled"
    } else {
        "rpl_semi_sync_master_enabled"
    }
}

fn deliver(server: &Server, subject: &str) -> (Reply, Duration) {
    let mut client = server.client();
    client.set_reply_timeout(MAX_REPLY_TIME);
    client.begin_data("a@client.test", "u@ours.test");
    client.send_content(&short_mail(subject))
}

/// Returns the number of the server's COMMITs that the database has not finished.
pub fn commits(database: &MariaDb) -> u64 {
    database.number(&format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{USER}' AND INFO = 'COMMIT'"
    ))
}

fn rows(database: &MariaDb, subject: &str) -> u64 {
    database.number(&format!(
        "SELECT COUNT(*) FROM new_mail WHERE subject = '{subject}'"
    ))
}

fn wait_until_ready(server: &Server) {
    wait_for_within("the store to be ready", MAX_RECOVERY_TIME, || {
        (get(server, "/readyz").0 == 200).then_some(())
    });
}

#[test]
fn host_with_a_hanging_commit_gets_no_further_mail() {
    let database = semi_synchronous();
    let server = database.server(&[STATUS, ("GM_SAVE_WORKERS", "1")]);
    assert_eq!(deliver(&server, "before").0.code, 250);
    hang(&database);
    let (reply, took) = thread::scope(|scope| {
        let hanging = scope.spawn(|| deliver(&server, "hanging"));
        // The batch has been with the store for more than 5 s.
        let reason = wait_for_within("/readyz 503", Duration::from_secs(50), || {
            let (code, reason) = get(&server, "/readyz");
            (code == 503).then_some(reason)
        });
        assert!(reason.starts_with("store: a batch has taken "), "{reason}");
        server.wait_for_log(" commit_hangs ");
        let (code, reason) = get(&server, "/readyz");
        assert!(
            code == 503 && reason.contains("a COMMIT hangs on "),
            "{code} {reason}"
        );
        for number in 0..10 {
            let (reply, took) = deliver(&server, &format!("refused {number}"));
            assert_eq!(reply.code, 451);
            assert_took(took, AT_ONCE);
        }
        hanging.join().expect("a reply")
    });
    assert!(
        reply.code == 451 && took < MAX_REPLY_TIME,
        "{took:?}: {reply:?}"
    );
    assert_eq!(commits(&database), 1);
    // The server no longer waits for the COMMIT, and still sends no mail to the host.
    let (reply, took) = deliver(&server, "refused too");
    assert!(reply.code == 451 && took < AT_ONCE * 10, "{took:?}");
    assert_eq!(get(&server, "/readyz").0, 503);
    assert_eq!(commits(&database), 1);
    let (is_ok, output) = server.check();
    assert!(
        !is_ok && output.contains("error: MYSQL_HOST: a COMMIT of MYSQL_USER has been hanging on "),
        "{output}"
    );
    release(&database);
    wait_until_ready(&server);
    server.wait_for_log(" commit_hang_ended ");
    assert_eq!(deliver(&server, "after").0.code, 250);
    assert_eq!(
        (rows(&database, "hanging"), rows(&database, "after")),
        (1, 1)
    );
    assert_eq!(database.count(), 3, "no rejected mail is stored");
    let (is_ok, output) = server.check();
    assert!(is_ok, "{output}");
}

#[test]
fn hanging_commit_that_completes_in_time_is_looked_up_and_acknowledged() {
    let database = semi_synchronous();
    let server = database.server(&[STATUS]);
    assert_eq!(deliver(&server, "before").0.code, 250);
    hang(&database);
    let (reply, took) = thread::scope(|scope| {
        let hanging = scope.spawn(|| deliver(&server, "hanging"));
        server.wait_for_log(" commit_hangs ");
        release(&database);
        hanging.join().expect("a reply")
    });
    assert_eq!(reply.code, 250, "{took:?}: {reply:?}");
    assert_eq!(rows(&database, "hanging"), 1);
    wait_until_ready(&server);
}

#[test]
fn commit_hanging_on_one_host_does_not_block_other_hosts() {
    let (first, second) = (semi_synchronous(), MariaDb::start());
    let hosts = format!("{},{}", first.address(), second.address());
    let server = Server::start(&with_hosts(&hosts, &[STATUS, ("GM_SAVE_WORKERS", "1")]));
    assert_eq!(deliver(&server, "before").0.code, 250);
    assert_eq!(first.count(), 1);
    hang(&first);
    let reply = thread::scope(|scope| {
        let hanging = scope.spawn(|| deliver(&server, "hanging").0);
        server.wait_for_log(" commit_hangs ");
        hanging.join().expect("a reply")
    });
    assert_eq!(reply.code, 451, "{reply:?}");
    let (reply, took) = deliver(&server, "elsewhere");
    assert!(
        reply.code == 250 && took < AT_ONCE * 10,
        "{took:?}: {reply:?}"
    );
    assert_eq!(second.count(), 1);
    wait_until_ready(&server);
    let (_, lines) = get(&server, "/readyz");
    assert!(lines.contains("left: a COMMIT hangs on "), "{lines}");
    let (is_ok, output) = server.check();
    assert!(is_ok && output.contains("has been hanging on "), "{output}");
    assert_eq!(commits(&first), 1);
    release(&first);
    wait_for_within("mail to go to the first host again", MAX_REPLY_TIME, || {
        assert_eq!(deliver(&server, "again").0.code, 250);
        (rows(&first, "again") > 0).then_some(())
    });
}

#[test]
fn hanging_commit_of_a_lost_connection_is_found_in_the_process_list() {
    let database = semi_synchronous();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[STATUS, ("GM_SAVE_WORKERS", "1")]);
    assert_eq!(deliver(&server, "before").0.code, 250);
    hang(&database);
    proxy.cut(Fault::CutAfter("COMMIT"), 1);
    let reply = thread::scope(|scope| {
        let hanging = scope.spawn(|| deliver(&server, "hanging").0);
        server.wait_for_log(" commit_hangs ");
        assert_eq!(commits(&database), 1);
        let (reply, took) = deliver(&server, "refused");
        assert_eq!(reply.code, 451, "{reply:?}");
        assert_took(took, AT_ONCE);
        release(&database);
        hanging.join().expect("a reply")
    });
    assert_eq!(reply.code, 250, "{reply:?}");
    wait_until_ready(&server);
    assert_eq!(deliver(&server, "after").0.code, 250);
    assert_eq!(database.count(), 3);
    assert_eq!(rows(&database, "hanging"), 1);
}

#[test]
fn commit_that_hangs_while_a_lost_batch_is_repeated_is_detected() {
    let database = semi_synchronous();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[STATUS, ("GM_SAVE_WORKERS", "1")]);
    assert_eq!(deliver(&server, "before").0.code, 250);
    hang(&database);
    // The first COMMIT never arrives, so the lookup inserts the rows again and commits them.
    proxy.cut(Fault::CutBefore("COMMIT"), 1);
    let (reply, took) = deliver(&server, "hanging");
    assert!(
        reply.code == 451 && took < MAX_REPLY_TIME,
        "{took:?}: {reply:?}"
    );
    assert_eq!(commits(&database), 1);
    server.wait_for_log(" commit_hangs ");
    let (reply, took) = deliver(&server, "refused");
    assert!(reply.code == 451 && took < AT_ONCE * 10, "{took:?}");
    assert_eq!(commits(&database), 1);
    release(&database);
    wait_until_ready(&server);
    assert_eq!(deliver(&server, "after").0.code, 250);
    assert_eq!((rows(&database, "hanging"), database.count()), (1, 3));
}

#[test]
fn commit_blocked_by_a_global_read_lock_gets_no_false_250_and_recovers() {
    let database = MariaDb::start();
    let proxy = FaultProxy::start(database.address());
    let server = database.server_at(&proxy.address(), &[STATUS]);
    assert_eq!(deliver(&server, "before").0.code, 250);
    let mut locker = database.connection();
    let mut client = server.client();
    client.set_reply_timeout(MAX_REPLY_TIME);
    client.begin_data("a@client.test", "u@ours.test");
    // The lock is taken before the COMMIT arrives.
    proxy.cut(Fault::HoldAt("COMMIT"), 1);
    client.send(stuffed(&short_mail("waiting")));
    proxy.wait_for_cuts(1);
    locker
        .query_drop("FLUSH TABLES WITH READ LOCK")
        .expect("locked");
    proxy.set(Fault::Pass);
    wait_for("the COMMIT to wait for the lock", || {
        (commits(&database) == 1).then_some(())
    });
    wait_for_within("/readyz 503", Duration::from_secs(50), || {
        (get(&server, "/readyz").0 == 503).then_some(())
    });
    locker.query_drop("UNLOCK TABLES").expect("unlocked");
    let reply = client.read_reply().expect("a reply to the final dot");
    assert_eq!(reply.code, 250, "{reply:?}");
    wait_until_ready(&server);
    assert_eq!(database.count(), 2);
}
