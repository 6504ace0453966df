//! Queries that skip rows with unexpected values, such as NULL, on which the driver would panic.

use mysql::prelude::{FromRow, Queryable};
use mysql::{Params, Row};

use crate::store::TableName;
use crate::store::mysql::connection::MySqlConnection;

/// Returns the rows that can be converted to `T`, and no rows if the server refuses the query. The driver's own conversion
/// is not used, because it panics at an unexpected NULL.
pub fn query_rows<T: FromRow>(
    connection: &mut MySqlConnection,
    statement: &str,
    values: impl Into<Params>,
) -> Vec<T> {
    let values = values.into();
    let rows: mysql::Result<Vec<Row>> = connection.call_driver_with_timeout(|conn| match values {
        // A statement without parameters is not prepared: preparing SHOW WARNINGS would clear the warnings.
        Params::Empty => conn.query(statement),
        values => conn.exec(statement, values),
    });
    let rows = rows.unwrap_or_default().into_iter();
    rows.filter_map(|row| T::from_row_opt(row).ok()).collect()
}

/// Returns the parameters of `TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?`.
pub fn schema_and_table_parameters(table: &TableName) -> (Option<&str>, &str) {
    (table.database_part(), table.table_part())
}
