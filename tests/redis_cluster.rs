//! Three masters of a Redis Cluster: each body at its node, a lost node costs only its own bodies their place.

use std::time::{Duration, Instant};

use crate::support::mariadb::MariaDb;
use crate::support::redis::RedisCluster;
use crate::support::{Server, short_mail, wait_for_within, without_trace};

/// What a mail may take from its final dot to its 250 whatever the cluster does, in a build without optimisation.
const MOMENT: Duration = Duration::from_millis(500);
/// How soon bodies go to a node again that came back.
const HEALED_WITHIN: Duration = Duration::from_secs(20);

/// Delivers so many mails; whether each is in the table's column, and whether all can be shown.
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
            assert!(sent_at.elapsed() < MOMENT, "{:?}", sent_at.elapsed());
            let text = reply.text();
            let hash = text.strip_prefix("250 2.0.0 OK : queued as ");
            hash.unwrap_or_else(|| panic!("{text}")).to_owned()
        })
        .collect();
    let places: Vec<String> = hashes
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
    let count = |place: &str| places.iter().filter(|one| *one == place).count();
    (count("redis"), count("gzencode"))
}

#[test]
fn a_lost_node_costs_only_its_bodies_their_place() {
    let database = MariaDb::start();
    let mut cluster = RedisCluster::start();
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses())]);
    assert_eq!(deliver(&server, &database, 30), (30, 0));
    let held: Vec<usize> = cluster
        .nodes
        .iter()
        .map(|node| node.bodies().len())
        .collect();
    assert!(held.iter().all(|count| *count > 0), "{held:?}");
    assert_eq!(held.iter().sum::<usize>(), 30);
    assert_eq!(server.list().len(), 30);

    cluster.nodes[1].kill();
    let (in_redis, in_table) = deliver(&server, &database, 30);
    assert!(in_redis > 0 && in_table > 0, "{in_redis}, {in_table}");
    server.wait_for_log(" redis_trouble ");
    let (is_well, said) = server.check();
    assert!(
        is_well && said.contains("warning: REDIS_INTERFACE"),
        "{said}"
    );

    cluster.nodes[1].run();
    cluster.wait_until_whole();
    wait_for_within("its bodies to go there again", HEALED_WITHIN, || {
        (deliver(&server, &database, 10) == (10, 0)).then_some(())
    });
}

#[test]
fn slots_that_move_are_followed() {
    let database = MariaDb::start();
    let cluster = RedisCluster::start();
    let server = database.server(&[("REDIS_INTERFACE", &cluster.addresses())]);
    assert_eq!(deliver(&server, &database, 10), (10, 0));
    cluster.give_slots_to(2);
    assert_eq!(deliver(&server, &database, 20), (20, 0));
    assert!(!server.log().contains("redis_trouble"));
}

#[test]
fn a_cluster_that_is_gone_costs_no_mail() {
    let database = MariaDb::start();
    let mut cluster = RedisCluster::start();
    let addresses = cluster.addresses();
    cluster.nodes.iter_mut().for_each(|node| node.kill());
    let server = database.server(&[("REDIS_INTERFACE", &addresses)]);
    assert_eq!(deliver(&server, &database, 5), (0, 5));
}
