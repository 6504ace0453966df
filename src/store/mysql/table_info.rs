//! Properties of the table as it exists on the server, and of that server: widths and character sets of the columns,
//! engine, durability.

use mysql::Conn;
use mysql::prelude::Queryable;

use super::auto_increment::MailIdRangeUsage;
use super::binary_log::unsafe_sync_binlog;
use super::number::SchemaColumnType;
use super::unfilled_column::UnfilledColumn;
use crate::store::{Column, ColumnCharset, ColumnWidth};
use crate::store::{INSERTED_COLUMNS, TableColumns, TableName};

/// The properties of a table and its server that a new connection reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// `max_allowed_packet` in octets.
    pub max_packet_octets: usize,
    /// Maximum octets of a value in column `mail`.
    pub max_body_octets: usize,
    /// Widths and character sets of the columns. Mail values are truncated and converted to fit into them. `None` if the table
    /// does not exist or is not visible.
    pub columns: Option<TableColumns>,
    /// `InnoDB`, `MyISAM`, …; empty for a view or if the table is not visible.
    pub engine: String,
    /// `Dynamic`, `Compact`, …; empty if `engine` is empty.
    pub row_format: String,
    /// The used part of the range of `mail_id`; `None` if `mail_id` is not an AUTO_INCREMENT column.
    pub auto_increment: Option<MailIdRangeUsage>,
    /// Maximum characters of a value in column `hash`.
    pub hash_chars: usize,
    /// Maximum characters of a value in column `body`.
    pub body_chars: usize,
    /// Whether each COMMIT is on disk when the server answers it (`innodb_flush_log_at_trx_commit` is 1, or 3 in MariaDB).
    pub commits_are_synced: bool,
    /// `sync_binlog`, if its value allows acknowledged COMMITs to be lost.
    pub unsynced_binary_log: Option<u64>,
    /// Columns that the INSERT fills but the table does not have.
    pub missing_columns: Vec<&'static str>,
    /// Columns that the INSERT does not fill although they are NOT NULL and have no default.
    pub required_columns: Vec<UnfilledColumn>,
}

impl TableInfo {
    /// Reads the properties of `table` and its server. A table that does not exist is not an error.
    ///
    /// # Errors
    /// The server returned an error, or the connection broke.
    pub fn read(connection: &mut Conn, table: &TableName) -> mysql::Result<TableInfo> {
        let variables = "SELECT @@max_allowed_packet, @@innodb_flush_log_at_trx_commit";
        let variables: Option<(Option<u64>, Option<u8>)> = connection.query_first(variables)?;
        let (max_packet_octets, flush) = variables.unwrap_or_default();
        let max_packet_octets = max_packet_octets.unwrap_or(1 << 20);
        let unsynced_binary_log = unsafe_sync_binlog(connection)?;
        let (database, name) = (table.database_part(), table.table_part());
        // Without this setting MySQL 8 may return an AUTO_INCREMENT value that is a day old. Other servers do not know the
        // variable.
        let _ = connection.query_drop("SET SESSION information_schema_stats_expiry = 0");
        let table_row: Option<TablePropertiesRow> = connection.exec_first(
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
        let mail_id = columns
            .iter()
            .find(|column| column.has_column_name("mail_id"));
        let largest = mail_id
            .filter(|column| column.is_auto_increment)
            .and_then(|column| column.number.largest_integer());
        let auto_increment =
            largest.map(|largest| MailIdRangeUsage::read(connection, table, largest, next_id));
        let chars_of = |name: &str| {
            let column = columns.iter().find(|column| column.has_column_name(name));
            let width = column.and_then(|column| usize::try_from(column.width?).ok());
            width.unwrap_or(usize::MAX)
        };
        let exists = |name: &str| columns.iter().any(|column| column.has_column_name(name));
        let is_inserted = |column: &&ColumnInfo| {
            INSERTED_COLUMNS
                .iter()
                .any(|name| column.has_column_name(name))
        };
        Ok(TableInfo {
            max_packet_octets: usize::try_from(max_packet_octets).unwrap_or(usize::MAX),
            max_body_octets: chars_of("mail"),
            hash_chars: chars_of("hash"),
            body_chars: chars_of("body"),
            auto_increment,
            columns: (!columns.is_empty()).then(|| table_columns_from_column_infos(&columns)),
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
                    .filter(|name| !exists(name))
                    .collect()
            },
            required_columns: columns
                .iter()
                .filter(|column| column.needs_value && !is_inserted(column))
                .map(ColumnInfo::to_unfilled_column)
                .collect(),
        })
    }

    /// Returns the maximum octets of content that can be stored even if it cannot be compressed. The row must fit into one
    /// packet, and the body into column `mail`, because the body is stored there if Redis is unavailable.
    pub fn max_storable_content_octets(&self) -> usize {
        let by_packet = self.max_packet_octets.saturating_sub(ROW_OVERHEAD_OCTETS);
        let by_column = self.max_body_octets.saturating_sub(TRACE_OCTETS);
        let octets = by_packet.min(by_column);
        // Content that cannot be compressed grows by at most 5 octets per 5,000; 1 octet per 256 is reserved.
        (octets - octets / 256).max(1_024)
    }
}

/// Engine, row format and AUTO_INCREMENT value of a table.
type TablePropertiesRow = (Option<String>, Option<String>, Option<u64>);

/// One row of information_schema.COLUMNS.
type ColumnInfoRow = (
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
    number: SchemaColumnType,
    is_auto_increment: bool,
    needs_value: bool,
}

impl ColumnInfo {
    fn new(row: ColumnInfoRow) -> ColumnInfo {
        let (
            name,
            width,
            charset,
            data_type,
            column_type,
            precision,
            scale,
            is_auto_increment,
            needs_value,
        ) = row;
        ColumnInfo {
            name,
            width,
            charset,
            number: SchemaColumnType {
                data_type,
                column_type,
                precision,
                scale,
                chars: width,
            },
            is_auto_increment: is_auto_increment.unwrap_or_default(),
            needs_value: needs_value.unwrap_or_default(),
        }
    }

    fn has_column_name(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn to_unfilled_column(&self) -> UnfilledColumn {
        let charset = self.charset.as_deref();
        UnfilledColumn::new(
            &self.name,
            &self.number.data_type,
            &self.number.column_type,
            charset,
        )
    }

    fn text_column_of_type(&self) -> Column {
        // Values are limited to `MAX_TEXT_OCTETS` even if the column is wider, because a row must fit into a packet.
        let max = self.width.and_then(|width| usize::try_from(width).ok());
        let max = max.unwrap_or(MAX_TEXT_OCTETS).min(MAX_TEXT_OCTETS);
        let counts_chars = matches!(
            self.number.data_type.to_ascii_lowercase().as_str(),
            "varchar" | "char"
        );
        Column {
            width: if counts_chars {
                ColumnWidth::Chars(max)
            } else {
                ColumnWidth::Octets(max)
            },
            charset: match self.charset.as_deref() {
                // A column without a character set is binary, so it can hold any octets.
                None => ColumnCharset::Unicode,
                Some("utf8mb4" | "utf16" | "utf32" | "utf16le" | "gb18030") => {
                    ColumnCharset::Unicode
                }
                Some("utf8" | "utf8mb3" | "ucs2") => ColumnCharset::Utf8mb3,
                Some("latin1") => ColumnCharset::Latin1,
                Some(_) => ColumnCharset::Ascii,
            },
        }
    }
}

fn table_columns_from_column_infos(columns: &[ColumnInfo]) -> TableColumns {
    let default = TableColumns::DEFAULT;
    let column = |name: &str, default: Column| {
        let column = columns.iter().find(|column| column.has_column_name(name));
        column.map_or(default, ColumnInfo::text_column_of_type)
    };
    let has_attach = columns
        .iter()
        .find(|column| column.has_column_name("has_attach"));
    TableColumns {
        has_attach: has_attach.map_or(default.has_attach, |column| {
            column.number.largest_storable_number()
        }),
        from: column("from", default.from),
        to: column("to", default.to),
        subject: column("subject", default.subject),
        charset: column("charset", default.charset),
        content_type: column("content_type", default.content_type),
        recipient: column("recipient", default.recipient),
        attach_info: column("attach_info", default.attach_info),
        ip_addr: column("ip_addr", default.ip_addr),
    }
}

/// Maximum octets of a row without its body: `attach_info` of 65,535 octets, a long `subject`, the trace fields, and framing.
const ROW_OVERHEAD_OCTETS: usize = 80 << 10;
/// Maximum octets of the trace fields with the longest addresses and names, and of zlib's header and trailer.
const TRACE_OCTETS: usize = 2 << 10;
/// Maximum octets of a value in a `text` column. No longer value is written into any column except `mail`.
const MAX_TEXT_OCTETS: usize = 65_535;
