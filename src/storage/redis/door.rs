//! Connecting to a Redis server and logging in.

use std::time::Duration;

use r2d2_redis::redis::{self, IntoConnectionInfo};

/// Address and login commands of a Redis server. The redis crate would log in before a timeout can be set and could block
/// for ever, so this type sends AUTH and SELECT itself.
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
            // A URL has brackets around an IPv6 address; a resolver does not accept them.
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
