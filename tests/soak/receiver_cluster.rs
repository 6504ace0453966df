//! Long tests of the same kind as those of `stores/receiver_cluster.rs`, with hold, feed, retention and TLS to the databases.

use testkit::receiver_cluster::{Cluster, soak_without_loss};
use testkit::soak_settings::DurableCluster;
use testkit::test;

#[test]
fn soak_of_cluster_with_redis_loses_no_mail() {
    let mut redis = DurableCluster::start();
    let cluster = Cluster::start_with_soak_settings(Some(&redis));
    soak_without_loss(cluster, Some(redis.cluster()));
}

#[test]
fn soak_of_cluster_without_redis_loses_no_mail() {
    soak_without_loss(Cluster::start_with_soak_settings(None), None);
}
