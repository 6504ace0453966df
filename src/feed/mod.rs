//! The feed (GM_FEED): one entry for each row, after its COMMIT, for programs that show new mail at once.
//!
//! The writers of the store put entries into one ring in memory. Each consumer (the thread that writes the Redis stream, each
//! reader of /feed, the status page) has its own position in the ring, so that none waits for another, and a writer waits for
//! none of them: it holds the lock of the ring only while it appends. A new entry in a full ring replaces the oldest one. A
//! consumer that has not taken it yet gets the number of entries that it missed ([`FeedBatch::missed`]).
//!
//! Delivery is at most once: an entry that is in the ring when the process ends, or that is overwritten, is not sent. The
//! entries of one transaction follow each other in the order of its mails; those of several writers interleave.

mod cursor;
mod entry;
mod filter;
mod publisher;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

pub use cursor::{FeedBatch, FeedCursor, FeedReader};
pub use entry::FeedEntry;
pub use filter::{FeedFilter, FeedFilterError};
pub use publisher::{FeedPublisher, PublishOutcome, PublishStream};

use crate::metrics::Metrics;
use crate::sync;

/// The feed of one server. It exists also while GM_FEED is empty; it is then off and keeps nothing.
pub struct Feed {
    is_on: AtomicBool,
    ring: Mutex<Ring>,
    changed: Condvar,
    readers: AtomicUsize,
    /// Whether the server is stopping, so that readers end and no new one begins.
    refuses_readers: AtomicBool,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<Arc<FeedEntry>>,
    /// The number of the first entry in `entries`. The first entry of the server has number 0.
    first: u64,
    octets: usize,
    /// Number of times that the feed was turned off. Readers of an earlier period end.
    period: u64,
}

impl Feed {
    /// Returns a feed that is off. `metrics` are those of the server.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Feed> {
        Arc::new(Feed {
            is_on: AtomicBool::new(false),
            ring: Mutex::default(),
            changed: Condvar::new(),
            readers: AtomicUsize::new(0),
            refuses_readers: AtomicBool::new(false),
            metrics,
        })
    }

    /// Returns whether entries are wanted. A writer asks this before it makes entries.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Turns the feed on.
    pub fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Turns the feed off: drops its entries and ends its readers.
    pub fn turn_off(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        let mut ring = self.lock();
        ring.first = ring.end();
        ring.entries = VecDeque::new();
        ring.octets = 0;
        ring.period += 1;
        drop(ring);
        self.changed.notify_all();
    }

    /// Appends the entries of rows that are committed. Does not block for longer than it takes to append them.
    pub fn publish(&self, entries: Vec<FeedEntry>) {
        if entries.is_empty() {
            return;
        }
        let mut ring = self.lock();
        // `turn_off` clears `is_on` before it locks the ring, so what it does not drop is not appended here.
        if !self.is_on() {
            return;
        }
        for entry in entries {
            ring.push(entry);
        }
        drop(ring);
        self.changed.notify_all();
    }

    /// Returns the newest entries, the newest first, at most [`NEWEST_ENTRIES`].
    pub fn newest(&self) -> Vec<Arc<FeedEntry>> {
        let ring = self.lock();
        let newest = ring.entries.iter().rev();
        newest.take(NEWEST_ENTRIES).cloned().collect()
    }

    /// Returns a reader that begins after the last entry; `None` if there are [`MAX_FEED_READERS`] already, or after
    /// [`end_readers`](Feed::end_readers).
    pub fn open_reader(self: &Arc<Feed>) -> Option<FeedReader> {
        if self.refuses_readers.load(Ordering::SeqCst) {
            return None;
        }
        let one_more = |readers| (readers < MAX_FEED_READERS).then_some(readers + 1);
        let counted = (self.readers).fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        counted.ok()?;
        self.metrics.feed_readers.increment();
        Some(FeedReader::at_end(self))
    }

    /// Ends every reader, and refuses further ones.
    pub fn end_readers(&self) {
        self.refuses_readers.store(true, Ordering::SeqCst);
        self.wake_consumers();
    }

    /// Counts entries that a consumer did not get.
    pub fn count_dropped(&self, entries: u64) {
        let entries = usize::try_from(entries).unwrap_or(usize::MAX);
        self.metrics.feed_dropped.add((), entries);
    }

    /// Wakes every consumer that waits, so that it calls the `is_ended` with which it waits.
    pub fn wake_consumers(&self) {
        // A consumer holds the lock from its call of `is_ended` until it waits. So a consumer whose call came before the change
        // that the caller has made is waiting when this lock is free, and gets the notification.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        sync::lock(&self.ring)
    }
}

impl Ring {
    /// Returns the number that the next entry will have.
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn push(&mut self, entry: FeedEntry) {
        self.octets += entry.octets();
        self.entries.push_back(Arc::new(entry));
        while self.entries.len() > MAX_ENTRIES || self.octets > MAX_OCTETS {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.octets -= oldest.octets();
            self.first += 1;
        }
    }
}

/// Maximum number of readers of `/feed` at the same time; each has one thread and one descriptor.
pub const MAX_FEED_READERS: usize = 16;
/// Number of entries that the status page shows.
pub const NEWEST_ENTRIES: usize = 50;
/// Maximum number of entries in the ring: those of four minutes of 42 mails a second, the rate of the busiest known site, or of
/// half a second of the highest measured rate. A Redis that restarts or fails over misses nothing at usual rates.
const MAX_ENTRIES: usize = 10_000;
/// Maximum memory of the ring in octets. An entry takes about 400 octets; only long subjects and addresses reach this limit
/// before [`MAX_ENTRIES`].
const MAX_OCTETS: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::cursor::READ_OCTETS;
    use super::entry::tests::entry;
    use super::*;

    fn feed_that_is_on() -> Arc<Feed> {
        let feed = Feed::new(Arc::default());
        feed.turn_on();
        feed
    }

    fn subjects(read: &FeedBatch) -> Vec<&str> {
        read.entries.iter().map(|entry| &*entry.subject).collect()
    }

    #[test]
    fn each_consumer_gets_every_entry_after_its_position_in_order() {
        let feed = feed_that_is_on();
        let mut early = feed.cursor_at_end();
        feed.publish(vec![entry("a"), entry("b")]);
        let mut late = feed.cursor_at_end();
        feed.publish(vec![entry("c")]);
        assert_eq!(subjects(&early.take(2)), ["a", "b"]);
        assert_eq!((early.entries_left(), late.entries_left()), (1, 1));
        assert_eq!(subjects(&early.take(2)), ["c"]);
        assert_eq!(subjects(&late.take(2)), ["c"]);
        assert_eq!(subjects(&late.take(2)), [""; 0]);
        let newest: Vec<_> = feed
            .newest()
            .iter()
            .map(|one| one.subject.clone())
            .collect();
        assert_eq!(newest, ["c", "b", "a"].map(Arc::from));
    }

    #[test]
    fn full_ring_drops_the_oldest_entries_and_tells_slow_consumers_how_many() {
        let feed = feed_that_is_on();
        let mut cursor = feed.cursor_at_end();
        let count = MAX_ENTRIES + 3;
        feed.publish(
            (0..count)
                .map(|number| entry(&number.to_string()))
                .collect(),
        );
        let read = cursor.take(2);
        assert_eq!((read.missed, subjects(&read)), (3, vec!["3", "4"]));
        assert_eq!(cursor.take(usize::MAX).entries.len(), MAX_ENTRIES - 2);
        assert_eq!(feed.newest().len(), NEWEST_ENTRIES);

        // Large entries: the limit of octets counts.
        let large = "x".repeat(1 << 20);
        feed.publish((0..20).map(|_| entry(&large)).collect());
        let read = cursor.take(usize::MAX);
        assert_eq!((read.missed, read.entries.len()), (13, 7));
        assert!(feed.lock().octets <= MAX_OCTETS);
        feed.publish(vec![entry(&"x".repeat(MAX_OCTETS))]);
        let read = cursor.take(usize::MAX);
        assert_eq!(
            (read.missed, read.entries.len(), feed.lock().octets),
            (1, 0, 0)
        );
    }

    #[test]
    fn feed_that_is_off_keeps_nothing_and_ends_its_readers() {
        let feed = feed_that_is_on();
        feed.publish(vec![entry("a")]);
        let reader = feed.open_reader().unwrap();
        let cursor = feed.cursor_at_end();
        let waiter = thread::spawn(move || cursor.wait(testkit::TEST_TIMEOUT, || false));
        feed.turn_off();
        let is_entry_found = waiter.join().unwrap();
        assert!(!is_entry_found);
        assert!(reader.is_ended());
        feed.publish(vec![entry("b")]);
        assert_eq!(feed.newest().len(), 0);
        feed.turn_on();
        feed.publish(vec![entry("c")]);
        assert!(reader.is_ended() && !feed.cursor_at_end().is_ended());
    }

    #[test]
    fn batch_that_is_published_while_the_feed_is_turned_off_is_not_kept() {
        let feed = feed_that_is_on();
        let batch = vec![entry("a")];
        let is_ended = AtomicBool::new(false);
        let mut kept = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_ended.load(Ordering::Relaxed) {
                    feed.publish(batch.clone());
                }
            });
            for _ in 0..20_000 {
                feed.turn_off();
                thread::yield_now();
                kept += feed.newest().len();
                feed.turn_on();
            }
            is_ended.store(true, Ordering::Relaxed);
        });
        assert_eq!(kept, 0);
    }

    #[test]
    fn reader_gets_few_large_entries_at_once() {
        let feed = feed_that_is_on();
        let mut reader = feed.open_reader().unwrap();
        let large = "x".repeat(READ_OCTETS / 4);
        feed.publish((0..8).map(|_| entry(&large)).collect());
        feed.publish(vec![entry(&"x".repeat(2 * READ_OCTETS)), entry("small")]);
        let counts: Vec<usize> = (0..6).map(|_| reader.take(64).entries.len()).collect();
        assert_eq!(counts, [3, 3, 2, 1, 1, 0]);
    }

    #[test]
    fn consumer_wakes_up_for_an_entry_and_for_the_end_that_it_waits_for() {
        let feed = feed_that_is_on();
        let cursor = feed.cursor_at_end();
        assert!(!cursor.wait(Duration::from_millis(1), || false));
        assert!(!cursor.wait(testkit::TEST_TIMEOUT, || true));
        let publishing = Arc::clone(&feed);
        let publisher = thread::spawn(move || publishing.publish(vec![entry("a")]));
        assert!(cursor.wait(testkit::TEST_TIMEOUT, || false));
        publisher.join().unwrap();
    }

    #[test]
    fn number_of_readers_is_limited() {
        let feed = feed_that_is_on();
        let mut readers: Vec<_> = (0..MAX_FEED_READERS)
            .filter_map(|_| feed.open_reader())
            .collect();
        assert_eq!(readers.len(), MAX_FEED_READERS);
        assert!(feed.open_reader().is_none());
        assert_eq!(feed.metrics.feed_readers.value(), Some(16));
        readers.pop();
        assert!(feed.open_reader().is_some());
        assert_eq!(feed.metrics.feed_readers.value(), Some(15));
    }
}
