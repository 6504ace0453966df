//! Diagnostics of `goguerrilla check` for SQLite, MySQL and Redis. The server logs some of them at startup.

#[cfg(feature = "mysql")]
pub mod database;
#[cfg(feature = "mysql")]
mod driver_panic;
#[cfg(feature = "mysql")]
mod peer;
#[cfg(feature = "mysql")]
pub mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod sqlite_locks;

#[cfg(feature = "sqlite")]
pub use self::sqlite::check_sqlite_file;
