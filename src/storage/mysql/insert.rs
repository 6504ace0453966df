//! Rows into the table: bound values, several rows a statement, statements well below the largest packet.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use mysql::prelude::Queryable;
use mysql::{Statement, Value};

use super::link::Link;
use crate::mail::{Delivery, Mail, NoMemory};
use crate::storage::redis::Placed;
use crate::storage::row::Row;
use crate::storage::{TableName, TableShape};

/// Inserts a row for each delivery whose hash is not in `stored`.
///
/// Rows are built as they are sent, so a large mail with a hundred recipients takes no hundredfold memory. A statement has
/// 1, 2 … 64 or 128 rows: few texts to prepare, each prepared once.
///
/// # Errors
/// Whatever the database says; the transaction is then half done.
pub fn insert_rows(
    link: &mut Link,
    table: &TableName,
    mails: &[Mail],
    placed: &Placed,
    stored: &HashSet<String>,
) -> mysql::Result<()> {
    let shape = link.facts.shape.clone().unwrap_or(TableShape::PRINTED);
    let max_octets = (link.facts.max_packet_octets / 2).min(MAX_STATEMENT_OCTETS);
    let mut piece = Piece::default();
    for mail in mails {
        let row = Row::new(mail, &shape);
        for delivery in mail.deliveries() {
            if stored.contains(delivery.hash.as_str()) {
                continue;
            }
            let values = values(mail, delivery, &row, placed)?;
            let octets = values.iter().map(octets_of).sum::<usize>();
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
struct Piece {
    rows: usize,
    octets: usize,
    values: Vec<Value>,
}

impl Piece {
    fn send(&mut self, link: &mut Link, table: &TableName) -> mysql::Result<()> {
        let mut values = std::mem::take(self).values.into_iter().peekable();
        while values.peek().is_some() {
            let rows_left = values.len() / BOUND;
            let rows = rows_at_once(rows_left);
            let some: Vec<Value> = values.by_ref().take(rows * BOUND).collect();
            let statement = statement(link, table, rows)?;
            let first_id = link.call(|connection| {
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
fn rows_at_once(rows: usize) -> usize {
    match rows {
        ..=ROWS_IN_ONE => rows,
        _ => rows - rows % ROWS_IN_ONE,
    }
}

fn values(
    mail: &Mail,
    delivery: &Delivery,
    row: &Row,
    placed: &Placed,
) -> io::Result<[Value; BOUND]> {
    let (body, stream) = if placed.holds(&delivery.hash) {
        ("redis", Vec::new())
    } else {
        ("gzencode", owned(mail.zlib_body(delivery)?)?)
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
fn owned(body: Arc<Vec<u8>>) -> Result<Vec<u8>, NoMemory> {
    Arc::try_unwrap(body).or_else(|shared| {
        let mut copy = Vec::new();
        copy.try_reserve_exact(shared.len())?;
        copy.extend_from_slice(&shared);
        Ok(copy)
    })
}

fn octets_of(value: &Value) -> usize {
    match value {
        Value::Bytes(octets) => octets.len() + 9,
        _ => 16,
    }
}

/// Returns the INSERT of so many rows, prepared when it is first needed.
///
/// # Errors
/// What the server said: it looks at names and rights here.
pub fn statement(link: &mut Link, table: &TableName, rows: usize) -> mysql::Result<Statement> {
    if let Some(prepared) = link.inserts.get(&rows) {
        return Ok(prepared.clone());
    }
    let prepared = link.call(|connection| connection.prep(text(table, rows)))?;
    link.inserts.insert(rows, prepared.clone());
    Ok(prepared)
}

fn text(table: &TableName, rows: usize) -> String {
    let row = "(NOW(),?,?,?,?,?,?,0,?,?,?,?,?,0,?,NULL)";
    format!(
        "INSERT INTO {table} (`date`,`from`,`to`,`subject`,`body`,`charset`,`mail`,`spam_score`,`hash`,\
         `content_type`,`recipient`,`has_attach`,`ip_addr`,`delivered`,`attach_info`,`dkim_valid`) VALUES {}",
        vec![row; rows].join(",")
    )
}

/// Values of one row that are bound; the others are the same for every mail.
const BOUND: usize = 12;
/// Rows that always go into one statement.
const ROWS_IN_ONE: usize = 64;
/// Beyond a hundred rows a statement gets no cheaper by row.
const MAX_STATEMENT_ROWS: usize = 128;
/// Octets of one statement, also where the server would take more: they are in memory twice while they are sent.
const MAX_STATEMENT_OCTETS: usize = 4 << 20;
