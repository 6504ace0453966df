//! TLS to Redis: certificate and name are verified; whatever is wrong with them, bodies go into the table, and the log and
//! `check` name host, file, cause and fix.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::certificates::{Authority, Pair};
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::process::run;
use testkit::redis::{FakeBehavior, FakeRedis};
use testkit::redis_tls::{TlsRedis, TlsRedisCluster};
use testkit::steps::reload;
use testkit::{
    Server, incompressible, short_mail, test, wait_for, wait_for_within, without_trace,
    write_config,
};

/// The maximum time from the final dot to the 250 whatever Redis does, on a busy machine: a mail waits for Redis for a quarter
/// of a second at most. The shortest timeout that it could wait for by mistake is the 2 s for a connection.
const SAVE_LIMIT: Duration = Duration::from_millis(1_800);
/// The maximum time until bodies go to Redis again after failures.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// Delivers a mail with this content. Returns where its body is, after comparing it with the output of `show`.
fn deliver(server: &Server, database: &MariaDb, content: &[u8]) -> (String, Duration) {
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    let (reply, took) = client.send_content(content);
    let text = reply.text();
    let hash = text.strip_prefix("250 2.0.0 OK : queued as ");
    let hash = hash.unwrap_or_else(|| panic!("{text}"));
    let sql = format!("SELECT body FROM new_mail WHERE hash = '{hash}'");
    let location = database.rows(&sql).pop().expect("a row");
    assert_eq!(without_trace(&server.show(hash)), content);
    (location, took)
}

fn wait_until_bodies_go_to_redis(server: &Server, database: &MariaDb, content: &[u8]) {
    wait_for_within("bodies to go to Redis", RECOVERY_LIMIT, || {
        (deliver(server, database, content).0 == "redis").then_some(())
    });
}

/// Starts a server that saves at `database` and in this Redis.
fn server_with(database: &MariaDb, interface: &str, ca: &Authority) -> Server {
    let ca = ca.file.display().to_string();
    database.server(&[
        ("REDIS_INTERFACE", interface),
        ("REDIS_CA", &ca),
        ("GSMTP_MAX_SIZE", "2000000"),
    ])
}

#[test]
fn bodies_are_stored_in_and_read_from_redis_over_tls() {
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let pair = authority.issue("redis", &["localhost", "127.0.0.1"], 90);
    let database = MariaDb::start();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let options = ["--appendonly", "yes", "--tls-protocols", version];
        let server = TlsRedis::start(&pair, &options);
        let user = "ACL SETUSER mail on >s3cr3t-of-mail ~* +setex +get +del +info +select";
        let user: Vec<&str> = user.split(' ').collect();
        let _: String = server.redis.command(&user);
        for (login, host, number) in [
            ("", "127.0.0.1", ""),
            ("", "localhost", "/"),
            ("mail:s3cr3t-of-mail@", "localhost", "/1"),
        ] {
            let interface = server.url(login, host) + number;
            let goguerrilla = server_with(&database, &interface, &authority);
            wait_until_bodies_go_to_redis(&goguerrilla, &database, &short_mail("short"));
            // More than what rustls buffers at once.
            wait_until_bodies_go_to_redis(&goguerrilla, &database, &incompressible(1_000_000));
            let (is_ok, output) = goguerrilla.check();
            assert!(is_ok && !output.contains("REDIS"), "{interface}: {output}");
            let listed = run(goguerrilla.folder.path(), &["list"]);
            assert_eq!((listed.status, listed.stderr.as_str()), (0, ""));
            assert!(!(goguerrilla.output() + &output).contains("s3cr3t"));
        }
    }
}

#[test]
fn body_is_sent_again_if_redis_closed_an_idle_tls_connection() {
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let pair = authority.issue("redis", &["127.0.0.1"], 90);
    let database = MariaDb::start();
    let server = TlsRedis::start(&pair, &[]);
    let goguerrilla = server_with(&database, &server.url("", "127.0.0.1"), &authority);
    wait_until_bodies_go_to_redis(&goguerrilla, &database, &short_mail("first"));
    let failures = goguerrilla.log().matches(" redis_failed ").count();
    for number in 0..3 {
        let _: i64 = (server.redis).command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let (location, _) = deliver(&goguerrilla, &database, &short_mail(&number.to_string()));
        assert_eq!(location, "redis", "{}", goguerrilla.log());
    }
    let log = goguerrilla.log();
    assert_eq!(log.matches(" redis_failed ").count(), failures, "{log}");
}

#[test]
fn wrong_redis_certificate_puts_bodies_into_the_table_and_is_explained() {
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let other_authority = Authority::make(folder.path(), "other_authority");
    let database = MariaDb::start();
    let start = |pair: &Pair, options: &[&str]| TlsRedis::start(pair, options);
    let right = start(&authority.issue("right", &["localhost"], 90), &[]);
    let expired = start(&authority.issue("expired", &["localhost"], -1), &[]);
    let without_name = start(&authority.issue("without_name", &[], 90), &[]);
    let own = start(&authority.own_pair("own"), &[]);
    let wanting_client_certificate = start(
        &authority.issue("wanting_client_certificate", &["localhost"], 90),
        &["--tls-auth-clients", "yes"],
    );
    let plaintext = format!("rediss://:s3cr3t-1@{}", right.redis.tcp_address());
    let authority_file = authority.file.display().to_string();
    let other_authority_file = other_authority.file.display().to_string();
    let login = "mail:s3cr3t-2@";
    for (interface, ca, in_log, in_check) in [
        (
            right.url(login, "localhost"),
            other_authority_file.as_str(),
            "is signed by an authority that is neither one of Mozilla's nor in REDIS_CA (/",
            other_authority_file.as_str(),
        ),
        (
            right.url(login, "localhost"),
            "",
            "neither one of Mozilla's nor in REDIS_CA (which is empty)",
            "name the PEM file of its authority in REDIS_CA; bodies go into column `mail`",
        ),
        (
            expired.url(login, "localhost"),
            &authority_file,
            "has expired on 20",
            &authority_file,
        ),
        (
            right.url(login, "127.0.0.1"),
            &authority_file,
            " is for localhost, not for 127.0.0.1",
            "name the server in REDIS_INTERFACE as its certificate does",
        ),
        (
            without_name.url(login, "localhost"),
            &authority_file,
            " names no host in subjectAltName",
            "whose subjectAltName names localhost",
        ),
        (
            own.url(login, "localhost"),
            &authority_file,
            " is that of an authority",
            &authority_file,
        ),
        (
            wanting_client_certificate.url(login, "localhost"),
            &authority_file,
            " wants a certificate of the client",
            "tls-auth-clients no",
        ),
        (
            plaintext,
            &authority_file,
            " has not completed the handshake",
            "it answers without TLS; name its tls-port",
        ),
    ] {
        let settings = [("REDIS_INTERFACE", interface.as_str()), ("REDIS_CA", ca)];
        let server = database.server(&settings);
        let (location, took) = deliver(&server, &database, &short_mail("one"));
        assert_eq!(location, "gzencode", "{in_log}");
        assert!(took < SAVE_LIMIT, "{in_log}: {took:?}");
        let (is_ok, output) = server.check();
        let line = output.lines().find(|line| line.contains("REDIS"));
        let line = line.unwrap_or_else(|| panic!("{in_log}: {output}"));
        // Mail is saved all the same, so this is no error.
        assert!(is_ok && line.starts_with("warning: "), "{in_log}: {output}");
        assert!(line.contains(in_check), "{in_check}: {output}");
        let host = interface.rsplit('@').next().expect("a host");
        assert!(line.contains(host), "{host}: {output}");
        assert!(line.contains("into column `mail`"), "{output}");
        assert!(!line.contains("start Redis"), "{output}");
        // Each later failure is logged after a pause; the first one may be a connection that took too long.
        let logged = wait_for_within("the reason in the log", RECOVERY_LIMIT, || {
            deliver(&server, &database, &short_mail("two"));
            let log = server.log();
            let mut failed = log.lines().filter(|line| line.contains(" redis_failed "));
            failed.find(|line| line.contains(in_log)).map(str::to_owned)
        });
        assert!(!logged.contains("s3cr3t"), "{logged}");
        assert!(!(server.output() + &output).contains("s3cr3t"), "{output}");
    }
}

#[test]
fn incomplete_tls_handshake_of_redis_neither_loses_nor_delays_mail() {
    let database = MariaDb::start();
    for behavior in [
        FakeBehavior::Hangs,
        // The beginning of a handshake record of 16,000 octets.
        FakeBehavior::RepliesSlowly(
            b"\x16\x03\x03\x3e\x80\x02\x00\x3e\x7c\x03\x03 and so on and on and on and on and on",
        ),
        FakeBehavior::Replies(b"garbage\r\n"),
        FakeBehavior::RepliesAndCloses(b"\x15\x03\x03\x00\x02\x02\x28"),
        FakeBehavior::RepliesAndCloses(b""),
    ] {
        let fake = FakeRedis::start(behavior);
        let server =
            database.server(&[("REDIS_INTERFACE", &format!("rediss://{}", fake.address()))]);
        for number in 0..2 {
            let (location, took) = deliver(&server, &database, &short_mail(&number.to_string()));
            assert_eq!(location, "gzencode", "{behavior:?}");
            assert!(took < SAVE_LIMIT, "{behavior:?}: {took:?}");
        }
        server.wait_for_log(" redis_failed ");
        let started_at = Instant::now();
        let (is_ok, output) = server.check();
        assert!(
            is_ok && output.contains("REDIS_INTERFACE"),
            "{behavior:?}: {output}"
        );
        assert!(
            started_at.elapsed() < Duration::from_secs(60),
            "{behavior:?}"
        );
    }
}

#[test]
fn reload_applies_redis_ca_and_rejects_one_that_cannot_be_used() {
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let other_authority = Authority::make(folder.path(), "other_authority");
    let pair = authority.issue("redis", &["127.0.0.1"], 90);
    let database = MariaDb::start();
    let redis = TlsRedis::start(&pair, &[]);
    let interface = redis.url("", "127.0.0.1");
    let server = server_with(&database, &interface, &other_authority);
    let mail = short_mail("one");
    assert_eq!(deliver(&server, &database, &mail).0, "gzencode");

    let address = database.address().to_string();
    let ca = authority.file.display().to_string();
    let settings = with_hosts(
        &address,
        &[("REDIS_INTERFACE", &interface), ("REDIS_CA", &ca)],
    );
    reload(&server, &settings);
    wait_until_bodies_go_to_redis(&server, &database, &mail);

    let missing = folder.path().join("missing.pem").display().to_string();
    for (file, cause) in [
        (&missing, "No such file"),
        (
            &pair.key.display().to_string(),
            "no certificate in PEM form",
        ),
    ] {
        let wrong = with_hosts(
            &address,
            &[("REDIS_INTERFACE", &interface), ("REDIS_CA", file)],
        );
        write_config(server.folder.path(), &wrong);
        server.signal(Signal::SIGHUP);
        let line = wait_for("the rejected reload", || {
            let log = server.log();
            let mut lines = log.lines().filter(|line| line.contains(" reload_refused "));
            lines.find(|line| line.contains(cause)).map(str::to_owned)
        });
        assert!(line.contains("REDIS_CA") && line.contains(file), "{line}");
        let (is_ok, output) = server.check();
        let error = output
            .lines()
            .find(|line| line.starts_with("error: REDIS_CA: "));
        let error = error.unwrap_or_else(|| panic!("{output}"));
        assert!(
            !is_ok && error.contains(file) && error.contains(cause),
            "{error}"
        );
        let ended = run(server.folder.path(), &["-config=goguerrilla.conf"]);
        assert_eq!(ended.status, 1);
        assert!(
            ended.stderr.starts_with("goguerrilla: REDIS_CA: "),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains(cause), "{}", ended.stderr);
        // `show` reads the configuration of the running server.
        write_config(server.folder.path(), &settings);
        assert_eq!(deliver(&server, &database, &mail).0, "redis");
    }

    // The file is read for each connection, so that a renewed authority needs no reload.
    fs::copy(&other_authority.file, &authority.file).expect("the file is replaced");
    let _: i64 = (redis.redis).command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(deliver(&server, &database, &mail).0, "gzencode");
}

#[test]
fn bodies_go_to_each_node_of_a_redis_cluster_over_tls() {
    let database = MariaDb::start();
    let by_name = [
        "--cluster-announce-hostname",
        "localhost",
        "--cluster-preferred-endpoint-type",
        "hostname",
    ];
    for (host, options) in [("127.0.0.1", &[][..]), ("localhost", &by_name)] {
        let folder = TempDir::new().expect("a temporary folder");
        let authority = Authority::make(folder.path(), "authority");
        let pairs = [0, 1, 2].map(|node| authority.issue(&format!("node{node}"), &[host], 90));
        let cluster = TlsRedisCluster::start(&authority, &pairs, options);
        let server = server_with(&database, &cluster.urls(host), &authority);
        let mail = short_mail("one");
        let all_in_redis = || {
            let mut locations = (0..15).map(|_| deliver(&server, &database, &mail).0);
            locations.all(|location| location == "redis").then_some(())
        };
        wait_for_within("all nodes", RECOVERY_LIMIT, all_in_redis);
        let bodies = cluster.cluster.bodies_by_node();
        assert!(bodies.iter().all(|bodies| !bodies.is_empty()), "{bodies:?}");
        let (is_ok, output) = server.check();
        let command = format!("redis-cli --tls --cacert {}", authority.file.display());
        assert!(is_ok && output.contains(&command), "{output}");
        assert!(!output.contains("TLS: "), "{output}");
        let listed = run(server.folder.path(), &["list"]);
        assert_eq!((listed.status, listed.stderr.as_str()), (0, ""));

        // Nodes answer MOVED with the TLS port of the new owner.
        cluster.cluster.move_slots_to(2);
        wait_for_within("the new owner", RECOVERY_LIMIT, all_in_redis);
        let bodies = cluster.cluster.bodies_by_node();
        assert!(bodies[2].len() >= 10, "{bodies:?}");
    }
}

#[test]
fn only_bodies_of_the_redis_cluster_node_with_a_wrong_certificate_go_into_the_table() {
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    // The other nodes verify the authority but not the name.
    let names = ["127.0.0.1", "elsewhere.test", "127.0.0.1"];
    let pairs = [0, 1, 2].map(|node| authority.issue(&format!("node{node}"), &[names[node]], 90));
    let database = MariaDb::start();
    let cluster = TlsRedisCluster::start(&authority, &pairs, &[]);
    let server = server_with(&database, &cluster.urls("127.0.0.1"), &authority);
    let locations = wait_for_within("both locations", RECOVERY_LIMIT, || {
        let locations: Vec<String> = (0..30)
            .map(|_| deliver(&server, &database, &short_mail("one")).0)
            .collect();
        locations.contains(&"redis".to_owned()).then_some(locations)
    });
    assert!(locations.contains(&"gzencode".to_owned()), "{locations:?}");
    let bodies = cluster.cluster.bodies_by_node();
    assert!(bodies[1].is_empty() && !bodies[0].is_empty(), "{bodies:?}");
    let (is_ok, output) = server.check();
    let node = format!(
        "Redis at 127.0.0.1:{}: TLS: the certificate of 127.0.0.1:",
        cluster.tls_ports[1]
    );
    let line = output.lines().find(|line| line.contains(&node));
    let line = line.unwrap_or_else(|| panic!("{output}"));
    assert!(is_ok && line.contains("elsewhere.test"), "{line}");
    assert!(line.ends_with("its bodies go into column `mail`"), "{line}");
}
