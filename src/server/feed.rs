//! The feed of the running server: turned on or off, and connected to its stream, by GM_FEED.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::StartError;
use super::store_factory::ConfiguredOrCustomStore;
use crate::config::{Config, FeedTarget};
use crate::feed::{Feed, FeedPublisher, PublishStream};
use crate::metrics::Metrics;

/// The feed and the thread that writes it to a Redis stream.
pub struct RunningFeed {
    feed: Arc<Feed>,
    /// `None` if GM_FEED names no stream.
    publisher: Option<FeedPublisher>,
}

/// The stream of a new configuration, which replaces the stream in use.
pub struct NewStream(Option<Box<dyn PublishStream>>);

impl RunningFeed {
    /// Returns a feed that is off until [`apply`](RunningFeed::apply). `metrics` are those of the server.
    pub fn new(metrics: &Arc<Metrics>) -> RunningFeed {
        RunningFeed {
            feed: Feed::new(Arc::clone(metrics)),
            publisher: None,
        }
    }

    /// Returns the feed.
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Turns the feed on or off, and uses `new_stream` if there is one.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    pub fn apply(
        &mut self,
        config: &Config,
        new_stream: Option<NewStream>,
    ) -> Result<(), StartError> {
        match config.feed_target {
            FeedTarget::Off => self.feed.turn_off(),
            FeedTarget::Http | FeedTarget::Stream(_) => self.feed.turn_on(),
        }
        let Some(NewStream(stream)) = new_stream else {
            return Ok(());
        };
        match (&self.publisher, stream) {
            // The thread goes on with the new stream. A second thread would begin at the end of the feed while the first one
            // still sends, so that some entries would go to both streams or to neither.
            (Some(publisher), Some(stream)) => publisher.replace_stream(stream),
            (None, Some(stream)) => {
                let started = FeedPublisher::start(&self.feed, stream);
                self.publisher = Some(started.map_err(StartError::Thread)?);
            }
            (_, None) => self.publisher = None,
        }
        Ok(())
    }

    /// Ends the readers of `/feed`; further ones are refused.
    pub fn end_readers(&self) {
        self.feed.end_readers();
    }

    /// Waits until the stream has got what is in the feed, but not longer than [`FINISH_TIMEOUT`].
    pub fn finish(self) {
        if let Some(publisher) = self.publisher {
            publisher.finish(Instant::now() + FINISH_TIMEOUT);
        }
    }
}

impl NewStream {
    /// Returns the stream of a configuration.
    ///
    /// # Errors
    /// [`StartError`]: REDIS_INTERFACE or REDIS_CA cannot be used.
    pub fn of(stores: &ConfiguredOrCustomStore, config: &Config) -> Result<NewStream, StartError> {
        stores.feed_stream(config).map(NewStream)
    }

    /// Returns the stream of the new configuration if it is another one than that of the running one.
    ///
    /// # Errors
    /// As for [`of`](NewStream::of).
    pub fn of_change(
        stores: &ConfiguredOrCustomStore,
        running: &Config,
        wanted: &Config,
    ) -> Result<Option<NewStream>, StartError> {
        let is_unchanged = running.feed_target.stream() == wanted.feed_target.stream()
            && running.feed_length == wanted.feed_length
            && running.redis_urls == wanted.redis_urls
            && running.redis_password == wanted.redis_password
            && running.redis_ca == wanted.redis_ca;
        match is_unchanged {
            true => Ok(None),
            false => NewStream::of(stores, wanted).map(Some),
        }
    }
}

/// Time that a stopping server gives the thread that writes the stream. A Redis that works needs a few milliseconds.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
