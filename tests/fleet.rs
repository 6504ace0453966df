//! A cluster: HAProxy in front of two receivers with the same configuration, which store into three Galera nodes and
//! three Redis Cluster nodes. Whichever process is killed, every acknowledged mail is stored exactly once, and mail is
//! saved again within ten seconds.

use testkit::fleet::{Cluster, assert_no_loss_when_members_are_killed, soak_without_loss};
use testkit::redis::RedisCluster;
use testkit::test;

#[test]
fn fleet_loses_no_acknowledged_mail_when_any_node_is_killed() {
    let mut cluster = RedisCluster::start();
    let fleet = Cluster::start(&cluster.addresses());
    assert_no_loss_when_members_are_killed(fleet, Some(&mut cluster));
}

#[test]
fn fleet_without_redis_loses_no_acknowledged_mail() {
    assert_no_loss_when_members_are_killed(Cluster::start(""), None);
}

#[test]
fn soak_of_fleet_with_redis_cluster_loses_no_mail() {
    testkit::needs("make soak", std::env::var_os("GOGUERRILLA_SOAK").is_some());
    // Append-only files keep every body when a node is killed, so that all bodies can be checked at the end.
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut cluster = RedisCluster::start_with(&kept);
    let fleet = Cluster::start(&cluster.addresses());
    soak_without_loss(fleet, Some(&mut cluster));
}

#[test]
fn soak_of_fleet_without_redis_loses_no_mail() {
    testkit::needs("make soak", std::env::var_os("GOGUERRILLA_SOAK").is_some());
    soak_without_loss(Cluster::start(""), None);
}
