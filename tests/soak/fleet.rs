//! Long tests of the same kind as those of `stores/fleet.rs`.

use testkit::fleet::{Cluster, soak_without_loss};
use testkit::redis::RedisCluster;
use testkit::test;

#[test]
fn soak_of_fleet_with_redis_cluster_loses_no_mail() {
    // Append-only files keep every body when a node is killed, so that all bodies can be checked at the end.
    let kept = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut cluster = RedisCluster::start_with(&kept);
    let fleet = Cluster::start(&cluster.addresses());
    soak_without_loss(fleet, Some(&mut cluster));
}

#[test]
fn soak_of_fleet_without_redis_loses_no_mail() {
    soak_without_loss(Cluster::start(""), None);
}
