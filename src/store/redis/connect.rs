//! Connects to a Redis server and logs in.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use r2d2_redis::redis::{self, ConnectionAddr, IntoConnectionInfo};

use super::connection::RedisConnection;
use super::tls::RedisTls;

/// Address and login commands of a Redis server. The redis crate would log in before a timeout can be set and could block
/// forever, so this type sends AUTH and SELECT itself.
pub struct Connector {
    address: ConnectionAddr,
    /// Set for `rediss://`.
    tls: Option<Arc<RedisTls>>,
    login: Vec<redis::Cmd>,
}

impl Connector {
    /// Parses a URL with the scheme `redis` or `rediss`. `ca_file` has further authorities for `rediss`.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn new(url: &str, ca_file: Option<&Path>) -> redis::RedisResult<Connector> {
        // The redis crate parses rediss:// only if it is built with its own TLS.
        let without_tls = url.strip_prefix("rediss://");
        let mut info = match without_tls {
            Some(rest) => format!("redis://{rest}").into_connection_info()?,
            None => url.into_connection_info()?,
        };
        let mut login = Vec::new();
        if let Some(password) = info.passwd.take() {
            let mut auth = redis::cmd("AUTH");
            auth.arg(info.username.take()).arg(password);
            login.push(auth);
        }
        if info.db != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(info.db);
            login.push(select);
        }
        let mut address = *info.addr;
        let mut tls = None;
        if let ConnectionAddr::Tcp(host, port) = &mut address {
            // In a URL an IPv6 address is enclosed in brackets. They are removed, because a resolver does not accept them.
            *host = host.trim_matches(['[', ']']).to_owned();
            tls = without_tls.map(|_| Arc::new(RedisTls::new(host, *port, ca_file)));
        }
        Ok(Connector {
            address,
            tls,
            login,
        })
    }

    /// Connects and logs in. `timeout` applies to each TCP connection attempt, to the TLS handshake, and to each read and write
    /// of the connection.
    ///
    /// # Errors
    /// The server cannot be reached, or rejects a login command.
    pub fn connect(&self, timeout: Duration) -> redis::RedisResult<RedisConnection> {
        let mut connection = RedisConnection::open(&self.address, self.tls.as_ref(), timeout)?;
        for command in &self.login {
            command.query::<()>(&mut connection)?;
        }
        Ok(connection)
    }
}
