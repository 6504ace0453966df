//! MySQL Group Replication: the group that a server belongs to, which member knows the outcome of a COMMIT that was sent to
//! another member, and the largest transaction of the group.
//!
//! A group decides about each transaction in one order that is the same on all members, and removing a member is a step of the
//! same order. Once a member has been removed, no transaction of it can follow. A transaction with the consistency `BEFORE`
//! first waits until its member has applied everything before it in that order, and this wait needs a majority of the group.
//! So if the primary reads with `BEFORE`, and the lost member was removed before, the rows that it does not find were not
//! stored and never will be. Source: MySQL manual, "Transaction Consistency Guarantees".

use std::io;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::connection::MySqlConnection;
use super::host_state::query_show_like_statement;
use crate::store::Diagnostic;

/// A server that is configured as a member of a replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Name of the group, a UUID.
    group: String,
    /// UUID of the server, which identifies it in the group.
    server: String,
    /// Maximum octets of a transaction; `None` if the group has no limit.
    pub max_transaction_octets: Option<usize>,
}

/// One row of performance_schema.replication_group_members.
struct ListedMember {
    server: String,
    state: String,
    role: String,
}

impl GroupMember {
    /// Reads the group of a server. Returns `None` for a server without Group Replication.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read(connection: &mut Conn) -> mysql::Result<Option<GroupMember>> {
        let variables = query_show_like_statement(
            connection,
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('group_replication_group_name', 'server_uuid', \
             'group_replication_transaction_size_limit')",
        )?;
        let text = |name: &str| variables.get(name).cloned().unwrap_or_default();
        let group = text("group_replication_group_name");
        let limit = text("group_replication_transaction_size_limit")
            .parse()
            .ok();
        Ok((!group.is_empty()).then(|| GroupMember {
            group,
            server: text("server_uuid"),
            // The value 0 means no limit.
            max_transaction_octets: limit.filter(|limit| *limit > 0),
        }))
    }
}

/// Makes each later transaction of this connection wait until its member has applied all preceding transactions of the group.
///
/// # Errors
/// The server refused the statement, or the connection broke.
pub fn enable_causal_reads(connection: &mut MySqlConnection) -> mysql::Result<()> {
    connection.call_driver_with_timeout(|conn| {
        conn.query_drop("SET SESSION group_replication_consistency = 'BEFORE'")
    })
}

/// Checks that the server of `connection` is the primary of the group of `lost`, and either is `lost` itself or belongs to a
/// group that has removed `lost`. Transactions that begin after this check with [`enable_causal_reads`] then know the outcome
/// of each COMMIT that was sent to `lost`.
///
/// # Errors
/// The outcome is not known there, or not yet; or the account may not read the table of members.
pub fn check_knows_outcome_of_commits_on(
    connection: &mut MySqlConnection,
    lost: &GroupMember,
) -> mysql::Result<()> {
    let Some(asked) = connection.server.group.clone() else {
        return Err(not_known("the server does not use Group Replication"));
    };
    let members = list_members(connection).map_err(|error| match is_access_denied(&error) {
        true => not_known(&format!(
            "the account may not read the members of the group; run: {GRANT} the account of MYSQL_USER"
        )),
        false => error,
    })?;
    match reason_if_outcome_is_unknown(&asked, lost, &members) {
        Some(reason) => Err(not_known(reason)),
        None => Ok(()),
    }
}

/// Returns a finding for `goguerrilla check` if the server is a member of a group whose members its account may not read.
pub fn unreadable_members_finding(
    connection: &mut MySqlConnection,
    user: &str,
) -> Option<Diagnostic> {
    connection.server.group.as_ref()?;
    let error = list_members(connection).err().filter(is_access_denied)?;
    Some(Diagnostic::warning(format!(
        "MYSQL_USER: {} (error 1142), so the outcome of a COMMIT that a lost member did not answer cannot be looked up, and its \
         mails get 451; run: {GRANT} '{user}'@'%' (with the host part of the account)",
        match &error {
            mysql::Error::MySqlError(error) => error.message.as_str(),
            _ => "",
        }
    )))
}

fn list_members(connection: &mut MySqlConnection) -> mysql::Result<Vec<ListedMember>> {
    let rows: Vec<(String, String, String)> = connection.call_driver_with_timeout(|conn| {
        conn.query(
            "SELECT MEMBER_ID, MEMBER_STATE, MEMBER_ROLE FROM performance_schema.replication_group_members",
        )
    })?;
    let member = |(server, state, role)| ListedMember {
        server,
        state,
        role,
    };
    Ok(rows.into_iter().map(member).collect())
}

fn is_access_denied(error: &mysql::Error) -> bool {
    matches!(error, mysql::Error::MySqlError(error) if error.code == TABLE_ACCESS_DENIED_ERROR)
}

/// Returns why `asked`, which lists `members`, does not know the outcome of COMMITs that were sent to `lost`.
fn reason_if_outcome_is_unknown(
    asked: &GroupMember,
    lost: &GroupMember,
    members: &[ListedMember],
) -> Option<&'static str> {
    if asked.group != lost.group || lost.server.is_empty() {
        return Some("the server belongs to another group");
    }
    let is_primary = members.iter().any(|member| {
        member.server == asked.server && member.state == "ONLINE" && member.role == "PRIMARY"
    });
    if !is_primary {
        return Some("the server is not the primary of its group");
    }
    let lists_lost = members.iter().any(|member| member.server == lost.server);
    (lists_lost && asked.server != lost.server)
        .then_some("the group has not yet removed the server of the COMMIT")
}

fn not_known(reason: &str) -> mysql::Error {
    io::Error::other(format!("the outcome is not known here: {reason}")).into()
}

/// The statement that lets an account read the members of its group; the account's name follows.
const GRANT: &str = "GRANT SELECT ON performance_schema.replication_group_members TO";
/// Error code of "command denied to user for table" (ER_TABLEACCESS_DENIED_ERROR).
const TABLE_ACCESS_DENIED_ERROR: u16 = 1142;

#[cfg(test)]
mod tests {
    use super::*;

    fn member(group: &str, server: &str) -> GroupMember {
        GroupMember {
            group: group.to_owned(),
            server: server.to_owned(),
            max_transaction_octets: None,
        }
    }

    #[test]
    fn group_member_knows_an_outcome_only_as_primary_of_the_group_without_the_lost_member() {
        let online = |server: &str, role: &str| ListedMember {
            server: server.to_owned(),
            state: "ONLINE".to_owned(),
            role: role.to_owned(),
        };
        let (primary, secondary) = (online("b", "PRIMARY"), online("c", "SECONDARY"));
        let knows = |asked: &GroupMember, lost: &GroupMember, members: &[ListedMember]| {
            reason_if_outcome_is_unknown(asked, lost, members).is_none()
        };
        let (asked, lost) = (member("g", "b"), member("g", "a"));
        let without_lost = [primary, secondary];
        assert!(knows(&asked, &lost, &without_lost));
        assert!(
            knows(&asked, &asked, &without_lost),
            "it is the server of the COMMIT"
        );
        assert!(
            !knows(&member("g", "c"), &lost, &without_lost),
            "a secondary"
        );
        assert!(
            !knows(&member("h", "b"), &lost, &without_lost),
            "another group"
        );
        assert!(!knows(&asked, &member("g", ""), &without_lost), "unnamed");
        let mut unreachable = online("a", "SECONDARY");
        unreachable.state = "UNREACHABLE".to_owned();
        let with_lost = [online("b", "PRIMARY"), unreachable];
        assert!(!knows(&asked, &lost, &with_lost), "not yet removed");
        let mut offline = online("b", "PRIMARY");
        offline.state = "ERROR".to_owned();
        assert!(!knows(&asked, &lost, &[offline]));
        assert!(!knows(&asked, &lost, &[]));
    }
}
