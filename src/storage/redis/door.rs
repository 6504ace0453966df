//! How a Redis is entered.

use std::time::Duration;

use r2d2_redis::redis::{self, IntoConnectionInfo};

/// Where Redis is and what it wants to hear first. The library says that before a time-out can be set, and would wait for
/// ever at a Redis that hangs just there; so we say it.
pub struct Door {
    client: redis::Client,
    login: Vec<redis::Cmd>,
}

impl Door {
    pub fn new(url: &str) -> redis::RedisResult<Door> {
        let mut info = url.into_connection_info()?;
        let mut login = Vec::new();
        if let Some(password) = info.passwd.take() {
            let mut auth = redis::cmd("AUTH");
            auth.arg(info.username.take()).arg(password);
            login.push(auth);
        }
        let database = std::mem::take(&mut info.db);
        if database != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(database);
            login.push(select);
        }
        if let redis::ConnectionAddr::Tcp(host, _) = info.addr.as_mut() {
            // An IPv6 address comes with the brackets of its URL, which no resolver knows.
            *host = host.trim_matches(['[', ']']).to_owned();
        }
        let client = redis::Client::open(info)?;
        Ok(Door { client, login })
    }

    pub fn enter(&self, timeout: Duration) -> redis::RedisResult<redis::Connection> {
        let mut connection = self.client.get_connection_with_timeout(timeout)?;
        connection.set_read_timeout(Some(timeout))?;
        connection.set_write_timeout(Some(timeout))?;
        for command in &self.login {
            command.query::<()>(&mut connection)?;
        }
        Ok(connection)
    }
}
