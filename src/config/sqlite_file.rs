//! Parses GM_SQLITE_FILE.

use std::path::PathBuf;

/// Returns the path, or `None` if the text is not suitable as the name of a database file.
///
/// SQLite opens a database in memory for `:memory:` and parses options from `file:…`. A file whose name ends in `-wal`,
/// `-shm` or `-journal` may belong to another database: SQLite may delete such a file, or use it to roll back that database.
pub fn parse_sqlite_file_path(text: &str) -> Option<PathBuf> {
    let name = text.rsplit('/').next().unwrap_or_default();
    let is_folder = matches!(name, "" | "." | "..");
    let is_special = name.starts_with(':') || text.to_ascii_lowercase().starts_with("file:");
    let is_side_file = SIDE_FILE_SUFFIXES
        .iter()
        .any(|suffix| name.to_ascii_lowercase().ends_with(suffix));
    let is_file = !is_folder && !is_special && !is_side_file && !text.contains(char::is_control);
    is_file.then(|| PathBuf::from(text))
}

/// Suffixes of the files that SQLite creates next to a database file.
const SIDE_FILE_SUFFIXES: [&str; 3] = ["-wal", "-shm", "-journal"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_file_key_accepts_only_plain_file_names() {
        for text in [
            "goguerrilla.db",
            "/a b/c",
            "../m.db",
            "a:b",
            "memory",
            "file",
            "x-wal/y",
            "é.db",
            ".db",
        ] {
            assert_eq!(
                parse_sqlite_file_path(text),
                Some(PathBuf::from(text)),
                "{text}"
            );
        }
        for text in [
            "",
            ":memory:",
            ":MEMORY:",
            "a/:memory:",
            ":x",
            "file:m.db",
            "FILE:m.db?mode=memory",
            "file::memory:",
            "file:///tmp/m.db",
            "/",
            "a/",
            ".",
            "..",
            "a/..",
            "m.db-wal",
            "a/M.DB-WAL",
            "m.db-shm",
            "m.db-journal",
            "a\0b",
            "a\nb",
        ] {
            assert_eq!(parse_sqlite_file_path(text), None, "{text:?}");
        }
    }
}
