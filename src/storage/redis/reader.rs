//! Bodies read back.

use std::time::Duration;

use r2d2_redis::redis;

use super::door::Door;
use super::error_kind;
use crate::storage::ReadError;

/// Reads bodies back, for `list`, `show` and `check`.
pub struct RedisReader {
    connection: redis::Connection,
}

impl RedisReader {
    /// Connects.
    ///
    /// # Errors
    /// [`ReadError`] that says what Redis said.
    pub fn open(url: &str) -> Result<RedisReader, ReadError> {
        let told = |error: redis::RedisError| {
            ReadError(format!("REDIS_INTERFACE: {}", error_kind(&error)))
        };
        let connection = Door::new(url).and_then(|door| door.enter(READ_TIMEOUT));
        let connection = connection.map_err(told)?;
        Ok(RedisReader { connection })
    }

    /// Asks anything.
    ///
    /// # Errors
    /// [`ReadError`] that says what Redis said.
    pub fn ask<T: redis::FromRedisValue>(&mut self, question: &redis::Cmd) -> Result<T, ReadError> {
        let answer = question.query(&mut self.connection);
        answer.map_err(|error| ReadError(format!("REDIS_INTERFACE: {}", error_kind(&error))))
    }

    /// The body under a hash; `None` once it has expired.
    ///
    /// # Errors
    /// [`ReadError`] that says what Redis said.
    pub fn body(&mut self, hash: &str) -> Result<Option<Vec<u8>>, ReadError> {
        self.ask(redis::cmd("GET").arg(hash))
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

    /// Whether a body could be written now; it is taken back at once.
    ///
    /// # Errors
    /// What Redis said.
    pub fn try_write(&mut self) -> Result<(), String> {
        let key = "goguerrilla:check";
        let mut setex = redis::cmd("SETEX");
        let written: redis::RedisResult<()> =
            setex.arg(key).arg(1).arg("").query(&mut self.connection);
        written.map_err(|error| error_kind(&error))?;
        // Should this fail, it expires by itself.
        let _: redis::RedisResult<u64> = redis::cmd("DEL").arg(key).query(&mut self.connection);
        Ok(())
    }
}

/// For reading commands, where nobody's mail waits.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
