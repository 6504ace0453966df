//! What a node says of itself: whether it takes rows, and its place in a Galera cluster.
//!
//! Asked with SHOW … LIKE only, which answers nothing instead of an error where a name is not known: MySQL, Group
//! Replication, TiDB and Vitess know none of Galera's.

use std::collections::HashMap;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::guard::guarded;
use crate::store::TableName;

/// A member of a Galera cluster, as it saw itself and the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaleraNode {
    /// Of the cluster: the same on all of its nodes, and on no others.
    cluster: String,
    /// Its own address among `addresses`; empty when it does not know.
    address: String,
    addresses: Vec<String>,
    /// It belongs to the part of the cluster that may commit, and is up to date.
    is_ready: bool,
    state: String,
}

impl GaleraNode {
    /// Asks; `None` where there is no Galera.
    ///
    /// # Errors
    /// Whatever breaks the connection; a server that does not take the question has no Galera.
    pub fn read(connection: &mut Conn) -> mysql::Result<Option<GaleraNode>> {
        if show_like(connection, "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'")?
            .get("wsrep_on")
            .is_none_or(|value| is_off(value))
        {
            return Ok(None);
        }
        show_like(connection, "SHOW GLOBAL STATUS LIKE 'wsrep_%'")
            .map(|status| Some(parse_status(&status)))
    }

    /// Why it should not be given rows; `None` when all is well.
    pub fn unready_reason(&self) -> Option<String> {
        (!self.is_ready).then(|| {
            let state = self.state.as_str();
            format!("it is not ready in its Galera cluster (wsrep_local_state_comment: {state})")
        })
    }

    /// Whether this node can tell what became of a COMMIT that was sent to `other`, which no longer listens: both are of
    /// one cluster, and the part of it that may commit has closed without `other`, so that nothing of it can come any
    /// more. A node that may still be at work proves nothing: its COMMIT could arrive after the look-up.
    pub fn is_surviving_peer_of(&self, other: &GaleraNode) -> bool {
        let listed = |addresses: &[String]| {
            let is_it = |address: &&String| **address == other.address;
            addresses.iter().filter(is_it).count()
        };
        self.is_ready
            && !self.cluster.is_empty()
            && self.cluster == other.cluster
            && !other.address.is_empty()
            // A name that two nodes go by tells neither of them.
            && listed(&other.addresses) == 1
            && listed(&self.addresses) == 0
    }
}

/// Whether a host takes rows now, in words for an administrator where it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostState {
    /// It takes rows.
    Healthy,
    /// It is healthy and read-only, as a secondary of a replication group is until it becomes the primary.
    Standby(String),
    /// It takes nothing, for this reason.
    Unhealthy(String),
}

impl HostState {
    /// Asks the server. A connection that breaks, or whose answers the driver cannot handle, must not be used again.
    ///
    /// # Errors
    /// Whatever breaks the connection.
    pub fn read(connection: &mut Conn, table: &TableName) -> mysql::Result<HostState> {
        guarded(|| {
            if let Some(reason) =
                GaleraNode::read(connection)?.and_then(|member| member.unready_reason())
            {
                return Ok(HostState::Unhealthy(reason));
            }
            let read_only = show_like(connection, "SHOW GLOBAL VARIABLES LIKE 'read_only'")?;
            // Some nodes refuse whatever reaches for a table, and nothing else. Other errors are not about the host.
            let reached = connection.query_drop(format!("SELECT `hash` FROM {table} LIMIT 0"));
            match reached {
                Err(mysql::Error::MySqlError(error)) if error.code == NOT_READY => {
                    return Ok(HostState::Unhealthy(error.to_string()));
                }
                Err(mysql::Error::MySqlError(_)) | Ok(()) => {}
                Err(error) => return Err(error),
            }
            let is_read_only = read_only
                .get("read_only")
                .is_some_and(|value| !is_off(value));
            Ok(match is_read_only {
                true => HostState::Standby("it is read-only (read_only)".to_owned()),
                false => HostState::Healthy,
            })
        })
    }
}

fn parse_status(status: &HashMap<String, String>) -> GaleraNode {
    let text = |name: &str| status.get(name).cloned().unwrap_or_default();
    let addresses: Vec<String> = text("wsrep_incoming_addresses")
        .split(',')
        .map(str::to_owned)
        .collect();
    let index: Option<usize> = text("wsrep_local_index").parse().ok();
    let state = text("wsrep_local_state_comment");
    let is_ready = !is_off(&text("wsrep_ready")) && text("wsrep_cluster_status") == "Primary";
    GaleraNode {
        cluster: text("wsrep_cluster_state_uuid"),
        address: index
            .and_then(|index| addresses.get(index).cloned())
            .filter(|address| address.contains(':'))
            .unwrap_or_default(),
        addresses,
        // One that gives its data to another node may stand still for as long.
        is_ready: is_ready && state == "Synced",
        state,
    }
}

fn show_like(connection: &mut Conn, question: &str) -> mysql::Result<HashMap<String, String>> {
    let rows: mysql::Result<Vec<(String, String)>> = connection.query(question);
    match rows {
        Ok(rows) => Ok(rows
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect()),
        // A node that is not ready says so to every question.
        Err(mysql::Error::MySqlError(error)) if error.code != NOT_READY => Ok(HashMap::new()),
        Err(error) => Err(error),
    }
}

fn is_off(value: &str) -> bool {
    ["", "0", "OFF"].contains(&value.to_ascii_uppercase().as_str())
}

/// ER_UNKNOWN_COM_ERROR, Galera's "WSREP has not yet prepared node for application use".
const NOT_READY: u16 = 1047;

#[cfg(test)]
mod tests {
    use super::*;

    fn member(cluster: &str, index: usize, addresses: &str, ready: &str) -> GaleraNode {
        let index = index.to_string();
        let status = [
            ("wsrep_cluster_state_uuid", cluster),
            ("wsrep_incoming_addresses", addresses),
            ("wsrep_local_index", index.as_str()),
            ("wsrep_local_state_comment", "Synced"),
            ("wsrep_cluster_status", "Primary"),
            ("wsrep_ready", ready),
        ];
        let owned = status.map(|(name, value)| (name.to_owned(), value.to_owned()));
        parse_status(&HashMap::from(owned))
    }

    #[test]
    fn galera_peer_survives_a_node_only_in_the_same_cluster_without_it() {
        let gone = member("c", 0, "a:1,b:1,c:1", "ON");
        for (witness, want) in [
            (member("c", 0, "b:1,c:1", "ON"), true),
            (member("c", 1, "a:1,b:1,c:1", "ON"), false),
            (member("d", 0, "b:1,c:1", "ON"), false),
            (member("c", 0, "b:1,c:1", "OFF"), false),
        ] {
            assert_eq!(witness.is_surviving_peer_of(&gone), want, "{witness:?}");
        }
        let unnamed = member("c", 0, ",,", "ON");
        assert!(!member("c", 0, "b:1,c:1", "ON").is_surviving_peer_of(&unnamed));
        let ambiguous = member("c", 0, "a:1,a:1", "ON");
        assert!(!member("c", 0, "b:1", "ON").is_surviving_peer_of(&ambiguous));
        assert!(!member("", 0, "b:1", "ON").is_surviving_peer_of(&member("", 0, "a:1,b:1", "ON")));
    }
}
