//! Bodies in a Redis Cluster: each body goes to the node that owns its slot.
//!
//! This module has its own slot table and uses one pool per node, because the cluster client of the redis crate has no timeout
//! for a command and fails a pipeline as a whole. Here each writer has one worker thread per node, and each node has its own
//! circuit breaker. All nodes receive their bodies at the same time. If a node is down, only the bodies of its slots go into
//! column `mail`.
//!
//! Replies of a node other than OK:
//!
//! ```text
//! MOVED        read the slot table again and send the bodies to the new owner of their slots, once
//! ASK          send the bodies to the node that the reply names, each after the command ASKING, once
//! other error  (CLUSTERDOWN, LOADING, …) save the bodies in column `mail` and stop using the node for a while
//! ```

mod reader;
mod slots;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

pub use self::reader::RedisClusterReader;
use self::slots::{RedisSlotTable, query_slot_table, redis_slot_of_key};
use super::{
    BatchBodies, BodiesInRedis, MAX_BODIES_OCTETS, RedisBodyWriter, RedisCircuitBreaker,
    RedisClusterRedirect, RedisPool, RedisSettings, RedisStoreError, STORE_TIMEOUT,
    SlotsOwnedOrMigrating, compressed_bodies_with_mail_ids,
};
use crate::mail::{Mail, MailId};
use crate::metrics::{Component, Metrics};
use crate::panics;
use crate::sync::lock;

/// The slot table and the pools of a Redis Cluster, shared by the writers of one store. Clones share one state.
#[derive(Clone)]
pub struct RedisCluster {
    shared: Arc<SharedRedisClusterState>,
}

struct SharedRedisClusterState {
    settings: RedisSettings,
    writers: usize,
    slots: Mutex<Arc<RedisSlotTable>>,
    nodes: Mutex<HashMap<String, (RedisPool, RedisCircuitBreaker)>>,
    /// The circuit breaker for reading the slot table; open while no node reports the table.
    breaker: RedisCircuitBreaker,
    refresh: Sender<Sender<()>>,
    metrics: Arc<Metrics>,
}

/// The slots that are being migrated, and the new node of each slot.
type MigratingSlots = HashMap<u16, String>;

/// Stores one writer's bodies in the nodes of the cluster.
pub struct ClusterBodyWriter {
    cluster: RedisCluster,
    workers: HashMap<String, RedisBodyWriter>,
}

impl RedisCluster {
    /// Starts the thread that keeps the slot table up to date. Does not wait for the cluster. `metrics`
    /// are those of the server.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        settings: &RedisSettings,
        writers: usize,
        metrics: &Arc<Metrics>,
    ) -> std::io::Result<RedisCluster> {
        let (refresh, requests) = bounded(1);
        let shared = Arc::new(SharedRedisClusterState {
            settings: settings.clone(),
            writers,
            slots: Mutex::default(),
            nodes: Mutex::default(),
            breaker: RedisCircuitBreaker::new(metrics),
            refresh,
            metrics: Arc::clone(metrics),
        });
        let weak = Arc::downgrade(&shared);
        let builder = thread::Builder::new().name("redis-slots".to_owned());
        builder.spawn(move || run_slot_table_refresh(&weak, &requests))?;
        Ok(RedisCluster { shared })
    }

    fn current_slot_table(&self) -> Arc<RedisSlotTable> {
        Arc::clone(&lock(&self.shared.slots))
    }

    /// Requests a refresh of the slot table and waits until the refresh ends, at most until `deadline`.
    fn request_slot_refresh_and_wait(&self, deadline: Instant) {
        let (done, finished) = bounded(1);
        if self.shared.refresh.send_deadline(done, deadline).is_ok() {
            let _ = finished.recv_deadline(deadline);
        }
    }

    fn get_or_create_node_pool(&self, address: &str) -> Option<(RedisPool, RedisCircuitBreaker)> {
        let mut nodes = lock(&self.shared.nodes);
        if let Some(node) = nodes.get(address) {
            return Some(node.clone());
        }
        let settings = &self.shared.settings;
        let url = settings.redis_node_url(address);
        let pool = RedisPool::new(settings, &url, self.shared.writers).ok()?;
        let node = (pool, RedisCircuitBreaker::new(&self.shared.metrics));
        nodes.insert(address.to_owned(), node.clone());
        Some(node)
    }
}

impl SharedRedisClusterState {
    /// Replaces the slot table. Removes the nodes without slots; otherwise `nodes` would grow each time the cluster replaces a
    /// node by one with another address.
    fn replace_slot_table(&self, slots: RedisSlotTable) {
        lock(&self.nodes).retain(|address, _| slots.node_owns_slots(address));
        *lock(&self.slots) = Arc::new(slots);
    }
}

impl ClusterBodyWriter {
    /// Returns a writer that does not connect yet.
    pub fn new(cluster: &RedisCluster) -> ClusterBodyWriter {
        ClusterBodyWriter {
            cluster: cluster.clone(),
            workers: HashMap::new(),
        }
    }

    /// Stores the bodies of a batch and returns which of them are in Redis.
    pub fn store_batch_bodies(&mut self, batch: &[Mail]) -> BodiesInRedis {
        let octets: usize = batch.iter().map(Mail::estimated_stored_octets).sum();
        let stored = match octets > MAX_BODIES_OCTETS {
            true => HashSet::new(),
            false => compressed_bodies_with_mail_ids(batch)
                .map(|bodies| self.store_bodies(bodies))
                .unwrap_or_default(),
        };
        BodiesInRedis::Some(stored)
    }

    /// Stores each body in the node of its slot, in all nodes at the same time. Returns the mail ids of the bodies that are in
    /// Redis.
    fn store_bodies(&mut self, bodies: BatchBodies) -> HashSet<MailId> {
        let deadline = Instant::now() + STORE_TIMEOUT;
        let mut stored = HashSet::new();
        let mut remaining = bodies;
        let mut migrating = MigratingSlots::new();
        // The second attempt is for bodies that were redirected.
        for _ in 0..2 {
            if self.cluster.current_slot_table().0.is_empty()
                && !self.refresh_slot_table_unless_paused(deadline)
            {
                break;
            }
            let has_moved;
            (remaining, has_moved) =
                self.send_bodies_to_nodes_once(remaining, &mut migrating, deadline, &mut stored);
            if remaining.is_empty() {
                break;
            }
            if has_moved {
                self.cluster.request_slot_refresh_and_wait(deadline);
            }
        }
        stored
    }

    fn refresh_slot_table_unless_paused(&self, deadline: Instant) -> bool {
        let breaker = &self.cluster.shared.breaker;
        if !breaker.may_use_redis_for_batch() {
            return false;
        }
        self.cluster.request_slot_refresh_and_wait(deadline);
        let found = !self.cluster.current_slot_table().0.is_empty();
        match found {
            true => breaker.record_redis_success(),
            false => breaker.record_redis_failure("no node of the cluster reports its slots"),
        }
        found
    }

    /// Sends each body to the node that `migrating` has for its slot, or else to the owner of the slot. Adds the mail ids of
    /// the bodies that are in Redis to `stored`, and replaces the content of `migrating` by the new ASK redirections. Returns
    /// the bodies that were redirected, and whether a node sent MOVED, which means that the slot table is out of date.
    fn send_bodies_to_nodes_once(
        &mut self,
        bodies: BatchBodies,
        migrating: &mut MigratingSlots,
        deadline: Instant,
        stored: &mut HashSet<MailId>,
    ) -> (BatchBodies, bool) {
        let slots = self.cluster.current_slot_table();
        self.workers
            .retain(|address, _| slots.node_owns_slots(address));
        let redirects = std::mem::take(migrating);
        let mut groups: HashMap<(&str, SlotsOwnedOrMigrating), BatchBodies> = HashMap::new();
        for body in bodies {
            let redirect = redirects.get(&redis_slot_of_key(body.0.as_str().as_bytes()));
            let target = match redirect {
                Some(node) => Some((node.as_str(), SlotsOwnedOrMigrating::Asking)),
                None => slots
                    .node_of_key(body.0.as_str())
                    .map(|node| (node, SlotsOwnedOrMigrating::Owner)),
            };
            if let Some(target) = target {
                groups.entry(target).or_default().push(body);
            }
        }
        let mut sent = Vec::new();
        for ((address, access), group) in groups {
            let Some(node) = self.cluster.get_or_create_node_pool(address) else {
                continue;
            };
            if !node.1.may_use_redis_for_batch() {
                continue;
            }
            let worker = match self.workers.get_mut(address) {
                Some(worker) => worker,
                None => {
                    match RedisBodyWriter::start(&node.0, &node.1, &self.cluster.shared.metrics) {
                        Ok(worker) => self.workers.entry(address.to_owned()).or_insert(worker),
                        Err(_) => continue,
                    }
                }
            };
            let group = Arc::new(group);
            let number = worker.send_bodies_to_worker(Arc::clone(&group), access, deadline);
            sent.push((address, node.1, group, number));
        }
        let (mut redirected, mut has_moved) = (BatchBodies::new(), false);
        for (address, breaker, group, number) in sent {
            let Some(worker) = self.workers.get_mut(address) else {
                continue;
            };
            let outcome =
                number.and_then(|number| worker.receive_body_write_result(number, deadline));
            match outcome {
                Ok(()) => {
                    breaker.record_redis_success();
                    stored.extend(group.iter().map(|(hash, _)| *hash));
                }
                Err(RedisStoreError {
                    redirect: Some(redirect),
                    ..
                }) => {
                    // A redirection shows that the node works.
                    breaker.record_redis_success();
                    redirected.extend(Arc::unwrap_or_clone(group));
                    match redirect {
                        RedisClusterRedirect::Ask { slot, node } => {
                            drop(migrating.insert(slot, node))
                        }
                        RedisClusterRedirect::Moved => has_moved = true,
                    }
                }
                Err(error) => breaker.record_redis_failure(&format!("{address}: {}", error.text)),
            }
        }
        (redirected, has_moved)
    }
}

/// Reads the slot table at each request of a writer and at least every `REFRESH_INTERVAL`, because nodes may take over slots at
/// any time.
fn run_slot_table_refresh(shared: &Weak<SharedRedisClusterState>, requests: &Receiver<Sender<()>>) {
    let mut done: Option<Sender<()>> = None;
    loop {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let known = Arc::clone(&lock(&shared.slots));
        // A panic of the redis crate must not end this thread: the slot table would never be updated again.
        let read = panics::catch_and_count_panic(&shared.metrics, Component::Redis, || {
            query_slot_table(&shared.settings, &known)
        });
        if let Ok(Ok(slots)) = read {
            shared.replace_slot_table(slots);
        }
        drop(shared);
        // Dropping the sender wakes the writer that waits for the refresh.
        drop(done.take());
        match requests.recv_timeout(REFRESH_INTERVAL) {
            Ok(sender) => done = Some(sender),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Longest time between two reads of the slot table.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_removed_from_the_redis_cluster_is_forgotten() {
        let settings = RedisSettings {
            urls: vec!["redis://127.0.0.1:1/".to_owned()],
            ca_file: None,
            expire_seconds: 1,
        };
        let cluster = RedisCluster::start(&settings, 1, &Arc::default()).unwrap();
        let mut bodies = ClusterBodyWriter::new(&cluster);
        for port in 1..=3 {
            let node = format!("127.0.0.1:{port}");
            cluster
                .shared
                .replace_slot_table(RedisSlotTable(vec![(0, 16_383, node)]));
            let hash = MailId::new_mail_ids(1, std::time::SystemTime::now()).unwrap()[0];
            bodies.store_bodies(vec![(hash, Arc::default())]);
        }
        assert_eq!(lock(&cluster.shared.nodes).len(), 1);
        assert_eq!(bodies.workers.len(), 1);
    }
}
