//! Whether the old rows of the table can be removed (GM_KEEP_DAYS).

use mysql::prelude::Queryable;

use super::{fixes, query};
use crate::check::driver_panic::run_check_catching_panic;
use crate::store::mysql::connection::MySqlConnection;
use crate::store::mysql::pool::Connector;
use crate::store::retention::{DayPartitions, delete_statement, why_rows_stay};
use crate::store::{Diagnostic, TableName};

/// Returns a warning if old rows cannot be removed. Removes nothing.
pub fn check_retention(connector: &Connector) -> Vec<Diagnostic> {
    run_check_catching_panic("GM_KEEP_DAYS", || {
        let table = connector.table();
        let outcome = connector
            .connect_any()
            .and_then(|mut connection| find_problem(&mut connection, table));
        let problem = outcome.unwrap_or_else(|error| Some(fixes::error_words(&error)));
        let warning = |problem| Diagnostic::warning(format!("GM_KEEP_DAYS: {problem}"));
        problem.map(warning).into_iter().collect()
    })
}

fn find_problem(
    connection: &mut MySqlConnection,
    table: &TableName,
) -> mysql::Result<Option<String>> {
    if let Some(reason) = why_rows_stay(connection, table)? {
        return Ok(Some(reason));
    }
    // EXPLAIN needs the rights of the statement and does not execute it.
    let explain = format!("EXPLAIN {}", delete_statement(table, 1)).replace('?', "'1970-01-01'");
    let explained = connection.call_driver_with_timeout(|conn| conn.query_drop(explain));
    if let Err(error) = explained {
        return Ok(Some(format!(
            "old rows of {table} cannot be removed: {}; grant DELETE on it to MYSQL_USER",
            fixes::error_words(&error)
        )));
    }
    if DayPartitions::read(connection, table)?.is_none() {
        return Ok(None);
    }
    let missing = missing_partition_rights(connection, table);
    Ok((!missing.is_empty()).then(|| {
        format!(
            "partitions of {table} can be neither made nor dropped; grant {} on it to MYSQL_USER",
            missing.join(", ")
        )
    }))
}

/// Returns the privileges that MYSQL_USER lacks for changing partitions. The list is empty if SHOW GRANTS fails, and if the
/// account has a role, whose privileges information_schema does not list.
fn missing_partition_rights(
    connection: &mut MySqlConnection,
    table: &TableName,
) -> Vec<&'static str> {
    let grants: Vec<String> = query::query_rows_or_empty(connection, "SHOW GRANTS", ());
    let has_role = |grant: &String| !grant.contains(" ON ");
    if grants.is_empty() || grants.iter().any(has_role) {
        return Vec::new();
    }
    let rights: Vec<String> = query::query_rows_or_empty(
        connection,
        "SELECT UPPER(PRIVILEGE_TYPE) FROM information_schema.USER_PRIVILEGES
         UNION SELECT UPPER(PRIVILEGE_TYPE) FROM information_schema.SCHEMA_PRIVILEGES
         WHERE COALESCE(?, DATABASE()) LIKE TABLE_SCHEMA
         UNION SELECT UPPER(PRIVILEGE_TYPE) FROM information_schema.TABLE_PRIVILEGES
         WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?",
        (
            table.database_in_table_name(),
            table.database_in_table_name(),
            table.table_part(),
        ),
    );
    let is_missing = |right: &&str| !rights.iter().any(|granted| granted == right);
    ["ALTER", "CREATE", "DROP", "INSERT"]
        .into_iter()
        .filter(is_missing)
        .collect()
}
