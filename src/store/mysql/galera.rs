//! Galera clusters: the state of a node, and which node knows the outcome of a COMMIT that was sent to another node.

use std::collections::HashMap;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::connection::MySqlConnection;
use super::host_state::{is_mysql_variable_off, query_show_like_statement};

/// A node of a Galera cluster, with its own view of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaleraNodeView {
    /// UUID of the cluster, the same on all of its nodes.
    cluster: String,
    /// The node's own entry in `addresses`; empty if the node does not report one.
    address: String,
    /// Addresses of all nodes that this node is connected with, including its own.
    addresses: Vec<String>,
    /// Whether the node is synced and belongs to the primary component. Only this component may commit.
    is_ready: bool,
    /// Value of `wsrep_local_state_comment`, such as `Synced`.
    state: String,
}

impl GaleraNodeView {
    /// Reads the node's state. Returns `None` for a server without Galera.
    ///
    /// # Errors
    /// The connection broke, or the node is not ready and refuses every statement.
    pub fn read(connection: &mut Conn) -> mysql::Result<Option<GaleraNodeView>> {
        if query_show_like_statement(connection, "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'")?
            .get("wsrep_on")
            .is_none_or(|value| is_mysql_variable_off(value))
        {
            return Ok(None);
        }
        query_show_like_statement(connection, "SHOW GLOBAL STATUS LIKE 'wsrep_%'")
            .map(|status| Some(parse_galera_status(&status)))
    }

    /// Returns why the node must not be used; `None` if it is ready.
    pub fn unready_reason(&self) -> Option<String> {
        (!self.is_ready).then(|| {
            let state = self.state.as_str();
            format!("it is not ready in its Galera cluster (wsrep_local_state_comment: {state})")
        })
    }

    /// Returns whether this node knows the final outcome of a COMMIT that was sent to `lost`, a node that no longer listens.
    ///
    /// Both nodes must belong to the same cluster, and this node must be in the primary component, without `lost`. No
    /// transaction of `lost` can then arrive at this node any more. While `lost` is still in the component, its COMMIT could
    /// arrive after its rows were looked up.
    pub fn knows_outcome_of_commits_on(&self, lost: &GaleraNodeView) -> bool {
        let count_in = |addresses: &[String]| {
            let is_lost = |address: &&String| **address == lost.address;
            addresses.iter().filter(is_lost).count()
        };
        self.is_ready
            && !self.cluster.is_empty()
            && self.cluster == lost.cluster
            && !lost.address.is_empty()
            // If two nodes report the same address, this address identifies neither of them.
            && count_in(&lost.addresses) == 1
            && count_in(&self.addresses) == 0
    }
}

/// Makes later reads of this connection wait until the node has applied all transactions that its Galera cluster has
/// committed. Normally a node applies the transactions of other nodes with a delay. Does nothing without Galera.
///
/// # Errors
/// The server refused the statement, or the connection broke.
pub fn enable_causal_reads(connection: &mut MySqlConnection) -> mysql::Result<()> {
    match connection.server.galera {
        Some(_) => connection
            .call_driver_with_timeout(|conn| conn.query_drop("SET SESSION wsrep_sync_wait = 1")),
        None => Ok(()),
    }
}

fn parse_galera_status(status: &HashMap<String, String>) -> GaleraNodeView {
    let text = |name: &str| status.get(name).cloned().unwrap_or_default();
    let addresses: Vec<String> = text("wsrep_incoming_addresses")
        .split(',')
        .map(str::to_owned)
        .collect();
    let index: Option<usize> = text("wsrep_local_index").parse().ok();
    let state = text("wsrep_local_state_comment");
    let is_ready =
        !is_mysql_variable_off(&text("wsrep_ready")) && text("wsrep_cluster_status") == "Primary";
    GaleraNodeView {
        cluster: text("wsrep_cluster_state_uuid"),
        address: index
            .and_then(|index| addresses.get(index).cloned())
            .filter(|address| address.contains(':'))
            .unwrap_or_default(),
        addresses,
        // The state `Synced` excludes a donor, which may stall while it sends its data to another node.
        is_ready: is_ready && state == "Synced",
        state,
    }
}

/// Error code of "WSREP has not yet prepared node for application use" (ER_UNKNOWN_COM_ERROR).
pub const WSREP_NOT_READY_ERROR: u16 = 1047;

/// Returns the view of a ready node with this index in the addresses of its cluster.
#[cfg(test)]
pub fn sample_galera_node_view(
    cluster: &str,
    index: usize,
    addresses: &str,
    ready: &str,
) -> GaleraNodeView {
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
    parse_galera_status(&HashMap::from(owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn galera_peer_survives_a_node_only_in_the_same_cluster_without_it() {
        let gone = sample_galera_node_view("c", 0, "a:1,b:1,c:1", "ON");
        for (peer, want) in [
            (sample_galera_node_view("c", 0, "b:1,c:1", "ON"), true),
            (sample_galera_node_view("c", 1, "a:1,b:1,c:1", "ON"), false),
            (sample_galera_node_view("d", 0, "b:1,c:1", "ON"), false),
            (sample_galera_node_view("c", 0, "b:1,c:1", "OFF"), false),
        ] {
            assert_eq!(peer.knows_outcome_of_commits_on(&gone), want, "{peer:?}");
        }
        let unnamed = sample_galera_node_view("c", 0, ",,", "ON");
        assert!(
            !sample_galera_node_view("c", 0, "b:1,c:1", "ON").knows_outcome_of_commits_on(&unnamed)
        );
        let ambiguous = sample_galera_node_view("c", 0, "a:1,a:1", "ON");
        assert!(
            !sample_galera_node_view("c", 0, "b:1", "ON").knows_outcome_of_commits_on(&ambiguous)
        );
        assert!(
            !sample_galera_node_view("", 0, "b:1", "ON")
                .knows_outcome_of_commits_on(&sample_galera_node_view("", 0, "a:1,b:1", "ON"))
        );
    }
}
