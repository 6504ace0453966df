//! Faults of Redis: bodies go into the table instead, no mail is rejected, and the delay of each mail is short.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::mariadb::MariaDb;
use testkit::ports::free_port;
use testkit::process::{ProcessResult, run};
use testkit::redis::{FakeBehavior, FakeRedis, Redis};
use testkit::{Server, assert_took, short_mail, test, wait_for_within, without_trace};

/// The expected time from the final dot to the 250 whatever Redis does: the guarantee is a quarter of a second for Redis alone.
const SAVE_TIME: Duration = Duration::from_millis(300);
/// The maximum time until bodies go to Redis again after its first failure: ten times the expected eight seconds.
const RECOVERY_LIMIT: Duration = Duration::from_secs(80);

/// Delivers a mail. Returns its hash and the time from the final dot to the 250.
fn deliver(server: &Server, subject: &str) -> (String, Duration) {
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    let (reply, took) = client.send_content(&short_mail(subject));
    let text = reply.text();
    let hash = text.strip_prefix("250 2.0.0 OK : queued as ");
    (hash.unwrap_or_else(|| panic!("{text}")).to_owned(), took)
}

fn body_column(database: &MariaDb, hash: &str) -> String {
    let sql = format!("SELECT body FROM new_mail WHERE hash = '{hash}'");
    database.rows(&sql).pop().expect("a row")
}

/// Delivers two mails and asserts that each is saved within the time limit and is complete in the table.
fn assert_bodies_go_into_the_table(database: &MariaDb, interface: &str, fault: &str) {
    let server = database.server(&[("REDIS_INTERFACE", interface)]);
    for subject in ["first", "second"] {
        let (hash, took) = deliver(&server, subject);
        assert_took(took, SAVE_TIME);
        assert_eq!(body_column(database, &hash), "gzencode", "{fault}");
        assert_eq!(
            without_trace(&server.show(&hash)),
            short_mail(subject),
            "{fault}"
        );
    }
    server.wait_for_log(" redis_failed ");
}

#[test]
fn invalid_redis_answers_neither_lose_nor_delay_mail() {
    let database = MariaDb::start();
    for manner in [
        FakeBehavior::Hangs,
        FakeBehavior::RepliesSlowly(b"+OK\r\n+OK\r\n"),
        FakeBehavior::Replies(b"garbage\r\n"),
        FakeBehavior::Replies(b"+O"),
        FakeBehavior::Replies(b"$-1\r\n"),
        FakeBehavior::Replies(b":1\r\n"),
        FakeBehavior::Replies(b"+QUEUED\r\n"),
        FakeBehavior::Replies(b"-ERR no\r\n"),
        FakeBehavior::Replies(b"-MISCONF cannot persist\r\n"),
        FakeBehavior::Replies(b"-LOADING the dataset\r\n"),
        FakeBehavior::Replies(b"-MOVED 1 127.0.0.1:1\r\n"),
        FakeBehavior::Replies(b"-OOM command not allowed\r\n"),
        FakeBehavior::Replies(b"$99999999999999999999\r\n"),
        FakeBehavior::Replies(b"*999999999\r\n"),
        // A TLS port answers with this alert, handshake_failure.
        FakeBehavior::RepliesAndCloses(b"\x15\x03\x01\x00\x02\x02\x28"),
        FakeBehavior::RepliesAndCloses(b"+O"),
        FakeBehavior::RepliesAndCloses(b""),
        FakeBehavior::RepliesAndCloses(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    ] {
        let fake = FakeRedis::start(manner);
        assert_bodies_go_into_the_table(&database, &fake.address(), &format!("{manner:?}"));
        assert!(fake.connections() > 0, "{manner:?}");
    }
}

#[test]
fn bodies_refused_by_redis_are_stored_in_the_table() {
    let database = MariaDb::start();
    let nobody = format!("127.0.0.1:{}", free_port());
    assert_bodies_go_into_the_table(&database, &nobody, "refused");

    let full = Redis::start_with(&["--maxmemory", "1mb"]);
    let _: String = full.command(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_bodies_go_into_the_table(&database, &full.address(), "-OOM");

    let replica = Redis::start();
    let (host, port) = nobody.split_once(':').expect("host:port");
    let _: String = replica.command(&["REPLICAOF", host, port]);
    assert_bodies_go_into_the_table(&database, &replica.address(), "-READONLY");

    let locked = Redis::start_with(&["--requirepass", "s3cr3t-of-redis"]);
    assert_bodies_go_into_the_table(&database, &locked.address(), "-NOAUTH");
    let wrong = format!("redis://:s3cr3t-wrong@{}/", locked.tcp_address());
    assert_bodies_go_into_the_table(&database, &wrong, "wrong password");

    let stopped = Redis::start();
    stopped.signal(Signal::SIGSTOP);
    assert_bodies_go_into_the_table(&database, &stopped.address(), "hangs");

    let paused = Redis::start();
    let _: String = paused.command(&["CLIENT", "PAUSE", "60000", "ALL"]);
    assert_bodies_go_into_the_table(&database, &paused.address(), "paused");

    // With the correct password, bodies go to Redis.
    let server = database.server(&[(
        "REDIS_INTERFACE",
        &format!("redis://:s3cr3t-of-redis@{}/1", locked.tcp_address()),
    )]);
    let (hash, _) = deliver(&server, "well");
    assert_eq!(body_column(&database, &hash), "redis");
    assert_eq!(without_trace(&server.show(&hash)), short_mail("well"));
}

#[test]
fn one_hundred_recipients_share_one_redis_timeout() {
    let database = MariaDb::start();
    let fake = FakeRedis::start(FakeBehavior::Hangs);
    let server = database.server(&[("REDIS_INTERFACE", &fake.address())]);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250 2.1.0");
    for number in 0..100 {
        client.command(&format!("RCPT TO:<u{number}@ours.test>"), "250 2.1.5");
    }
    client.command("DATA", "354 ");
    let (reply, took) = client.send_content(&short_mail("many"));
    assert_eq!(reply.code, 250, "{}", reply.text());
    assert_took(took, SAVE_TIME);
    assert_eq!(database.count(), 100);
}

#[test]
fn redis_is_reached_at_an_ipv6_address() {
    let database = MariaDb::start();
    let redis = Redis::start_with(&["--bind", "127.0.0.1", "::1"]);
    let interface = redis.address().replace("127.0.0.1", "[::1]");
    let server = database.server(&[("REDIS_INTERFACE", &interface)]);
    let (hash, _) = deliver(&server, "by IPv6");
    assert_eq!(body_column(&database, &hash), "redis");
    assert_eq!(without_trace(&server.show(&hash)), short_mail("by IPv6"));
}

#[test]
fn one_hundred_mails_do_not_each_wait_for_a_hanging_redis() {
    let database = MariaDb::start();
    let redis = Redis::start();
    let server = database.server(&[("REDIS_INTERFACE", &redis.address())]);
    deliver(&server, "before");
    redis.signal(Signal::SIGSTOP);
    let mut client = server.client();
    let mut in_all = Duration::ZERO;
    for number in 0..100 {
        client.begin_data("a@client.test", "u@ours.test");
        let (reply, took) = client.send_content(&short_mail(&number.to_string()));
        assert_eq!(reply.code, 250, "{}", reply.text());
        assert_took(took, SAVE_TIME);
        in_all += took;
    }
    // Less than half of the time that a wait of a quarter of a second for each would take.
    assert!(in_all < Duration::from_millis(100 * 250 / 2), "{in_all:?}");
    let in_table = "SELECT COUNT(*) FROM new_mail WHERE body = 'gzencode'";
    assert_eq!(database.number(in_table), 100);
}

/// Delivers mails until a body is in Redis again; asserts that every mail until then is saved as well.
fn wait_until_bodies_go_to_redis(server: &Server, database: &MariaDb) -> Duration {
    let started_at = Instant::now();
    wait_for_within("bodies to go to Redis again", RECOVERY_LIMIT, || {
        let (hash, took) = deliver(server, "probe");
        assert_took(took, SAVE_TIME);
        assert_eq!(without_trace(&server.show(&hash)), short_mail("probe"));
        (body_column(database, &hash) == "redis").then_some(())
    });
    started_at.elapsed()
}

#[test]
fn bodies_go_to_redis_again_after_it_recovers() {
    let database = MariaDb::start();
    let mut redis = Redis::start();
    let server = database.server(&[("REDIS_INTERFACE", &redis.address())]);
    assert_eq!(
        body_column(&database, &deliver(&server, "before").0),
        "redis"
    );
    redis.kill();
    assert_eq!(
        body_column(&database, &deliver(&server, "down").0),
        "gzencode"
    );
    redis.run();
    wait_until_bodies_go_to_redis(&server, &database);
    server.wait_for_log(" redis_recovered");

    redis.signal(Signal::SIGSTOP);
    assert_eq!(
        body_column(&database, &deliver(&server, "hanging").0),
        "gzencode"
    );
    redis.signal(Signal::SIGCONT);
    wait_until_bodies_go_to_redis(&server, &database);
}

#[test]
fn redis_that_hangs_during_auth_is_abandoned_and_used_again_later() {
    let database = MariaDb::start();
    let redis = Redis::start_with(&["--requirepass", "s3cr3t-of-redis"]);
    let proxy = FaultProxy::start(redis.tcp_address().parse().expect("an address"));
    proxy.set(Fault::Discard);
    let url = format!("redis://:s3cr3t-of-redis@{}/2", proxy.address());
    let server = database.server(&[("REDIS_INTERFACE", &url), ("GM_SAVE_WORKERS", "1")]);
    let (hash, took) = deliver(&server, "hanging");
    assert_took(took, SAVE_TIME);
    assert_eq!(body_column(&database, &hash), "gzencode");
    // Commands already sent over the hanging connection are never answered, even after this.
    proxy.set(Fault::Pass);
    wait_until_bodies_go_to_redis(&server, &database);
    assert!(!server.output().contains("s3cr3t"));
}

#[test]
fn late_redis_answer_is_not_taken_for_the_answer_to_the_next_command() {
    let database = MariaDb::start();
    let redis = Redis::start();
    let server = database.server(&[
        ("REDIS_INTERFACE", &redis.address()),
        ("GM_SAVE_WORKERS", "1"),
    ]);
    let mut mails = vec![("warm".to_owned(), deliver(&server, "warm").0)];
    for round in 0..3 {
        let _: String = redis.command(&["CLIENT", "PAUSE", "300", "ALL"]);
        for number in 0..3 {
            let subject = format!("{round}-{number}");
            let (hash, took) = deliver(&server, &subject);
            assert_took(took, SAVE_TIME);
            mails.push((subject, hash));
        }
        wait_until_bodies_go_to_redis(&server, &database);
        for number in 0..3 {
            let subject = format!("{round}-{number} after");
            mails.push((subject.clone(), deliver(&server, &subject).0));
        }
    }
    for (subject, hash) in mails {
        let in_table = body_column(&database, &hash);
        assert_eq!(
            without_trace(&server.show(&hash)),
            short_mail(&subject),
            "{subject} in {in_table}"
        );
        if in_table == "redis" {
            let stream: Vec<u8> = redis.command(&["GET", &hash]);
            let mail =
                goguerrilla::internals::mail::inflate(&stream, 10_000).expect("a zlib stream");
            assert_eq!(without_trace(&mail), short_mail(&subject));
        }
    }
}

#[test]
fn late_redis_ok_does_not_hide_the_refusal_of_the_next_body() {
    let database = MariaDb::start();
    let redis = Redis::start();
    let server = database.server(&[
        ("REDIS_INTERFACE", &redis.address()),
        ("GM_SAVE_WORKERS", "1"),
    ]);
    deliver(&server, "warm");
    let _: String = redis.command(&["CLIENT", "PAUSE", "400", "ALL"]);
    let (late, _) = deliver(&server, "late");
    // Redis answers PING after its pause ends; the late +OK is on its way by then.
    let _: String = redis.command(&["PING"]);
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut mails = vec![("late", late)];
    wait_for_within("Redis to be tried again", RECOVERY_LIMIT, || {
        mails.push(("refused", deliver(&server, "refused").0));
        (server.log().matches(" redis_failed ").count() >= 2).then_some(())
    });
    for (subject, hash) in mails {
        assert_eq!(body_column(&database, &hash), "gzencode", "{subject}");
        assert_eq!(without_trace(&server.show(&hash)), short_mail(subject));
    }
}

#[test]
fn failed_row_insert_leaves_only_an_expiring_redis_key() {
    let database = MariaDb::start();
    database.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON new_mail FOR EACH ROW
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'poison'",
    );
    let redis = Redis::start();
    let server = database.server(&[
        ("REDIS_INTERFACE", &redis.address()),
        ("REDIS_EXPIRE_SECONDS", "60"),
    ]);
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &short_mail("poison"));
    assert!(reply.text().starts_with("451 4.3.0 "), "{}", reply.text());
    assert_eq!(database.count(), 0);
    for hash in redis.bodies() {
        let seconds: i64 = redis.command(&["TTL", &hash]);
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
}

#[test]
fn redis_killed_under_load_loses_no_mail() {
    let database = MariaDb::start();
    let mut redis = Redis::start();
    let server = database.server(&[("REDIS_INTERFACE", &redis.address())]);
    let saved = AtomicUsize::new(0);
    let (clients, mails) = (4, 50);
    let slowest = thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|name| {
                let (server, saved) = (&server, &saved);
                scope.spawn(move || {
                    let mut client = server.client();
                    let mut slowest = Duration::ZERO;
                    for number in 0..mails {
                        client.begin_data("a@client.test", "u@ours.test");
                        let subject = format!("{name}-{number}");
                        let (reply, took) = client.send_content(&short_mail(&subject));
                        assert_eq!(reply.code, 250, "{}", reply.text());
                        slowest = slowest.max(took);
                        saved.fetch_add(1, Ordering::SeqCst);
                    }
                    slowest
                })
            })
            .collect();
        wait_for_within("some mails", RECOVERY_LIMIT, || {
            (saved.load(Ordering::SeqCst) >= 40).then_some(())
        });
        redis.kill();
        let times = threads.into_iter().map(|thread| thread.join());
        times.map(|time| time.expect("250 each")).max()
    });
    assert_took(slowest.expect("a time"), SAVE_TIME);
    assert_eq!(database.count(), clients * mails);
    let in_table: Vec<(String, String, Vec<u8>)> =
        database.rows("SELECT subject, body, mail FROM new_mail WHERE body = 'gzencode'");
    assert!(in_table.len() > 20, "{}", in_table.len());
    for (subject, _, stream) in in_table {
        let mail = goguerrilla::internals::mail::inflate(&stream, 10_000).expect("a zlib stream");
        assert_eq!(without_trace(&mail), short_mail(&subject));
    }
}

#[test]
fn check_warns_about_redis_settings_that_may_lose_bodies() {
    let database = MariaDb::start();
    let redis = Redis::start();
    let server = database.server(&[("REDIS_INTERFACE", &redis.address())]);
    let (is_ok, output) = server.check();
    assert!(is_ok && output.contains("appendonly yes"), "{output}");
    assert!(!output.contains("maxmemory-policy"), "{output}");
    let _: String = redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let _: String = redis.command(&["CONFIG", "SET", "appendonly", "yes"]);
    let (is_ok, output) = server.check();
    assert!(
        is_ok && output.contains("maxmemory-policy noeviction"),
        "{output}"
    );
    assert!(!output.contains("appendonly"), "{output}");
    redis.signal(Signal::SIGSTOP);
    let (is_ok, output) = server.check();
    redis.signal(Signal::SIGCONT);
    assert!(
        is_ok && output.contains("warning: REDIS_INTERFACE"),
        "{output}"
    );
}

#[test]
fn list_and_show_distinguish_an_unavailable_redis_from_expired_bodies() {
    let database = MariaDb::start();
    let mut redis = Redis::start();
    let server = database.server(&[("REDIS_INTERFACE", &redis.address())]);
    let hashes: Vec<String> = (0..5).map(|_| deliver(&server, "kept").0).collect();
    let _: u64 = redis.command(&["DEL", &hashes[0]]);
    let sizes = |listed: &ProcessResult| -> Vec<String> {
        let lines = listed.stdout.lines().skip(1);
        let size = |line: &str| line.split_whitespace().nth(6).expect("a size").to_owned();
        lines.map(size).collect()
    };
    let listed = run(server.folder.path(), &["list"]);
    assert_eq!((listed.status, listed.stderr.as_str()), (0, ""));
    let gone: Vec<bool> = sizes(&listed).iter().map(|size| size == "gone").collect();
    assert_eq!(gone, [false, false, false, false, true]);

    // While Redis hangs, all rows wait for it together.
    redis.signal(Signal::SIGSTOP);
    let started_at = Instant::now();
    let one = run(server.folder.path(), &["list", "--limit=1"]);
    let took_for_one = started_at.elapsed();
    let started_at = Instant::now();
    let listed = run(server.folder.path(), &["list"]);
    let took = started_at.elapsed();
    redis.signal(Signal::SIGCONT);
    assert_eq!(one.status, 0);
    assert_eq!(listed.status, 0);
    assert_eq!(sizes(&listed), ["unknown"; 5]);
    assert!(took < took_for_one * 3, "{took:?}, one {took_for_one:?}");

    redis.kill();
    let away = format!(
        "goguerrilla: REDIS_INTERFACE: Redis at {}: Connection refused (os error 111); ",
        redis.address()
    );
    let listed = run(server.folder.path(), &["list", "--json"]);
    assert_eq!(listed.status, 0);
    let fix = "so 5 of these mails have no size; start it, or correct REDIS_INTERFACE\n";
    assert_eq!(listed.stderr, away.clone() + fix);
    let mails: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(mails.as_array().map(Vec::len), Some(5));
    let shown = run(server.folder.path(), &["show", &hashes[1]]);
    let hash = &hashes[1];
    let fix = format!("the body of {hash} is kept there; start it, or correct REDIS_INTERFACE\n");
    assert_eq!((shown.status, shown.stderr), (1, away + &fix));
}
