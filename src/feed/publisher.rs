//! The thread that passes the entries of the feed on to a stream, such as one of Redis.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::{Feed, FeedCursor, FeedEntry};
use crate::metrics::{Component, Metrics};
use crate::panics;
use crate::sync;

/// A stream to which the publisher appends entries.
pub trait PublishStream: Send {
    /// Appends the entries in order. Must return within a few seconds.
    fn append(&mut self, entries: Vec<Arc<FeedEntry>>) -> PublishOutcome;
}

/// What became of the entries of one call of [`PublishStream::append`].
#[derive(Debug, Default)]
pub struct PublishOutcome {
    /// Entries that the stream has certainly not got; they are tried again.
    pub unsent: Vec<Arc<FeedEntry>>,
    /// Number of entries that the stream may or may not have got. They are not tried again.
    pub in_doubt: usize,
    /// Why not all entries were appended; `None` if they were.
    pub failure: Option<String>,
}

/// The running thread. When this value is dropped, the thread sends what is in the feed already, for at most
/// `FLUSH_TIMEOUT`, and ends.
pub struct FeedPublisher {
    feed: Arc<Feed>,
    is_stopping: Arc<AtomicBool>,
    replacement: Arc<ReplacementStream>,
    /// Is disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// The stream that the thread is to use from its next entries on; `None` if it goes on with the one in use.
type ReplacementStream = Mutex<Option<Box<dyn PublishStream>>>;

impl FeedPublisher {
    /// Starts the thread, which appends each entry that follows now to `stream`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(feed: &Arc<Feed>, stream: Box<dyn PublishStream>) -> io::Result<FeedPublisher> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let replacement: Arc<ReplacementStream> = Arc::default();
        let (running, ended) = bounded(0);
        let mut thread = PublisherThread {
            cursor: feed.cursor_at_end(),
            metrics: Arc::clone(&feed.metrics),
            feed: Arc::clone(feed),
            is_stopping: Arc::clone(&is_stopping),
            replacement: Arc::clone(&replacement),
            stream,
            pending: Vec::new(),
            failures: Failures::default(),
        };
        let builder = thread::Builder::new().name("feed".to_owned());
        builder.spawn(move || {
            thread.run();
            drop(running);
        })?;
        Ok(FeedPublisher {
            feed: Arc::clone(feed),
            is_stopping,
            replacement,
            ended,
        })
    }

    /// Replaces the stream. Each entry goes to one of the two: what the old one has not got yet goes to `stream`.
    pub fn replace_stream(&self, stream: Box<dyn PublishStream>) {
        *sync::lock(&self.replacement) = Some(stream);
        self.feed.wake_consumers();
    }

    /// Ends the thread as dropping does, and waits for it, at most until `until`.
    pub fn finish(self, until: Instant) {
        self.stop();
        // Nothing is ever sent: the result is a timeout, or the end of the channel.
        let _ = self.ended.recv_deadline(until);
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.feed.wake_consumers();
    }
}

impl Drop for FeedPublisher {
    fn drop(&mut self) {
        self.stop();
    }
}

struct PublisherThread {
    feed: Arc<Feed>,
    cursor: FeedCursor,
    metrics: Arc<Metrics>,
    is_stopping: Arc<AtomicBool>,
    replacement: Arc<ReplacementStream>,
    stream: Box<dyn PublishStream>,
    /// Entries that were taken from the feed and not appended, at most [`BATCH_ENTRIES`].
    pending: Vec<Arc<FeedEntry>>,
    failures: Failures,
}

impl PublisherThread {
    fn run(&mut self) {
        let stopping = Arc::clone(&self.is_stopping);
        let is_stopping = || stopping.load(Ordering::SeqCst);
        let mut give_up_at = None;
        loop {
            let has_more = !self.pending.is_empty() || self.cursor.wait(IDLE_WAIT, is_stopping);
            let is_off = self.cursor.is_ended();
            if is_stopping() || is_off {
                let give_up_at = *give_up_at.get_or_insert_with(|| Instant::now() + FLUSH_TIMEOUT);
                if !has_more || is_off || Instant::now() >= give_up_at {
                    break;
                }
            }
            if has_more && !self.append_next() {
                let pause = self.failures.pause;
                let is_replaced = || sync::lock(&self.replacement).is_some();
                (self.cursor).pause(pause, || is_stopping() || is_replaced());
                if is_stopping() {
                    break;
                }
            }
        }
        let lost = self.cursor.entries_left() + self.pending.len() as u64;
        self.feed.count_dropped(lost);
    }

    /// Takes the next entries and appends them. Returns false after a failure.
    fn append_next(&mut self) -> bool {
        if let Some(stream) = sync::lock(&self.replacement).take() {
            self.stream = stream;
        }
        let room = BATCH_ENTRIES.saturating_sub(self.pending.len());
        let read = self.cursor.take(room);
        self.feed.count_dropped(read.missed);
        let mut entries = std::mem::take(&mut self.pending);
        entries.extend(read.entries);
        let count = entries.len();
        let appended = panics::catch_and_count_panic(&self.metrics, Component::Feed, || {
            self.stream.append(entries)
        });
        let outcome = appended.unwrap_or_else(|text| PublishOutcome {
            in_doubt: count,
            failure: Some(text),
            ..PublishOutcome::default()
        });
        self.pending = outcome.unsent;
        self.feed.count_dropped(outcome.in_doubt as u64);
        match outcome.failure {
            None => self.failures.end(),
            Some(reason) => {
                self.metrics.redis_errors.count(());
                self.failures.add(&reason);
                return false;
            }
        }
        true
    }
}

/// The failures since the last success.
#[derive(Default)]
struct Failures {
    pause: Duration,
    logged_at: Option<Instant>,
}

impl Failures {
    fn add(&mut self, reason: &str) {
        self.pause = (self.pause * 2).clamp(MIN_PAUSE, MAX_PAUSE);
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged_at = Some(Instant::now());
            log::error!(reason = reason, kept = "the newest entries wait in memory, mail is saved"; "feed_failed");
        }
    }

    fn end(&mut self) {
        if self.logged_at.take().is_some() {
            log::warn!("feed_recovered");
        }
        self.pause = Duration::ZERO;
    }
}

/// Maximum number of entries of one pipeline: those of a full batch of a writer.
const BATCH_ENTRIES: usize = 256;
/// Longest wait for the next entry; the thread then waits again.
const IDLE_WAIT: Duration = Duration::from_secs(60);
/// Time that the thread has to send what is in the feed when the server stops.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after the first failure; doubled after each further one up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause after a failure: a Redis that is back is used within this time.
const MAX_PAUSE: Duration = Duration::from_secs(4);
/// Interval at which a failure is logged again.
const LOG_INTERVAL: Duration = Duration::from_secs(30);
