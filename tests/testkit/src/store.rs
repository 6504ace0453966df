//! Reads a server's SQLite file directly, without the server's own `list` and `show`.

use std::io::Read;
use std::path::Path;

use flate2::read::ZlibDecoder;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Row};

/// A row of `new_mail` with all columns.
#[derive(Clone, Debug)]
pub struct StoredMail {
    pub mail_id: i64,
    pub date: String,
    pub from: String,
    pub to: String,
    pub subject: String,
    pub body: String,
    pub charset: String,
    /// Column `mail`, inflated.
    pub mail: Vec<u8>,
    pub spam_score: f64,
    pub hash: String,
    pub content_type: String,
    pub recipient: String,
    pub has_attach: i64,
    pub ip_addr: String,
    pub delivered: i64,
    pub attach_info: String,
    pub dkim_valid: Value,
}

/// Returns the rows with a larger mail_id, oldest first.
pub fn mails_after(file: &Path, mail_id: i64) -> Vec<StoredMail> {
    // Readers of a WAL database need to write to its -shm file.
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)
        .expect("the server has made its file");
    let mut select = connection
        .prepare("SELECT * FROM `new_mail` WHERE `mail_id` > ?1 ORDER BY `mail_id`")
        .expect("the table is there");
    select
        .query_map([mail_id], read_row)
        .and_then(Iterator::collect)
        .expect("every column has its type")
}

fn read_row(row: &Row) -> rusqlite::Result<StoredMail> {
    let stream: Vec<u8> = row.get("mail")?;
    Ok(StoredMail {
        mail_id: row.get("mail_id")?,
        date: row.get("date")?,
        from: row.get("from")?,
        to: row.get("to")?,
        subject: row.get("subject")?,
        body: row.get("body")?,
        charset: row.get("charset")?,
        mail: inflate(&stream),
        spam_score: row.get("spam_score")?,
        hash: row.get("hash")?,
        content_type: row.get("content_type")?,
        recipient: row.get("recipient")?,
        has_attach: row.get("has_attach")?,
        ip_addr: row.get("ip_addr")?,
        delivered: row.get("delivered")?,
        attach_info: row.get("attach_info")?,
        dkim_valid: row.get("dkim_valid")?,
    })
}

/// Returns the octets of a zlib stream. Uses another implementation than the server does.
pub fn inflate(stream: &[u8]) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut decoder = ZlibDecoder::new(stream);
    decoder.read_to_end(&mut octets).expect("a zlib stream");
    octets
}
