//! How the database is reached.

use std::fmt;

use crate::store::TableName;

/// How the database is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct MySqlSettings {
    /// In the order they are tried.
    pub hosts: Vec<MySqlHost>,
    /// Who we are.
    pub user: String,
    /// Never shown.
    pub password: String,
    /// The default database; empty for none.
    pub database: String,
    /// Where mail goes.
    pub table: TableName,
    /// Writers, and connections as many.
    pub workers: usize,
}

/// `host:port` or the path of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MySqlHost {
    /// Over TCP.
    Tcp(String, u16),
    /// Over a socket of this machine.
    Socket(String),
}

impl fmt::Display for MySqlHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MySqlHost::Tcp(name, port) if name.contains(':') => write!(f, "[{name}]:{port}"),
            MySqlHost::Tcp(name, port) => write!(f, "{name}:{port}"),
            MySqlHost::Socket(path) => f.write_str(path),
        }
    }
}

impl fmt::Debug for MySqlSettings {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlSettings")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}
