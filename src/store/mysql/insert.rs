//! INSERT of rows with bound values: several rows per statement, within the server's packet size.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use mysql::prelude::Queryable;
use mysql::{Statement, Value};

use super::connection::MySqlConnection;
use super::transaction_size::check_transaction_size;
use crate::mail::{CompressAllocError, Mail, Recipient};
use crate::store::redis::BodiesInRedis;
use crate::store::{Row, TableColumns, TableName, inserted_column_list};

/// Inserts one row for each recipient of `mails` whose `hash` is not in `stored`. Bodies that `bodies_in` places in Redis are
/// not inserted.
///
/// Only the values of about one statement are in memory at a time, so a large mail with a hundred recipients does not need
/// a hundred times its size. A statement has 1 to 64 rows or 128 rows, so that only few statements must be prepared.
///
/// # Errors
/// The server returned an error, the rows are too large for one transaction, or the connection broke. The transaction may then
/// contain some of the rows.
pub fn insert_rows(
    connection: &mut MySqlConnection,
    table: &TableName,
    mails: &[Mail],
    bodies_in: &BodiesInRedis,
    stored: &HashSet<String>,
) -> mysql::Result<()> {
    check_transaction_size(connection, mails, bodies_in, stored)?;
    let columns = connection
        .table_info
        .columns
        .clone()
        .unwrap_or(TableColumns::DEFAULT);
    let max_octets = (connection.table_info.max_packet_octets / 2).min(MAX_STATEMENT_OCTETS);
    let mut pending = UnsentRows::default();
    for mail in mails {
        let row = Row::new(mail, &columns);
        for recipient in mail.recipients() {
            if stored.contains(recipient.hash.as_str()) {
                continue;
            }
            let values = insert_values_of_row(mail, recipient, &row, bodies_in)?;
            let octets = values
                .iter()
                .map(max_encoded_octets_of_value)
                .sum::<usize>();
            if pending.octets + octets > max_octets || pending.rows == MAX_STATEMENT_ROWS {
                pending.insert_unsent_rows(connection, table)?;
            }
            pending.rows += 1;
            pending.octets += octets;
            pending.values.extend(values);
        }
    }
    pending.insert_unsent_rows(connection, table)
}

/// Rows that are collected for the next INSERT statements.
#[derive(Default)]
struct UnsentRows {
    rows: usize,
    octets: usize,
    values: Vec<Value>,
}

impl UnsentRows {
    fn insert_unsent_rows(
        &mut self,
        connection: &mut MySqlConnection,
        table: &TableName,
    ) -> mysql::Result<()> {
        let mut values = std::mem::take(self).values.into_iter().peekable();
        while values.peek().is_some() {
            let rows_left = values.len() / BOUND_VALUES;
            let rows = rows_in_next_statement(rows_left);
            let chunk: Vec<Value> = values.by_ref().take(rows * BOUND_VALUES).collect();
            let statement = insert_statement(connection, table, rows)?;
            let first_id = connection.call_driver_with_timeout(|conn| {
                conn.exec_drop(statement, chunk)?;
                Ok(conn.last_insert_id())
            })?;
            if let Some(ids) = &mut connection.table_info.auto_increment {
                ids.record_used_mail_ids(first_id, rows);
                ids.update_metric(&connection.metrics);
            }
        }
        Ok(())
    }
}

/// Returns how many of `rows` rows go into the next INSERT: all of them if there are at most [`MAX_UNSPLIT_ROWS`], otherwise
/// the largest possible multiple of [`MAX_UNSPLIT_ROWS`].
fn rows_in_next_statement(rows: usize) -> usize {
    match rows {
        ..=MAX_UNSPLIT_ROWS => rows,
        _ => rows - rows % MAX_UNSPLIT_ROWS,
    }
}

fn insert_values_of_row(
    mail: &Mail,
    recipient: &Recipient,
    row: &Row,
    bodies_in: &BodiesInRedis,
) -> io::Result<[Value; BOUND_VALUES]> {
    let (body, stream) = if bodies_in.is_body_in_redis(&recipient.hash) {
        ("redis", Vec::new())
    } else {
        (
            "gzencode",
            into_owned_body(mail.compressed_body(recipient)?)?,
        )
    };
    Ok([
        Value::from(row.from.as_ref()),
        Value::from(recipient.to.as_str()),
        Value::from(row.subject.as_ref()),
        Value::from(body),
        Value::from(row.charset.as_ref()),
        Value::Bytes(stream),
        Value::from(recipient.hash.as_str()),
        Value::from(row.content_type.as_ref()),
        Value::from(recipient.recipient.as_str()),
        Value::from(row.has_attach),
        Value::from(row.ip_addr.as_str()),
        Value::from(row.attach_info.as_str()),
    ])
}

/// Returns the body as an owned vector. The body is copied only if the mail still refers to it.
fn into_owned_body(body: Arc<Vec<u8>>) -> Result<Vec<u8>, CompressAllocError> {
    Arc::try_unwrap(body).or_else(|shared| {
        let mut copy = Vec::new();
        copy.try_reserve_exact(shared.len())?;
        copy.extend_from_slice(&shared);
        Ok(copy)
    })
}

fn max_encoded_octets_of_value(value: &Value) -> usize {
    match value {
        Value::Bytes(octets) => octets.len() + 9,
        _ => 16,
    }
}

/// Returns the INSERT statement for `rows` rows. The statement is prepared at its first use.
///
/// # Errors
/// The server refused to prepare the statement, for example because of a wrong name or a missing right, or the connection
/// broke.
pub fn insert_statement(
    connection: &mut MySqlConnection,
    table: &TableName,
    rows: usize,
) -> mysql::Result<Statement> {
    if let Some(prepared) = connection.inserts.get(&rows) {
        return Ok(prepared.clone());
    }
    let prepared =
        connection.call_driver_with_timeout(|conn| conn.prep(insert_sql(table, rows)))?;
    connection.inserts.insert(rows, prepared.clone());
    Ok(prepared)
}

fn insert_sql(table: &TableName, rows: usize) -> String {
    let row = "(NOW(),?,?,?,?,?,?,0,?,?,?,?,?,0,?,NULL)";
    format!(
        "INSERT INTO {table} ({}) VALUES {}",
        inserted_column_list(),
        vec![row; rows].join(",")
    )
}

/// Number of values per row that are bound as parameters of the INSERT. The values of the other columns are in its SQL text.
const BOUND_VALUES: usize = 12;
/// Maximum number of rows for which an INSERT with exactly that number is prepared. More rows are split, and only a multiple of
/// this number goes into one INSERT.
const MAX_UNSPLIT_ROWS: usize = 64;
/// Maximum number of rows per INSERT. Above a hundred rows the cost per row no longer decreases.
const MAX_STATEMENT_ROWS: usize = 128;
/// Maximum octets of the values of one INSERT (a single larger row is sent alone), even if the server accepts more, because the
/// values are in memory twice during sending.
const MAX_STATEMENT_OCTETS: usize = 4 << 20;
