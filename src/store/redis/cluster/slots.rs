//! The slot table of a Redis Cluster.

use r2d2_redis::redis::{self, Value};

use crate::store::StoreReadError;
use crate::store::redis::{RedisReadConnection, RedisSettings};

/// The ranges of slots in ascending order: first slot, last slot, and `host:port` of the node that owns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedisSlotTable(pub Vec<(u16, u16, String)>);

impl RedisSlotTable {
    /// Returns `host:port` of the node that owns the slot of `key`; `None` if no node owns the slot.
    pub fn node_of_key(&self, key: &str) -> Option<&str> {
        let slot = redis_slot_of_key(key.as_bytes());
        let index = self.0.partition_point(|(_, last, _)| *last < slot);
        let (first, _, node) = self.0.get(index)?;
        (*first <= slot).then_some(node.as_str())
    }

    /// Returns whether the node at `address` owns any slot.
    pub fn node_owns_slots(&self, address: &str) -> bool {
        self.0.iter().any(|(_, _, node)| node == address)
    }

    /// Returns the nodes that own slots, each once.
    pub fn distinct_slot_owner_addresses(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> = self.0.iter().map(|(_, _, node)| node.as_str()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Parses the ranges in the reply to CLUSTER SLOTS; each has a first slot, a last slot, a master and replicas. A node may
    /// send an empty host name for itself; `queried_address` then is the address of that node.
    fn parse(ranges: &[Vec<Value>], queried_address: &str) -> RedisSlotTable {
        let range = |range: &Vec<Value>| {
            let [Value::Int(first), Value::Int(last), Value::Bulk(master), ..] = range.as_slice()
            else {
                return None;
            };
            let [Value::Data(host), Value::Int(port), ..] = master.as_slice() else {
                return None;
            };
            let host = String::from_utf8(host.clone()).ok()?;
            let node = match host.as_str() {
                "" => queried_address.to_owned(),
                host if host.contains(':') => format!("[{host}]:{port}"),
                host => format!("{host}:{port}"),
            };
            Some((
                u16::try_from(*first).ok()?,
                u16::try_from(*last).ok()?,
                node,
            ))
        };
        let mut ranges: Vec<_> = ranges.iter().filter_map(range).collect();
        ranges.sort();
        RedisSlotTable(ranges)
    }
}

/// Reads the slot table from the first node that reports one: the `known` nodes, then the configured ones.
///
/// # Errors
/// [`StoreReadError`]: no node reports a slot table; the error is the one from the last node.
pub fn query_slot_table(
    settings: &RedisSettings,
    known: &RedisSlotTable,
) -> Result<RedisSlotTable, StoreReadError> {
    let configured = settings.configured_node_addresses();
    let known = known
        .distinct_slot_owner_addresses()
        .into_iter()
        .map(str::to_owned);
    let mut last_error = StoreReadError("REDIS_INTERFACE: no node".to_owned());
    for address in known.chain(configured) {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let reply = RedisReadConnection::open(settings, &settings.redis_node_url(&address))
            .and_then(|mut node| node.run_redis_command::<Vec<Vec<Value>>>(&slots));
        match reply.map(|ranges| RedisSlotTable::parse(&ranges, &address)) {
            Ok(slots) if !slots.0.is_empty() => return Ok(slots),
            Ok(_) => {
                last_error = StoreReadError(format!(
                    "REDIS_INTERFACE: {address} has no slots; run: redis-cli --cluster create"
                ));
            }
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// Returns the slot of a key: its CRC16 (XMODEM) modulo 16,384, as in the
/// [specification](https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/). Hash tags in braces are not
/// supported, because mail ids have none.
pub fn redis_slot_of_key(key: &[u8]) -> u16 {
    let crc = key.iter().fold(0_u16, |crc, octet| {
        (0..8).fold(crc ^ (u16::from(*octet) << 8), |crc, _| {
            match crc & 0x8000 {
                0 => crc << 1,
                _ => (crc << 1) ^ 0x1021,
            }
        })
    });
    crc % 16_384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_cluster_slots_match_the_specification() {
        assert_eq!(redis_slot_of_key(b"123456789"), 0x31c3);
        assert_eq!(redis_slot_of_key(b"foo"), 12_182);
    }

    #[test]
    fn unassigned_redis_cluster_slot_has_no_node() {
        let slots = RedisSlotTable(vec![
            (0, 100, "a:1".to_owned()),
            (12_000, 16_383, "b:1".to_owned()),
        ]);
        assert_eq!(slots.node_of_key("foo"), Some("b:1"));
        assert_eq!(slots.node_of_key("bar"), None, "5061");
        assert_eq!(RedisSlotTable::default().node_of_key("foo"), None);
    }
}
