//! MySQL Group Replication: the group that a server belongs to, and the largest transaction of the group.

use mysql::Conn;

use super::host_state::query_show_like_statement;

/// A server that is configured as a member of a replication group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// Maximum octets of a transaction; `None` if the group has no limit.
    pub max_transaction_octets: Option<usize>,
}

impl GroupMember {
    /// Reads the group of a server. Returns `None` for a server without Group Replication.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read(connection: &mut Conn) -> mysql::Result<Option<GroupMember>> {
        let variables = query_show_like_statement(
            connection,
            "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('group_replication_group_name', \
             'group_replication_transaction_size_limit')",
        )?;
        let text = |name: &str| variables.get(name).cloned().unwrap_or_default();
        let group = text("group_replication_group_name");
        let limit = text("group_replication_transaction_size_limit")
            .parse()
            .ok();
        Ok((!group.is_empty()).then(|| GroupMember {
            // The value 0 means no limit.
            max_transaction_octets: limit.filter(|limit| *limit > 0),
        }))
    }
}
