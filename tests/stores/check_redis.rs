//! `goguerrilla check` with Redis: each fault is reported in one line with its own fix.

use std::io::{Read, Write};
use std::net::TcpStream;

use tempfile::TempDir;

use testkit::mariadb::{MariaDb, with_hosts};
use testkit::ports::free_port;
use testkit::process::run;
use testkit::redis::{FakeBehavior, FakeRedis, Redis, RedisCluster};
use testkit::server_programs::is_valkey;
use testkit::{test, wait_for, write_config};

#[test]
fn check_reports_each_redis_error_in_one_line_with_its_fix() {
    let database = MariaDb::start();
    let open = Redis::start_with(&["--appendonly", "yes"]);
    let closed = Redis::start_with(&["--appendonly", "yes", "--requirepass", "s3cr3t-of-redis"]);
    let _: String = closed.command(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">s3cr3t-of-reader",
        "~*",
        "+get",
        "+info",
        "+ping",
        "+select",
    ]);
    let replica = Redis::start_with(&["--appendonly", "yes", "--replicaof", "127.0.0.1", "1"]);
    let full = Redis::start_with(&[
        "--appendonly",
        "yes",
        "--maxmemory",
        "1",
        "--maxmemory-policy",
        "noeviction",
    ]);
    // The default port for other nodes is 10,000 higher, where clients get theirs.
    let bus = free_port().to_string();
    let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let alone = Redis::start_with(&[&["--appendonly", "yes"], &cluster[..]].concat());
    let ssh = FakeRedis::start(FakeBehavior::Greets(
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"",
    ));
    let http = FakeRedis::start(FakeBehavior::RepliesAndCloses(
        b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
    ));
    let tls = FakeRedis::start(FakeBehavior::RepliesAndCloses(
        b"\x15\x03\x03\0\x02\x02\x46",
    ));
    let fakes = [
        (
            &b"-LOADING Redis is loading the dataset in memory\r\n"[..],
            "LOADING ",
            "wait until Redis has read",
        ),
        (
            b"-MISCONF Redis is configured to save RDB snapshots\r\n",
            "MISCONF ",
            "stop-writes-on-bgsave-error",
        ),
        (
            b"-CLUSTERDOWN Hash slot not served\r\n",
            "CLUSTERDOWN ",
            "cluster-require-full-coverage",
        ),
        (
            b"-DENIED Redis is running in protected mode\r\n",
            "DENIED ",
            "protected mode",
        ),
        (
            b"-MOVED 1234 127.0.0.1:7001\r\n",
            "MOVED ",
            "comma separated",
        ),
        (
            b"-ERR max number of clients reached\r\n",
            "ERR max number",
            "maxclients",
        ),
        (
            b"-NOREPLICAS Not enough good replicas to write.\r\n",
            "NOREPLICAS ",
            "min-replicas-to-write",
        ),
        (
            b"-ERR a\x1b[2J\rerror: b\r\n",
            "ERR a\\u{1b}[2J\\rerror: b",
            "",
        ),
        (b"-STRANGE something new\r\n", "STRANGE something new", ""),
    ];
    let listening: Vec<FakeRedis> = fakes
        .iter()
        .map(|(reply, ..)| FakeRedis::start(FakeBehavior::Replies(reply)))
        .collect();
    let url = |login: &str, redis: &Redis, number: &str| {
        format!("redis://{login}{}/{number}", redis.address())
    };
    let mut cases = vec![
        (
            closed.address(),
            "NOAUTH Authentication required",
            "correct user and password",
        ),
        (
            url(":s3cr3t-wrong@", &closed, ""),
            "WRONGPASS ",
            "correct user and password",
        ),
        (
            url("nobody:s3cr3t-of-redis@", &closed, ""),
            "WRONGPASS ",
            "correct user and password",
        ),
        (
            url("reader:s3cr3t-of-reader@", &closed, ""),
            "NOPERM ",
            "ACL SETUSER",
        ),
        (
            url(":s3cr3t-needless@", &open, ""),
            "without any password configured",
            "take the password out",
        ),
        (
            url("", &open, "99"),
            "ERR DB index is out of range",
            "below `databases`",
        ),
        (replica.address(), "READONLY ", "name the master"),
        (full.address(), "OOM ", "raise maxmemory"),
        (
            url("", &alone, "1"),
            // A cluster of Valkey 9 has as many databases as its `cluster-databases`, which is 1 by default.
            if is_valkey() {
                "ERR DB index is out of range"
            } else {
                "ERR SELECT is not allowed in cluster mode"
            },
            if is_valkey() {
                "0 always exists"
            } else {
                "name no database"
            },
        ),
        (
            format!("{},{}", open.address(), replica.address()),
            "",
            "name one host:port",
        ),
        (
            ssh.address(),
            "it answers like SSH",
            "must be the address of a Redis",
        ),
        (
            http.address(),
            "it answers like HTTP",
            "must be the address of a Redis",
        ),
        (tls.address(), "it answers like TLS", "write rediss://"),
        (
            database.address().to_string(),
            "it answers like MySQL",
            "must be the address of a Redis",
        ),
        (
            "127.0.0.1:1".to_owned(),
            "Connection refused",
            "start Redis",
        ),
        (
            "/nowhere/redis.sock".to_owned(),
            "No such file",
            "start Redis",
        ),
    ];
    for ((_, words, fix), redis) in fakes.iter().zip(&listening) {
        cases.push((redis.address(), words, fix));
    }
    for (interface, words, fix) in cases {
        let (status, output) = checked(&database, &interface);
        // Bodies go into the table until Redis is usable, so this is no error.
        assert_eq!(status, 0, "{interface}: {output}");
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines.len(), 1, "{interface}: {output}");
        assert!(
            lines[0].starts_with("warning: REDIS_INTERFACE: "),
            "{interface}: {output}"
        );
        assert!(lines[0].contains(words), "{interface}: {words}: {output}");
        assert!(lines[0].contains(fix), "{interface}: {fix}: {output}");
        let is_away = words.contains("refused") || words.contains("No such file");
        assert_eq!(
            lines[0].contains("start Redis"),
            is_away,
            "{interface}: {output}"
        );
        assert!(!output.contains("s3cr3t"), "{output}");
    }
}

#[test]
fn check_quotes_a_redis_error_sent_on_connect() {
    let database = MariaDb::start();
    let redis = Redis::start_with(&["--appendonly", "yes", "--maxclients", "1"]);
    let held = wait_for("its only slot", || {
        let mut client = TcpStream::connect(redis.address()).expect("it listens");
        let mut answer = [0; 7];
        let asked = client.write_all(b"PING\r\n");
        let answered = asked.and_then(|()| client.read_exact(&mut answer));
        (answered.is_ok() && &answer == b"+PONG\r\n").then_some(client)
    });
    for _ in 0..5 {
        let (status, output) = checked(&database, &redis.address());
        assert_eq!((status, output.lines().count()), (0, 1), "{output}");
        assert!(
            output.contains("max number of clients reached") && output.contains("raise maxclients"),
            "{output}"
        );
    }
    drop(held);
}

#[test]
fn malformed_redis_answers_do_not_crash_check_or_server() {
    let database = MariaDb::start();
    let arrays: &'static [u8] = b"*1\r\n".repeat(200_000).leak();
    for nonsense in [
        arrays,
        b"$99999999999999999999\r\n",
        b"*2147483647\r\n",
        b"\0\xff\r\n",
    ] {
        let redis = FakeRedis::start(FakeBehavior::Replies(nonsense));
        let server = database.server(&[("REDIS_INTERFACE", &redis.address())]);
        let (is_ok, output) = server.check();
        assert!(is_ok && output.contains("parse error: "), "{output}");
        let reply = server
            .client()
            .deliver("a@client.test", "u@ours.test", b"x\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
        server.wait_for_log(" redis_failed ");
        server
            .client()
            .deliver("a@client.test", "u@ours.test", b"y\r\n");
    }
}

#[test]
fn check_shows_no_password_when_redis_rejects_auth_as_unknown_command() {
    let database = MariaDb::start();
    let redis = Redis::start_with(&["--appendonly", "yes", "--rename-command", "AUTH", "entered"]);
    let interface = format!("redis://:s3cr3t-shown@{}/", redis.address());
    let (status, output) = checked(&database, &interface);
    assert!(
        status == 0 && output.contains("ERR unknown command"),
        "{output}"
    );
    assert!(!output.contains("s3cr3t"), "{output}");
}

#[test]
fn check_reports_redis_cluster_node_errors_with_their_fix() {
    let database = MariaDb::start();
    let cluster = RedisCluster::start_with(&["--appendonly", "yes"]);
    let _: String = cluster.nodes[1].command(&["CONFIG", "SET", "maxmemory", "1"]);
    let (status, output) = checked(&database, &cluster.addresses());
    assert_eq!((status, output.lines().count()), (0, 1), "{output}");
    let full = format!(
        "node {} does not take bodies: OOM ",
        cluster.nodes[1].address()
    );
    assert!(
        output.contains(&full) && output.contains("raise maxmemory"),
        "{output}"
    );
    // The configuration names one node of a cluster as if it were a single server.
    let (status, output) = checked(&database, &cluster.nodes[0].address());
    let moved = output.contains("MOVED ") && output.contains("comma separated");
    let stays = output.is_empty();
    assert!(status == 0 && (moved || stays), "{output}");
}

#[test]
fn changed_redis_password_is_logged_as_an_authentication_error() {
    let database = MariaDb::start();
    let mut redis = Redis::start_with(&["--appendonly", "yes"]);
    for (login, words) in [("", "NOAUTH "), (":s3cr3t-old@", "WRONGPASS ")] {
        let interface = format!("redis://{login}{}/", redis.address());
        if !login.is_empty() {
            let _: String = redis.command(&["CONFIG", "SET", "requirepass", "s3cr3t-old"]);
            redis.set_password("s3cr3t-old");
        }
        let server = database.server(&[("REDIS_INTERFACE", &interface)]);
        server
            .client()
            .deliver("a@client.test", "u@ours.test", b"x\r\n");
        assert!(!server.log().contains(" redis_failed "), "{}", server.log());
        let _: String = redis.command(&["CONFIG", "SET", "requirepass", "s3cr3t-new"]);
        redis.set_password("s3cr3t-new");
        // Authenticated connections survive a change of the password; Redis may close them at any time.
        let _: i64 = redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        let bodies = redis.bodies().len();
        let reply = server
            .client()
            .deliver("a@client.test", "u@ours.test", b"y\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
        assert_eq!(redis.bodies().len(), bodies);
        server.wait_for_log(" redis_failed ");
        let log = server.log();
        let trouble = log.lines().find(|line| line.contains(" redis_failed "));
        assert!(
            trouble.is_some_and(|line| line.contains(words)),
            "{words}: {trouble:?}"
        );
        let (is_ok, output) = server.check();
        assert!(
            is_ok && output.contains(words) && !output.contains("start Redis"),
            "{output}"
        );
        assert!(!(server.output() + &output).contains("s3cr3t"), "{output}");
        let _: String = redis.command(&["CONFIG", "SET", "requirepass", ""]);
        redis.set_password("");
    }
}

/// Returns the status and the lines of `check` that are about Redis.
fn checked(database: &MariaDb, interface: &str) -> (i32, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let address = database.address().to_string();
    let mut all = with_hosts(&address, &[]);
    all.retain(|(key, _)| *key != "REDIS_INTERFACE");
    all.push(("REDIS_INTERFACE", interface));
    write_config(folder.path(), &all);
    let ended = run(folder.path(), &["check", "-config=goguerrilla.conf"]);
    assert_eq!(ended.stderr, "");
    // The other lines are about the older table and the mode of the configuration file.
    let is_other =
        |line: &&str| line.contains("GM_MAIL_TABLE") || line.contains("goguerrilla.conf:");
    let lines = ended.stdout.lines().filter(|line| !is_other(line));
    (
        ended.status,
        lines.map(|line| format!("{line}\n")).collect(),
    )
}
