//! Which node has the slot of a key.

use r2d2_redis::redis::{self, Value};

use crate::store::ReadError;
use crate::store::redis::{RedisReader, RedisSettings};

/// The last slot of each range and the `host:port` of the node that has it, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots(pub Vec<(u16, u16, String)>);

impl Slots {
    /// The node that has the slot of a key.
    pub fn owner_of(&self, key: &str) -> Option<&str> {
        let slot = slot_of(key.as_bytes());
        let index = self.0.partition_point(|(_, last, _)| *last < slot);
        let (first, _, node) = self.0.get(index)?;
        (*first <= slot).then_some(node.as_str())
    }

    /// Whether a node has any slot.
    pub fn has_node(&self, address: &str) -> bool {
        self.0.iter().any(|(_, _, node)| node == address)
    }

    /// The nodes that have slots, each once.
    pub fn nodes(&self) -> Vec<&str> {
        let mut nodes: Vec<&str> = self.0.iter().map(|(_, _, node)| node.as_str()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Of what CLUSTER SLOTS answers: first, last, master, replicas. A node that does not know its own address is `asked`.
    fn parse(ranges: &[Vec<Value>], asked: &str) -> Slots {
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
                "" => asked.to_owned(),
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
        Slots(ranges)
    }
}

/// Asks the nodes that are known, then those that were named, until one tells.
///
/// # Errors
/// [`ReadError`] that says what the last one said.
pub fn read_slots(settings: &RedisSettings, known: &Slots) -> Result<Slots, ReadError> {
    let named = settings.addresses();
    let known = known.nodes().into_iter().map(str::to_owned);
    let mut trouble = ReadError("REDIS_INTERFACE: no node".to_owned());
    for address in known.chain(named) {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let answered = RedisReader::open(&settings.url_of(&address))
            .and_then(|mut node| node.query::<Vec<Vec<Value>>>(&slots));
        match answered.map(|ranges| Slots::parse(&ranges, &address)) {
            Ok(slots) if !slots.0.is_empty() => return Ok(slots),
            Ok(_) => {
                trouble = ReadError(format!(
                    "REDIS_INTERFACE: {address} has no slots; run: redis-cli --cluster create"
                ));
            }
            Err(error) => trouble = error,
        }
    }
    Err(trouble)
}

/// CRC16 (XMODEM) of the key modulo 16384, as the cluster's specification has it. Our keys have no braces.
pub fn slot_of(key: &[u8]) -> u16 {
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
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
    }

    #[test]
    fn unassigned_redis_cluster_slot_has_no_node() {
        let slots = Slots(vec![
            (0, 100, "a:1".to_owned()),
            (12_000, 16_383, "b:1".to_owned()),
        ]);
        assert_eq!(slots.owner_of("foo"), Some("b:1"));
        assert_eq!(slots.owner_of("bar"), None, "5061");
        assert_eq!(Slots::default().owner_of("foo"), None);
    }
}
