//! Diagnoses the stream of the feed (GM_FEED).

use r2d2_redis::redis;

use crate::store::Diagnostic;
use crate::store::redis::cluster::RedisClusterReader;
use crate::store::redis::{RedisReadConnection, RedisSettings};

/// Returns a warning if Redis has a key called `stream` that is no stream. A Redis that cannot be reached is no finding here,
/// because [`check_redis_or_cluster`](super::check_redis_or_cluster) reports it.
pub fn check_feed_stream(settings: &RedisSettings, stream: &str) -> Option<Diagnostic> {
    if settings.authorities_error().is_some() {
        return None;
    }
    let type_of_key = || match settings.urls.as_slice() {
        [url] => type_at(&mut RedisReadConnection::open(settings, url).ok()?, stream),
        _ => {
            let mut cluster = RedisClusterReader::open(settings).ok()?;
            let nodes = cluster.slot_owner_addresses();
            // Only the node that owns the key answers; the others name that node in an error.
            let mut types = nodes.iter().filter_map(|address| {
                type_at(cluster.connection_to_redis_node(address).ok()?, stream)
            });
            types.next()
        }
    };
    let kind = type_of_key().filter(|kind| kind != "stream" && kind != "none")?;
    Some(Diagnostic::warning(format!(
        "GM_FEED: the key {stream} in Redis is a {kind}, not a stream, so no entry can be added; rename or delete that key, or \
         set GM_FEED to another name"
    )))
}

fn type_at(redis: &mut RedisReadConnection, key: &str) -> Option<String> {
    redis.run_redis_command(redis::cmd("TYPE").arg(key)).ok()
}
