//! Diagnostics of `goguerrilla check` for SQLite, MySQL and Redis. The server logs some of them at startup.

pub mod database;
mod driver_panic;
mod peer;
pub mod redis;
mod sqlite;
mod sqlite_locks;

pub use self::sqlite::check as sqlite;
