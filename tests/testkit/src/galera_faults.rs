//! Faults of Galera nodes under load, and what must hold for the mails of that load.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;

use crate::fault_proxy::{Fault, FaultProxy};
use crate::feed_ledger::FeedLedger;
use crate::galera::Galera;
use crate::load::{Account, Load, content_of};
use crate::mariadb::with_hosts;
use crate::old_rows::IS_MAIL;
use crate::recovery::Recovery;
use crate::{
    Server, check_for, release_or_debug, short_mail, stuffed, wait_for, wait_for_within,
    without_trace,
};

/// How soon mail must be saved again after a node is lost. Galera itself blocks for five seconds first.
pub const RECOVERY_LIMIT: Duration =
    release_or_debug(Duration::from_secs(10), Duration::from_secs(100));

/// How soon a writer must fail over from a node that accepts no writes.
pub const FAILOVER_LIMIT: Duration =
    release_or_debug(Duration::from_secs(1), Duration::from_secs(10));

/// How soon mail must be saved again after a node hangs: ten seconds until a call times out, and the rest of twenty
/// seconds to look up the unanswered COMMIT.
const HANG_RECOVERY_LIMIT: Duration =
    release_or_debug(Duration::from_secs(25), Duration::from_secs(250));

/// How soon a node must be used again at the latest. The pause doubles up to a minute for a node that failed
/// repeatedly, such as the donor of state transfers.
const FAILBACK_LIMIT: Duration = Duration::from_secs(600);

pub fn assert_failover_and_failback_of_a_killed_node(galera: &mut Galera, rounds: usize) {
    let hosts = galera.hosts();
    let server = Server::start(&with_hosts(&hosts, &galera.settings()));
    let mut feed = FeedLedger::default();
    if galera.has_soak_settings() {
        feed.read_from(&server);
    }
    let load = Load::start(server.address, 8, "mail");
    load.wait_for_more_within(50, RECOVERY_LIMIT);
    for round in 0..rounds {
        let node = round % 3;
        galera.kill(node);
        let lost_at = Instant::now();
        if node == 0 {
            assert_fast_failover(&server, &galera.host(node), lost_at);
        }
        load.wait_for_more_within(100, RECOVERY_LIMIT);
        let took = lost_at.elapsed();
        crate::note!("node {node} lost: 100 mails more after {took:?}");
        assert!(took < RECOVERY_LIMIT, "{took:?}");
        galera.run(node);
        wait_for_failbacks(&server, "db_host_down", "db_host_up");
        load.wait_for_more_within(50, RECOVERY_LIMIT);
    }
    let (account, stored) = (load.stop(), stored_markers(galera));
    assert_no_acknowledged_mail_lost(&account, &stored);
    crate::note!("{}", summary(&account, &stored));
    assert!(
        server
            .log()
            .contains(&format!("db_host_down node={}", galera.host(0)))
    );
    drop(server);
    if galera.has_soak_settings() {
        feed.finish_readers();
        feed.assert_each_has_a_row(&mails_in(galera));
    }
}

pub fn assert_fast_failover_from_a_read_only_node(galera: &Galera) {
    let hosts = galera.hosts();
    let server = Server::start(&with_hosts(&hosts, &galera.settings()));
    for (break_sql, repair_sql, [gone, back]) in [
        (
            "SET GLOBAL read_only = 1",
            "SET GLOBAL read_only = 0",
            ["node_standby", "node_writable"],
        ),
        (
            "SET GLOBAL wsrep_reject_queries = ALL",
            "SET GLOBAL wsrep_reject_queries = NONE",
            ["db_host_down", "db_host_up"],
        ),
    ] {
        wait_until_writers_use(&server, galera, 0);
        galera.sql_at(0, break_sql);
        let started_at = Instant::now();
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail(break_sql));
        assert_eq!(reply.code, 250, "{break_sql}: {reply:?}");
        let took = started_at.elapsed();
        crate::note!("{break_sql}: failed over after {took:?}");
        assert!(took < FAILOVER_LIMIT, "{break_sql}: {took:?}");
        server.wait_for_log(gone);
        let (is_well, output_text) = server.check();
        let warning = format!(
            "warning: MYSQL_HOST: node {} is not healthy: ",
            galera.host(0)
        );
        // A standby is no fault.
        let is_fault = gone == "db_host_down";
        assert!(
            is_well && output_text.contains(&warning) == is_fault,
            "{break_sql}: {output_text}"
        );
        galera.sql_at(0, repair_sql);
        wait_for_failbacks(&server, gone, back);
    }
}

/// A node is killed, and another time hangs, under load. New mail must be saved soon after the other nodes take writes.
pub fn assert_mail_is_saved_soon_after_a_node_is_lost(galera: &mut Galera) {
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let server = Server::start(&with_hosts(&galera.hosts(), &[]));
        wait_until_writers_use(&server, galera, 0);
        galera.sql_at(0, "TRUNCATE mail.new_mail");
        let load = Load::start(server.address, 8, signal.as_str());
        load.wait_for_more_within(50, RECOVERY_LIMIT);
        match signal {
            Signal::SIGKILL => galera.kill(0),
            _ => galera.signal(0, signal),
        }
        let nodes = [galera.root(1), galera.root(2)];
        Recovery::measure(&server, &nodes, Instant::now()).assert_soon(signal.as_str());
        load.wait_for_more_within(100, HANG_RECOVERY_LIMIT);
        let account = load.stop();
        let stored = stored_markers(galera);
        assert_no_acknowledged_mail_lost(&account, &stored);
        crate::note!("{}", summary(&account, &stored));
        // A node that was stopped for this long has left its cluster, and does not always join again.
        galera.kill(0);
        galera.run(0);
    }
}

/// Asserts that the server changes to another node when the process of one is stopped, and back when it continues. The kernel
/// still accepts connections to the stopped node, but nothing answers.
pub fn assert_failover_and_failback_of_a_hanging_node(galera: &Galera) {
    let server = Server::start(&with_hosts(&galera.hosts(), &galera.settings()));
    let load = Load::start(server.address, 8, "hang");
    load.wait_for_more_within(50, RECOVERY_LIMIT);
    galera.signal(0, Signal::SIGSTOP);
    let lost_at = Instant::now();
    wait_for_within("the node to be marked down", RECOVERY_LIMIT, || {
        server.log().contains(" db_host_down ").then_some(())
    });
    crate::note!("a node hangs: marked down after {:?}", lost_at.elapsed());
    load.wait_for_more_within(100, HANG_RECOVERY_LIMIT);
    let took = lost_at.elapsed();
    crate::note!("a node hangs: 100 mails more after {took:?}");
    assert!(took < HANG_RECOVERY_LIMIT, "{took:?}");
    galera.signal(0, Signal::SIGCONT);
    wait_for_failbacks(&server, "db_host_down", "db_host_up");
    // The resumed node may still consider itself a member for a moment and leave another COMMIT unanswered.
    load.wait_for_more_within(50, HANG_RECOVERY_LIMIT);
    let (account, stored) = (load.stop(), stored_markers(galera));
    assert_no_acknowledged_mail_lost(&account, &stored);
    crate::note!("{}", summary(&account, &stored));
}

/// Returns hash and subject of each mail in the cluster.
pub fn mails_in(galera: &Galera) -> Vec<(String, String)> {
    let mails = format!("SELECT hash, subject FROM new_mail WHERE {IS_MAIL}");
    galera.connection(2).query(mails).expect("rows")
}

/// The answer to a COMMIT is lost and its node is killed; the outcome is looked up on the other nodes. Without TLS, because the
/// proxy looks for the COMMIT.
pub fn assert_unknown_commit_is_resolved_by_the_other_nodes(galera: &mut Galera) {
    // One COMMIT is executed, the other one never arrives. The server cannot tell them apart.
    let cases = [
        ("carried out", Fault::CutAfterAndRefuse("COMMIT")),
        ("never arrived", Fault::CutBeforeAndRefuse("COMMIT")),
    ];
    let mut waiting = Vec::new();
    for (subject, fault) in cases {
        let proxy = FaultProxy::start(galera.host(0).parse().expect("an address"));
        let hosts = [proxy.address(), galera.host(1), galera.host(2)].join(",");
        let server = Server::start(&with_hosts(&hosts, &[("GM_SAVE_WORKERS", "1")]));
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("before"));
        assert_eq!(reply.code, 250, "{reply:?}");
        proxy.cut(fault, 1);
        client.set_reply_timeout(RECOVERY_LIMIT * 2);
        client.begin_data("a@client.test", "u@ours.test");
        client.send(stuffed(&short_mail(subject)));
        proxy.wait_for_cuts(1);
        waiting.push((subject, server, client, proxy));
    }
    // The look-up inserts this mail on node 1, whose proxy holds the second COMMIT back and refuses other connections.
    let proxies =
        [0, 1].map(|node| FaultProxy::start(galera.host(node).parse().expect("an address")));
    let [first, second] = proxies;
    let hosts = [first.address(), second.address(), galera.host(2)].join(",");
    let in_doubt_twice = Server::start(&with_hosts(&hosts, &[("GM_SAVE_WORKERS", "1")]));
    let mut client_in_doubt_twice = in_doubt_twice.client();
    let reply =
        client_in_doubt_twice.deliver("a@client.test", "u@ours.test", &short_mail("before"));
    assert_eq!(reply.code, 250, "{reply:?}");
    first.cut(Fault::CutBeforeAndRefuse("COMMIT"), 1);
    second.cut(Fault::HoldAtAndRefuse("COMMIT"), 1);
    client_in_doubt_twice.begin_data("a@client.test", "u@ours.test");
    client_in_doubt_twice.send(stuffed(&short_mail("in doubt twice")));
    let sent_at = Instant::now();
    first.wait_for_cuts(1);
    let count = |galera: &Galera, subject: &str| -> u64 {
        let rows = format!("SELECT COUNT(*) FROM new_mail WHERE subject = '{subject}'");
        let count = galera.connection(1).query_first(rows).expect("rows");
        count.expect("a figure")
    };
    wait_for("the COMMIT to be replicated", || {
        (count(galera, "carried out") == 1).then_some(())
    });
    assert_eq!(count(galera, "never arrived"), 0);
    galera.kill(0);
    // From here on connections to the first host are refused.
    drop(first);
    let waiting: Vec<_> = waiting
        .into_iter()
        .map(|(subject, server, client, proxy)| {
            drop(proxy);
            (subject, server, client)
        })
        .collect();
    for (subject, server, mut client) in waiting {
        let reply = client.read_reply().expect("a reply to the final dot");
        assert_eq!(reply.code, 250, "{subject}: {reply:?}");
        assert_eq!(count(galera, subject), 1, "{subject}");
        server.wait_for_log(" commit_resolved ");
    }
    second.wait_for_cuts(1);
    in_doubt_twice.wait_for_log(&format!(" db_host_down node={}", second.address()));
    // Node 2 does not know whether node 1 will carry out the second COMMIT.
    check_for(SECOND_COMMIT_HELD_FOR, || {
        assert_eq!(count(galera, "in doubt twice"), 0);
    });
    second.set(Fault::Pass);
    client_in_doubt_twice.set_reply_timeout(RECOVERY_LIMIT * 2);
    let reply = client_in_doubt_twice
        .read_reply()
        .expect("a reply to the final dot");
    if reply.code == 250 {
        in_doubt_twice.wait_for_log(" commit_resolved ");
        assert_eq!(count(galera, "in doubt twice"), 1);
    } else {
        // On a slow machine the time of the look-up may be over.
        assert_eq!(reply.code, 451, "{reply:?}");
        assert!(sent_at.elapsed() > LOOK_UP_LIMIT, "{reply:?}");
    }
}

/// How long a COMMIT of a look-up is held back: longer than the pause between two attempts of the look-up.
const SECOND_COMMIT_HELD_FOR: Duration = Duration::from_secs(2);

/// How long the outcome of a COMMIT is looked up at least.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(19);

/// Asserts that a server that writes to this node marks it down within a second.
pub fn assert_fast_failover(server: &Server, host: &str, lost_at: Instant) {
    let log = wait_for("the node to be marked down", || {
        let log = server.log();
        let left = log.rfind(&format!("db_host_down node={host}"));
        let back = log.rfind(&format!("db_host_up node={host}"));
        (left > back).then_some(log)
    });
    let took = lost_at.elapsed();
    crate::note!("{host}: marked down after {took:?}");
    assert!(took < FAILOVER_LIMIT, "{took:?}\n{log}");
}

/// Waits until every node that was marked down has been marked up again.
fn wait_for_failbacks(server: &Server, left: &str, back: &str) {
    wait_for_within("the node to be marked up", FAILBACK_LIMIT, || {
        let log = server.log();
        let count = |event: &str| log.matches(&format!(" {event} ")).count();
        (count(left) == count(back)).then_some(())
    });
}

/// Waits until the writers use this node.
fn wait_until_writers_use(server: &Server, galera: &Galera, node: usize) {
    let uses = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = '{}' AND DB = 'mail'",
        crate::mariadb::USER
    );
    wait_for_within("mail to go to the preferred node", RECOVERY_LIMIT, || {
        let mut client = server.client();
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("any"));
        let connections: Option<u64> = galera.connection(node).query_first(&uses).ok()?;
        // One of the connections belongs to the health probe.
        (reply.code == 250 && connections >= Some(2)).then_some(())
    });
}

/// Asserts acknowledged ⊆ stored ⊆ sent, and that no acknowledged mail is stored twice.
pub fn assert_no_acknowledged_mail_lost(account: &Account, stored: &HashMap<String, usize>) {
    for marker in &account.acknowledged {
        assert_eq!(stored.get(marker), Some(&1), "{marker} got a 250");
    }
    let sent: std::collections::HashSet<_> = account.sent.iter().collect();
    for marker in stored.keys() {
        assert!(sent.contains(marker), "{marker} was not sent");
    }
}

/// Describes the outcomes; call it after [`assert_no_acknowledged_mail_lost`].
pub fn summary(account: &Account, stored: &HashMap<String, usize>) -> String {
    format!(
        "{} sent, {} acknowledged, 0 of them lost, 0 doubled; {} deferred, {} unanswered, {} connections cut; \
         4xx: {}; {} stored",
        account.sent.len(),
        account.acknowledged.len(),
        account.deferred.len(),
        account.unanswered.len(),
        account.cut,
        account.temporary_failures(),
        stored.len()
    )
}

/// Counts the rows of each marker in the cluster and checks the bodies that are in the table.
pub fn stored_markers(galera: &Galera) -> HashMap<String, usize> {
    let rows = "SELECT subject, body, mail FROM new_mail WHERE `from` = 'a@client.test'";
    let rows: Vec<(String, String, Vec<u8>)> = galera.connection(2).query(rows).expect("rows");
    let mut markers = HashMap::new();
    for (marker, body, stream) in rows {
        if body != "redis" {
            let mail = crate::store::inflate(&stream);
            assert_eq!(without_trace(&mail), content_of(&marker).as_bytes());
        }
        *markers.entry(marker).or_default() += 1;
    }
    markers
}

/// Returns the number of rounds: GUERRILLA_TEST_ROUNDS, by default 0 because the cluster tests kill nodes as well.
pub fn rounds() -> usize {
    std::env::var("GUERRILLA_TEST_ROUNDS").map_or(0, |rounds| rounds.parse().expect("a number"))
}
