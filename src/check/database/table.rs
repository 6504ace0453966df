//! Checks of the table's properties: columns, engine, durability and sizes.

use crate::store::Diagnostic;
use crate::store::mysql::table_info::TableInfo;
use crate::store::mysql::table_warnings::check_column_widths_and_id_range;
use crate::store::{TableColumns, TableName};

/// Returns the findings about the table's properties in `table_info`. The server logs the same findings.
pub fn check_table(
    table_info: &TableInfo,
    table: &TableName,
    max_content_octets: usize,
) -> Vec<Diagnostic> {
    let Some(columns) = &table_info.columns else {
        let create = table
            .mysql_schema()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        return vec![Diagnostic::error(format!(
            "GM_MAIL_TABLE: there is no table {table}, or MYSQL_USER has no right to see it; run what `goguerrilla schema` \
             prints: {create}"
        ))];
    };
    let mut findings = Vec::new();
    for column in &table_info.missing_columns {
        findings.push(Diagnostic::error(format!(
            "GM_MAIL_TABLE: {table} has no column `{column}`; add it as `goguerrilla schema` prints it, with \
             ALTER TABLE {table} ADD COLUMN"
        )));
    }
    for column in &table_info.required_columns {
        findings.push(Diagnostic::error(format!(
            "GM_MAIL_TABLE: column `{}` of {table} is NOT NULL without a default, so no row can be inserted; \
             run: ALTER TABLE {table} {}",
            column.name, column.fix
        )));
    }
    if columns.ip_addr.width.max_length() < MAX_IPV6_CHARS {
        findings.push(Diagnostic::warning(format!(
            "GM_MAIL_TABLE: column `ip_addr` of {table} is too narrow for IPv6 addresses, which are left empty; run: \
             ALTER TABLE {table} MODIFY `ip_addr` varchar({}) NOT NULL",
            TableColumns::DEFAULT.ip_addr.width.max_length()
        )));
    }
    findings.extend(check_column_widths_and_id_range(table_info, columns, table));
    if !table_info.engine.is_empty() && !supports_transactions(&table_info.engine) {
        findings.push(Diagnostic::warning(format!(
            "GM_MAIL_TABLE: {table} is {} and has no transactions, so a failure may lose acknowledged mail, and part of \
             a batch may be kept; run: ALTER TABLE {table} ENGINE=InnoDB",
            table_info.engine
        )));
    }
    findings.extend(durability_warnings(table_info));
    findings.extend(max_size_warning(table_info, table, max_content_octets));
    findings
}

/// Returns a warning for each setting of the database with which a power failure loses acknowledged mail.
fn durability_warnings(table_info: &TableInfo) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    if !table_info.commits_are_synced {
        findings.push(Diagnostic::warning(
            "MYSQL_HOST: innodb_flush_log_at_trx_commit is not 1, so mail acknowledged in the last second is lost when \
             the database's machine fails; run: SET GLOBAL innodb_flush_log_at_trx_commit = 1, and set it in the \
             server's configuration file"
                .to_owned(),
        ));
    }
    if let Some(sync_binlog) = table_info.unsynced_binary_log {
        findings.push(Diagnostic::warning(format!(
            "MYSQL_HOST: sync_binlog is {sync_binlog} and the server recovers its commits from the binary log, so \
             acknowledged mail is lost when the database's machine loses power; run: SET GLOBAL sync_binlog = 1, and set \
             it in the server's configuration file"
        )));
    }
    findings
}

/// Returns a warning if the database cannot hold a message of GSMTP_MAX_SIZE.
fn max_size_warning(
    table_info: &TableInfo,
    table: &TableName,
    max_content_octets: usize,
) -> Option<Diagnostic> {
    let fits = table_info.max_storable_content_octets();
    if fits >= max_content_octets {
        return None;
    }
    let (what, fix) = if table_info.max_body_octets < table_info.max_packet_octets {
        let what = format!(
            "column `mail` of {table} ({} octets)",
            table_info.max_body_octets
        );
        (
            what,
            format!("ALTER TABLE {table} MODIFY `mail` longblob NOT NULL"),
        )
    } else {
        let enough = (max_content_octets * 2).next_power_of_two().max(16 << 20);
        let what = format!(
            "max_allowed_packet of the database ({})",
            table_info.max_packet_octets
        );
        (what, format!("SET GLOBAL max_allowed_packet = {enough}"))
    };
    Some(Diagnostic::warning(format!(
        "GSMTP_MAX_SIZE: {what} cannot hold {max_content_octets} octets, so SIZE {fits} is advertised and enforced; \
         run: {fix}"
    )))
}

/// Returns whether a ROLLBACK undoes an INSERT into a table of this engine; false for a view, whose engine is empty.
pub fn supports_transactions(engine: &str) -> bool {
    ["InnoDB", "ROCKSDB", "ndbcluster"]
        .iter()
        .any(|known| engine.eq_ignore_ascii_case(known))
}

/// Characters of the longest textual form of an IPv6 address.
const MAX_IPV6_CHARS: usize = 39;
