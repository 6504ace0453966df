//! The server that is asked for the outcome of an unanswered COMMIT.
//!
//! ```text
//! server of the COMMIT      server that is asked
//! alone                     the same address; no other server, not even another address of the same name
//! node of Galera            the same address; if it refuses connections: a node that remained in the primary component when
//!                           the server dropped out of it
//! member of a group         the same address while the server is ONLINE in its group; else the primary of the group once the
//!                           group has removed the server
//! ```
//!
//! A node or member first applies everything that its cluster has committed, so that its answer is final.
//!
//! If the COMMIT of a look-up was not answered either, its server is asked next; another server only if it knows the outcome
//! of each unanswered COMMIT.

use std::io;

use super::connect_error::is_connection_refused;
use super::connection::{ConnectedServer, MySqlConnection};
use super::connector::Connector;
use super::galera;
use super::group_replication::{self, GroupMember};

/// Connects to a server whose rows show whether each COMMIT succeeded. `sent_to` are the servers of the unanswered COMMITs, the
/// newest last; the server of a newer COMMIT knows the outcome of the older ones. Reads of the connection include everything
/// that the cluster of the server has committed.
///
/// # Errors
/// No such server can be reached now. The error is that of the server of the newest COMMIT, or the reason of a member of its
/// group.
pub fn connect_to_commit_lookup_server(
    connector: &Connector,
    sent_to: &[&ConnectedServer],
) -> mysql::Result<MySqlConnection> {
    let Some(newest) = sent_to.last() else {
        return Err(io::Error::other("no COMMIT is to be looked up").into());
    };
    match newest.group {
        Some(_) => connect_to_group_member(connector, newest, sent_to),
        None => connect_to_server_or_galera_peer(connector, newest, sent_to),
    }
}

fn connect_to_server_or_galera_peer(
    connector: &Connector,
    newest: &ConnectedServer,
    sent_to: &[&ConnectedServer],
) -> mysql::Result<MySqlConnection> {
    let error = match connect(connector, newest) {
        Ok(mut connection) => {
            galera::enable_causal_reads(&mut connection)?;
            return Ok(connection);
        }
        Err(error) => error,
    };
    if newest.galera.is_none() || !is_connection_refused(&error) {
        return Err(error);
    }
    for other in other_hosts(connector, newest) {
        if let Ok(mut connection) = connector.connect_to_mysql_host(other, None)
            && knows_outcome_of_all_commits(&connection.server, sent_to)
            && galera::enable_causal_reads(&mut connection).is_ok()
        {
            return Ok(connection);
        }
    }
    Err(error)
}

/// Returns whether a Galera node knows the outcome of each COMMIT that was sent to the servers `sent_to`.
fn knows_outcome_of_all_commits(node: &ConnectedServer, sent_to: &[&ConnectedServer]) -> bool {
    sent_to.iter().all(|lost| {
        let is_same_server = (node.host, node.address) == (lost.host, lost.address);
        let views = node.galera.as_ref().zip(lost.galera.as_ref());
        is_same_server || views.is_some_and(|(node, lost)| node.knows_outcome_of_commits_on(lost))
    })
}

fn connect_to_group_member(
    connector: &Connector,
    newest: &ConnectedServer,
    sent_to: &[&ConnectedServer],
) -> mysql::Result<MySqlConnection> {
    let lost: Option<Vec<&GroupMember>> =
        sent_to.iter().map(|server| server.group.as_ref()).collect();
    let Some(lost) = lost else {
        return Err(io::Error::other("a COMMIT was sent to a server without a group").into());
    };
    let first = match connector.hanging_commits().commit_hang_reason(newest.host) {
        Some(reason) => Err(io::Error::other(reason).into()),
        None => connect(connector, newest),
    };
    let newest_only = lost.last().copied().into_iter().collect::<Vec<_>>();
    let first =
        first.and_then(|connection| prepare_group_member_for_lookup(connection, &newest_only));
    let mut error = match first {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    for other in other_hosts(connector, newest) {
        let connection = connector
            .connect_with_short_timeouts(other, None)
            .and_then(|_| connector.connect_to_mysql_host(other, None));
        let Ok(connection) = connection else {
            continue;
        };
        match prepare_group_member_for_lookup(connection, &lost) {
            Ok(connection) => return Ok(connection),
            // The reason of a member that was reached says more than that of a lost one.
            Err(reason) => error = reason,
        }
    }
    Err(error)
}

fn prepare_group_member_for_lookup(
    mut connection: MySqlConnection,
    lost: &[&GroupMember],
) -> mysql::Result<MySqlConnection> {
    // After an error the connection is dropped, and `broken` closes it without further statements.
    connection.broken = true;
    // The order matters: only a transaction that begins after the check is certain to follow the removal of the lost member.
    for lost in lost {
        group_replication::check_knows_outcome_of_commits_on(&mut connection, lost)?;
    }
    group_replication::enable_causal_reads(&mut connection)?;
    connection.broken = false;
    Ok(connection)
}

/// Connects to the server of the COMMIT. With several hosts a connection with short timeouts is made first, because it detects
/// a hanging server earlier.
fn connect(connector: &Connector, sent_to: &ConnectedServer) -> mysql::Result<MySqlConnection> {
    if connector.hosts().host_count() > 1 {
        drop(connector.connect_with_short_timeouts(sent_to.host, sent_to.address)?);
    }
    connector.connect_to_mysql_host(sent_to.host, sent_to.address)
}

fn other_hosts(connector: &Connector, sent_to: &ConnectedServer) -> Vec<usize> {
    let mut hosts = connector.hosts().host_indexes_in_try_order();
    hosts.retain(|host| {
        *host != sent_to.host
            && connector
                .hanging_commits()
                .commit_hang_reason(*host)
                .is_none()
    });
    hosts
}

#[cfg(test)]
mod tests {
    use super::super::galera::sample_galera_node_view;
    use super::*;

    fn node(host: usize, index: usize, addresses: &str) -> ConnectedServer {
        ConnectedServer {
            host,
            address: None,
            connection_id: 1,
            galera: Some(sample_galera_node_view("c", index, addresses, "ON")),
            group: None,
        }
    }

    #[test]
    fn galera_node_must_know_the_outcome_of_every_unanswered_commit() {
        let lost = [node(0, 0, "a:1,b:1,c:1"), node(1, 0, "b:1,c:1")];
        let both: Vec<&ConnectedServer> = lost.iter().collect();
        let knows = |node: &ConnectedServer| knows_outcome_of_all_commits(node, &both);
        assert!(knows(&node(2, 0, "c:1")));
        assert!(
            !knows(&node(2, 1, "b:1,c:1")),
            "the second COMMIT may still arrive"
        );
        assert!(
            !knows(&node(2, 1, "a:1,c:1")),
            "the first COMMIT may still arrive"
        );
        // The server of the first COMMIT is back.
        assert!(knows(&node(0, 0, "a:1,c:1")));
        assert!(!knows(&node(0, 0, "a:1,b:1,c:1")));
    }
}
