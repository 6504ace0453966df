//! The settings of the MySQL store.

use std::fmt;

pub use super::tls::MySqlTls;
use crate::store::TableName;

/// The settings of the MySQL store.
#[derive(Clone, PartialEq, Eq)]
pub struct MySqlSettings {
    /// Hosts in the order in which they are tried.
    pub hosts: Vec<MySqlHostAddress>,
    /// Name of the database account.
    pub user: String,
    /// Password of the account; never logged.
    pub password: String,
    /// How connections over TCP are protected.
    pub tls: MySqlTls,
    /// Default database; empty for none.
    pub database: String,
    /// Table that mail is stored in.
    pub table: TableName,
    /// Number of writers, and of connections in the pool.
    pub workers: usize,
}

/// One item of MYSQL_HOST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MySqlHostAddress {
    /// Name or address, and port.
    Tcp(String, u16),
    /// Path of a Unix socket.
    Socket(String),
}

impl fmt::Display for MySqlHostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MySqlHostAddress::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            MySqlHostAddress::Tcp(name, port) => write!(f, "{name}:{port}"),
            MySqlHostAddress::Socket(path) => f.write_str(path),
        }
    }
}

impl fmt::Debug for MySqlSettings {
    /// Writes the settings without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlSettings")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("tls", &self.tls)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
