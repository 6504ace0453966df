//! Bodies read back from wherever their slots are.

use std::collections::HashMap;

use r2d2_redis::redis;

use super::slots::{Slots, read_slots};
use crate::store::ReadError;
use crate::store::redis::{Redirect, RedisReader, RedisSettings};

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
        keys.find(|key| self.slots.owner_of(key) == Some(address))
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
        let address = self.slots.owner_of(hash).ok_or_else(no_node)?.to_owned();
        let outcome = match self.node(&address)?.body_or_redirect(hash) {
            Ok(Ok(body)) => return Ok(body),
            // It is on its way, or has just arrived elsewhere.
            Ok(Err(Redirect::Ask { node, .. })) => {
                let node = self.node(&node)?;
                return node
                    .query::<redis::Value>(&redis::cmd("ASKING"))
                    .and_then(|_| node.body(hash));
            }
            Ok(Err(Redirect::Moved)) => {
                self.slots = read_slots(&self.settings, &self.slots)?;
                let address = self.slots.owner_of(hash).ok_or_else(no_node)?.to_owned();
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

/// Enough to find one for a node with a single slot.
const KEYS_TRIED: u32 = 300_000;
