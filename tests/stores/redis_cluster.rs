//! Redis Cluster with three masters: each body goes to the node of its slot; while a node is unavailable, only the
//! bodies of its slots go into the table.

use std::time::{Duration, Instant};

use testkit::mariadb::MariaDb;
use testkit::process::run;
use testkit::redis::RedisCluster;
use testkit::{
    AT_ONCE, Server, assert_took, short_mail, test, value, wait_for, wait_for_within, without_trace,
};

/// The expected time of a delivery, whatever state the cluster is in: the guarantee is a quarter of a second for Redis alone.
const SAVE_TIME: Duration = Duration::from_millis(300);
/// How soon a restarted node must receive bodies again: ten times the expected ten seconds.
const RECOVERY_LIMIT: Duration = Duration::from_secs(100);

/// Delivers `count` mails and checks `show` for each. Returns how many bodies are in Redis and how many in the table.
fn deliver(server: &Server, database: &MariaDb, count: usize) -> (usize, usize) {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    let hashes: Vec<String> = (0..count)
        .map(|number| {
            let sent_at = Instant::now();
            let reply = client.deliver(
                "a@client.test",
                "u@ours.test",
                &short_mail(&number.to_string()),
            );
            assert_took(sent_at.elapsed(), SAVE_TIME);
            let text = reply.text();
            let hash = text.strip_prefix("250 2.0.0 OK : queued as ");
            hash.unwrap_or_else(|| panic!("{text}")).to_owned()
        })
        .collect();
    let locations: Vec<String> = hashes
        .iter()
        .map(|hash| {
            let sql = format!("SELECT body FROM new_mail WHERE hash = '{hash}'");
            database.rows(&sql).pop().expect("a row")
        })
        .collect();
    for (number, hash) in hashes.iter().enumerate() {
        let shown = server.show(hash);
        assert_eq!(without_trace(&shown), short_mail(&number.to_string()));
    }
    let count = |location: &str| locations.iter().filter(|one| *one == location).count();
    (count("redis"), count("gzencode"))
}

#[test]
fn bodies_of_a_lost_redis_cluster_node_go_into_the_table() {
    let database = MariaDb::start();
    let mut cluster = RedisCluster::start();
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses())]);
    assert_eq!(deliver(&server, &database, 30), (30, 0));
    let held = cluster.bodies_by_node();
    assert!(held.iter().all(|bodies| !bodies.is_empty()), "{held:?}");
    assert_eq!(held.iter().map(Vec::len).sum::<usize>(), 30);
    assert_eq!(server.list().len(), 30);

    cluster.nodes[1].kill();
    let (in_redis, in_table) = deliver(&server, &database, 30);
    assert!(in_redis > 0 && in_table > 0, "{in_redis}, {in_table}");
    server.wait_for_log(" redis_failed ");
    let (is_ok, output) = server.check();
    let lost = cluster.nodes[1].address();
    let warning = "its bodies go into column `mail`; start it";
    let warning = format!("Redis at {lost}: Connection refused (os error 111); {warning}");
    assert!(is_ok && output.contains(&warning), "{output}");
    assert_list_and_show_name_the_lost_node(&server, &cluster);

    cluster.nodes[1].run();
    cluster.wait_until_all_slots_are_served();
    wait_for_within(
        "the restarted node to receive bodies",
        RECOVERY_LIMIT,
        || (deliver(&server, &database, 10) == (10, 0)).then_some(()),
    );
}

/// Asserts that `list` and `show` report node 1 as unavailable instead of reporting its bodies as expired.
fn assert_list_and_show_name_the_lost_node(server: &Server, cluster: &RedisCluster) {
    let lost = cluster.nodes[1].address();
    let started_at = Instant::now();
    let listed = run(server.folder.path(), &["list", "--limit=1000"]);
    // Rows do not wait for a node that is already known to be unavailable.
    assert_took(started_at.elapsed(), AT_ONCE);
    assert_eq!(listed.status, 0, "{listed:?}");
    let column = |line: &str, number: usize| {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words[number].clone()
    };
    let lines: Vec<&str> = listed.stdout.lines().skip(1).collect();
    assert_eq!(lines.len(), 60);
    // The date consists of two words.
    let count_with_size = |size: &str| lines.iter().filter(|line| column(line, 6) == size).count();
    let unknown = count_with_size("unknown");
    assert!((1..30).contains(&unknown), "{}", listed.stdout);
    assert_eq!(count_with_size("gone"), 0, "{}", listed.stdout);
    assert_eq!(
        listed.stderr,
        format!(
            "goguerrilla: REDIS_INTERFACE: Redis at {lost}: Connection refused (os error 111); so {unknown} of these \
             mails have no size; start it, or correct REDIS_INTERFACE\n"
        )
    );
    let line = lines.iter().find(|line| column(line, 6) == "unknown");
    let hash = column(line.expect("a mail of unknown size"), 0);
    let shown = run(server.folder.path(), &["show", &hash]);
    assert_eq!((shown.status, shown.stdout.as_str()), (1, ""));
    assert_eq!(
        shown.stderr,
        format!(
            "goguerrilla: REDIS_INTERFACE: Redis at {lost}: Connection refused (os error 111); the body of {hash} is kept \
             there; start it, or correct REDIS_INTERFACE\n"
        )
    );
}

#[test]
fn ask_redirection_is_followed_while_a_redis_cluster_slot_migrates() {
    let database = MariaDb::start();
    let cluster = RedisCluster::start();
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses())]);
    assert_eq!(deliver(&server, &database, 5), (5, 0));
    let held_before = cluster.bodies_by_node();
    cluster.start_slot_migration(0, 2);
    // Every new body of node 0 is answered with an ASK redirection.
    assert_eq!(deliver(&server, &database, 30), (30, 0));
    let held = cluster.bodies_by_node();
    assert_eq!(held[0], held_before[0]);
    let node = &cluster.nodes[0];
    let came = held[2].iter().filter(|hash| {
        let slot: usize = node.command(&["CLUSTER", "KEYSLOT", hash]);
        RedisCluster::initial_owner(slot) == 0
    });
    assert!(came.count() > 0, "{held:?}");
    assert!(!server.log().contains("redis_failed"));
    assert_eq!(server.list().len(), 35, "list shows all mails");
}

#[test]
fn check_and_log_warn_about_redis_cluster_nodes_that_may_lose_bodies() {
    let database = MariaDb::start();
    let cluster = RedisCluster::start_with(&["--appendonly", "yes"]);
    let node = &cluster.nodes[1];
    let _: String = node.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let node = &cluster.nodes[2];
    let _: String = node.command(&["CONFIG", "SET", "appendonly", "no"]);
    let _: String = node.command(&["CONFIG", "SET", "cluster-require-full-coverage", "yes"]);
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses())]);
    let (is_ok, output) = server.check();
    let redis_lines = output.lines().filter(|line| line.contains("REDIS_"));
    let redis_lines: Vec<&str> = redis_lines.collect();
    let [one, two] = [1, 2].map(|node: usize| cluster.nodes[node].address());
    let cli = |address: &str| {
        format!(
            "redis-cli -h 127.0.0.1 -p {}",
            &address["127.0.0.1:".len()..]
        )
    };
    let mut wanted = [
        format!(
            "warning: REDIS_INTERFACE: maxmemory-policy of node {one} is allkeys-lru, which may evict bodies before \
             they expire; run: {} CONFIG SET maxmemory-policy noeviction",
            cli(&one)
        ),
        format!(
            "warning: REDIS_INTERFACE: node {two} keeps no append-only file, so a body acknowledged there can be lost if \
             it crashes; run: {} CONFIG SET appendonly yes, or set REDIS_INTERFACE to \"\" to keep bodies in MySQL",
            cli(&two)
        ),
        format!(
            "warning: REDIS_INTERFACE: node {two} stores nothing while another node is down \
             (cluster-require-full-coverage); run: {} CONFIG SET cluster-require-full-coverage no",
            cli(&two)
        ),
    ];
    // The warnings are sorted by node address.
    wanted.sort_by_key(|line| !line.contains(&format!("node {}", one.clone().min(two.clone()))));
    assert!(is_ok);
    assert_eq!(redis_lines, wanted);
    for warning in &wanted {
        let finding = warning.trim_start_matches("warning: ");
        wait_for("the warning in the log", || {
            let log = server.log();
            let mut lines = log.lines().filter(|line| line.contains(" store_check "));
            lines.find(|line| value(line, "finding").as_deref() == Some(finding))?;
            Some(())
        });
    }
}

#[test]
fn moved_redis_cluster_slots_are_followed() {
    let database = MariaDb::start();
    let cluster = RedisCluster::start();
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses())]);
    assert_eq!(deliver(&server, &database, 10), (10, 0));
    cluster.move_slots_to(2);
    assert_eq!(deliver(&server, &database, 20), (20, 0));
    assert!(!server.log().contains("redis_failed"));
}

#[test]
fn unavailable_redis_cluster_loses_no_mail() {
    let database = MariaDb::start();
    let mut cluster = RedisCluster::start();
    let addresses = cluster.addresses();
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    let server = database.server(&[("REDIS_INTERFACE", &addresses)]);
    assert_eq!(deliver(&server, &database, 5), (0, 5));
}
