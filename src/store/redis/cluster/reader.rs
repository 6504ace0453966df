//! Reads bodies from a Redis Cluster.

use std::collections::HashMap;

use r2d2_redis::redis;

use super::slots::{RedisSlotTable, query_slot_table};
use crate::store::StoreReadError;
use crate::store::redis::{RedisClusterRedirect, RedisReadConnection, RedisSettings};

/// Reads bodies from the nodes of a Redis Cluster.
pub struct RedisClusterReader {
    settings: RedisSettings,
    slots: RedisSlotTable,
    /// The nodes that were used, by address. If a node failed, its error is kept and the node is not tried again.
    nodes: HashMap<String, Result<RedisReadConnection, StoreReadError>>,
}

impl RedisClusterReader {
    /// Reads the slot table from the first node that reports it.
    ///
    /// # Errors
    /// [`StoreReadError`]: no node reports the slots; the error is the one from the last node.
    pub fn open(settings: &RedisSettings) -> Result<RedisClusterReader, StoreReadError> {
        Ok(RedisClusterReader {
            settings: settings.clone(),
            slots: query_slot_table(settings, &RedisSlotTable::default())?,
            nodes: HashMap::new(),
        })
    }

    /// Returns the addresses of the nodes that own slots.
    pub fn slot_owner_addresses(&self) -> Vec<String> {
        self.slots
            .distinct_slot_owner_addresses()
            .into_iter()
            .map(str::to_owned)
            .collect()
    }

    /// Returns a key that begins with `prefix` and belongs to a slot of the node at `address`; `None` if no such key is found.
    pub fn find_key_for_node(&self, address: &str, prefix: &str) -> Option<String> {
        let mut keys = (0..MAX_KEYS_TRIED).map(|number| format!("{prefix}:{number}"));
        keys.find(|key| self.slots.node_of_key(key) == Some(address))
    }

    /// Returns the connection to the node at `address`. Opens a connection if there is none.
    ///
    /// # Errors
    /// [`StoreReadError`]: the node cannot be reached now, or failed before.
    pub fn connection_to_redis_node(
        &mut self,
        address: &str,
    ) -> Result<&mut RedisReadConnection, StoreReadError> {
        if !self.nodes.contains_key(address) {
            let node =
                RedisReadConnection::open(&self.settings, &self.settings.redis_node_url(address));
            self.nodes.insert(address.to_owned(), node);
        }
        match self.nodes.get_mut(address) {
            Some(Ok(node)) => Ok(node),
            Some(Err(error)) => Err(error.clone()),
            None => Err(StoreReadError(format!(
                "REDIS_INTERFACE: no node {address}"
            ))),
        }
    }

    /// Returns the body of the mail with the id `hash`; `None` if the body has expired.
    ///
    /// # Errors
    /// [`StoreReadError`]: the node that owns the slot of `hash` cannot be queried, or no node owns the slot.
    pub fn body(&mut self, hash: &str) -> Result<Option<Vec<u8>>, StoreReadError> {
        let no_owner =
            || StoreReadError(format!("REDIS_INTERFACE: no node owns the slot of {hash}"));
        let address = self
            .slots
            .node_of_key(hash)
            .ok_or_else(no_owner)?
            .to_owned();
        let outcome = match self
            .connection_to_redis_node(&address)?
            .get_body_or_redirect(hash)
        {
            Ok(Ok(body)) => return Ok(body),
            // The slot is being migrated, and its new node may already have the body.
            Ok(Err(RedisClusterRedirect::Ask { node, .. })) => {
                let node = self.connection_to_redis_node(&node)?;
                return node
                    .run_redis_command::<redis::Value>(&redis::cmd("ASKING"))
                    .and_then(|_| node.body(hash));
            }
            Ok(Err(RedisClusterRedirect::Moved)) => {
                self.slots = query_slot_table(&self.settings, &self.slots)?;
                let address = self
                    .slots
                    .node_of_key(hash)
                    .ok_or_else(no_owner)?
                    .to_owned();
                return self.connection_to_redis_node(&address)?.body(hash);
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            // The error is kept, because otherwise each further body would wait for this node's timeout.
            self.nodes.insert(address, Err(error.clone()));
        }
        outcome
    }
}

/// Maximum number of keys that `find_key_for_node` tries before it returns `None`. This is enough to find a key for a node that
/// owns only one of the 16,384 slots.
const MAX_KEYS_TRIED: u32 = 300_000;
