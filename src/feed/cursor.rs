//! The positions of the consumers in the feed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::{Feed, FeedEntry, Ring};

/// The position of one consumer in the feed.
pub struct FeedCursor {
    feed: Arc<Feed>,
    next: u64,
    period: u64,
}

/// The entries after a cursor, and how many were overwritten before them.
#[derive(Debug, Default)]
pub struct FeedBatch {
    /// The next entries, the oldest first.
    pub entries: Vec<Arc<FeedEntry>>,
    /// Number of entries before them that were overwritten.
    pub missed: u64,
}

/// A reader of `/feed`. It counts as one of [`MAX_FEED_READERS`](super::MAX_FEED_READERS) until it is dropped.
pub struct FeedReader {
    cursor: FeedCursor,
}

impl Feed {
    /// Returns a position after the last entry.
    pub fn cursor_at_end(self: &Arc<Feed>) -> FeedCursor {
        let ring = self.lock();
        FeedCursor {
            feed: Arc::clone(self),
            next: ring.end(),
            period: ring.period,
        }
    }
}

impl FeedCursor {
    /// Takes the next entries, at most `max`, without waiting.
    pub fn take(&mut self, max: usize) -> FeedBatch {
        let feed = Arc::clone(&self.feed);
        self.take_from(&feed.lock(), max, usize::MAX)
    }

    /// Takes at most `max` entries, and at most `max_octets` of them unless the first one is larger.
    fn take_from(&mut self, ring: &Ring, max: usize, max_octets: usize) -> FeedBatch {
        let missed = ring.first.saturating_sub(self.next);
        self.next += missed;
        let skipped = usize::try_from(self.next - ring.first).unwrap_or(usize::MAX);
        let mut octets = 0;
        let fits = |entry: &&Arc<FeedEntry>| {
            octets += entry.octets();
            octets == entry.octets() || octets <= max_octets
        };
        let next = ring.entries.iter().skip(skipped);
        let entries: Vec<_> = next.take(max).take_while(fits).cloned().collect();
        self.next += entries.len() as u64;
        FeedBatch { entries, missed }
    }

    /// Waits until there is a next entry, the feed was turned off, `is_ended` returns true or `timeout` is over. Returns
    /// whether there is a next entry.
    pub fn wait(&self, timeout: Duration, is_ended: impl Fn() -> bool) -> bool {
        let until = Instant::now() + timeout;
        let mut ring = self.feed.lock();
        while ring.end() <= self.next && ring.period == self.period && !is_ended() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.feed.changed.wait_timeout(ring, left);
            (ring, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        ring.end() > self.next
    }

    /// Waits until `is_ended` returns true or `timeout` is over.
    pub fn pause(&self, timeout: Duration, is_ended: impl Fn() -> bool) {
        let ring = self.feed.lock();
        let wait = self
            .feed
            .changed
            .wait_timeout_while(ring, timeout, |_| !is_ended());
        drop(wait);
    }

    /// Returns the number of entries after this position, those that were overwritten included.
    pub fn entries_left(&self) -> u64 {
        self.feed.lock().end().saturating_sub(self.next)
    }

    /// Returns whether the feed was turned off after this cursor was made.
    pub fn is_ended(&self) -> bool {
        self.feed.lock().period != self.period
    }
}

impl FeedReader {
    /// Returns a reader that begins after the last entry. The caller has added 1 to the number of readers, from which `drop`
    /// takes it away.
    pub(super) fn at_end(feed: &Arc<Feed>) -> FeedReader {
        FeedReader {
            cursor: feed.cursor_at_end(),
        }
    }

    /// Waits until there is a next entry, the reader is to end or `timeout` is over.
    pub fn wait(&self, timeout: Duration) {
        let feed = &self.cursor.feed;
        self.cursor
            .wait(timeout, || feed.refuses_readers.load(Ordering::SeqCst));
    }

    /// Returns whether the feed was turned off, or its readers are to end.
    pub fn is_ended(&self) -> bool {
        self.cursor.feed.refuses_readers.load(Ordering::SeqCst) || self.cursor.is_ended()
    }

    /// Takes the next entries, at most `max` and [`READ_OCTETS`], without waiting. Counts those that the reader missed.
    pub fn take(&mut self, max: usize) -> FeedBatch {
        let feed = Arc::clone(&self.cursor.feed);
        let read = self.cursor.take_from(&feed.lock(), max, READ_OCTETS);
        feed.count_dropped(read.missed);
        read
    }

    /// Counts the entries that this reader, which is too slow, will not get, and returns their number.
    pub fn drop_entries_left(&self) -> u64 {
        let left = self.cursor.entries_left();
        self.cursor.feed.count_dropped(left);
        left
    }
}

impl Drop for FeedReader {
    fn drop(&mut self) {
        self.cursor.feed.readers.fetch_sub(1, Ordering::SeqCst);
        self.cursor.feed.metrics.feed_readers.decrement();
    }
}

/// Maximum size of the entries that a reader takes at once, in octets of memory. Usual entries take 25 kB for 64 of them; a
/// column `subject` of type text makes them large, and each reader has its own copy as JSON, in which escapes take six times as
/// much.
pub const READ_OCTETS: usize = 256 << 10;
