//! Connections to Redis, and the commands that store bodies.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, NopErrorHandler, Pool};
use r2d2_redis::redis::{self, ConnectionLike, Value};
use scheduled_thread_pool::ScheduledThreadPool;

use super::connect::Connector;
use super::connection::Connection;
use super::{Bodies, Redirect, STORE_TIMEOUT, SlotAccess, StoreFailure, describe_error};
use crate::sync::lock;

/// Connections to Redis, shared by the writers.
#[derive(Clone)]
pub struct RedisPool {
    pool: Pool<Manager>,
    last_failure: LastFailure,
    expire_seconds: usize,
}

/// A connection that is thrown away after anything unexpected: a late answer must never be read as the next one.
struct PooledConnection {
    connection: Connection,
    broken: bool,
}

struct Manager {
    door: Connector,
    /// Why the last try to connect failed: the pool itself only says that it waited.
    last_failure: LastFailure,
}

type LastFailure = Arc<Mutex<Option<String>>>;

impl ManageConnection for Manager {
    type Connection = PooledConnection;
    type Error = r2d2_redis::Error;

    fn connect(&self) -> Result<PooledConnection, r2d2_redis::Error> {
        let entered = self.door.connect(CONNECT_TIMEOUT);
        *lock(&self.last_failure) = entered.as_ref().err().map(describe_error);
        let connection = entered.map_err(r2d2_redis::Error::Other)?;
        let timed = connection.set_timeout(STORE_TIMEOUT);
        timed.map_err(|error| r2d2_redis::Error::Other(error.into()))?;
        Ok(PooledConnection {
            connection,
            broken: false,
        })
    }

    fn is_valid(&self, _: &mut PooledConnection) -> Result<(), r2d2_redis::Error> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PooledConnection) -> bool {
        connection.broken
    }
}

impl RedisPool {
    /// A pool of as many connections as there are writers; reaches for nothing yet.
    ///
    /// # Errors
    /// When the URL is none; the text does not show it.
    pub fn new(url: &str, expire_seconds: usize, writers: usize) -> Result<RedisPool, String> {
        let door = Connector::new(url)
            .map_err(|error| format!("REDIS_INTERFACE: {}", describe_error(&error)))?;
        let last_failure = LastFailure::default();
        // r2d2 would start three threads. A pool of its own for each node: a node that does not answer must not delay connections
        // to others, and r2d2 does not cancel the periodic job of a dropped pool, which ends only with its thread pool.
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
            .build_unchecked(Manager {
                door,
                last_failure: Arc::clone(&last_failure),
            });
        Ok(RedisPool {
            pool,
            last_failure,
            expire_seconds,
        })
    }

    /// Once more on a new connection when the first one turned out to be closed: Redis may close idle ones.
    pub(super) fn store_bodies(
        &self,
        bodies: &Bodies,
        entry: SlotAccess,
    ) -> Result<(), StoreFailure> {
        let started_at = Instant::now();
        let stored = self.try_to_store(bodies, entry, started_at);
        let stored = match stored {
            Err(error) if was_closed(&error) => self.try_to_store(bodies, entry, started_at),
            stored => stored,
        };
        stored.map_err(|error| StoreFailure {
            text: describe_error(&error),
            redirect: Redirect::of(&error),
        })
    }

    fn try_to_store(
        &self,
        bodies: &Bodies,
        entry: SlotAccess,
        started_at: Instant,
    ) -> redis::RedisResult<()> {
        let failed = |text| redis::RedisError::from((redis::ErrorKind::IoError, text));
        // Shorter than the batch waits, so that it learns why there is no connection.
        let left = STORE_TIMEOUT
            .saturating_sub(started_at.elapsed())
            .mul_f64(0.75);
        let connection = self.pool.get_timeout(left);
        let mut connection = connection.map_err(|_| {
            let why = lock(&self.last_failure).clone();
            let why = why.unwrap_or_else(|| "none was made in time".to_owned());
            redis::RedisError::from((redis::ErrorKind::IoError, "no connection", why))
        })?;
        connection.broken = true;
        let commands = encode_setex(bodies, self.expire_seconds, entry);
        let expected = match entry {
            SlotAccess::Owner => bodies.len(),
            SlotAccess::Asking => bodies.len() * 2,
        };
        let answers = (connection.connection).req_packed_commands(&commands, 0, expected)?;
        if answers.len() != expected || answers.iter().any(|answer| *answer != Value::Okay) {
            return Err(failed("an answer other than OK"));
        }
        if started_at.elapsed() >= STORE_TIMEOUT {
            return Err(failed("too slow"));
        }
        connection.broken = false;
        Ok(())
    }
}

/// A SETEX for each body, as Redis reads it
/// ([RESP](https://redis.io/docs/latest/develop/reference/protocol-spec/)): the library would copy each body thrice.
fn encode_setex(bodies: &Bodies, expire_seconds: usize, entry: SlotAccess) -> Vec<u8> {
    let octets = bodies
        .iter()
        .map(|(_, body)| body.len() + COMMAND_OVERHEAD_OCTETS);
    let mut commands = Vec::with_capacity(octets.sum());
    let expire_seconds = expire_seconds.to_string();
    for (hash, body) in bodies {
        if entry == SlotAccess::Asking {
            commands.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
        }
        commands.extend_from_slice(b"*4\r\n");
        let hash = hash.as_str().as_bytes();
        for argument in [b"SETEX", hash, expire_seconds.as_bytes(), body] {
            // Into memory, which takes what it is given.
            let _ = write!(commands, "${}\r\n", argument.len());
            commands.extend_from_slice(argument);
            commands.extend_from_slice(b"\r\n");
        }
    }
    commands
}

/// Whether the connection was closed at the other end, which shows as the end of what can be read over a network. Told by
/// its words: the library keeps the kind to itself.
fn was_closed(error: &redis::RedisError) -> bool {
    let is_end = || error.to_string() == io::Error::from(io::ErrorKind::UnexpectedEof).to_string();
    error.is_connection_dropped() || error.is_io_error() && is_end()
}

/// About what a command has besides its body.
const COMMAND_OVERHEAD_OCTETS: usize = 112;
/// For reaching Redis and logging in, which happens beside the mail and is waited for within the budget only.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause between two tries to reach a Redis that is down.
const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(5);
