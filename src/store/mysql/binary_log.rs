//! Whether a COMMIT survives a power failure where the server keeps a binary log.
//!
//! With a binary log InnoDB does not sync the record of a COMMIT. After a crash the server commits each prepared transaction that
//! it finds in the binary log and undoes the others, so a COMMIT is as durable as the binary log is: synced at each
//! COMMIT only with `sync_binlog` 1. MariaDB's `innodb_flush_log_at_trx_commit` 3 syncs the record all the same. Sources:
//! MySQL manual, "The Binary Log"; MariaDB's knowledge base, "InnoDB and the Binary Log".

use std::collections::HashMap;

use mysql::prelude::Queryable;
use mysql::{Conn, Row, from_row_opt};

/// Returns `sync_binlog` where it makes a COMMIT less durable than it seems; `None` where there is no binary log, where each
/// COMMIT is synced, and where the server does not take the question.
///
/// # Errors
/// Whatever breaks the connection.
pub fn unsynced_binary_log(connection: &mut Conn) -> mysql::Result<Option<u64>> {
    let question = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'sync_binlog', \
                    'innodb_flush_log_at_trx_commit', 'binlog_storage_engine')";
    let rows: mysql::Result<Vec<Row>> = connection.query(question);
    match rows {
        // The library panics at a NULL that is taken for text.
        Ok(rows) => Ok(unsynced(
            rows.into_iter().filter_map(|row| from_row_opt(row).ok()),
        )),
        Err(mysql::Error::MySqlError(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unsynced(variables: impl IntoIterator<Item = (String, String)>) -> Option<u64> {
    let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
    let variables: HashMap<String, String> = variables.into_iter().map(lower).collect();
    let value = |name: &str| variables.get(name).map_or("", String::as_str);
    let has_log = ["ON", "1"].contains(&value("log_bin").to_ascii_uppercase().as_str());
    // From MariaDB 12.3 on the binary log may be kept by InnoDB itself, which syncs it with the COMMIT.
    let is_apart = value("binlog_storage_engine").is_empty();
    let every: u64 = value("sync_binlog").parse().ok()?;
    (has_log && is_apart && every != 1 && value("innodb_flush_log_at_trx_commit") != "3")
        .then_some(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unsynced_binary_log_is_reported() {
        for (log, every, flush, engine, want) in [
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
                ("sync_binlog", every),
                ("innodb_flush_log_at_trx_commit", flush),
                ("binlog_storage_engine", engine),
            ];
            let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(unsynced(variables), want, "{log} {every} {flush} {engine}");
        }
        assert_eq!(unsynced([]), None);
    }
}
