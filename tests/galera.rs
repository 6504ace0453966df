//! Three nodes of Galera, killed and brought back in turn under load: every 250 is in the cluster once, and the server goes
//! on with the next node by itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use crate::support::galera::Galera;
use crate::support::load::{Account, Load, content_of};
use crate::support::mariadb::with_hosts;
use crate::support::{Server, short_mail, wait_for_within, without_trace};

/// How soon mail is saved again when a node is lost. Galera itself stands still for five seconds first.
// The promise is ten seconds; the rest is for a build without optimisation beside other tests.
const HEALED_WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_node_in_trouble_costs_no_mail_and_is_gone_back_to() {
    // One cluster for both: to start one takes a quarter of a minute.
    let mut galera = Galera::start();
    a_node_that_takes_nothing_is_left_within_a_second(&galera);
    galera.sql_at(0, "TRUNCATE mail.new_mail");
    if rounds() > 0 {
        a_node_that_is_killed_is_left_and_gone_back_to(&mut galera);
    }
}

fn a_node_that_is_killed_is_left_and_gone_back_to(galera: &mut Galera) {
    let hosts = galera.hosts();
    let server = Server::start(&with_hosts(&hosts, &[]));
    let load = Load::start(server.address, 8, "mail");
    load.wait_for_more(50);
    for round in 0..rounds() {
        let node = round % 3;
        galera.kill(node);
        let lost_at = Instant::now();
        load.wait_for_more(100);
        let took = lost_at.elapsed();
        println!("node {node} lost: 100 mails more after {took:?}");
        assert!(took < HEALED_WITHIN, "{took:?}");
        galera.run(node);
        wait_for_node_lines(&server, "node_left", "node_back");
        load.wait_for_more(50);
    }
    let account = load.stop();
    assert_promise_kept(&account, &stored_markers(galera));
    assert!(
        server
            .log()
            .contains(&format!("node_left node={}", galera.host(0)))
    );
}

fn a_node_that_takes_nothing_is_left_within_a_second(galera: &Galera) {
    let hosts = galera.hosts();
    let server = Server::start(&with_hosts(&hosts, &[]));
    for (spoil, mend) in [
        ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0"),
        (
            "SET GLOBAL wsrep_reject_queries = ALL",
            "SET GLOBAL wsrep_reject_queries = NONE",
        ),
    ] {
        wait_until_used(&server, galera, 0);
        galera.sql_at(0, spoil);
        let started_at = Instant::now();
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail(spoil));
        assert_eq!(reply.code, 250, "{spoil}: {reply:?}");
        // The promise is one second; a build without optimisation beside other tests may need another.
        assert!(started_at.elapsed() < Duration::from_secs(3), "{spoil}");
        server.wait_for_log("node_left");
        let (is_well, said) = server.check();
        let warning = format!("warning: MYSQL_HOST: node {} is not well: ", galera.host(0));
        assert!(is_well && said.contains(&warning), "{spoil}: {said}");
        galera.sql_at(0, mend);
        wait_for_node_lines(&server, "node_left", "node_back");
    }
}

/// Every time that a node was left it was taken again.
fn wait_for_node_lines(server: &Server, left: &str, back: &str) {
    wait_for_within("the node to be taken again", HEALED_WITHIN, || {
        let log = server.log();
        let count = |event: &str| log.matches(&format!(" {event} ")).count();
        (count(left) == count(back)).then_some(())
    });
}

/// Mail goes to the preferred node again.
fn wait_until_used(server: &Server, galera: &Galera, node: usize) {
    let uses = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{}' AND DB = 'mail'",
        crate::support::mariadb::USER
    );
    wait_for_within("mail to go to the preferred node", HEALED_WITHIN, || {
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("any"));
        let connections: Option<u64> = galera.connection(node).query_first(&uses).ok()?;
        // One of them is the prober's.
        (reply.code == 250 && connections >= Some(2)).then_some(())
    });
}

/// acknowledged ⊆ stored ⊆ sent; twice none that was acknowledged.
pub fn assert_promise_kept(account: &Account, stored: &HashMap<String, usize>) {
    for marker in &account.acknowledged {
        assert_eq!(stored.get(marker), Some(&1), "{marker} got a 250");
    }
    let sent: std::collections::HashSet<_> = account.sent.iter().collect();
    for marker in stored.keys() {
        assert!(sent.contains(marker), "nobody sent {marker}");
    }
    println!(
        "{} sent, {} acknowledged, {} deferred, {} unanswered, {} stored",
        account.sent.len(),
        account.acknowledged.len(),
        account.deferred.len(),
        account.unanswered.len(),
        stored.len()
    );
}

/// How often each marker is in the cluster; bodies in the table are looked at as well.
pub fn stored_markers(galera: &Galera) -> HashMap<String, usize> {
    let rows = "SELECT subject, body, mail FROM new_mail";
    let rows: Vec<(String, String, Vec<u8>)> = galera.connection(2).query(rows).expect("rows");
    let mut markers = HashMap::new();
    for (marker, body, stream) in rows {
        if body != "redis" {
            let mail = goguerrilla::mail::inflate(&stream, 1 << 20).expect("a zlib stream");
            assert_eq!(without_trace(&mail), content_of(&marker).as_bytes());
        }
        *markers.entry(marker).or_default() += 1;
    }
    markers
}

/// None by default, so that the suite stays short: the tests of the fleet kill a node as well. More by GOGUERRILLA_ROUNDS.
fn rounds() -> usize {
    std::env::var("GOGUERRILLA_ROUNDS").map_or(0, |rounds| rounds.parse().expect("a number"))
}
