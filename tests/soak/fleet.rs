//! Long tests of the same kind as those of `stores/fleet.rs`, with hold, feed, retention and TLS to the databases.

use testkit::everything::DurableCluster;
use testkit::fleet::{Cluster, soak_without_loss};
use testkit::test;

#[test]
fn soak_of_fleet_with_redis_cluster_loses_no_mail() {
    let mut redis = DurableCluster::start();
    let fleet = Cluster::start_with_everything(Some(&redis));
    soak_without_loss(fleet, Some(redis.cluster()));
}

#[test]
fn soak_of_fleet_without_redis_loses_no_mail() {
    soak_without_loss(Cluster::start_with_everything(None), None);
}
