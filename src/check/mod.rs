//! Diagnostics of `goguerrilla check` for SQLite, MySQL and Redis. The server logs some of them at startup.

pub mod database;
mod peer;
pub mod redis;
mod sqlite;
mod sqlite_locks;

pub use self::sqlite::check as sqlite;

use crate::panics;
use crate::store::Diagnostic;

/// Runs `check` and converts a panic, which can only come from a client library, into a finding that names the configuration
/// key `key`.
fn without_panic(key: &str, check: impl FnOnce() -> Vec<Diagnostic>) -> Vec<Diagnostic> {
    panics::catch_panic(check).unwrap_or_else(|text| {
        vec![Diagnostic::error(format!(
            "{key}: the client library cannot handle an answer of the server: {text}; see whether {key} names the right \
             server"
        ))]
    })
}
