//! The database programs that the tests start. Environment variables replace them, so that the same tests run with
//! another version or another product (`tests/compat/run`).

use std::env;
use std::process::Command;
use std::sync::OnceLock;

use super::mariadb::program;

/// Returns the database server: mariadbd, or the program that GUERRILLA_TEST_MARIADBD names, which may be MySQL's.
pub fn database_server() -> String {
    env::var("GUERRILLA_TEST_MARIADBD").unwrap_or_else(|_| program("mariadbd"))
}

/// Returns the program that makes MariaDB's system tables.
pub fn install_db() -> String {
    env::var("GUERRILLA_TEST_MARIADB_INSTALL_DB").unwrap_or_else(|_| program("mariadb-install-db"))
}

/// Returns Redis, or the program that GUERRILLA_TEST_REDIS_SERVER names, such as Valkey.
pub fn redis_server() -> String {
    env::var("GUERRILLA_TEST_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// Returns whether Redis is Valkey.
pub fn is_valkey() -> bool {
    let output = Command::new(redis_server()).arg("--version").output();
    let output = output.expect("redis-server is installed: tests/install-tools");
    String::from_utf8_lossy(&output.stdout).starts_with("Valkey")
}

/// Returns whether the server under test reaches databases by Unix sockets if a test does not say how.
pub fn uses_unix_sockets() -> bool {
    env::var("GUERRILLA_TEST_TRANSPORT").is_ok_and(|transport| transport == "unix")
}

/// Returns what the database server prints for `--version`.
pub fn database_version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let output = Command::new(database_server()).arg("--version").output();
        let output = output.expect("mariadbd is installed: tests/install-tools");
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

/// Returns whether the database server is MySQL and not MariaDB.
pub fn is_mysql() -> bool {
    !database_version().contains("MariaDB")
}

/// Returns the options that keep memory and data files small.
pub fn low_memory_options() -> &'static [&'static str] {
    if is_mysql() {
        MYSQL_OPTIONS
    } else {
        MARIADB_OPTIONS
    }
}

const MARIADB_OPTIONS: &[&str] = &[
    "--innodb-log-file-size=4M",
    "--innodb-buffer-pool-size=24M",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
    "--performance-schema=OFF",
    "--key-buffer-size=1M",
];
/// With a redo log of 8 MB, rows of 100 MB in a batch take longer than the batch may. MySQL also listens on a second port,
/// writes a binary log and needs a folder of its package unless it is told otherwise.
const MYSQL_OPTIONS: &[&str] = &[
    "--innodb-redo-log-capacity=512M",
    "--innodb-buffer-pool-size=24M",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
    "--performance-schema=OFF",
    "--key-buffer-size=1M",
    "--mysqlx=OFF",
    "--skip-log-bin",
    "--secure-file-priv=NULL",
];
