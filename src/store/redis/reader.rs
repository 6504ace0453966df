//! Reads bodies from one Redis server.

use std::time::Duration;

use r2d2_redis::redis::{self, ConnectionLike};

use super::connect::Connector;
use super::connection::RedisConnection;
use super::{RedisClusterRedirect, RedisSettings, redis_error_text_without_url, split_credentials};
use crate::store::StoreReadError;

/// A connection that reads bodies for `list` and `show` and diagnoses the server for `check`.
pub struct RedisReadConnection {
    connection: RedisConnection,
    address: String,
}

impl RedisReadConnection {
    /// Connects to the server at `url`, one of those in `settings` or a node of their cluster.
    ///
    /// # Errors
    /// [`StoreReadError`], which names the server's address and the cause.
    pub fn open(
        settings: &RedisSettings,
        url: &str,
    ) -> Result<RedisReadConnection, StoreReadError> {
        let address = redis_address_without_login(url);
        let connection = Connector::new(url, settings.ca_file.as_deref())
            .and_then(|connector| connector.connect(READ_TIMEOUT));
        let connection = connection.map_err(|error| read_error(&address, &error))?;
        Ok(RedisReadConnection {
            connection,
            address,
        })
    }

    /// Returns the server's address without user and password.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns whether the connection can no longer be used.
    pub fn is_redis_connection_broken(&self) -> bool {
        !self.connection.is_open()
    }

    /// Sends any command and returns its reply.
    ///
    /// # Errors
    /// [`StoreReadError`], which names the server's address and the cause.
    pub fn run_redis_command<T: redis::FromRedisValue>(
        &mut self,
        command: &redis::Cmd,
    ) -> Result<T, StoreReadError> {
        let reply = command.query(&mut self.connection);
        reply.map_err(|error| read_error(&self.address, &error))
    }

    /// Returns the body of the mail id `hash`; `None` if the body has expired.
    ///
    /// # Errors
    /// [`StoreReadError`], which names the server's address and the cause.
    pub fn body(&mut self, hash: &str) -> Result<Option<Vec<u8>>, StoreReadError> {
        self.run_redis_command(redis::cmd("GET").arg(hash))
    }

    /// Returns the body like [`body`](RedisReadConnection::body), or the redirection that a node of a cluster sent instead of
    /// the body.
    ///
    /// # Errors
    /// [`StoreReadError`], which names the server's address and the cause.
    pub fn get_body_or_redirect(
        &mut self,
        hash: &str,
    ) -> Result<Result<Option<Vec<u8>>, RedisClusterRedirect>, StoreReadError> {
        match redis::cmd("GET").arg(hash).query(&mut self.connection) {
            Ok(body) => Ok(Ok(body)),
            Err(error) => match RedisClusterRedirect::of(&error) {
                Some(redirect) => Ok(Err(redirect)),
                None => Err(read_error(&self.address, &error)),
            },
        }
    }

    /// Returns the field `name`, such as `maxmemory_policy`, of a section of INFO; `None` if the server does not report the
    /// field.
    pub fn redis_info_field(&mut self, section: &str, name: &str) -> Option<String> {
        let info: String = redis::cmd("INFO")
            .arg(section)
            .query(&mut self.connection)
            .ok()?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    /// Returns the configuration parameter `name`; `None` if the server does not report the parameter.
    pub fn redis_config_parameter(&mut self, name: &str) -> Option<String> {
        let mut command = redis::cmd("CONFIG");
        let pair: Vec<String> = command
            .arg("GET")
            .arg(name)
            .query(&mut self.connection)
            .ok()?;
        pair.into_iter().nth(1)
    }

    /// Stores an empty value under `key` and deletes it, to test whether the server would store a body.
    ///
    /// # Errors
    /// The server does not store the value; the text gives the reason.
    pub fn test_redis_write(&mut self, key: &str) -> Result<(), String> {
        let mut setex = redis::cmd("SETEX");
        let written: redis::RedisResult<()> =
            setex.arg(key).arg(1).arg("").query(&mut self.connection);
        written.map_err(|error| redis_error_text_without_url(&error))?;
        // If DEL fails, the key expires one second after SETEX.
        let _: redis::RedisResult<u64> = redis::cmd("DEL").arg(key).query(&mut self.connection);
        Ok(())
    }
}

fn read_error(address: &str, error: &redis::RedisError) -> StoreReadError {
    let text = redis_error_text_without_url(error);
    StoreReadError(format!("REDIS_INTERFACE: Redis at {address}: {text}"))
}

/// Returns the address in a URL, without user and password.
pub fn redis_address_without_login(url: &str) -> String {
    match url.strip_prefix("redis+unix://") {
        Some(path) => path.split('?').next().unwrap_or_default().to_owned(),
        None => {
            let (_, address) = split_credentials(url);
            address.split('/').next().unwrap_or_default().to_owned()
        }
    }
}

/// Timeout of `list`, `show` and `check` for connecting and for each reply. It is longer than `STORE_TIMEOUT`, because no mail
/// waits for these commands.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_address_for_messages_contains_no_password() {
        for (url, address) in [
            ("redis://127.0.0.1:6379/", "127.0.0.1:6379"),
            ("redis://:s3cr3t@db:1/2", "db:1"),
            ("rediss://user:s3cr3t@db:1/2", "db:1"),
            ("redis://user:s3@cr/3t@[::1]:1/", "[::1]:1"),
            ("redis+unix:///run/redis.sock", "/run/redis.sock"),
            (
                "redis+unix:///run/redis.sock?pass=s3cr3t",
                "/run/redis.sock",
            ),
        ] {
            assert_eq!(redis_address_without_login(url), address);
        }
    }
}
