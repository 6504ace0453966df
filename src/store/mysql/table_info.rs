//! What the real table is like: its columns, their widths and character sets, and what the server would do with them.

use mysql::Conn;
use mysql::prelude::Queryable;

use super::binary_log::unsynced_binary_log;
use super::mail_ids::MailIds;
use super::number::NumberType;
use super::unfilled_column::UnfilledColumn;
use crate::metrics;
use crate::store::{Charset, Column, Width};
use crate::store::{TableColumns, TableName};

/// What a connection learned about its server and table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// `max_allowed_packet` in octets.
    pub max_packet_octets: usize,
    /// What column `mail` holds, in octets.
    pub max_body_octets: usize,
    /// The columns that mail is fitted to; `None` when the table is missing or not visible.
    pub columns: Option<TableColumns>,
    /// `InnoDB`, `MyISAM`, …; empty for a view or when not visible.
    pub engine: String,
    /// `Dynamic`, `Compact`, …; empty where `engine` is.
    pub row_format: String,
    /// How much of the range of `mail_id` is used; `None` where that column does not count up by itself.
    pub mail_ids: Option<MailIds>,
    /// Characters that column `hash` holds.
    pub hash_chars: usize,
    /// Characters that column `body` holds.
    pub body_chars: usize,
    /// Each COMMIT is on disk when it is answered (`innodb_flush_log_at_trx_commit` is 1, or MariaDB's 3).
    pub commits_are_synced: bool,
    /// `sync_binlog`, where it makes a COMMIT less durable than that.
    pub unsynced_binary_log: Option<u64>,
    /// Columns of ours that the table lacks.
    pub missing_columns: Vec<&'static str>,
    /// Columns of the table's own that are NOT NULL without a default, which our INSERT does not fill.
    pub required_columns: Vec<UnfilledColumn>,
}

impl TableInfo {
    /// Asks the server.
    ///
    /// # Errors
    /// Whatever the database says; a missing table is a fact, not an error.
    pub fn read(connection: &mut Conn, table: &TableName) -> mysql::Result<TableInfo> {
        let variables = "SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit";
        let variables: Option<(Option<u64>, Option<u8>)> = connection.query_first(variables)?;
        let (max_packet_octets, flush) = variables.unwrap_or_default();
        let max_packet_octets = max_packet_octets.unwrap_or(1 << 20);
        let unsynced_binary_log = unsynced_binary_log(connection)?;
        let (database, name) = (table.database(), table.table());
        // MySQL 8 shows a counter that is up to a day old otherwise; others do not know the variable.
        let _ = connection.query_drop("SET SESSION information_schema_stats_expiry = 0");
        let table_row: Option<TableRow> = connection.exec_first(
            "SELECT ENGINE, ROW_FORMAT, AUTO_INCREMENT FROM information_schema.TABLES
             WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?",
            (database, name),
        )?;
        let (engine, row_format, next_id) = table_row.unwrap_or_default();
        let columns: Vec<ColumnInfo> = connection.exec_map(
            "SELECT COLUMN_NAME, CHARACTER_MAXIMUM_LENGTH, CHARACTER_SET_NAME, DATA_TYPE, COLUMN_TYPE,
                    NUMERIC_PRECISION, NUMERIC_SCALE, EXTRA LIKE '%auto_increment%',
                    IS_NULLABLE = 'NO' AND COLUMN_DEFAULT IS NULL AND EXTRA NOT LIKE '%auto_increment%'
                    AND EXTRA NOT LIKE '%GENERATED%'
             FROM information_schema.COLUMNS
             WHERE TABLE_SCHEMA = COALESCE(?, DATABASE()) AND TABLE_NAME = ?",
            (database, name),
            ColumnInfo::new,
        )?;
        let counter = columns.iter().find(|column| column.is_named("mail_id"));
        let largest = counter
            .filter(|column| column.counts_up)
            .and_then(|column| column.number.largest_integer());
        let mail_ids = largest.map(|largest| MailIds::read(connection, table, largest, next_id));
        if mail_ids.is_none() {
            metrics::MAIL_ID_USED.unset();
        }
        let chars_of = |name: &str| {
            let column = columns.iter().find(|column| column.is_named(name));
            let width = column.and_then(|column| usize::try_from(column.width?).ok());
            width.unwrap_or(usize::MAX)
        };
        let is_there = |name: &str| columns.iter().any(|column| column.is_named(name));
        let is_ours =
            |column: &&ColumnInfo| INSERTED_COLUMNS.iter().any(|name| column.is_named(name));
        Ok(TableInfo {
            max_packet_octets: usize::try_from(max_packet_octets).unwrap_or(usize::MAX),
            max_body_octets: chars_of("mail"),
            hash_chars: chars_of("hash"),
            body_chars: chars_of("body"),
            mail_ids,
            columns: (!columns.is_empty()).then(|| table_columns(&columns)),
            engine: engine.unwrap_or_default(),
            row_format: row_format.unwrap_or_default(),
            commits_are_synced: matches!(flush, Some(1 | 3)),
            unsynced_binary_log,
            missing_columns: if columns.is_empty() {
                Vec::new()
            } else {
                INSERTED_COLUMNS
                    .iter()
                    .copied()
                    .filter(|name| !is_there(name))
                    .collect()
            },
            required_columns: columns
                .iter()
                .filter(|column| column.must_be_filled && !is_ours(column))
                .map(ColumnInfo::unfilled)
                .collect(),
        })
    }

    /// The largest content whose row still fits, whatever it holds: into one packet, and its body into column `mail`,
    /// where it goes when Redis is away.
    pub fn max_content_octets(&self) -> usize {
        let by_packet = self.max_packet_octets.saturating_sub(ROW_OVERHEAD_OCTETS);
        let by_column = self.max_body_octets.saturating_sub(TRACE_OCTETS);
        let room = by_packet.min(by_column);
        // What cannot be compressed grows by five octets in 5,000 at most; 1 in 256 is ample.
        (room - room / 256).max(1_024)
    }
}

/// Engine, row format and the next id of a table.
type TableRow = (Option<String>, Option<String>, Option<u64>);

/// A row of information_schema.COLUMNS.
type ColumnRow = (
    String,
    Option<u64>,
    Option<String>,
    String,
    String,
    Option<u64>,
    Option<u64>,
    Option<bool>,
    Option<bool>,
);

struct ColumnInfo {
    name: String,
    width: Option<u64>,
    charset: Option<String>,
    number: NumberType,
    counts_up: bool,
    must_be_filled: bool,
}

impl ColumnInfo {
    fn new(row: ColumnRow) -> ColumnInfo {
        let (name, width, charset, data_type, column_type, precision, scale, counts_up, unfilled) =
            row;
        ColumnInfo {
            name,
            width,
            charset,
            number: NumberType {
                data_type,
                column_type,
                precision,
                scale,
                chars: width,
            },
            counts_up: counts_up.unwrap_or_default(),
            must_be_filled: unfilled.unwrap_or_default(),
        }
    }

    fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn unfilled(&self) -> UnfilledColumn {
        let charset = self.charset.as_deref();
        UnfilledColumn::new(
            &self.name,
            &self.number.data_type,
            &self.number.column_type,
            charset,
        )
    }

    fn column(&self) -> Column {
        // No text of ours needs more, and a row has to fit into a packet.
        let max = self.width.and_then(|width| usize::try_from(width).ok());
        let max = max.unwrap_or(MAX_TEXT_OCTETS).min(MAX_TEXT_OCTETS);
        let counts_chars = matches!(
            self.number.data_type.to_ascii_lowercase().as_str(),
            "varchar" | "char"
        );
        Column {
            width: if counts_chars {
                Width::Chars(max)
            } else {
                Width::Octets(max)
            },
            charset: match self.charset.as_deref() {
                // Binary columns hold any octets.
                None => Charset::Unicode,
                Some("utf8mb4" | "utf16" | "utf32" | "utf16le" | "gb18030") => Charset::Unicode,
                Some("utf8" | "utf8mb3" | "ucs2") => Charset::Utf8mb3,
                Some("latin1") => Charset::Latin1,
                Some(_) => Charset::Ascii,
            },
        }
    }
}

fn table_columns(columns: &[ColumnInfo]) -> TableColumns {
    let printed = TableColumns::DEFAULT;
    let real = |name: &str, printed: Column| {
        let column = columns.iter().find(|column| column.is_named(name));
        column.map_or(printed, ColumnInfo::column)
    };
    let has_attach = columns.iter().find(|column| column.is_named("has_attach"));
    TableColumns {
        has_attach: has_attach.map_or(printed.has_attach, |column| column.number.largest()),
        from: real("from", printed.from),
        to: real("to", printed.to),
        subject: real("subject", printed.subject),
        charset: real("charset", printed.charset),
        content_type: real("content_type", printed.content_type),
        recipient: real("recipient", printed.recipient),
        attach_info: real("attach_info", printed.attach_info),
        ip_addr: real("ip_addr", printed.ip_addr),
    }
}

/// The columns that our INSERT names.
const INSERTED_COLUMNS: &[&str] = &[
    "date",
    "from",
    "to",
    "subject",
    "body",
    "charset",
    "mail",
    "spam_score",
    "hash",
    "content_type",
    "recipient",
    "has_attach",
    "ip_addr",
    "delivered",
    "attach_info",
    "dkim_valid",
];
/// All of a row but its body: `attach_info` of 65,535 octets, a long `subject`, the trace fields, and framing.
const ROW_OVERHEAD_OCTETS: usize = 80 << 10;
/// The trace fields with the longest addresses and names, and the frame of zlib.
const TRACE_OCTETS: usize = 2 << 10;
/// What a `text` column holds, and the most that is written into any column but the body's.
const MAX_TEXT_OCTETS: usize = 65_535;
