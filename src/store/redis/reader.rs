//! Bodies read back.

use std::time::Duration;

use r2d2_redis::redis::{self, ConnectionLike};

use super::connect::Connector;
use super::connection::Connection;
use super::{Redirect, describe_error, split_url};
use crate::store::ReadError;

/// Reads bodies back, for `list`, `show` and `check`.
pub struct RedisReader {
    connection: Connection,
    place: String,
}

impl RedisReader {
    /// Connects.
    ///
    /// # Errors
    /// [`ReadError`] that says where, and what Redis said.
    pub fn open(url: &str) -> Result<RedisReader, ReadError> {
        let place = display_address(url);
        let connection = Connector::new(url).and_then(|door| door.connect(READ_TIMEOUT));
        let connection = connection.map_err(|error| read_error(&place, &error))?;
        Ok(RedisReader { connection, place })
    }

    /// Where it is, without what it wants to hear first.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the connection can be used no more.
    pub fn is_broken(&self) -> bool {
        !self.connection.is_open()
    }

    /// Asks anything.
    ///
    /// # Errors
    /// [`ReadError`] that says where, and what Redis said.
    pub fn query<T: redis::FromRedisValue>(
        &mut self,
        question: &redis::Cmd,
    ) -> Result<T, ReadError> {
        let answer = question.query(&mut self.connection);
        answer.map_err(|error| read_error(&self.place, &error))
    }

    /// The body under a hash; `None` once it has expired.
    ///
    /// # Errors
    /// [`ReadError`] that says where, and what Redis said.
    pub fn body(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        self.query(redis::cmd("GET").arg(hash))
    }

    /// The same from a node of a cluster, which may send us elsewhere.
    ///
    /// # Errors
    /// [`ReadError`] that says where, and what Redis said.
    pub fn body_or_redirect(
        &mut self,
        hash: &str,
    ) -> Result<Result<Option<Vec<u8>>, Redirect>, ReadError> {
        match redis::cmd("GET").arg(hash).query(&mut self.connection) {
            Ok(body) => Ok(Ok(body)),
            Err(error) => match Redirect::of(&error) {
                Some(redirect) => Ok(Err(redirect)),
                None => Err(read_error(&self.place, &error)),
            },
        }
    }

    /// A line of INFO, such as `maxmemory_policy`; `None` where Redis does not tell.
    pub fn info(&mut self, section: &str, name: &str) -> Option<String> {
        let info: String = redis::cmd("INFO")
            .arg(section)
            .query(&mut self.connection)
            .ok()?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    }

    /// A setting; `None` where Redis does not tell.
    pub fn setting(&mut self, name: &str) -> Option<String> {
        let mut question = redis::cmd("CONFIG");
        let pair: Vec<String> = question
            .arg("GET")
            .arg(name)
            .query(&mut self.connection)
            .ok()?;
        pair.into_iter().nth(1)
    }

    /// Whether a body could be written now, under a key that is none of a mail; it is taken back at once.
    ///
    /// # Errors
    /// What Redis said.
    pub fn try_write(&mut self, key: &str) -> Result<(), String> {
        let mut setex = redis::cmd("SETEX");
        let written: redis::RedisResult<()> =
            setex.arg(key).arg(1).arg("").query(&mut self.connection);
        written.map_err(|error| describe_error(&error))?;
        // Should this fail, it expires by itself.
        let _: redis::RedisResult<u64> = redis::cmd("DEL").arg(key).query(&mut self.connection);
        Ok(())
    }
}

fn read_error(place: &str, error: &redis::RedisError) -> ReadError {
    let what = describe_error(error);
    ReadError(format!("REDIS_INTERFACE: Redis at {place}: {what}"))
}

/// Where a Redis is, without what it wants to hear first.
pub fn display_address(url: &str) -> String {
    match url.strip_prefix("redis+unix://") {
        Some(path) => path.split('?').next().unwrap_or_default().to_owned(),
        None => {
            let (_, place) = split_url(url);
            place.split('/').next().unwrap_or_default().to_owned()
        }
    }
}

/// For reading commands, where nobody's mail waits.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_address_for_messages_contains_no_password() {
        for (url, place) in [
            ("redis://127.0.0.1:6379/", "127.0.0.1:6379"),
            ("redis://:s3cr3t@db:1/2", "db:1"),
            ("redis://user:s3@cr/3t@[::1]:1/", "[::1]:1"),
            ("redis+unix:///run/redis.sock", "/run/redis.sock"),
            (
                "redis+unix:///run/redis.sock?pass=s3cr3t",
                "/run/redis.sock",
            ),
        ] {
            assert_eq!(display_address(url), place);
        }
    }
}
