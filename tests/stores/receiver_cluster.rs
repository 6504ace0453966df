//! A cluster: HAProxy in front of two receivers with the same configuration, which store into three Galera nodes and
//! three Redis Cluster nodes. Whichever process is killed, every acknowledged mail is stored exactly once, and mail is
//! saved again within ten seconds.

use testkit::receiver_cluster::{Cluster, assert_no_loss_when_members_are_killed};
use testkit::redis::RedisCluster;
use testkit::test;

#[test]
fn cluster_loses_no_acknowledged_mail_when_any_node_is_killed() {
    let mut redis = RedisCluster::start();
    let cluster = Cluster::start(&redis.addresses());
    assert_no_loss_when_members_are_killed(cluster, Some(&mut redis));
}

#[test]
fn cluster_without_redis_loses_no_acknowledged_mail() {
    assert_no_loss_when_members_are_killed(Cluster::start(""), None);
}
