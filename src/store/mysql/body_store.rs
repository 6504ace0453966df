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
    /// Sends the bodies of a batch to the Redis server. The caller must then call
    /// [`finish_body_write`](BodyStore::finish_body_write), which waits for the replies.
    ///
    /// Returns `None` if nothing was sent: the bodies go into the table, or Redis is a cluster, to which `finish_body_write`
    /// sends them.
    pub(super) fn begin_body_write(&mut self, batch: &[Mail]) -> Option<PendingBodyWrite> {
        match self {
            BodyStore::Redis(bodies) => bodies.begin_body_write(batch),
            BodyStore::Table | BodyStore::Cluster(_) => None,
        }
    }

    /// Waits until Redis has answered for the bodies of `batch`, and returns where the bodies are stored. `pending` is the
    /// result of [`begin_body_write`](BodyStore::begin_body_write). Bodies that Redis did not accept go into the table.
    pub(super) fn finish_body_write(
        &mut self,
        batch: &[Mail],
        pending: Option<&PendingBodyWrite>,
    ) -> BodiesInRedis {
        let are_stored = match self {
            BodyStore::Cluster(bodies) => return bodies.store_batch_bodies(batch),
            BodyStore::Redis(bodies) => {
                pending.is_some_and(|pending| bodies.finish_body_write(pending))
            }
            BodyStore::Table => return BodiesInRedis::NotConfigured,
        };
        match are_stored {
            true => BodiesInRedis::Redis,
            false => BodiesInRedis::NotStored,
        }
    }
}

impl BodiesInRedis {
    /// Counts the bodies of mails that are saved now by location, if Redis is configured. A batch that is tried again is
    /// counted once.
    pub(super) fn count_saved_bodies<'a>(
        &self,
        mails: impl Iterator<Item = &'a Mail>,
        metrics: &Metrics,
    ) {
        if matches!(self, BodiesInRedis::NotConfigured) {
            return;
        }
        let (mut redis, mut table) = (0, 0);
        for recipient in mails.flat_map(Mail::recipients) {
            match self.is_body_in_redis(&recipient.hash) {
                true => redis += 1,
                false => table += 1,
            }
        }
        metrics.bodies.add(BodyLocation::Redis, redis);
        metrics.bodies.add(BodyLocation::Table, table);
    }
}
