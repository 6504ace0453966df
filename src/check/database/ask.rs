//! Questions about the table whose answers may hold anything.

use mysql::prelude::{FromRow, Queryable};
use mysql::{Params, Row};

use crate::store::TableName;
use crate::store::mysql::connection::DbConnection;

/// Returns the rows that can be read as `T`; none where the server does not take the question. The library's own way panics
/// at a NULL where none is expected.
pub fn rows<T: FromRow>(
    link: &mut DbConnection,
    question: &str,
    values: impl Into<Params>,
) -> Vec<T> {
    let values = values.into();
    let rows: mysql::Result<Vec<Row>> = link.with_timeout(|connection| match values {
        // To prepare SHOW WARNINGS would clear them.
        Params::Empty => connection.query(question),
        values => connection.exec(question, values),
    });
    let rows = rows.unwrap_or_default().into_iter();
    rows.filter_map(|row| T::from_row_opt(row).ok()).collect()
}

/// Returns what `TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?` is asked with.
pub fn names(table: &TableName) -> (Option<&str>, &str) {
    (table.database(), table.table())
}
