//! Rows into the table: bound values, several rows a statement, statements well below the largest packet.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use mysql::prelude::Queryable;
use mysql::{Statement, Value};

use super::connection::DbConnection;
use crate::mail::{Mail, NoMemory, Recipient};
use crate::store::redis::BodiesIn;
use crate::store::row::Row;
use crate::store::{TableColumns, TableName};

/// Inserts a row for each delivery whose hash is not in `stored`.
///
/// Rows are built as they are sent, so a large mail with a hundred recipients takes no hundredfold memory. A statement has
/// 1, 2 … 64 or 128 rows: few texts to prepare, each prepared once.
///
/// # Errors
/// Whatever the database says; the transaction is then half done.
pub fn insert_rows(
    link: &mut DbConnection,
    table: &TableName,
    mails: &[Mail],
    placed: &BodiesIn,
    stored: &HashSet<String>,
) -> mysql::Result<()> {
    let shape = link.facts.columns.clone().unwrap_or(TableColumns::DEFAULT);
    let max_octets = (link.facts.max_packet_octets / 2).min(MAX_STATEMENT_OCTETS);
    let mut piece = Statements::default();
    for mail in mails {
        let row = Row::new(mail, &shape);
        for delivery in mail.recipients() {
            if stored.contains(delivery.hash.as_str()) {
                continue;
            }
            let values = bind_values(mail, delivery, &row, placed)?;
            let octets = values.iter().map(encoded_octets).sum::<usize>();
            if piece.octets + octets > max_octets || piece.rows == MAX_STATEMENT_ROWS {
                piece.send(link, table)?;
            }
            piece.rows += 1;
            piece.octets += octets;
            piece.values.extend(values);
        }
    }
    piece.send(link, table)
}

/// Rows that are sent together.
#[derive(Default)]
struct Statements {
    rows: usize,
    octets: usize,
    values: Vec<Value>,
}

impl Statements {
    fn send(&mut self, link: &mut DbConnection, table: &TableName) -> mysql::Result<()> {
        let mut values = std::mem::take(self).values.into_iter().peekable();
        while values.peek().is_some() {
            let rows_left = values.len() / BOUND_VALUES;
            let rows = rows_of_next_statement(rows_left);
            let some: Vec<Value> = values.by_ref().take(rows * BOUND_VALUES).collect();
            let statement = statement(link, table, rows)?;
            let first_id = link.with_timeout(|connection| {
                connection.exec_drop(statement, some)?;
                Ok(connection.last_insert_id())
            })?;
            if let Some(ids) = &mut link.facts.mail_ids {
                ids.follow(first_id, rows);
            }
        }
        Ok(())
    }
}

/// How many of these rows go into the next statement: as many as there are, or nearly, so that few texts are prepared.
fn rows_of_next_statement(rows: usize) -> usize {
    match rows {
        ..=PREPARED_ROWS => rows,
        _ => rows - rows % PREPARED_ROWS,
    }
}

fn bind_values(
    mail: &Mail,
    delivery: &Recipient,
    row: &Row,
    placed: &BodiesIn,
) -> io::Result<[Value; BOUND_VALUES]> {
    let (body, stream) = if placed.contains(&delivery.hash) {
        ("redis", Vec::new())
    } else {
        ("gzencode", into_owned(mail.zlib_body(delivery)?)?)
    };
    Ok([
        Value::from(row.from.as_ref()),
        Value::from(delivery.to.as_str()),
        Value::from(row.subject.as_ref()),
        Value::from(body),
        Value::from(row.charset.as_ref()),
        Value::Bytes(stream),
        Value::from(delivery.hash.as_str()),
        Value::from(row.content_type.as_ref()),
        Value::from(delivery.recipient.as_str()),
        Value::from(row.has_attach),
        Value::from(row.ip_addr.as_str()),
        Value::from(row.attach_info.as_str()),
    ])
}

/// A body to give away; copied where its mail holds on to it.
fn into_owned(body: Arc<Vec<u8>>) -> Result<Vec<u8>, NoMemory> {
    Arc::try_unwrap(body).or_else(|shared| {
        let mut copy = Vec::new();
        copy.try_reserve_exact(shared.len())?;
        copy.extend_from_slice(&shared);
        Ok(copy)
    })
}

fn encoded_octets(value: &Value) -> usize {
    match value {
        Value::Bytes(octets) => octets.len() + 9,
        _ => 16,
    }
}

/// Returns the INSERT of so many rows, prepared when it is first needed.
///
/// # Errors
/// What the server said: it looks at names and rights here.
pub fn statement(
    link: &mut DbConnection,
    table: &TableName,
    rows: usize,
) -> mysql::Result<Statement> {
    if let Some(prepared) = link.inserts.get(&rows) {
        return Ok(prepared.clone());
    }
    let prepared = link.with_timeout(|connection| connection.prep(insert_sql(table, rows)))?;
    link.inserts.insert(rows, prepared.clone());
    Ok(prepared)
}

fn insert_sql(table: &TableName, rows: usize) -> String {
    let row = "(NOW(),?,?,?,?,?,?,0,?,?,?,?,?,0,?,NULL)";
    format!(
        "INSERT INTO {table} (`date`,`from`,`to`,`subject`,`body`,`charset`,`mail`,`spam_score`,`hash`,\
         `content_type`,`recipient`,`has_attach`,`ip_addr`,`delivered`,`attach_info`,`dkim_valid`) VALUES {}",
        vec![row; rows].join(",")
    )
}

/// Values of one row that are bound; the others are the same for every mail.
const BOUND_VALUES: usize = 12;
/// Rows that always go into one statement.
const PREPARED_ROWS: usize = 64;
/// Beyond a hundred rows a statement gets no cheaper by row.
const MAX_STATEMENT_ROWS: usize = 128;
/// Octets of one statement, also where the server would take more: they are in memory twice while they are sent.
const MAX_STATEMENT_OCTETS: usize = 4 << 20;
