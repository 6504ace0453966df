//! Bodies in Redis under their hashes, each with an expiry.
//!
//! Redis is a convenience, never a condition: whatever goes wrong with it, the bodies go into the table instead, and no
//! mail waits longer than a fifth of a second for that decision. The talking is done by a thread of its own, since the socket's
//! time-outs restart with every octet; a breaker keeps a Redis in trouble out of the way and tries it again by itself.

mod breaker;
pub mod cluster;
mod door;
mod reader;

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use r2d2::{ManageConnection, NopErrorHandler, Pool};
use r2d2_redis::redis::{self, ConnectionLike, Value};

pub use self::breaker::Breaker;
use self::door::Door;
pub use self::reader::RedisReader;
use crate::mail::{Hash, Mail, NoMemory};

/// How Redis is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://` or `redis+unix://`; may hold a password, so it is never shown. Several are nodes of one Redis Cluster,
    /// and the user and password of the first one are good for all.
    pub urls: Vec<String>,
    /// Life of a body in seconds, at least 1.
    pub expire_seconds: usize,
}

impl RedisSettings {
    /// `host:port` of each node that was named.
    pub fn addresses(&self) -> impl Iterator<Item = String> {
        self.urls.iter().map(|url| split_url(url).1.to_owned())
    }

    /// The URL of a node of the cluster.
    pub fn url_of(&self, address: &str) -> String {
        let (login, _) = self.urls.first().map_or(("", ""), |url| split_url(url));
        format!("redis://{login}{address}/")
    }
}

/// `user:password@`, or nothing, and `host:port`.
fn split_url(url: &str) -> (&str, &str) {
    let rest = url.strip_prefix("redis://").unwrap_or(url);
    let at = rest.rfind('@').map_or(0, |at| at + 1);
    let (login, place) = rest.split_at(at);
    (login, place.trim_end_matches('/'))
}

/// Which bodies of a batch are in Redis.
pub enum Placed {
    /// None: all go into the table.
    Table,
    /// All.
    Redis,
    /// Those with these hashes.
    Some(HashSet<Hash>),
}

impl Placed {
    /// Whether the body with this hash is in Redis.
    pub fn holds(&self, hash: &Hash) -> bool {
        match self {
            Placed::Table => false,
            Placed::Redis => true,
            Placed::Some(hashes) => hashes.contains(hash),
        }
    }
}

/// Why a node did not take what it was given.
pub struct Trouble {
    /// In its own words.
    pub text: String,
    /// It is well, and sends us elsewhere.
    pub redirect: Option<Redirect>,
}

/// Where a node of a cluster sends us.
#[derive(Debug, PartialEq, Eq)]
pub enum Redirect {
    /// Another node has the slot now (MOVED).
    Moved,
    /// The slot is on its way to this node, which takes what is new in it (ASK).
    Ask {
        /// The slot.
        slot: u16,
        /// `host:port`.
        node: String,
    },
}

impl Redirect {
    /// Whether an error is one.
    pub fn of(error: &redis::RedisError) -> Option<Redirect> {
        let (node, slot) = error.redirect_node()?;
        let node = node.to_owned();
        Some(match error.kind() {
            redis::ErrorKind::Ask => Redirect::Ask { slot, node },
            _ => Redirect::Moved,
        })
    }
}

impl Trouble {
    fn new(text: String) -> Trouble {
        let redirect = None;
        Trouble { text, redirect }
    }
}

/// Connections to Redis, shared by the writers.
#[derive(Clone)]
pub struct RedisPool {
    pool: Pool<Manager>,
    expire_seconds: usize,
}

/// One writer's way to Redis.
pub struct RedisBodies {
    requests: Sender<Request>,
    answers: Receiver<(u64, Result<(), Trouble>)>,
    breaker: Breaker,
    last_number: u64,
}

/// Bodies whose fate is not known yet.
pub struct HandedOver {
    number: u64,
    deadline: Instant,
}

/// Hashes and bodies of one batch.
pub type Bodies = Vec<(Hash, Arc<Vec<u8>>)>;

struct Request {
    number: u64,
    bodies: Arc<Bodies>,
    entry: Entry,
}

/// How a node is asked to take bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// It has their slots.
    Owner,
    /// Another node said that their slots are on their way here: ASKING stands before each.
    Asking,
}

impl RedisBodies {
    /// Starts the talking thread; reaches for nothing yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(redis: &RedisPool, breaker: &Breaker) -> std::io::Result<RedisBodies> {
        let (requests, requested) = bounded::<Request>(1);
        let (answer, answers) = bounded(16);
        let redis = redis.clone();
        thread::Builder::new()
            .name("redis".to_owned())
            .spawn(move || {
                // It may wait for ever, for a batch or for a Redis that dribbles: whoever asks does not wait for it.
                for request in requested {
                    let stored = redis.store_bodies(&request.bodies, request.entry);
                    if answer.send((request.number, stored)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(RedisBodies {
            requests,
            answers,
            breaker: breaker.clone(),
            last_number: 0,
        })
    }

    /// Hands over the bodies of a batch, all recipients together; `None` where they go into the table.
    pub fn hand_over(&mut self, batch: &[Mail]) -> Option<HandedOver> {
        // Streams of all recipients stand in memory at once here; a batch of that size goes into the table piece by piece.
        let octets: usize = batch.iter().map(Mail::stored_octets).sum();
        if octets > MAX_BODIES_OCTETS || !self.breaker.may_try() {
            return None;
        }
        let bodies = bodies_of(batch).ok()?;
        let deadline = Instant::now() + BUDGET;
        let sent = self.send(Arc::new(bodies), Entry::Owner, deadline);
        let sent = sent.inspect_err(|trouble| self.breaker.failed(&trouble.text));
        let number = sent.ok()?;
        Some(HandedOver { number, deadline })
    }

    /// Whether the bodies that were handed over may be relied on.
    pub fn are_stored(&mut self, handed: &HandedOver) -> bool {
        let stored = self.answer(handed.number, handed.deadline);
        match &stored {
            Ok(()) => self.breaker.succeeded(),
            Err(trouble) => self.breaker.failed(&trouble.text),
        }
        stored.is_ok()
    }

    /// Hands bodies to the talking thread; the number that its answer will have.
    ///
    /// # Errors
    /// When it is still busy.
    pub fn send(
        &mut self,
        bodies: Arc<Bodies>,
        entry: Entry,
        deadline: Instant,
    ) -> Result<u64, Trouble> {
        self.last_number += 1;
        let number = self.last_number;
        // The thread may still be busy with what was given up before.
        let request = Request {
            number,
            bodies,
            entry,
        };
        let asked = self.requests.send_deadline(request, deadline);
        asked.map_err(|_| Trouble::new("still busy with the last batch".to_owned()))?;
        Ok(number)
    }

    /// What became of them.
    ///
    /// # Errors
    /// None may be relied on.
    pub fn answer(&mut self, number: u64, deadline: Instant) -> Result<(), Trouble> {
        loop {
            match self.answers.recv_deadline(deadline) {
                Ok((answered, outcome)) if answered == number => return outcome,
                // A late answer to a batch that went into the table.
                Ok(_) => {}
                Err(_) => return Err(Trouble::new(format!("no answer within {BUDGET:?}"))),
            }
        }
    }
}

/// The bodies of a batch, those of all recipients, under their hashes.
///
/// # Errors
/// When there is no memory for all of them at once.
pub fn bodies_of(batch: &[Mail]) -> Result<Bodies, NoMemory> {
    let deliveries = batch
        .iter()
        .flat_map(|mail| mail.deliveries().iter().map(move |one| (mail, one)));
    deliveries
        .map(|(mail, delivery)| {
            let body = mail.zlib_body(delivery)?;
            Ok((delivery.hash, body))
        })
        .collect()
}

/// A connection that is thrown away after anything unexpected: a late answer must never be read as the next one.
struct Connection {
    connection: redis::Connection,
    broken: bool,
}

struct Manager(Door);

impl ManageConnection for Manager {
    type Connection = Connection;
    type Error = r2d2_redis::Error;

    fn connect(&self) -> Result<Connection, r2d2_redis::Error> {
        let entered = self.0.enter(CONNECT_TIMEOUT);
        let connection = entered.map_err(r2d2_redis::Error::Other)?;
        let timed = connection
            .set_read_timeout(Some(BUDGET))
            .and_then(|()| connection.set_write_timeout(Some(BUDGET)));
        timed.map_err(r2d2_redis::Error::Other)?;
        Ok(Connection {
            connection,
            broken: false,
        })
    }

    fn is_valid(&self, _: &mut Connection) -> Result<(), r2d2_redis::Error> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.broken
    }
}

impl RedisPool {
    /// A pool of as many connections as there are writers; reaches for nothing yet.
    ///
    /// # Errors
    /// When the URL is none; the text does not show it.
    pub fn new(url: &str, expire_seconds: usize, writers: usize) -> Result<RedisPool, String> {
        let door =
            Door::new(url).map_err(|error| format!("REDIS_INTERFACE: {}", error_kind(&error)))?;
        let pool = Pool::builder()
            .max_size(writers as u32)
            .min_idle(Some(0))
            .connection_timeout(RECONNECT_CEILING * 2)
            .test_on_check_out(false)
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(Manager(door));
        Ok(RedisPool {
            pool,
            expire_seconds,
        })
    }

    /// Once more on a new connection when the first one turned out to be closed: Redis may close idle ones.
    fn store_bodies(&self, bodies: &Bodies, entry: Entry) -> Result<(), Trouble> {
        let started_at = Instant::now();
        let stored = self.try_to_store(bodies, entry, started_at);
        let stored = match stored {
            Err(error) if was_closed(&error) => self.try_to_store(bodies, entry, started_at),
            stored => stored,
        };
        stored.map_err(|error| Trouble {
            text: error_kind(&error),
            redirect: Redirect::of(&error),
        })
    }

    fn try_to_store(
        &self,
        bodies: &Bodies,
        entry: Entry,
        started_at: Instant,
    ) -> redis::RedisResult<()> {
        let failed = |text| redis::RedisError::from((redis::ErrorKind::IoError, text));
        let left = BUDGET.saturating_sub(started_at.elapsed());
        let connection = self.pool.get_timeout(left);
        let mut connection = connection.map_err(|_| failed("no connection"))?;
        connection.broken = true;
        let commands = setex(bodies, self.expire_seconds, entry);
        let expected = match entry {
            Entry::Owner => bodies.len(),
            Entry::Asking => bodies.len() * 2,
        };
        let answers = (connection.connection).req_packed_commands(&commands, 0, expected)?;
        if answers.len() != expected || answers.iter().any(|answer| *answer != Value::Okay) {
            return Err(failed("an answer other than OK"));
        }
        if started_at.elapsed() >= BUDGET {
            return Err(failed("too slow"));
        }
        connection.broken = false;
        Ok(())
    }
}

/// A SETEX for each body, as Redis reads it
/// ([RESP](https://redis.io/docs/latest/develop/reference/protocol-spec/)): the library would copy each body thrice.
fn setex(bodies: &Bodies, expire_seconds: usize, entry: Entry) -> Vec<u8> {
    let octets = bodies.iter().map(|(_, body)| body.len() + COMMAND_OCTETS);
    let mut commands = Vec::with_capacity(octets.sum());
    let expire_seconds = expire_seconds.to_string();
    for (hash, body) in bodies {
        if entry == Entry::Asking {
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

/// What went wrong, without the URL, which may hold a password.
fn error_kind(error: &redis::RedisError) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.category()),
        None if error.is_timeout() => format!("{}, timed out", error.category()),
        // What the kernel said, or a description of the library's.
        None => error.to_string(),
    }
}

/// About what a command has besides its body.
const COMMAND_OCTETS: usize = 112;
/// How long a batch may lose to Redis, whatever Redis does.
pub const BUDGET: Duration = Duration::from_millis(200);
/// For reaching Redis and logging in, which happens beside the mail and is waited for within the budget only.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause between two tries to reach a Redis that is down.
const RECONNECT_CEILING: Duration = Duration::from_secs(5);
/// What a batch may take in memory on its way to Redis.
pub const MAX_BODIES_OCTETS: usize = 16 << 20;
