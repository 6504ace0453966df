//! Bodies in Redis under their hashes, each with an expiry.
//!
//! Redis is a convenience, never a condition: whatever goes wrong with it, the bodies go into the table instead, and no
//! mail waits longer than a fifth of a second for that decision. The talking is done by a thread of its own, since the socket's
//! time-outs restart with every octet; a breaker keeps a Redis in trouble out of the way and tries it again by itself.

mod breaker;
pub mod cluster;
mod connect;
mod connection;
mod pool;
mod reader;
mod reply;
mod worker;

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender};
use r2d2_redis::redis;

pub use self::breaker::Breaker;
use self::connection::is_of_server;
pub use self::pool::RedisPool;
pub use self::reader::{RedisReader, display_address};
use self::worker::Request;
use crate::mail::{Mail, MailId, NoMemory};

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
pub enum BodiesIn {
    /// None: all go into the table.
    Table,
    /// All.
    Redis,
    /// Those with these hashes.
    Some(HashSet<MailId>),
}

impl BodiesIn {
    /// Whether the body with this hash is in Redis.
    pub fn contains(&self, hash: &MailId) -> bool {
        match self {
            BodiesIn::Table => false,
            BodiesIn::Redis => true,
            BodiesIn::Some(hashes) => hashes.contains(hash),
        }
    }
}

/// Why a node did not take what it was given.
pub struct StoreFailure {
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

impl StoreFailure {
    fn new(text: String) -> StoreFailure {
        let redirect = None;
        StoreFailure { text, redirect }
    }
}

/// One writer's way to Redis.
pub struct BodyWriter {
    requests: Sender<Request>,
    answers: Receiver<(u64, Result<(), StoreFailure>)>,
    breaker: Breaker,
    last_number: u64,
}

/// Bodies whose fate is not known yet.
pub struct PendingStore {
    number: u64,
    deadline: Instant,
}

/// Hashes and bodies of one batch.
pub type Bodies = Vec<(MailId, Arc<Vec<u8>>)>;

/// How a node is asked to take bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotAccess {
    /// It has their slots.
    Owner,
    /// Another node said that their slots are on their way here: ASKING stands before each.
    Asking,
}

impl BodyWriter {
    /// Starts the talking thread; reaches for nothing yet.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(redis: &RedisPool, breaker: &Breaker) -> io::Result<BodyWriter> {
        let redis = redis.clone();
        let store = move |bodies: &Bodies, entry| redis.store_bodies(bodies, entry);
        let (requests, answers) = worker::start(store)?;
        Ok(BodyWriter {
            requests,
            answers,
            breaker: breaker.clone(),
            last_number: 0,
        })
    }

    /// Hands over the bodies of a batch, all recipients together; `None` where they go into the table.
    pub fn begin_store(&mut self, batch: &[Mail]) -> Option<PendingStore> {
        // Streams of all recipients stand in memory at once here; a batch of that size goes into the table piece by piece.
        let octets: usize = batch.iter().map(Mail::stored_octets).sum();
        if octets > MAX_BODIES_OCTETS || !self.breaker.allows() {
            return None;
        }
        let bodies = bodies_of(batch).ok()?;
        let deadline = Instant::now() + STORE_TIMEOUT;
        let sent = self.send(Arc::new(bodies), SlotAccess::Owner, deadline);
        let sent = sent.inspect_err(|trouble| self.breaker.failed(&trouble.text));
        let number = sent.ok()?;
        Some(PendingStore { number, deadline })
    }

    /// Whether the bodies that were handed over may be relied on.
    pub fn finish_store(&mut self, handed: &PendingStore) -> bool {
        let stored = self.receive_answer(handed.number, handed.deadline);
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
        entry: SlotAccess,
        deadline: Instant,
    ) -> Result<u64, StoreFailure> {
        self.last_number += 1;
        let number = self.last_number;
        // The thread may still be busy with what was given up before.
        let request = Request {
            number,
            bodies,
            entry,
        };
        let asked = self.requests.send_deadline(request, deadline);
        asked.map_err(|error| {
            StoreFailure::new(match error {
                SendTimeoutError::Timeout(_) => "still busy with the last batch".to_owned(),
                SendTimeoutError::Disconnected(_) => "its thread has ended".to_owned(),
            })
        })?;
        Ok(number)
    }

    /// What became of them.
    ///
    /// # Errors
    /// None may be relied on.
    pub fn receive_answer(&mut self, number: u64, deadline: Instant) -> Result<(), StoreFailure> {
        loop {
            match self.answers.recv_deadline(deadline) {
                Ok((answered, outcome)) if answered == number => return outcome,
                // A late answer to a batch that went into the table.
                Ok(_) => {}
                Err(_) => {
                    return Err(StoreFailure::new(format!(
                        "no answer within {STORE_TIMEOUT:?}"
                    )));
                }
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
        .flat_map(|mail| mail.recipients().iter().map(move |one| (mail, one)));
    deliveries
        .map(|(mail, delivery)| {
            let body = mail.zlib_body(delivery)?;
            Ok((delivery.hash, body))
        })
        .collect()
}

/// Returns what went wrong, without the URL, which may hold a password: an error of the server in its own words.
fn describe_error(error: &redis::RedisError) -> String {
    let shown = error.to_string();
    let is_of_server = is_of_server(error);
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) if is_of_server => format!("{code} {detail}"),
        (Some(code), None) if is_of_server => code.to_owned(),
        _ if error.is_timeout() => format!("{}, timed out", error.category()),
        // What the kernel said, or a description of the library's.
        _ => shown,
    };
    // What follows would be the password, where Redis knows no AUTH.
    let text = text.split(", with args beginning with").next();
    // A server may answer a line of any length.
    text.unwrap_or_default().chars().take(MAX_WORDS).collect()
}

/// Characters of an error that are shown.
const MAX_WORDS: usize = 300;
/// How long a batch may lose to Redis, whatever Redis does.
pub const STORE_TIMEOUT: Duration = Duration::from_millis(200);
/// What a batch may take in memory on its way to Redis.
pub const MAX_BODIES_OCTETS: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_error_text_is_quoted_without_passwords() {
        let words = |answer: &[u8]| describe_error(&redis::parse_redis_value(answer).unwrap_err());
        for (answer, want) in [
            (
                &b"-WRONGPASS invalid pair\r\n"[..],
                "WRONGPASS invalid pair",
            ),
            (
                b"-ERR DB index is out of range\r\n",
                "ERR DB index is out of range",
            ),
            (b"-LOADING Redis is loading\r\n", "LOADING Redis is loading"),
            (b"-ERR\r\n", "ERR"),
            (
                b"-ERR unknown command 'AUTH', with args beginning with: 's3cr3t' \r\n",
                "ERR unknown command 'AUTH'",
            ),
        ] {
            assert_eq!(words(answer), want);
        }
        let long = format!("-ERR {}\r\n", "x".repeat(10_000));
        assert_eq!(words(long.as_bytes()).len(), MAX_WORDS);
    }
}
