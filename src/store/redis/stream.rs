//! The Redis stream that the feed is written to (GM_FEED): one pipelined XADD for each entry.
//!
//! The stream has a connection of its own, so that bodies, which Redis must take within 200 ms, do not wait for entries. An
//! entry that Redis refused is tried again. One whose reply is missing is not, because it may be in the stream already.
//!
//! In a Redis Cluster the stream is one key, which belongs to one node. The first node that is asked names the right one
//! (MOVED), which is then used until it fails or names another one. No slot table is needed for that.

use std::sync::Arc;
use std::time::Duration;

use r2d2_redis::redis;

use super::connect::Connector;
use super::connection::RedisConnection;
use super::{RedisClusterRedirect, RedisSettings, redis_error_text_without_url};
use crate::feed::{FeedEntry, PublishOutcome, PublishStream};

/// Appends entries to a stream.
pub struct RedisStream {
    settings: RedisSettings,
    name: String,
    /// GM_FEED_LENGTH.
    length: usize,
    /// Position in `settings.urls` of the node to ask if no other node is known.
    configured: usize,
    /// URL of the node that owns the stream, if it is not the configured one.
    owner: Option<String>,
    open: Option<RedisConnection>,
}

/// The replies to a pipeline: which entries remain and why.
struct PipelineResult {
    refused: Vec<Arc<FeedEntry>>,
    in_doubt: usize,
    error: Option<redis::RedisError>,
}

impl RedisStream {
    /// Returns the stream `name`, which keeps about `length` entries. Does not connect yet.
    pub fn new(settings: RedisSettings, name: &str, length: usize) -> RedisStream {
        RedisStream {
            settings,
            name: name.to_owned(),
            length,
            configured: 0,
            owner: None,
            open: None,
        }
    }

    fn is_cluster(&self) -> bool {
        self.settings.urls.len() > 1
    }

    /// Returns the open connection, or a new one if the server has closed it: entries that are sent on a closed connection
    /// would be in doubt.
    fn connection(&mut self) -> redis::RedisResult<&mut RedisConnection> {
        let idle = self.open.take().filter(RedisConnection::is_idle);
        let open = match idle {
            Some(open) => open,
            None => {
                let connector = Connector::new(self.url(), self.settings.ca_file.as_deref())?;
                connector.connect(REPLY_TIMEOUT)?
            }
        };
        Ok(self.open.insert(open))
    }

    fn url(&self) -> &str {
        let configured = || self.settings.urls.get(self.configured).map(String::as_str);
        self.owner
            .as_deref()
            .or_else(configured)
            .unwrap_or_default()
    }

    /// Sends the entries and reads the replies.
    fn send(
        &mut self,
        entries: Vec<Arc<FeedEntry>>,
        is_asking: bool,
    ) -> Result<PipelineResult, (Vec<Arc<FeedEntry>>, redis::RedisError)> {
        let mut commands = Vec::new();
        for entry in &entries {
            if is_asking {
                commands.extend(redis::cmd("ASKING").get_packed_command());
            }
            commands.extend(self.xadd(entry).get_packed_command());
        }
        let open = match self.connection() {
            Ok(open) => open,
            Err(error) => return Err((entries, error)),
        };
        let per_entry = if is_asking { 2 } else { 1 };
        let (replies, mut error) =
            open.run_pipeline(&commands, entries.len() * per_entry, SEND_TIMEOUT);
        let mut refused = Vec::new();
        let mut answered = 0;
        let replies = replies.into_iter().skip(per_entry - 1).step_by(per_entry);
        for (entry, reply) in entries.iter().zip(replies) {
            answered += 1;
            if let Err(refusal) = reply {
                refused.push(Arc::clone(entry));
                error = error.or(Some(refusal));
            }
        }
        if answered < entries.len() {
            self.open = None;
        }
        Ok(PipelineResult {
            refused,
            in_doubt: entries.len() - answered,
            error,
        })
    }

    fn xadd(&self, entry: &FeedEntry) -> redis::Cmd {
        let mut command = redis::cmd("XADD");
        command
            .arg(&self.name)
            .arg("MAXLEN")
            .arg("~")
            .arg(self.length)
            .arg("*");
        for (field, value) in [
            ("hash", entry.hash.as_str()),
            ("to", &entry.to),
            ("recipient", &entry.recipient),
            ("from", &entry.from),
            ("subject", &entry.subject),
            ("size", &entry.size.to_string()),
            ("date", &entry.date),
        ] {
            command.arg(field).arg(value);
        }
        command
    }

    /// Uses another node of the cluster for the next entries.
    fn change_node(&mut self) {
        self.open = None;
        self.owner = None;
        self.configured = (self.configured + 1) % self.settings.urls.len().max(1);
    }

    /// Returns whether the entries are to be sent once more, to the node that the error names, and there after ASKING.
    fn follow_redirect(&mut self, error: &redis::RedisError) -> Option<bool> {
        if !self.is_cluster() {
            return None;
        }
        let (node, _) = error.redirect_node()?;
        self.owner = Some(self.settings.redis_node_url(node));
        self.open = None;
        Some(matches!(
            RedisClusterRedirect::of(error),
            Some(RedisClusterRedirect::Ask { .. })
        ))
    }
}

impl PublishStream for RedisStream {
    fn append(&mut self, entries: Vec<Arc<FeedEntry>>) -> PublishOutcome {
        let mut outcome = PublishOutcome {
            unsent: entries,
            ..PublishOutcome::default()
        };
        let mut is_asking = false;
        for _ in 0..=MAX_REDIRECTS {
            let sent = self.send(std::mem::take(&mut outcome.unsent), is_asking);
            let was_asking = std::mem::take(&mut is_asking);
            if was_asking {
                // The node that is being asked does not own the stream yet.
                self.owner = None;
                self.open = None;
            }
            let error = match sent {
                Ok(result) => {
                    outcome.unsent = result.refused;
                    outcome.in_doubt += result.in_doubt;
                    result.error
                }
                Err((unsent, error)) => {
                    outcome.unsent = unsent;
                    Some(error)
                }
            };
            let Some(error) = error else {
                return outcome;
            };
            outcome.failure = Some(self.failure_text(&error));
            match self.follow_redirect(&error) {
                Some(asking) if outcome.in_doubt == 0 => {
                    is_asking = asking;
                    outcome.failure = None;
                }
                _ => break,
            }
        }
        if self.is_cluster() {
            self.change_node();
        }
        outcome.failure.get_or_insert_with(|| {
            "GM_FEED: the nodes of the Redis Cluster redirect in a circle".to_owned()
        });
        outcome
    }
}

impl RedisStream {
    fn failure_text(&self, error: &redis::RedisError) -> String {
        let address = super::redis_address_without_login(self.url());
        let text = redis_error_text_without_url(error);
        let fix = match text.split(' ').next() {
            Some("WRONGTYPE") => {
                "; rename or delete the key of that name, or set GM_FEED to another name"
            }
            Some("ERR") if text.contains("unknown command") => "; streams need Redis 5.0 or newer",
            _ => "",
        };
        format!("stream {} in Redis at {address}: {text}{fix}", self.name)
    }
}

/// Timeout for connecting and for each reply.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout for all replies to a pipeline.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of redirections that are followed: MOVED to the owner and ASK from there, once more if a slot moves
/// meanwhile.
const MAX_REDIRECTS: usize = 3;
