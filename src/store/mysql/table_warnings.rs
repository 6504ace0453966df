//! Findings about values that the columns of the existing table cannot hold. Each finding contains the statement that fixes it.

use super::auto_increment::MailIdRangeUsage;
use super::table_info::TableInfo;
use crate::store::diagnostic::Diagnostic;
use crate::store::table::LONGEST_ADDRESS;
use crate::store::{Column, ColumnCharset};
use crate::store::{TableColumns, TableName};

/// Returns the findings about widths, character sets and the range of ids.
pub fn check_column_widths_and_id_range(
    table_info: &TableInfo,
    columns: &TableColumns,
    table: &TableName,
) -> Vec<Diagnostic> {
    let ids = table_info.auto_increment.as_ref();
    let ids = ids.and_then(|ids| MailIdRangeUsage::mail_id_shortage_finding(ids, table));
    let fixed_widths = hash_and_body_width_errors(table_info, table);
    ids.into_iter()
        .chain(fixed_widths)
        .chain(check_address_column_widths(table_info, columns, table))
        .collect()
}

/// Returns a warning if columns cannot hold every address of RFC 5321 and RFC 6531. The fix is one statement for all columns,
/// because each ALTER TABLE copies the table.
fn check_address_column_widths(
    table_info: &TableInfo,
    columns: &TableColumns,
    table: &TableName,
) -> Option<Diagnostic> {
    let columns = [
        ("from", columns.from),
        ("to", columns.to),
        ("recipient", columns.recipient),
    ];
    let is_narrow = |(name, column): &(&str, Column)| {
        !table_info.missing_columns.contains(name)
            && (column.width.max_length() < LONGEST_ADDRESS
                || column.charset != ColumnCharset::Unicode)
    };
    let narrow: Vec<_> = columns.into_iter().filter(is_narrow).collect();
    if narrow.is_empty() {
        return None;
    }
    let join = |each: &dyn Fn(&(&str, Column)) -> String| {
        narrow.iter().map(each).collect::<Vec<_>>().join(", ")
    };
    let widths = join(&|(name, column)| {
        let charset = match column.charset {
            ColumnCharset::Unicode => "utf8mb4",
            ColumnCharset::Utf8mb3 => "utf8mb3",
            ColumnCharset::Latin1 => "latin1",
            ColumnCharset::Ascii => "another character set",
        };
        format!("`{name}`: {} of {charset}", column.width.max_length())
    });
    let changes = join(&|(name, _)| {
        format!("MODIFY `{name}` varchar({LONGEST_ADDRESS}) CHARACTER SET utf8mb4 NOT NULL")
    });
    // In the older row formats a key has at most 767 octets, so the key on column `to` does not allow the new width.
    let format = match table_info.row_format.to_ascii_lowercase().as_str() {
        "compact" | "redundant" => "ROW_FORMAT=DYNAMIC, ",
        _ => "",
    };
    Some(Diagnostic::warning(format!(
        "GM_MAIL_TABLE: columns of {table} do not hold every address, which has up to {LONGEST_ADDRESS} octets of UTF-8 \
         ({widths}): a recipient that does not fit gets 553, a sender is cut; run: ALTER TABLE {table} \
         {format}{changes}"
    )))
}

/// Returns an error for each of the columns `hash` and `body` that is too narrow, because the values of these columns are never
/// truncated.
fn hash_and_body_width_errors(
    table_info: &TableInfo,
    table: &TableName,
) -> impl Iterator<Item = Diagnostic> {
    let columns = [
        (
            "hash",
            table_info.hash_chars,
            32,
            "char(32) CHARACTER SET latin1",
        ),
        ("body", table_info.body_chars, "gzencode".len(), "text"),
    ];
    let is_narrow = |(_, chars, needed, _): &(_, usize, usize, _)| chars < needed;
    columns
        .into_iter()
        .filter(is_narrow)
        .map(move |(name, chars, needed, kind)| {
            Diagnostic::error(format!(
                "GM_MAIL_TABLE: column `{name}` of {table} holds {chars} characters, and each row needs {needed}; run: \
                 ALTER TABLE {table} MODIFY `{name}` {kind} NOT NULL"
            ))
        })
}
