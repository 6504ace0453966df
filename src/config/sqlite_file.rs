//! Which values of GM_SQLITE_FILE name a database file.

use std::path::PathBuf;

/// Returns the file; `None` for what SQLite takes for something else than a database file of that name.
///
/// `:memory:` and `file:…` would be a database in memory or a URI with options of its own. A name with `-wal`, `-shm` or
/// `-journal` belongs to another database file, whose log SQLite would delete or roll back.
pub fn sqlite_file(text: &str) -> Option<PathBuf> {
    let name = text.rsplit('/').next().unwrap_or_default();
    let is_folder = matches!(name, "" | "." | "..");
    let is_special = name.starts_with(':') || text.to_ascii_lowercase().starts_with("file:");
    let is_companion = COMPANION_ENDINGS
        .iter()
        .any(|ending| name.to_ascii_lowercase().ends_with(ending));
    let is_file = !is_folder && !is_special && !is_companion && !text.contains(char::is_control);
    is_file.then(|| PathBuf::from(text))
}

/// Files that SQLite keeps next to a database file, under its name with these endings.
const COMPANION_ENDINGS: [&str; 3] = ["-wal", "-shm", "-journal"];

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
            assert_eq!(sqlite_file(text), Some(PathBuf::from(text)), "{text}");
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
            assert_eq!(sqlite_file(text), None, "{text:?}");
        }
    }
}
