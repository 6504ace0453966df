//! Where the bodies of a batch are stored: in the table, in one Redis or in a Redis Cluster.

use crate::mail::Mail;
use crate::metrics::{BodyLocation, Metrics};
use crate::store::redis::cluster::ClusterBodyWriter;
use crate::store::redis::{BodiesInRedis, PendingBodyWrite, RedisBodyWriter};

/// The configured location of bodies.
pub enum BodyStore {
    /// Column `mail` of the table.
    Table,
    /// One Redis server.
    Redis(RedisBodyWriter),
    /// A Redis Cluster.
    Cluster(ClusterBodyWriter),
}

impl BodyStore {
    /// Sends the bodies of a batch to the Redis server. The caller must then call [`finish_store`](BodyStore::finish_store),
    /// which waits for the replies.
    ///
    /// Returns `None` if nothing was sent: the bodies go into the table, or Redis is a cluster, to which `finish_store` sends
    /// them.
    pub(super) fn begin_store(&mut self, batch: &[Mail]) -> Option<PendingBodyWrite> {
        match self {
            BodyStore::Redis(bodies) => bodies.begin_store(batch),
            BodyStore::Table | BodyStore::Cluster(_) => None,
        }
    }

    /// Waits until Redis has answered for the bodies of `batch`, and returns where the bodies are stored. `pending` is the
    /// result of [`begin_store`](BodyStore::begin_store). Bodies that Redis did not accept go into the table.
    /// The bodies of each location are counted in `metrics`.
    pub(super) fn finish_store(
        &mut self,
        batch: &[Mail],
        pending: Option<&PendingBodyWrite>,
        metrics: &Metrics,
    ) -> BodiesInRedis {
        let are_stored = match self {
            BodyStore::Cluster(bodies) => return bodies.store_batch_bodies(batch),
            BodyStore::Redis(bodies) => pending.is_some_and(|pending| bodies.finish_store(pending)),
            BodyStore::Table => return BodiesInRedis::Table,
        };
        let count = batch.iter().map(|mail| mail.recipients().len()).sum();
        let (label, location) = match are_stored {
            true => (BodyLocation::Redis, BodiesInRedis::Redis),
            false => (BodyLocation::Table, BodiesInRedis::Table),
        };
        metrics.bodies.add(label, count);
        location
    }
}
