//! A cluster: HAProxy in front of two receivers with the same configuration, which store into three Galera nodes and
//! three Redis Cluster nodes. Whichever process is killed, every acknowledged mail is stored exactly once, and mail is
//! saved again within ten seconds.

use testkit::fleet::{Cluster, assert_no_loss_when_members_are_killed};
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
