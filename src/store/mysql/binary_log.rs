//! Checks whether a COMMIT survives a power failure if the server keeps a binary log.
//!
//! With a binary log InnoDB does not sync its own log at a COMMIT. After a crash the server commits each prepared transaction
//! that the binary log contains, and rolls back the others. A COMMIT is therefore only as durable as the binary log, and the
//! server syncs the binary log at each COMMIT only if `sync_binlog` is 1. Exception: if MariaDB's
//! `innodb_flush_log_at_trx_commit` is 3, InnoDB always syncs its log. Sources: MySQL manual, "The Binary Log"; MariaDB
//! Knowledge Base, "InnoDB and the Binary Log".

use std::collections::HashMap;

use mysql::prelude::Queryable;
use mysql::{Conn, Row, from_row_opt};

/// Returns `sync_binlog` if its value allows acknowledged COMMITs to be lost. Returns `None` if there is no binary log, if
/// each COMMIT is synced, or if the server refuses the statement.
///
/// # Errors
/// The connection broke.
pub fn unsafe_sync_binlog(connection: &mut Conn) -> mysql::Result<Option<u64>> {
    let statement = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'sync_binlog', \
                    'innodb_flush_log_at_trx_commit', 'binlog_storage_engine')";
    let rows: mysql::Result<Vec<Row>> = connection.query(statement);
    match rows {
        // `from_row_opt` is used because the driver panics if a NULL is converted to a `String`.
        Ok(rows) => Ok(unsafe_sync_binlog_value(
            rows.into_iter().filter_map(|row| from_row_opt(row).ok()),
        )),
        Err(mysql::Error::MySqlError(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unsafe_sync_binlog_value(variables: impl IntoIterator<Item = (String, String)>) -> Option<u64> {
    let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
    let variables: HashMap<String, String> = variables.into_iter().map(lower).collect();
    let value = |name: &str| variables.get(name).map_or("", String::as_str);
    let has_log = ["ON", "1"].contains(&value("log_bin").to_ascii_uppercase().as_str());
    // Since MariaDB 12.3 the binary log can be stored in InnoDB, which then syncs the binary log together with the COMMIT.
    let is_separate = value("binlog_storage_engine").is_empty();
    let sync_binlog: u64 = value("sync_binlog").parse().ok()?;
    (has_log && is_separate && sync_binlog != 1 && value("innodb_flush_log_at_trx_commit") != "3")
        .then_some(sync_binlog)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unsynced_binary_log_is_reported() {
        for (log, sync_binlog, flush, engine, want) in [
            ("ON", "0", "1", "", Some(0)),
            ("1", "100", "2", "", Some(100)),
            ("ON", "1", "1", "", None),
            ("OFF", "0", "1", "", None),
            ("ON", "0", "3", "", None),
            ("ON", "0", "1", "innodb", None),
            ("ON", "", "1", "", None),
        ] {
            let variables = [
                ("log_bin", log),
                ("sync_binlog", sync_binlog),
                ("innodb_flush_log_at_trx_commit", flush),
                ("binlog_storage_engine", engine),
            ];
            let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(
                unsafe_sync_binlog_value(variables),
                want,
                "{log} {sync_binlog} {flush} {engine}"
            );
        }
        assert_eq!(unsafe_sync_binlog_value([]), None);
    }
}
