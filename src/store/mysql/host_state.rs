//! The state of a host as its server reports it.
//!
//! Variables are read with SHOW … LIKE, because this statement returns no rows for an unknown name. MySQL, Group Replication,
//! TiDB and Vitess do not know the names of Galera's variables.

use std::collections::HashMap;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::driver_panic::catch_panic;
use super::galera::{GaleraNodeView, WSREP_NOT_READY_ERROR};
use crate::metrics::Metrics;
use crate::store::TableName;

/// Whether a host accepts rows, and the reason if it does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MySqlHostState {
    /// The host accepts rows.
    Healthy,
    /// The host is healthy but read-only, such as a secondary of a replication group until it becomes the primary.
    Standby(String),
    /// The host accepts no rows: it is unreachable or not ready, or a COMMIT hangs there.
    Unhealthy(String),
}

impl MySqlHostState {
    /// Reads the state of a host. Panics of the driver are counted in `metrics`. After an error the connection must not
    /// be used again.
    ///
    /// # Errors
    /// The connection broke, or the driver cannot handle the server's answer.
    pub fn read(
        connection: &mut Conn,
        table: &TableName,
        metrics: &Metrics,
    ) -> mysql::Result<MySqlHostState> {
        catch_panic(metrics, || {
            if let Some(reason) =
                GaleraNodeView::read(connection)?.and_then(|node| node.unready_reason())
            {
                return Ok(MySqlHostState::Unhealthy(reason));
            }
            let read_only =
                query_show_like_statement(connection, "SHOW GLOBAL VARIABLES LIKE 'read_only'")?;
            // Some Galera nodes that are not ready refuse only statements that read a table. Other errors of this SELECT
            // concern the table or the account, not the host.
            let selected = connection.query_drop(format!("SELECT `hash` FROM {table} LIMIT 0"));
            match selected {
                Err(mysql::Error::MySqlError(error)) if error.code == WSREP_NOT_READY_ERROR => {
                    return Ok(MySqlHostState::Unhealthy(error.to_string()));
                }
                Err(mysql::Error::MySqlError(_)) | Ok(()) => {}
                Err(error) => return Err(error),
            }
            let is_read_only = read_only
                .get("read_only")
                .is_some_and(|value| !is_mysql_variable_off(value));
            Ok(match is_read_only {
                true => MySqlHostState::Standby("it is read-only (read_only)".to_owned()),
                false => MySqlHostState::Healthy,
            })
        })
    }
}

/// Returns the values of a SHOW … LIKE statement by their names in lower case. The map is empty if the server refuses the
/// statement.
///
/// # Errors
/// The connection broke, or the node is not ready and answers every statement with [`WSREP_NOT_READY_ERROR`].
pub fn query_show_like_statement(
    connection: &mut Conn,
    statement: &str,
) -> mysql::Result<HashMap<String, String>> {
    let rows: mysql::Result<Vec<(String, String)>> = connection.query(statement);
    match rows {
        Ok(rows) => Ok(rows
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect()),
        Err(mysql::Error::MySqlError(error)) if error.code != WSREP_NOT_READY_ERROR => {
            Ok(HashMap::new())
        }
        Err(error) => Err(error),
    }
}

/// Returns whether a variable has one of the values that mean off.
pub fn is_mysql_variable_off(value: &str) -> bool {
    ["", "0", "OFF"].contains(&value.to_ascii_uppercase().as_str())
}
