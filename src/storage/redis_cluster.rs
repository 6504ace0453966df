//! Bodies in a Redis Cluster: each goes to the node that has its slot.
//!
//! A slot table of our own over the connections that a single Redis gets. The client of the redis crate has no budget for
//! a call and one fate for a whole pipeline; here each node has its talking thread and its breaker, all are asked at once, and
//! one that is lost costs only its own bodies their place: they go into column `mail`.
//!
//! What a node may answer, beside OK:
//!
//! ```text
//! MOVED        the table is read anew and the bodies are given to whoever has their slots now, once
//! ASK          a slot is on its way: its bodies are given to the node that was named, behind ASKING, once
//! anything     TRYAGAIN, which one key never earns, CLUSTERDOWN, LOADING …: the bodies go into column `mail`, and the node
//! else         is left alone for a moment
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use r2d2_redis::redis::{self, Value};

use super::ReadError;
use super::redis::{
    BUDGET, Bodies, Breaker, Entry, MAX_BODIES_OCTETS, Placed, Redirect, RedisBodies, RedisPool,
    RedisReader, RedisSettings, Trouble, bodies_of,
};
use crate::locks::lock;
use crate::mail::Mail;
use crate::metrics::{self, Body};

/// What the writers of one store know of the cluster. Clones share it.
#[derive(Clone)]
pub struct RedisCluster {
    shared: Arc<Shared>,
}

struct Shared {
    settings: RedisSettings,
    writers: usize,
    slots: Mutex<Arc<Slots>>,
    nodes: Mutex<HashMap<String, (RedisPool, Breaker)>>,
    /// Nobody tells where the slots are.
    breaker: Breaker,
    refresh: Sender<Sender<()>>,
}

/// The last slot of each range and the `host:port` of the node that has it, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slots(Vec<(u16, u16, String)>);

/// Slots that are on their way, and where to.
type Underway = HashMap<u16, String>;

/// One writer's way to the cluster.
pub struct ClusterBodies {
    cluster: RedisCluster,
    talkers: HashMap<String, RedisBodies>,
}

impl RedisCluster {
    /// Starts the thread that keeps the table of slots; waits for nothing.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(settings: &RedisSettings, writers: usize) -> std::io::Result<RedisCluster> {
        let (refresh, asked) = bounded(1);
        let shared = Arc::new(Shared {
            settings: settings.clone(),
            writers,
            slots: Mutex::default(),
            nodes: Mutex::default(),
            breaker: Breaker::default(),
            refresh,
        });
        let weak = Arc::downgrade(&shared);
        let builder = thread::Builder::new().name("redis-slots".to_owned());
        builder.spawn(move || keep_slots(&weak, &asked))?;
        Ok(RedisCluster { shared })
    }

    fn slots(&self) -> Arc<Slots> {
        Arc::clone(&lock(&self.shared.slots))
    }

    /// Has the table read anew, and waits for it until then.
    fn refresh(&self, deadline: Instant) {
        let (tell, told) = bounded(1);
        if self.shared.refresh.send_deadline(tell, deadline).is_ok() {
            let _ = told.recv_deadline(deadline);
        }
    }

    fn node(&self, address: &str) -> Option<(RedisPool, Breaker)> {
        let mut nodes = lock(&self.shared.nodes);
        if let Some(node) = nodes.get(address) {
            return Some(node.clone());
        }
        let settings = &self.shared.settings;
        let url = settings.url_of(address);
        let pool = RedisPool::new(&url, settings.expire_seconds, self.shared.writers).ok()?;
        let node = (pool, Breaker::default());
        nodes.insert(address.to_owned(), node.clone());
        Some(node)
    }
}

impl Shared {
    /// Nodes may come and go under ever new addresses: those that have no slots any more are forgotten.
    fn learn(&self, slots: Slots) {
        lock(&self.nodes).retain(|address, _| slots.has_node(address));
        *lock(&self.slots) = Arc::new(slots);
    }
}

impl ClusterBodies {
    /// Reaches for nothing yet.
    pub fn new(cluster: &RedisCluster) -> ClusterBodies {
        ClusterBodies {
            cluster: cluster.clone(),
            talkers: HashMap::new(),
        }
    }

    /// Stores the bodies of a batch as far as nodes take them.
    pub fn store(&mut self, batch: &[Mail]) -> Placed {
        let octets: usize = batch.iter().map(Mail::stored_octets).sum();
        let count: usize = batch.iter().map(|mail| mail.deliveries().len()).sum();
        let stored = match octets > MAX_BODIES_OCTETS {
            true => HashSet::new(),
            false => bodies_of(batch)
                .map(|bodies| self.store_bodies(bodies))
                .unwrap_or_default(),
        };
        metrics::BODIES.add(Body::Redis, stored.len());
        metrics::BODIES.add(Body::Table, count - stored.len());
        Placed::Some(stored)
    }

    /// All nodes at once; the hashes of those bodies that may be relied on.
    fn store_bodies(&mut self, bodies: Bodies) -> HashSet<String> {
        let deadline = Instant::now() + BUDGET;
        let mut stored = HashSet::new();
        let mut left = bodies;
        let mut underway = Underway::new();
        // Once more where slots have moved, or are about to.
        for _ in 0..2 {
            if self.cluster.slots().0.is_empty() && !self.find_slots(deadline) {
                break;
            }
            let has_moved;
            (left, has_moved) = self.store_once(left, &mut underway, deadline, &mut stored);
            if left.is_empty() {
                break;
            }
            if has_moved {
                self.cluster.refresh(deadline);
            }
        }
        stored
    }

    fn find_slots(&self, deadline: Instant) -> bool {
        let breaker = &self.cluster.shared.breaker;
        if !breaker.may_try() {
            return false;
        }
        self.cluster.refresh(deadline);
        let found = !self.cluster.slots().0.is_empty();
        match found {
            true => breaker.succeeded(),
            false => breaker.failed("no node of the cluster tells its slots"),
        }
        found
    }

    /// Answers the bodies that belong elsewhere, and whether the table of slots is out of date.
    fn store_once(
        &mut self,
        bodies: Bodies,
        underway: &mut Underway,
        deadline: Instant,
        stored: &mut HashSet<String>,
    ) -> (Bodies, bool) {
        let slots = self.cluster.slots();
        self.talkers.retain(|address, _| slots.has_node(address));
        let told = std::mem::take(underway);
        let mut groups: HashMap<(&str, Entry), Bodies> = HashMap::new();
        for body in bodies {
            let told = told.get(&slot_of(body.0.as_bytes()));
            let place = match told {
                Some(node) => Some((node.as_str(), Entry::Asking)),
                None => slots.node_of(&body.0).map(|node| (node, Entry::Owner)),
            };
            if let Some(place) = place {
                groups.entry(place).or_default().push(body);
            }
        }
        let mut asked = Vec::new();
        for ((address, entry), group) in groups {
            let Some(node) = self.cluster.node(address) else {
                continue;
            };
            if !node.1.may_try() {
                continue;
            }
            let talker = match self.talkers.get_mut(address) {
                Some(talker) => talker,
                None => match RedisBodies::start(&node.0, &node.1) {
                    Ok(talker) => self.talkers.entry(address.to_owned()).or_insert(talker),
                    Err(_) => continue,
                },
            };
            let group = Arc::new(group);
            let number = talker.send(Arc::clone(&group), entry, deadline);
            asked.push((address, node.1, group, number));
        }
        let (mut elsewhere, mut has_moved) = (Bodies::new(), false);
        for (address, breaker, group, number) in asked {
            let Some(talker) = self.talkers.get_mut(address) else {
                continue;
            };
            let outcome = number.and_then(|number| talker.answer(number, deadline));
            match outcome {
                Ok(()) => {
                    breaker.succeeded();
                    stored.extend(group.iter().map(|(hash, _)| hash.clone()));
                }
                Err(Trouble {
                    redirect: Some(redirect),
                    ..
                }) => {
                    // The node is well.
                    breaker.succeeded();
                    elsewhere.extend(Arc::unwrap_or_clone(group));
                    match redirect {
                        Redirect::Ask { slot, node } => drop(underway.insert(slot, node)),
                        Redirect::Moved => has_moved = true,
                    }
                }
                Err(trouble) => breaker.failed(&format!("{address}: {}", trouble.text)),
            }
        }
        (elsewhere, has_moved)
    }
}

impl Slots {
    fn node_of(&self, key: &str) -> Option<&str> {
        let slot = slot_of(key.as_bytes());
        let index = self.0.partition_point(|(_, last, _)| *last < slot);
        let (first, _, node) = self.0.get(index)?;
        (*first <= slot).then_some(node.as_str())
    }

    fn has_node(&self, address: &str) -> bool {
        self.0.iter().any(|(_, _, node)| node == address)
    }

    fn nodes(&self) -> Vec<&str> {
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

/// Reads the table now and then, since nodes take over from each other, and whenever it is asked to.
fn keep_slots(shared: &Weak<Shared>, asked: &Receiver<Sender<()>>) {
    let mut tell = None;
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let known = Arc::clone(&lock(&shared.slots));
        if let Ok(slots) = read_slots(&shared.settings, &known) {
            shared.learn(slots);
        }
        drop(shared);
        // Dropped, it tells whoever waits.
        drop(tell.take());
        match asked.recv_timeout(REFRESH_EVERY) {
            Ok(waiting) => tell = Some(waiting),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn read_slots(settings: &RedisSettings, known: &Slots) -> Result<Slots, ReadError> {
    let named = settings.addresses();
    let known = known.nodes().into_iter().map(str::to_owned);
    let mut trouble = ReadError("REDIS_INTERFACE: no node".to_owned());
    for address in known.chain(named) {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let answered = RedisReader::open(&settings.url_of(&address))
            .and_then(|mut node| node.ask::<Vec<Vec<Value>>>(&slots));
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

/// Reads bodies back from wherever their slots are.
pub struct ClusterReader {
    settings: RedisSettings,
    slots: Slots,
    /// Those that were asked; one that could not be reached is not asked again.
    nodes: HashMap<String, Result<RedisReader, ReadError>>,
}

impl ClusterReader {
    /// Asks the first node that answers for the slots.
    ///
    /// # Errors
    /// [`ReadError`] that says what the last node said.
    pub fn open(settings: &RedisSettings) -> Result<ClusterReader, ReadError> {
        Ok(ClusterReader {
            settings: settings.clone(),
            slots: read_slots(settings, &Slots::default())?,
            nodes: HashMap::new(),
        })
    }

    /// The nodes that have slots.
    pub fn addresses(&self) -> Vec<String> {
        self.slots.nodes().into_iter().map(str::to_owned).collect()
    }

    /// A key that begins so and is in a slot of this node.
    pub fn key_at(&self, address: &str, beginning: &str) -> Option<String> {
        let mut keys = (0..KEYS_TRIED).map(|number| format!("{beginning}:{number}"));
        keys.find(|key| self.slots.node_of(key) == Some(address))
    }

    /// A node of the cluster.
    ///
    /// # Errors
    /// [`ReadError`] that says why it cannot be asked.
    pub fn node(&mut self, address: &str) -> Result<&mut RedisReader, ReadError> {
        if !self.nodes.contains_key(address) {
            let node = RedisReader::open(&self.settings.url_of(address));
            self.nodes.insert(address.to_owned(), node);
        }
        match self.nodes.get_mut(address) {
            Some(Ok(node)) => Ok(node),
            Some(Err(trouble)) => Err(trouble.clone()),
            None => Err(ReadError(format!("REDIS_INTERFACE: no node {address}"))),
        }
    }

    /// The body under a hash; `None` once it has expired.
    ///
    /// # Errors
    /// [`ReadError`] that says what its node said.
    pub fn body(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        let no_node = || ReadError(format!("REDIS_INTERFACE: no node has the slot of {hash}"));
        let address = self.slots.node_of(hash).ok_or_else(no_node)?.to_owned();
        let outcome = match self.node(&address)?.body_or_redirect(hash) {
            Ok(Ok(body)) => return Ok(body),
            // It is on its way, or has just arrived elsewhere.
            Ok(Err(Redirect::Ask { node, .. })) => {
                let node = self.node(&node)?;
                return node
                    .ask::<redis::Value>(&redis::cmd("ASKING"))
                    .and_then(|_| node.body(hash));
            }
            Ok(Err(Redirect::Moved)) => {
                self.slots = read_slots(&self.settings, &self.slots)?;
                let address = self.slots.node_of(hash).ok_or_else(no_node)?.to_owned();
                return self.node(&address)?.body(hash);
            }
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = &outcome {
            // Each body would wait for its time-out.
            self.nodes.insert(address, Err(trouble.clone()));
        }
        outcome
    }
}

/// CRC16 (XMODEM) of the key modulo 16384, as the cluster's specification has it. Our keys have no braces.
fn slot_of(key: &[u8]) -> u16 {
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

/// Enough to find one for a node with a single slot.
const KEYS_TRIED: u32 = 300_000;
/// Between two looks at the table of slots, when nobody asks.
const REFRESH_EVERY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of(b"123456789"), 0x31c3);
        assert_eq!(slot_of(b"foo"), 12_182);
    }

    #[test]
    fn a_node_that_has_left_the_cluster_is_forgotten() {
        let settings = RedisSettings {
            urls: vec!["redis://127.0.0.1:1/".to_owned()],
            expire_seconds: 1,
        };
        let cluster = RedisCluster::start(&settings, 1).unwrap();
        let mut bodies = ClusterBodies::new(&cluster);
        for port in 1..=3 {
            let node = format!("127.0.0.1:{port}");
            cluster.shared.learn(Slots(vec![(0, 16_383, node)]));
            bodies.store_bodies(vec![("foo".to_owned(), Vec::new())]);
        }
        assert_eq!(lock(&cluster.shared.nodes).len(), 1);
        assert_eq!(bodies.talkers.len(), 1);
    }

    #[test]
    fn a_slot_that_nobody_has_has_no_node() {
        let slots = Slots(vec![
            (0, 100, "a:1".to_owned()),
            (12_000, 16_383, "b:1".to_owned()),
        ]);
        assert_eq!(slots.node_of("foo"), Some("b:1"));
        assert_eq!(slots.node_of("bar"), None, "5061");
        assert_eq!(Slots::default().node_of("foo"), None);
    }
}
