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

use std::io;

use super::connect_error::is_connection_refused;
use super::connection::{ConnectedServer, MySqlConnection};
use super::connector::Connector;
use super::galera;
use super::group_replication::{self, GroupMember};

/// Connects to a server whose rows show whether the COMMIT sent to `sent_to` succeeded. Reads of the connection include
/// everything that the cluster of the server has committed.
///
/// # Errors
/// No such server can be reached now. The error is that of the server of the COMMIT, or the reason of a
/// member of its group.
pub fn connect_to_commit_lookup_server(
    connector: &Connector,
    sent_to: &ConnectedServer,
) -> mysql::Result<MySqlConnection> {
    match &sent_to.group {
        Some(lost) => connect_to_group_member(connector, sent_to, lost),
        None => connect_to_server_or_galera_peer(connector, sent_to),
    }
}

fn connect_to_server_or_galera_peer(
    connector: &Connector,
    sent_to: &ConnectedServer,
) -> mysql::Result<MySqlConnection> {
    let error = match connect(connector, sent_to) {
        Ok(mut connection) => {
            galera::enable_causal_reads(&mut connection)?;
            return Ok(connection);
        }
        Err(error) => error,
    };
    let Some(lost) = sent_to
        .galera
        .as_ref()
        .filter(|_| is_connection_refused(&error))
    else {
        return Err(error);
    };
    for other in other_hosts(connector, sent_to) {
        if let Ok(mut connection) = connector.connect_to_mysql_host(other, None)
            && (connection.server.galera.as_ref())
                .is_some_and(|peer| peer.knows_outcome_of_commits_on(lost))
            && galera::enable_causal_reads(&mut connection).is_ok()
        {
            return Ok(connection);
        }
    }
    Err(error)
}

fn connect_to_group_member(
    connector: &Connector,
    sent_to: &ConnectedServer,
    lost: &GroupMember,
) -> mysql::Result<MySqlConnection> {
    let first = match connector.hanging_commits().commit_hang_reason(sent_to.host) {
        Some(reason) => Err(io::Error::other(reason).into()),
        None => connect(connector, sent_to),
    };
    let mut error =
        match first.and_then(|connection| prepare_group_member_for_lookup(connection, lost)) {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
    for other in other_hosts(connector, sent_to) {
        let connection = connector
            .connect_with_short_timeouts(other, None)
            .and_then(|_| connector.connect_to_mysql_host(other, None));
        let Ok(connection) = connection else {
            continue;
        };
        match prepare_group_member_for_lookup(connection, lost) {
            Ok(connection) => return Ok(connection),
            // The reason of a member that was reached says more than that of a lost one.
            Err(reason) => error = reason,
        }
    }
    Err(error)
}

fn prepare_group_member_for_lookup(
    mut connection: MySqlConnection,
    lost: &GroupMember,
) -> mysql::Result<MySqlConnection> {
    // After an error the connection is dropped, and `broken` closes it without further statements.
    connection.broken = true;
    // The order matters: only a transaction that begins after the check is certain to follow the removal of the lost member.
    group_replication::check_knows_outcome_of_commits_on(&mut connection, lost)?;
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
