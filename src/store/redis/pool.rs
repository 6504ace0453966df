//! The pool of connections to Redis, and the commands that store bodies.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, NopErrorHandler, Pool};
use r2d2_redis::redis::{self, ConnectionLike, Value};
use scheduled_thread_pool::ScheduledThreadPool;

use super::connect::Connector;
use super::connection::RedisConnection;
use super::{
    BatchBodies, RedisClusterRedirect, RedisSettings, RedisStoreError, STORE_TIMEOUT,
    SlotsOwnedOrMigrating, redis_error_text_without_url,
};
use crate::sync::lock;

/// A pool of connections to one Redis server, shared by the writers.
#[derive(Clone)]
pub struct RedisPool {
    pool: Pool<RedisConnectionManager>,
    last_failure: LastRedisConnectError,
    expire_seconds: usize,
}

/// A pooled connection. The pool drops the connection after any error, because the late reply to one command would be read as
/// the reply to the next command.
struct PooledRedisConnection {
    connection: RedisConnection,
    broken: bool,
}

struct RedisConnectionManager {
    connector: Connector,
    /// The error of the last attempt to connect, because r2d2 reports only that its timeout expired. `None` after a success.
    last_failure: LastRedisConnectError,
}

type LastRedisConnectError = Arc<Mutex<Option<String>>>;

impl ManageConnection for RedisConnectionManager {
    type Connection = PooledRedisConnection;
    type Error = r2d2_redis::Error;

    fn connect(&self) -> Result<PooledRedisConnection, r2d2_redis::Error> {
        let connected = self.connector.connect(CONNECT_TIMEOUT);
        *lock(&self.last_failure) = connected.as_ref().err().map(redis_error_text_without_url);
        let connection = connected.map_err(r2d2_redis::Error::Other)?;
        let timeout_set = connection.set_timeout(STORE_TIMEOUT);
        timeout_set.map_err(|error| r2d2_redis::Error::Other(error.into()))?;
        Ok(PooledRedisConnection {
            connection,
            broken: false,
        })
    }

    fn is_valid(&self, _: &mut PooledRedisConnection) -> Result<(), r2d2_redis::Error> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PooledRedisConnection) -> bool {
        connection.broken
    }
}

impl RedisPool {
    /// Returns a pool with at most `writers` connections to the server at `url`, one of those in `settings` or a node of their
    /// cluster. Does not connect yet.
    ///
    /// # Errors
    /// The URL is malformed. The error text does not contain the URL, which may contain a password.
    pub fn new(settings: &RedisSettings, url: &str, writers: usize) -> Result<RedisPool, String> {
        let connector = Connector::new(url, settings.ca_file.as_deref()).map_err(|error| {
            format!("REDIS_INTERFACE: {}", redis_error_text_without_url(&error))
        })?;
        let last_failure = LastRedisConnectError::default();
        // One thread that connects is enough; r2d2 starts three by default. The pools of two nodes do not share a thread,
        // because a node that does not answer must not delay connections to other nodes, and because the periodic job of a
        // dropped connection pool ends only with its thread pool.
        let threads = ScheduledThreadPool::builder()
            .num_threads(1)
            .thread_name_pattern("redis-connect")
            .build();
        let pool = Pool::builder()
            .thread_pool(Arc::new(threads))
            .max_size(writers as u32)
            .min_idle(Some(0))
            .connection_timeout(MAX_RECONNECT_PAUSE * 2)
            .test_on_check_out(false)
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(RedisConnectionManager {
                connector,
                last_failure: Arc::clone(&last_failure),
            });
        Ok(RedisPool {
            pool,
            last_failure,
            expire_seconds: settings.expire_seconds,
        })
    }

    /// Stores bodies. If the server had closed the pooled connection, for example an idle one, tries once more with another
    /// connection.
    pub(super) fn store_bodies(
        &self,
        bodies: &BatchBodies,
        access: SlotsOwnedOrMigrating,
    ) -> Result<(), RedisStoreError> {
        let started_at = Instant::now();
        let stored = self.send_setex_once(bodies, access, started_at);
        let stored = match stored {
            Err(error) if is_connection_closed_error(&error) => {
                self.send_setex_once(bodies, access, started_at)
            }
            stored => stored,
        };
        stored.map_err(|error| RedisStoreError {
            text: redis_error_text_without_url(&error),
            redirect: RedisClusterRedirect::of(&error),
        })
    }

    fn send_setex_once(
        &self,
        bodies: &BatchBodies,
        access: SlotsOwnedOrMigrating,
        started_at: Instant,
    ) -> redis::RedisResult<()> {
        let io_error = |text| redis::RedisError::from((redis::ErrorKind::IoError, text));
        // The pool gets only 75 % of the remaining time, so that the reason for a missing connection reaches the writer before
        // the writer stops waiting.
        let remaining = STORE_TIMEOUT
            .saturating_sub(started_at.elapsed())
            .mul_f64(0.75);
        let connection = self.pool.get_timeout(remaining);
        let mut connection = connection.map_err(|_| {
            let reason = lock(&self.last_failure).clone();
            let reason = reason.unwrap_or_else(|| "none was established in time".to_owned());
            redis::RedisError::from((redis::ErrorKind::IoError, "no connection", reason))
        })?;
        connection.broken = true;
        let commands = encode_setex_commands(bodies, self.expire_seconds, access);
        let expected = match access {
            SlotsOwnedOrMigrating::Owner => bodies.len(),
            SlotsOwnedOrMigrating::Asking => bodies.len() * 2,
        };
        let replies = (connection.connection).req_packed_commands(&commands, 0, expected)?;
        if replies.len() != expected || replies.iter().any(|reply| *reply != Value::Okay) {
            return Err(io_error("a reply other than OK"));
        }
        if started_at.elapsed() >= STORE_TIMEOUT {
            return Err(io_error("too slow"));
        }
        connection.broken = false;
        Ok(())
    }
}

/// Encodes a SETEX command for each body in [RESP](https://redis.io/docs/latest/develop/reference/protocol-spec/). The redis
/// crate's encoder is not used, because it would copy each body three times.
fn encode_setex_commands(
    bodies: &BatchBodies,
    expire_seconds: usize,
    access: SlotsOwnedOrMigrating,
) -> Vec<u8> {
    let octets = bodies
        .iter()
        .map(|(_, body)| body.len() + COMMAND_OVERHEAD_OCTETS);
    let mut commands = Vec::with_capacity(octets.sum());
    let expire_seconds = expire_seconds.to_string();
    for (hash, body) in bodies {
        if access == SlotsOwnedOrMigrating::Asking {
            commands.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
        }
        commands.extend_from_slice(b"*4\r\n");
        let hash = hash.as_str().as_bytes();
        for argument in [b"SETEX", hash, expire_seconds.as_bytes(), body] {
            // Writing to a Vec cannot fail.
            let _ = write!(commands, "${}\r\n", argument.len());
            commands.extend_from_slice(argument);
            commands.extend_from_slice(b"\r\n");
        }
    }
    commands
}

/// Returns whether the server closed the connection. Compares the error text, because the redis crate does not expose the kind
/// of an I/O error.
fn is_connection_closed_error(error: &redis::RedisError) -> bool {
    let is_eof = || error.to_string() == io::Error::from(io::ErrorKind::UnexpectedEof).to_string();
    error.is_connection_dropped() || error.is_io_error() && is_eof()
}

/// Approximate size of a SETEX command without its body, in octets. Longer commands only make the buffer grow.
const COMMAND_OVERHEAD_OCTETS: usize = 112;
/// Timeout for connecting and for each reply during login. The pool's thread connects; a batch waits for a connection only
/// within `STORE_TIMEOUT`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest pause between two attempts to connect to a server that is down. r2d2 limits the pause to half of its connection
/// timeout.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(5);
