//! Bodies in Redis under their mail ids, each with an expiry.
//!
//! No mail depends on Redis: after any error the bodies go into column `mail`, and a batch waits for Redis at most 200 ms. One
//! thread per writer sends the requests, so that the writer can stop waiting after 200 ms. A socket timeout does not limit the
//! wait, because the socket timeout restarts with every octet received.
//! After a failure, a circuit breaker stops the use of Redis for a pause and then tries Redis again.

mod breaker;
pub mod cluster;
mod connect;
mod connection;
mod pool;
mod reader;
mod reply;
mod stream;
mod tls;
mod worker;

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender};
use r2d2_redis::redis;

pub use self::breaker::RedisCircuitBreaker;
use self::connection::is_redis_error_reply;
pub use self::pool::RedisPool;
pub use self::reader::{RedisReadConnection, redis_address_without_login};
pub use self::stream::RedisStream;
pub use self::tls::is_tls_fault;
use self::worker::StoreBodiesRequest;
use crate::mail::{CompressAllocError, Mail, MailId};
use crate::metrics::Metrics;
use crate::net::tls::TlsFilesError;

/// The settings of Redis.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://`, `rediss://` (with TLS) or `redis+unix://` URLs. They may contain a password, so they are never shown.
    /// Several URLs are nodes of one Redis Cluster; the scheme, user and password of the first one are used for all nodes.
    pub urls: Vec<String>,
    /// PEM file of the authorities that may have issued the certificate of a server, in addition to Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// Lifetime of a body in seconds, at least 1.
    pub expire_seconds: usize,
}

impl RedisSettings {
    /// Returns whether connections use TLS.
    pub fn uses_tls(&self) -> bool {
        self.urls.iter().any(|url| url.starts_with("rediss://"))
    }

    /// Returns why REDIS_CA cannot be used although TLS needs it; `None` if it can be used.
    pub fn authorities_error(&self) -> Option<TlsFilesError> {
        if !self.uses_tls() {
            return None;
        }
        tls::load_redis_authorities(self.ca_file.as_deref()).err()
    }

    /// Returns `host:port` of each configured node.
    pub fn configured_node_addresses(&self) -> impl Iterator<Item = String> {
        self.urls
            .iter()
            .map(|url| split_credentials(url).1.to_owned())
    }

    /// Returns the URL of the node at `address` (`host:port`), with scheme, user and password of the first configured URL.
    pub fn redis_node_url(&self, address: &str) -> String {
        let (login, _) = self
            .urls
            .first()
            .map_or(("", ""), |url| split_credentials(url));
        let scheme = if self.uses_tls() { "rediss" } else { "redis" };
        format!("{scheme}://{login}{address}/")
    }
}

/// Splits a URL into `user:password@`, which may be empty, and `host:port`.
fn split_credentials(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let at = rest.rfind('@').map_or(0, |at| at + 1);
    let (login, address) = rest.split_at(at);
    (login, address.trim_end_matches('/'))
}

/// Which bodies of a batch are in Redis.
pub enum BodiesInRedis {
    /// No body, because Redis is not configured: all bodies go into column `mail` of the table.
    NotConfigured,
    /// No body, because Redis did not store them: all bodies go into column `mail` of the table.
    NotStored,
    /// All bodies of the batch.
    Redis,
    /// Only the bodies of these mail ids.
    Some(HashSet<MailId>),
}

impl BodiesInRedis {
    /// Returns whether the body of this mail id is in Redis.
    pub fn is_body_in_redis(&self, hash: &MailId) -> bool {
        match self {
            BodiesInRedis::NotConfigured | BodiesInRedis::NotStored => false,
            BodiesInRedis::Redis => true,
            BodiesInRedis::Some(hashes) => hashes.contains(hash),
        }
    }
}

/// Why Redis did not store bodies.
pub struct RedisStoreError {
    /// The error text for the log.
    pub text: String,
    /// The redirection that a node of the cluster sent, which shows that the node works; `None` after any other error.
    pub redirect: Option<RedisClusterRedirect>,
}

/// A redirection that a node of a Redis Cluster sent.
#[derive(Debug, PartialEq, Eq)]
pub enum RedisClusterRedirect {
    /// MOVED: another node owns the slot now.
    Moved,
    /// ASK: the slot is being migrated to `node`, which already takes new keys of the slot.
    Ask {
        /// The hash slot in the Redis Cluster.
        slot: u16,
        /// `host:port` of the node to which the slot is being migrated.
        node: String,
    },
}

impl RedisClusterRedirect {
    /// Returns the redirection that an error contains; `None` for any other error.
    pub fn of(error: &redis::RedisError) -> Option<RedisClusterRedirect> {
        let (node, slot) = error.redirect_node()?;
        let node = node.to_owned();
        Some(match error.kind() {
            redis::ErrorKind::Ask => RedisClusterRedirect::Ask { slot, node },
            _ => RedisClusterRedirect::Moved,
        })
    }
}

impl RedisStoreError {
    fn new(text: String) -> RedisStoreError {
        let redirect = None;
        RedisStoreError { text, redirect }
    }
}

/// Stores one writer's bodies in one Redis server, through a worker thread.
pub struct RedisBodyWriter {
    requests: Sender<StoreBodiesRequest>,
    answers: Receiver<(u64, Result<(), RedisStoreError>)>,
    breaker: RedisCircuitBreaker,
    last_number: u64,
}

/// A request to store bodies whose result is not known yet.
pub struct PendingBodyWrite {
    number: u64,
    deadline: Instant,
}

/// Mail ids and bodies of one batch.
pub type BatchBodies = Vec<(MailId, Arc<Vec<u8>>)>;

/// Whether the node that receives bodies owns their slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotsOwnedOrMigrating {
    /// The node owns the slots.
    Owner,
    /// The slots are being migrated to the node, so the command ASKING must precede each SETEX.
    Asking,
}

impl RedisBodyWriter {
    /// Starts the worker thread. Does not connect yet. `metrics` are those of the server.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        redis: &RedisPool,
        breaker: &RedisCircuitBreaker,
        metrics: &Arc<Metrics>,
    ) -> io::Result<RedisBodyWriter> {
        let redis = redis.clone();
        let store = move |bodies: &BatchBodies, access| redis.store_bodies(bodies, access);
        let (requests, answers) = worker::start(Arc::clone(metrics), store)?;
        Ok(RedisBodyWriter {
            requests,
            answers,
            breaker: breaker.clone(),
            last_number: 0,
        })
    }

    /// Sends the bodies of all recipients of a batch to the worker thread; `None` if the bodies go into column `mail`.
    pub fn begin_body_write(&mut self, batch: &[Mail]) -> Option<PendingBodyWrite> {
        // Here the bodies of all recipients are in memory at the same time, so the bodies of a larger batch go into column
        // `mail`, row by row.
        let octets: usize = batch.iter().map(Mail::estimated_stored_octets).sum();
        if octets > MAX_BODIES_OCTETS || !self.breaker.may_use_redis_for_batch() {
            return None;
        }
        let bodies = compressed_bodies_with_mail_ids(batch).ok()?;
        let deadline = Instant::now() + STORE_TIMEOUT;
        let sent =
            self.send_bodies_to_worker(Arc::new(bodies), SlotsOwnedOrMigrating::Owner, deadline);
        let sent = sent.inspect_err(|error| self.breaker.record_redis_failure(&error.text));
        let number = sent.ok()?;
        Some(PendingBodyWrite { number, deadline })
    }

    /// Waits for the result of the request `pending`. Returns whether all bodies of this request are in Redis.
    pub fn finish_body_write(&mut self, pending: &PendingBodyWrite) -> bool {
        let stored = self.receive_body_write_result(pending.number, pending.deadline);
        match &stored {
            Ok(()) => self.breaker.record_redis_success(),
            Err(error) => self.breaker.record_redis_failure(&error.text),
        }
        stored.is_ok()
    }

    /// Sends bodies to the worker thread and returns the number of the request.
    ///
    /// # Errors
    /// The worker thread is still busy with an earlier request at `deadline`, or has ended.
    pub fn send_bodies_to_worker(
        &mut self,
        bodies: Arc<BatchBodies>,
        access: SlotsOwnedOrMigrating,
        deadline: Instant,
    ) -> Result<u64, RedisStoreError> {
        self.last_number += 1;
        let number = self.last_number;
        // Sending may have to wait, because the worker thread may still be busy with an earlier request whose deadline has
        // passed.
        let request = StoreBodiesRequest {
            number,
            bodies,
            access,
        };
        let sent = self.requests.send_deadline(request, deadline);
        sent.map_err(|error| {
            RedisStoreError::new(match error {
                SendTimeoutError::Timeout(_) => "still busy with the last batch".to_owned(),
                SendTimeoutError::Disconnected(_) => "the worker thread has ended".to_owned(),
            })
        })?;
        Ok(number)
    }

    /// Waits until `deadline` for the result of the request with this number.
    ///
    /// # Errors
    /// [`RedisStoreError`]: some of the bodies may be missing in Redis.
    pub fn receive_body_write_result(
        &mut self,
        number: u64,
        deadline: Instant,
    ) -> Result<(), RedisStoreError> {
        loop {
            match self.answers.recv_deadline(deadline) {
                Ok((answered, outcome)) if answered == number => return outcome,
                // This is the late result of an earlier request. The bodies of that request went into column `mail`.
                Ok(_) => {}
                Err(_) => {
                    return Err(RedisStoreError::new(format!(
                        "no answer within {STORE_TIMEOUT:?}"
                    )));
                }
            }
        }
    }
}

/// Returns the mail id and body for each recipient of each mail in a batch.
///
/// # Errors
/// There is not enough memory to hold all compressed bodies.
pub fn compressed_bodies_with_mail_ids(batch: &[Mail]) -> Result<BatchBodies, CompressAllocError> {
    let deliveries = batch.iter().flat_map(|mail| {
        mail.recipients()
            .iter()
            .map(move |delivery| (mail, delivery))
    });
    deliveries
        .map(|(mail, delivery)| {
            let body = mail.compressed_body(delivery)?;
            Ok((delivery.hash, body))
        })
        .collect()
}

/// Returns the text of an error without the URL, which may contain a password.
fn redis_error_text_without_url(error: &redis::RedisError) -> String {
    let text = error.to_string();
    let is_server_error = is_redis_error_reply(error);
    let text = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) if is_server_error => format!("{code} {detail}"),
        (Some(code), None) if is_server_error => code.to_owned(),
        _ if error.is_timeout() => format!("{}, timed out", error.category()),
        // The text comes from an I/O error or from the redis crate, not from the server.
        _ => text,
    };
    // A server that does not know AUTH repeats the arguments of AUTH, including the password, in the error; remove them.
    let text = text.split(", with args beginning with").next();
    // Truncated, because a server may send a line of any length.
    text.unwrap_or_default()
        .chars()
        .take(MAX_ERROR_CHARS)
        .collect()
}

/// Maximum number of characters of an error text; the rest is removed.
const MAX_ERROR_CHARS: usize = 500;
/// Longest time that a batch waits for Redis; after this time its bodies go into column `mail`.
pub const STORE_TIMEOUT: Duration = Duration::from_millis(200);
/// Maximum size of all bodies of a batch, in octets. The bodies of a larger batch go into column `mail`.
pub const MAX_BODIES_OCTETS: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_error_text_is_quoted_without_passwords() {
        let text = |answer: &[u8]| {
            redis_error_text_without_url(&redis::parse_redis_value(answer).unwrap_err())
        };
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
            assert_eq!(text(answer), want);
        }
        let long = format!("-ERR {}\r\n", "x".repeat(10_000));
        assert_eq!(text(long.as_bytes()).len(), MAX_ERROR_CHARS);
    }
}
