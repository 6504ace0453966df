//! Whether rows may be removed from a table in MySQL or MariaDB, and the statements that find and remove them.

use mysql::Row;
use mysql::prelude::Queryable;

use crate::store::TableName;
use crate::store::mysql::connection::MySqlConnection;

/// Returns why no row may be removed from the table; `None` if rows may be removed.
///
/// # Errors
/// The server returned an error, or the connection broke.
pub fn why_rows_stay(
    connection: &mut MySqlConnection,
    table: &TableName,
) -> mysql::Result<Option<String>> {
    let info = &connection.table_info;
    let reason = |text: String| Ok(Some(format!("GM_MAIL_TABLE: {text}; no row is removed")));
    if info.columns.is_none() {
        return reason(format!("{table} does not exist"));
    }
    if info.engine.is_empty() {
        return reason(format!(
            "{table} is a view, and the view may hide which rows would be removed"
        ));
    }
    if let Some(missing) = info.missing_columns.first() {
        return reason(format!(
            "{table} has no column `{missing}`, so it is not a table of this server"
        ));
    }
    let types = rows_of(
        connection,
        "SELECT LOWER(COLUMN_NAME), LOWER(DATA_TYPE) FROM information_schema.COLUMNS
         WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? AND COLUMN_NAME IN ('date', 'mail_id')",
        table,
    )?;
    let type_of = |name: &str| {
        let found = types.iter().find(|(column, _)| column == name);
        found.map(|(_, data_type)| data_type.as_str())
    };
    if type_of("mail_id").is_none() {
        return reason(format!(
            "{table} has no column `mail_id`, so it is not a table of this server"
        ));
    }
    match type_of("date") {
        Some("datetime" | "timestamp" | "date") => {}
        other => {
            let found = other.unwrap_or("nothing");
            return reason(format!(
                "expected column `date` of {table} to be a datetime, but found {found}"
            ));
        }
    }
    let indexes = rows_of(
        connection,
        "SELECT INDEX_NAME, '' FROM information_schema.STATISTICS
         WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ? AND COLUMN_NAME = 'date' AND SEQ_IN_INDEX = 1",
        table,
    )?;
    match indexes.is_empty() {
        true => reason(format!(
            "{table} has no index on `date`; run: ALTER TABLE {table} ADD INDEX (`date`)"
        )),
        false => Ok(None),
    }
}

/// Returns the rows of a query with the parameters database and table, and without rows that hold NULL.
fn rows_of(
    connection: &mut MySqlConnection,
    sql: &str,
    table: &TableName,
) -> mysql::Result<Vec<(String, String)>> {
    let name = (table.database_in_table_name(), table.table_part());
    let rows: Vec<Row> = connection.call_driver_with_timeout(|conn| conn.exec(sql, name))?;
    Ok(rows
        .into_iter()
        .filter_map(|row| mysql::from_row_opt(row).ok())
        .collect())
}

/// Returns the statement that removes `limit` rows; its parameters are the first date and the cut-off time.
pub fn delete_statement(table: &TableName, limit: usize) -> String {
    format!("DELETE FROM {table} WHERE `date` >= ? AND `date` < ? ORDER BY `date` LIMIT {limit}")
}

/// Returns the query for the date of the oldest row; its parameters are the first date and the cut-off time.
pub fn select_oldest_date(table: &TableName) -> String {
    format!(
        "SELECT DATE_FORMAT(`date`, '{DATE_FORMAT}') FROM {table} WHERE `date` >= ? AND `date` < ? ORDER BY `date` LIMIT 1"
    )
}

/// Returns the query for the number of rows; its parameters are the first date and the cut-off time.
pub fn count_statement(table: &TableName) -> String {
    format!("SELECT COUNT(*) FROM {table} WHERE `date` >= ? AND `date` < ?")
}

/// The notation of a date that the server compares without conversion.
pub const DATE_FORMAT: &str = "%Y-%m-%d %H:%i:%s";
/// Rows with an earlier date stay: `0000-00-00` is the date of a row whose time is unknown.
pub const FIRST_DATE: &str = "1970-01-01 00:00:00";
