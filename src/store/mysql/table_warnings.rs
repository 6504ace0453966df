//! What the columns of the real table cannot hold, each with the statement that cures it.

use super::mail_ids::MailIds;
use super::table_info::TableInfo;
use crate::store::diagnostic::Diagnostic;
use crate::store::table::LONGEST_ADDRESS;
use crate::store::{Charset, Column};
use crate::store::{TableColumns, TableName};

/// Returns what is wrong with widths, character sets and the range of ids.
pub fn check_columns(
    facts: &TableInfo,
    shape: &TableColumns,
    table: &TableName,
) -> Vec<Diagnostic> {
    let ids = facts.mail_ids.as_ref();
    let ids = ids.and_then(|ids| MailIds::finding(ids, table));
    let fixed = check_fixed_texts(facts, table);
    ids.into_iter()
        .chain(fixed)
        .chain(check_addresses(facts, shape, table))
        .collect()
}

/// Returns the columns that do not hold every address of RFC 5321 and RFC 6531. One statement for all, since each one copies the table.
fn check_addresses(
    facts: &TableInfo,
    shape: &TableColumns,
    table: &TableName,
) -> Option<Diagnostic> {
    let columns = [
        ("from", shape.from),
        ("to", shape.to),
        ("recipient", shape.recipient),
    ];
    let is_narrow = |(name, column): &(&str, Column)| {
        !facts.missing_columns.contains(name)
            && (column.width.max() < LONGEST_ADDRESS || column.charset != Charset::Unicode)
    };
    let narrow: Vec<_> = columns.into_iter().filter(is_narrow).collect();
    if narrow.is_empty() {
        return None;
    }
    let join = |each: &dyn Fn(&(&str, Column)) -> String| {
        narrow.iter().map(each).collect::<Vec<_>>().join(", ")
    };
    let widths = join(&|(name, column)| {
        let set = match column.charset {
            Charset::Unicode => "utf8mb4",
            Charset::Utf8mb3 => "utf8mb3",
            Charset::Latin1 => "latin1",
            Charset::Ascii => "another character set",
        };
        format!("`{name}`: {} of {set}", column.width.max())
    });
    let changes = join(&|(name, _)| {
        format!("MODIFY `{name}` varchar({LONGEST_ADDRESS}) CHARACTER SET utf8mb4 NOT NULL")
    });
    // The older formats allow a key 767 bytes, and column `to` has one.
    let format = match facts.row_format.to_ascii_lowercase().as_str() {
        "compact" | "redundant" => "ROW_FORMAT=DYNAMIC, ",
        _ => "",
    };
    Some(Diagnostic::warning(format!(
        "GM_MAIL_TABLE: columns of {table} do not hold every address, which has up to {LONGEST_ADDRESS} octets of UTF-8 \
         ({widths}): a recipient that does not fit is told 553, a sender is cut; run: ALTER TABLE {table} \
         {format}{changes}"
    )))
}

/// Returns the columns too narrow for texts that are never cut.
fn check_fixed_texts(facts: &TableInfo, table: &TableName) -> impl Iterator<Item = Diagnostic> {
    let columns = [
        (
            "hash",
            facts.hash_chars,
            32,
            "char(32) CHARACTER SET latin1",
        ),
        ("body", facts.body_chars, "gzencode".len(), "text"),
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
