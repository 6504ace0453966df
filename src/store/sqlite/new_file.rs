//! The options that SQLite fixes when a database file gets its first page.

use rusqlite::Connection;

/// Sets the page size and incremental auto-vacuum if the database file is empty. A file that has pages keeps its own.
pub fn set_options_of_empty_file(connection: &Connection) -> rusqlite::Result<()> {
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    if pages > 0 {
        return Ok(());
    }
    // If another process writes the first page after this check, SQLite keeps the options of that page.
    connection.execute_batch(&format!(
        "PRAGMA page_size={PAGE_OCTETS}; PRAGMA auto_vacuum=INCREMENTAL;"
    ))
}

/// Page size of new files, in octets. docs/measured-decisions.md compares page sizes (Page size of SQLite).
const PAGE_OCTETS: u32 = 8_192;
