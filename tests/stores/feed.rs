//! The feed as a Redis stream: one entry for each committed row, and whatever Redis does, mail is neither lost nor delayed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::certificates::Authority;
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::feed::FeedReader;
use testkit::load::Load;
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::redis::{Redis, RedisCluster};
use testkit::redis_tls::TlsRedis;
use testkit::status::{STATUS, figures};
use testkit::steps::reload;
use testkit::{Server, assert_took, short_mail, stuffed, test, wait_for};

const STREAM: (&str, &str) = ("GM_FEED", "new_mail");
/// The expected time from the final dot to the 250 whatever Redis does: the guarantee for bodies is a quarter of a second.
const SAVE_TIME: Duration = Duration::from_millis(300);
/// The longest pause before entries are sent again to a Redis that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Delivers mails with these subjects, one after the other; each must be saved in time.
fn deliver(server: &Server, subjects: impl IntoIterator<Item = String>) {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    for subject in subjects {
        client.command("MAIL FROM:<a@client.test>", "250");
        client.command("RCPT TO:<u@ours.test>", "250");
        client.command("DATA", "354");
        let (reply, took) = client.send_content(&short_mail(&subject));
        assert_eq!(reply.code, 250, "{}", reply.text());
        assert_took(took, SAVE_TIME);
    }
}

fn numbered(prefix: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{prefix} {number}"))
        .collect()
}

fn subjects_in(redis: &Redis) -> Vec<String> {
    let entries = redis.stream_entries(STREAM.1);
    entries
        .iter()
        .map(|entry| entry["subject"].clone())
        .collect()
}

fn wait_for_subjects(redis: &Redis, wanted: &[String]) {
    wait_for("every entry", || {
        let found = subjects_in(redis);
        (found == wanted).then_some(()).or_else(|| {
            assert!(found.len() <= wanted.len(), "{found:?}");
            None
        })
    });
}

fn dropped(server: &Server) -> f64 {
    figures(server)["goguerrilla_feed_dropped_total"]
}

#[test]
fn stream_gets_one_entry_for_each_row_in_the_order_of_the_writer() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = database.server(&[
        ("REDIS_INTERFACE", &redis.address()),
        STREAM,
        STATUS,
        ("GM_SAVE_WORKERS", "1"),
    ]);
    let mut reader = FeedReader::open(&server, "/feed");
    let load = Load::start(server.address, 8, "feed");
    load.wait_for_more(300);
    let account = load.stop();
    account.assert_only_expected_replies();
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("RCPT TO:<@relay.test:v@theirs.test>", "250");
    client.command("DATA", "354");
    let (reply, _) = client.send_content(&short_mail("=?UTF-8?B?R3LDvMOfZSDwn5iA?="));
    assert_eq!(reply.code, 250);

    let count = database.count() as usize;
    wait_for("every entry", || {
        (redis.stream_entries(STREAM.1).len() >= count).then_some(())
    });
    type Columns = (String, String, String, String, String);
    let rows: Vec<Columns> = database
        .rows("SELECT hash, `to`, recipient, `from`, subject FROM new_mail ORDER BY mail_id");
    let entries = redis.stream_entries(STREAM.1);
    assert_eq!(entries.len(), count);
    let fields: BTreeSet<&str> =
        ["hash", "to", "recipient", "from", "subject", "size", "date"].into();
    let columns = |entry: &BTreeMap<String, String>| -> Columns {
        assert_eq!(
            entry.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            fields
        );
        let field = |name: &str| entry[name].clone();
        (
            field("hash"),
            field("to"),
            field("recipient"),
            field("from"),
            field("subject"),
        )
    };
    for (entry, row) in entries.iter().zip(&rows) {
        assert_eq!(columns(entry), *row);
    }
    for entry in entries.iter().rev().take(5) {
        assert_eq!(entry["size"], server.show(&entry["hash"]).len().to_string());
    }
    // Readers over HTTP get the same entries.
    for entry in &entries {
        assert_eq!(
            reader.next_entry().expect("an entry")["hash"],
            entry["hash"]
        );
    }
    assert_eq!(dropped(&server), 0.0);
    let (is_ok, output) = server.check();
    assert!(is_ok && !output.contains("GM_FEED"), "{output}");
}

#[test]
fn stream_keeps_about_the_configured_number_of_entries() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = database.server(&[
        ("REDIS_INTERFACE", &redis.address()),
        STREAM,
        ("GM_FEED_LENGTH", "100"),
    ]);
    let load = Load::start(server.address, 8, "feed");
    load.wait_for_more(1_000);
    load.stop();
    let last: Vec<String> = database.rows("SELECT hash FROM new_mail");
    let last: HashSet<String> = last.into_iter().collect();
    wait_for("the last entries", || {
        let entries = redis.stream_entries(STREAM.1);
        // Redis removes whole nodes of 100 entries.
        let is_short = (100..=300).contains(&entries.len());
        (is_short && entries.iter().all(|entry| last.contains(&entry["hash"]))).then_some(())
    });
}

#[test]
fn entries_wait_for_a_dead_redis_and_no_mail_does() {
    let (database, mut redis) = (MariaDb::start(), Redis::start());
    let server = database.server(&[("REDIS_INTERFACE", &redis.tcp_address()), STREAM, STATUS]);
    deliver(&server, ["first".to_owned()]);
    wait_for_subjects(&redis, &["first".to_owned()]);
    redis.kill();
    let away = numbered("away", 20);
    deliver(&server, away.clone());
    let log = server.wait_for_log(" feed_failed ");
    assert!(
        log.contains("stream new_mail in Redis at 127.0.0.1:"),
        "{log}"
    );
    // The server is started again empty.
    redis.run();
    wait_for_subjects(&redis, &away);
    server.wait_for_log(" feed_recovered");
    // Redis may have ended before the server read its reply to the first entry, which then counts as dropped.
    assert!(dropped(&server) <= 1.0);
}

#[test]
fn last_entry_that_waits_for_redis_needs_no_further_mail() {
    let (database, mut redis) = (MariaDb::start(), Redis::start());
    let server = database.server(&[("REDIS_INTERFACE", &redis.tcp_address()), STREAM]);
    redis.kill();
    deliver(&server, ["only".to_owned()]);
    server.wait_for_log(" feed_failed ");
    redis.run();
    let started_at = Instant::now();
    wait_for_subjects(&redis, &["only".to_owned()]);
    assert_took(started_at.elapsed(), LONGEST_PAUSE);
}

#[test]
fn entries_wait_for_a_redis_that_refuses_them_and_no_mail_does() {
    let database = MariaDb::start();
    let redis = Redis::start_with(&["--maxmemory", "100mb"]);
    let server = database.server(&[("REDIS_INTERFACE", &redis.address()), STREAM, STATUS]);
    let mut wanted = Vec::new();
    for (fault, words, cure, sign) in [
        (
            "full",
            &["CONFIG", "SET", "maxmemory", "1"][..],
            &["CONFIG", "SET", "maxmemory", "0"][..],
            "OOM",
        ),
        (
            "replica",
            &["REPLICAOF", "127.0.0.1", "1"],
            &["REPLICAOF", "NO", "ONE"],
            "READONLY",
        ),
        (
            "login",
            &["ACL", "SETUSER", "default", "-xadd"],
            &["ACL", "SETUSER", "default", "+xadd"],
            "NOPERM",
        ),
    ] {
        let _: String = redis.command(words);
        let subjects = numbered(fault, 10);
        deliver(&server, subjects.clone());
        wait_for("the failure", || {
            let failures = figures(&server)["goguerrilla_redis_errors_total"];
            (failures > 0.0 && server.log().contains(" feed_failed ")).then_some(())
        });
        let _: String = redis.command(cure);
        wanted.extend(subjects);
        wait_for_subjects(&redis, &wanted);
        let log = server.log();
        let last = log.lines().rfind(|line| line.contains(" feed_failed "));
        assert!(
            last.is_some_and(|line| line.contains(sign)),
            "{fault}: {last:?}"
        );
    }
    assert_eq!(dropped(&server), 0.0);
}

#[test]
fn key_of_another_type_is_reported_and_entries_wait() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let _: String = redis.command(&["SET", STREAM.1, "x"]);
    let server = database.server(&[("REDIS_INTERFACE", &redis.address()), STREAM]);
    let subjects = numbered("mail", 10);
    deliver(&server, subjects.clone());
    let log = server.wait_for_log(" feed_failed ");
    assert!(
        log.contains("WRONGTYPE") && log.contains("rename or delete the key"),
        "{log}"
    );
    let (is_ok, output) = server.check();
    let want = "warning: GM_FEED: the key new_mail in Redis is a string, not a stream";
    assert!(is_ok && output.contains(want), "{output}");
    let _: i64 = redis.command(&["DEL", STREAM.1]);
    wait_for_subjects(&redis, &subjects);
}

#[test]
fn slow_redis_delays_no_mail_and_gets_no_entry_twice() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = database.server(&[("REDIS_INTERFACE", &redis.address()), STREAM, STATUS]);
    deliver(&server, ["first".to_owned()]);
    wait_for_subjects(&redis, &["first".to_owned()]);
    redis.signal(Signal::SIGSTOP);
    let slow = numbered("slow", 20);
    deliver(&server, slow.clone());
    // The entries whose replies are missing are in doubt and not sent again.
    let log = server.wait_for_log(" feed_failed ");
    assert!(log.contains("timed out"), "{log}");
    redis.signal(Signal::SIGCONT);
    deliver(&server, ["last".to_owned()]);
    wait_for("the last entry", || {
        subjects_in(&redis)
            .last()
            .is_some_and(|subject| subject == "last")
            .then_some(())
    });
    let found = subjects_in(&redis);
    let distinct: HashSet<&String> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "{found:?}");
    let lost = 22 - found.len();
    assert!(dropped(&server) >= lost as f64, "{found:?}");
}

#[test]
fn stream_in_a_redis_cluster_is_on_the_node_that_owns_its_key() {
    let database = MariaDb::start();
    let cluster = RedisCluster::start();
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses()), STREAM, STATUS]);
    let slot: usize = cluster.nodes[0].command(&["CLUSTER", "KEYSLOT", STREAM.1]);
    let owner = RedisCluster::initial_owner(slot);
    let first = numbered("first", 5);
    deliver(&server, first.clone());
    wait_for_subjects(&cluster.nodes[owner], &first);

    // While the slot of an empty stream migrates, the old owner answers ASK.
    let other = (owner + 1) % 3;
    let _: i64 = cluster.nodes[owner].command(&["DEL", STREAM.1]);
    cluster.start_slot_migration(owner, other);
    let asked = numbered("asked", 5);
    deliver(&server, asked.clone());
    wait_for("the entries at the new node", || {
        // Only the owner of a slot, or a client that sends ASKING, may read a key.
        let held: i64 =
            cluster.nodes[other].command(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
        (held > 0).then_some(())
    });
    cluster.move_slots_to(other);
    let moved = numbered("moved", 5);
    deliver(&server, moved.clone());
    wait_for("the entries at the new owner", || {
        subjects_in(&cluster.nodes[other])
            .ends_with(&moved)
            .then_some(())
    });
    assert_eq!(dropped(&server), 0.0);
}

#[test]
fn entries_wait_for_a_lost_node_of_a_redis_cluster() {
    let database = MariaDb::start();
    let mut cluster = RedisCluster::start();
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses()), STREAM, STATUS]);
    let slot: usize = cluster.nodes[0].command(&["CLUSTER", "KEYSLOT", STREAM.1]);
    let owner = RedisCluster::initial_owner(slot);
    deliver(&server, ["first".to_owned()]);
    wait_for_subjects(&cluster.nodes[owner], &["first".to_owned()]);
    cluster.nodes[owner].kill();
    let away = numbered("away", 5);
    deliver(&server, away.clone());
    server.wait_for_log(" feed_failed ");
    cluster.nodes[owner].run();
    cluster.wait_until_all_slots_are_served();
    let started_at = Instant::now();
    wait_for_subjects(&cluster.nodes[owner], &away);
    // The longest pause between two attempts.
    assert_took(started_at.elapsed(), Duration::from_secs(4));
    // The node may have ended before the server read its reply to the first entry, which then counts as dropped.
    assert!(dropped(&server) <= 1.0);
}

#[test]
fn stream_is_written_over_tls_with_a_user_and_in_another_database() {
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let pair = authority.issue("redis", &["localhost"], 90);
    let redis = TlsRedis::start(&pair, &[]);
    let user = "ACL SETUSER mail on >s3cr3t-of-mail ~* +setex +get +del +info +select +xadd";
    let _: String = redis.redis.command(&user.split(' ').collect::<Vec<_>>());
    let database = MariaDb::start();
    let url = redis.url("mail:s3cr3t-of-mail@", "localhost") + "/1";
    let ca = authority.file.display().to_string();
    let server = database.server(&[("REDIS_INTERFACE", &url), ("REDIS_CA", &ca), STREAM]);
    deliver(&server, ["over TLS".to_owned()]);
    wait_for("the entry", || {
        let info: String = redis.redis.command(&["INFO", "commandstats"]);
        info.contains("cmdstat_xadd:calls=1,").then_some(())
    });
    // Database 0, in which this looks, is empty.
    assert_eq!(subjects_in(&redis.redis), [""; 0]);
    assert!(!server.output().contains("s3cr3t"));
}

#[test]
fn sighup_changes_the_stream_and_an_invalid_one_leaves_the_old() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let host = database.address().to_string();
    let address = redis.address();
    let settings = |feed| with_hosts(&host, &[("REDIS_INTERFACE", &address), ("GM_FEED", feed)]);
    let server = Server::start(&settings(""));
    deliver(&server, ["off".to_owned()]);
    for stream in ["a", "b"] {
        reload(&server, &settings(stream));
        deliver(&server, [format!("to {stream}")]);
        wait_for("the entry", || {
            (redis.stream_entries(stream).len() == 1).then_some(())
        });
    }
    testkit::write_config(server.folder.path(), &settings("not valid"));
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" reload_refused ");
    deliver(&server, ["still to b".to_owned()]);
    wait_for("the entry", || {
        (redis.stream_entries("b").len() == 2).then_some(())
    });
    reload(&server, &settings(""));
    deliver(&server, ["off again".to_owned()]);
    let found = (
        redis.stream_entries("a").len(),
        redis.stream_entries("b").len(),
    );
    assert_eq!(found, (1, 2));
    wait_for("the thread to end", || {
        (server.threads_named("feed") == 0).then_some(())
    });
}

#[test]
fn sighup_under_load_leaves_out_no_entry_and_sends_none_twice() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let host = database.address().to_string();
    let address = redis.address();
    let settings = |length| {
        let redis = ("REDIS_INTERFACE", &*address);
        with_hosts(&host, &[STREAM, STATUS, redis, ("GM_FEED_LENGTH", length)])
    };
    let server = Server::start(&settings("100000"));
    let load = Load::start(server.address, 8, "feed");
    for length in ["200000", "300000", "400000"] {
        // Entries are under way, and more arrive before Redis answers.
        load.wait_for_more(20);
        redis.signal(Signal::SIGSTOP);
        load.wait_for_more(1);
        reload(&server, &settings(length));
        load.wait_for_more(20);
        redis.signal(Signal::SIGCONT);
    }
    load.stop();
    let rows: HashSet<String> = (database.rows("SELECT hash FROM new_mail").into_iter()).collect();
    wait_for("every entry", || {
        let entries = redis.stream_entries(STREAM.1);
        let hashes: HashSet<&String> = entries.iter().map(|entry| &entry["hash"]).collect();
        assert_eq!(hashes.len(), entries.len(), "an entry was sent twice");
        // If Redis was stopped for longer than the timeout of a reply, entries are in doubt and counted.
        let dropped = dropped(&server) as usize;
        (hashes.len() + dropped >= rows.len()).then_some(())
    });
}

#[test]
fn entries_that_wait_for_a_dead_redis_are_sent_to_the_one_that_replaces_it() {
    let (database, mut dead, redis) = (MariaDb::start(), Redis::start(), Redis::start());
    let host = database.address().to_string();
    let (dead_address, address) = (dead.tcp_address(), redis.tcp_address());
    let settings = |redis| with_hosts(&host, &[STREAM, STATUS, ("REDIS_INTERFACE", redis)]);
    let server = Server::start(&settings(&dead_address));
    dead.kill();
    let subjects = numbered("waiting", 5);
    deliver(&server, subjects.clone());
    server.wait_for_log(" feed_failed ");
    reload(&server, &settings(&address));
    wait_for_subjects(&redis, &subjects);
    assert_eq!(dropped(&server), 0.0);
}

#[test]
fn entries_of_the_last_mails_are_sent_before_the_server_stops() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let mut server = database.server(&[("REDIS_INTERFACE", &redis.address()), STREAM]);
    let load = Load::start(server.address, 8, "feed");
    load.wait_for_more(200);
    server.signal(Signal::SIGTERM);
    load.stop();
    assert!(server.wait().success());
    assert_eq!(
        redis.stream_entries(STREAM.1).len() as u64,
        database.count()
    );
}

#[test]
fn kill_9_leaves_no_entry_without_its_row() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let mut server = database.server(&[("REDIS_INTERFACE", &redis.address()), STREAM]);
    let load = Load::start(server.address, 8, "feed");
    load.wait_for_more(200);
    server.kill();
    load.stop();
    let rows: Vec<String> = database.rows("SELECT hash FROM new_mail");
    let rows: HashSet<String> = rows.into_iter().collect();
    let entries = redis.stream_entries(STREAM.1);
    assert!(entries.len() > 100, "{}", entries.len());
    assert!(entries.iter().all(|entry| rows.contains(&entry["hash"])));
}

#[test]
fn row_whose_commit_was_in_doubt_has_its_entry() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let proxy = FaultProxy::start(database.address());
    let settings = [("REDIS_INTERFACE", &*redis.address()), STREAM];
    let server = Server::start(&with_hosts(&proxy.address(), &settings));
    deliver(&server, ["first".to_owned()]);
    proxy.cut(Fault::CutAfterAndRefuse("COMMIT"), 1);
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    client.send(stuffed(&short_mail("doubtful")));
    server.wait_for_log(" commit_in_doubt ");
    proxy.set(Fault::Pass);
    let reply = client.read_reply().expect("a reply to the final dot");
    assert_eq!(reply.code, 250, "{reply:?}");
    wait_for_subjects(&redis, &["first".to_owned(), "doubtful".to_owned()]);
}
