//! Three members of MySQL Group Replication: the primary is lost under load, and a large mail exceeds the group's limit.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;

use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::galera_faults::{assert_no_acknowledged_mail_lost, summary};
use testkit::group_replication::ReplicationGroup;
use testkit::load::{Load, content_of};
use testkit::mariadb::{USER, with_hosts};
use testkit::recovery::Recovery;
use testkit::store::inflate;
use testkit::{Server, short_mail, stuffed, test, wait_for, wait_for_within, without_trace};

/// The time limit for the reply to a mail whose COMMIT is in doubt.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// How the primary is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Sigterm,
    Sigkill,
}

#[test]
fn lost_primary_of_a_replication_group_loses_no_acknowledged_mail() {
    let mut group = ReplicationGroup::start();
    let server = Server::start(&with_hosts(&group.hosts(), &[]));
    wait_until_saved(&server);
    let mut primary = 0;
    for loss in [Loss::Sigterm, Loss::Sigterm, Loss::Sigkill] {
        let load = Load::start(server.address, 16, &format!("{loss:?}-{primary}"));
        load.wait_for_more_within(100, REPLY_LIMIT);
        match loss {
            Loss::Sigterm => group.signal(primary, Signal::SIGTERM),
            Loss::Sigkill => group.kill(primary),
        }
        let lost_at = Instant::now();
        let others: Vec<usize> = (0..3).filter(|member| *member != primary).collect();
        let nodes: Vec<_> = others.iter().map(|member| group.root(*member)).collect();
        Recovery::measure(&server, &nodes, lost_at).assert_soon(&format!("{loss:?}"));
        load.wait_for_more_within(100, REPLY_LIMIT);
        let account = load.stop();
        group.wait_for_end(primary);
        let next = group.wait_for_primary(&others);
        let prefix = format!("{loss:?}-{primary}-");
        let mut stored = stored_markers(&group, next);
        stored.retain(|marker, _| marker.starts_with(&prefix));
        assert_no_acknowledged_mail_lost(&account, &stored);
        assert!(stored.values().all(|count| *count == 1), "{stored:?}");
        testkit::note!("{loss:?}: {}", summary(&account, &stored));
        group.run(primary);
        primary = next;
    }
}

#[test]
fn unanswered_commit_of_a_removed_member_is_looked_up_on_the_new_primary() {
    let mut group = ReplicationGroup::start();
    for (subject, fault) in [
        ("carried out", Fault::CutAfterAndRefuse("COMMIT")),
        ("never arrived", Fault::CutBeforeAndRefuse("COMMIT")),
    ] {
        let primary = group.wait_for_primary(&[0, 1, 2]);
        let others: Vec<usize> = (0..3).filter(|member| *member != primary).collect();
        let proxy = FaultProxy::start(group.host(primary).parse().expect("an address"));
        let hosts = [
            proxy.address(),
            group.host(others[0]),
            group.host(others[1]),
        ]
        .join(",");
        let server = Server::start(&with_hosts(&hosts, &[("GM_SAVE_WORKERS", "1")]));
        wait_until_saved(&server);
        proxy.cut(fault, 1);
        let mut client = server.client();
        client.set_reply_timeout(REPLY_LIMIT);
        client.begin_data("a@client.test", "u@ours.test");
        client.send(stuffed(&short_mail(subject)));
        proxy.wait_for_cuts(1);
        server.wait_for_log(" commit_in_doubt ");
        // While the member belongs to the group, its COMMIT may still be carried out.
        assert!(!server.log().contains(" commit_resolved "));
        group.signal(primary, Signal::SIGTERM);
        let reply = client.read_reply().expect("a reply to the final dot");
        assert_eq!(reply.code, 250, "{subject}: {reply:?}\n{}", server.log());
        server.wait_for_log(" commit_resolved ");
        group.wait_for_end(primary);
        let next = group.wait_for_primary(&others);
        assert_eq!(rows(&group, next, subject), 1, "{subject}");
        group.run(primary);
    }
}

#[test]
fn commit_is_not_looked_up_on_other_members_without_the_right_to_read_the_group() {
    let mut group = ReplicationGroup::start();
    group.sql_at(
        0,
        &format!("REVOKE SELECT ON performance_schema.replication_group_members FROM {USER}@'%'"),
    );
    let proxy = FaultProxy::start(group.host(0).parse().expect("an address"));
    let hosts = [proxy.address(), group.host(1), group.host(2)].join(",");
    let server = Server::start(&with_hosts(&hosts, &[("GM_SAVE_WORKERS", "1")]));
    wait_until_saved(&server);
    let (is_ok, output) = server.check();
    assert!(
        is_ok && output.contains("GRANT SELECT ON performance_schema.replication_group_members TO"),
        "{output}"
    );
    proxy.cut(Fault::CutAfterAndRefuse("COMMIT"), 1);
    let mut client = server.client();
    client.set_reply_timeout(REPLY_LIMIT);
    client.begin_data("a@client.test", "u@ours.test");
    client.send(stuffed(&short_mail("doubtful")));
    proxy.wait_for_cuts(1);
    group.kill(0);
    let reply = client.read_reply().expect("a reply to the final dot");
    assert_eq!(reply.code, 451, "{reply:?}");
    server.wait_for_log("run: GRANT SELECT ON performance_schema.replication_group_members");
}

#[test]
fn secondary_that_becomes_the_primary_is_used_within_a_second() {
    let group = ReplicationGroup::start();
    let server = Server::start(&with_hosts(&group.hosts(), &[]));
    wait_until_saved(&server);
    for primary in [1, 2, 0] {
        let started_at = Instant::now();
        group.sql_at(
            (primary + 2) % 3,
            &format!(
                "SELECT group_replication_set_as_primary('{}')",
                server_uuid(&group, primary)
            ),
        );
        let writable_at = Instant::now();
        let line = format!(" node_writable node={}", group.host(primary));
        wait_for_within(
            "the new primary to be noticed",
            Duration::from_secs(10),
            || server.log().contains(&line).then_some(()),
        );
        let noticed = writable_at.elapsed();
        testkit::note!(
            "primary changed in {:.1?}, noticed {noticed:.1?} later",
            writable_at - started_at
        );
        assert!(
            noticed < testkit::release_or_debug(Duration::from_secs(1), Duration::from_secs(5))
        );
        wait_until_saved(&server);
    }
}

#[test]
fn mail_larger_than_a_transaction_of_the_group_is_deferred_at_once_with_the_fix() {
    let group = ReplicationGroup::start();
    for member in 0..3 {
        group.sql_at(
            member,
            "SET GLOBAL group_replication_transaction_size_limit = 20000000",
        );
    }
    let settings = [("GSMTP_MAX_SIZE", "6000000")];
    let server = Server::start(&with_hosts(&group.hosts(), &settings));
    wait_until_saved(&server);
    let mut client = server.client();
    client.set_reply_timeout(REPLY_LIMIT);
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    for recipient in 0..100 {
        client.command(&format!("RCPT TO:<u{recipient}@ours.test>"), "250");
    }
    client.command("DATA", "354");
    let (reply, took) = client.send_content(&testkit::incompressible(5_000_000));
    testkit::note!(
        "a mail of 5 MB to 100 recipients: {} after {took:.1?}",
        reply.code
    );
    assert_eq!(reply.code, 451, "{reply:?}");
    testkit::assert_took(took, Duration::from_millis(500));
    let log = server.wait_for_log("group_replication_transaction_size_limit = 20000000");
    assert!(!log.contains(" db_host_down "), "{log}");
    // Other mail is not affected, also in the same batch.
    wait_until_saved(&server);
}

fn wait_until_saved(server: &Server) {
    wait_for("a mail to be saved", || {
        let mut client = server.client();
        let reply = client.deliver("p@client.test", "u@ours.test", &short_mail("probe"));
        (reply.code == 250).then_some(())
    });
}

fn server_uuid(group: &ReplicationGroup, member: usize) -> String {
    let uuid = group.connection(member).query_first("SELECT @@server_uuid");
    uuid.expect("rows").expect("a row")
}

fn rows(group: &ReplicationGroup, member: usize, subject: &str) -> u64 {
    let rows = format!("SELECT COUNT(*) FROM mail.new_mail WHERE subject = '{subject}'");
    let count = group.connection(member).query_first(rows).expect("rows");
    count.expect("a row")
}

/// Counts the rows of each marker that a member has, and checks their bodies.
fn stored_markers(group: &ReplicationGroup, member: usize) -> HashMap<String, usize> {
    let mut connection = group.connection(member);
    let causal = connection.query_drop("SET SESSION group_replication_consistency = 'BEFORE'");
    causal.expect("a member of a group");
    let rows = "SELECT subject, mail FROM mail.new_mail WHERE `from` = 'a@client.test'";
    let rows: Vec<(String, Vec<u8>)> = connection.query(rows).expect("rows");
    let mut markers = HashMap::new();
    for (marker, stream) in rows {
        let mail = inflate(&stream);
        assert_eq!(without_trace(&mail), content_of(&marker).as_bytes());
        *markers.entry(marker).or_default() += 1;
    }
    markers
}
