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

mod reader;
mod slots;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub use self::reader::ClusterReader;
use self::slots::{Slots, read_slots, slot_of};
use super::{
    Bodies, BodiesIn, BodyWriter, Breaker, MAX_BODIES_OCTETS, Redirect, RedisPool, RedisSettings,
    STORE_TIMEOUT, SlotAccess, StoreFailure, bodies_of,
};
use crate::mail::{Mail, MailId};
use crate::metrics::{self, BodyLocation, Component};
use crate::panics;
use crate::sync::lock;

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

/// Slots that are on their way, and where to.
type MigratingSlots = HashMap<u16, String>;

/// One writer's way to the cluster.
pub struct ClusterBodyWriter {
    cluster: RedisCluster,
    workers: HashMap<String, BodyWriter>,
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
        builder.spawn(move || run_slot_refresh(&weak, &asked))?;
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
    fn update_slots(&self, slots: Slots) {
        lock(&self.nodes).retain(|address, _| slots.has_node(address));
        *lock(&self.slots) = Arc::new(slots);
    }
}

impl ClusterBodyWriter {
    /// Reaches for nothing yet.
    pub fn new(cluster: &RedisCluster) -> ClusterBodyWriter {
        ClusterBodyWriter {
            cluster: cluster.clone(),
            workers: HashMap::new(),
        }
    }

    /// Stores the bodies of a batch as far as nodes take them.
    pub fn store(&mut self, batch: &[Mail]) -> BodiesIn {
        let octets: usize = batch.iter().map(Mail::stored_octets).sum();
        let count: usize = batch.iter().map(|mail| mail.recipients().len()).sum();
        let stored = match octets > MAX_BODIES_OCTETS {
            true => HashSet::new(),
            false => bodies_of(batch)
                .map(|bodies| self.store_bodies(bodies))
                .unwrap_or_default(),
        };
        metrics::BODIES.add(BodyLocation::Redis, stored.len());
        metrics::BODIES.add(BodyLocation::Table, count - stored.len());
        BodiesIn::Some(stored)
    }

    /// All nodes at once; the hashes of those bodies that may be relied on.
    fn store_bodies(&mut self, bodies: Bodies) -> HashSet<MailId> {
        let deadline = Instant::now() + STORE_TIMEOUT;
        let mut stored = HashSet::new();
        let mut left = bodies;
        let mut underway = MigratingSlots::new();
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
        if !breaker.allows() {
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
        underway: &mut MigratingSlots,
        deadline: Instant,
        stored: &mut HashSet<MailId>,
    ) -> (Bodies, bool) {
        let slots = self.cluster.slots();
        self.workers.retain(|address, _| slots.has_node(address));
        let told = std::mem::take(underway);
        let mut groups: HashMap<(&str, SlotAccess), Bodies> = HashMap::new();
        for body in bodies {
            let told = told.get(&slot_of(body.0.as_str().as_bytes()));
            let place = match told {
                Some(node) => Some((node.as_str(), SlotAccess::Asking)),
                None => slots
                    .owner_of(body.0.as_str())
                    .map(|node| (node, SlotAccess::Owner)),
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
            if !node.1.allows() {
                continue;
            }
            let talker = match self.workers.get_mut(address) {
                Some(talker) => talker,
                None => match BodyWriter::start(&node.0, &node.1) {
                    Ok(talker) => self.workers.entry(address.to_owned()).or_insert(talker),
                    Err(_) => continue,
                },
            };
            let group = Arc::new(group);
            let number = talker.send(Arc::clone(&group), entry, deadline);
            asked.push((address, node.1, group, number));
        }
        let (mut elsewhere, mut has_moved) = (Bodies::new(), false);
        for (address, breaker, group, number) in asked {
            let Some(talker) = self.workers.get_mut(address) else {
                continue;
            };
            let outcome = number.and_then(|number| talker.receive_answer(number, deadline));
            match outcome {
                Ok(()) => {
                    breaker.succeeded();
                    stored.extend(group.iter().map(|(hash, _)| *hash));
                }
                Err(StoreFailure {
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

/// Reads the table now and then, since nodes take over from each other, and whenever it is asked to.
fn run_slot_refresh(shared: &Weak<Shared>, asked: &Receiver<Sender<()>>) {
    let mut tell = None;
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let known = Arc::clone(&lock(&shared.slots));
        // A panic of the client library must not end this thread: the table would stay as it is for ever.
        let read = panics::catch(Component::Redis, || read_slots(&shared.settings, &known));
        if let Ok(Ok(slots)) = read {
            shared.update_slots(slots);
        }
        drop(shared);
        // Dropped, it tells whoever waits.
        drop(tell.take());
        match asked.recv_timeout(REFRESH_INTERVAL) {
            Ok(waiting) => tell = Some(waiting),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Between two looks at the table of slots, when nobody asks.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_removed_from_the_redis_cluster_is_forgotten() {
        let settings = RedisSettings {
            urls: vec!["redis://127.0.0.1:1/".to_owned()],
            expire_seconds: 1,
        };
        let cluster = RedisCluster::start(&settings, 1).unwrap();
        let mut bodies = ClusterBodyWriter::new(&cluster);
        for port in 1..=3 {
            let node = format!("127.0.0.1:{port}");
            cluster.shared.update_slots(Slots(vec![(0, 16_383, node)]));
            let hash = MailId::random(1).unwrap()[0];
            bodies.store_bodies(vec![(hash, Arc::default())]);
        }
        assert_eq!(lock(&cluster.shared.nodes).len(), 1);
        assert_eq!(bodies.workers.len(), 1);
    }
}
