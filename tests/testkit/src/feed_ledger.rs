//! All entries that readers of the feed got, compared with the rows: each entry has a row, and no row has two entries.

use std::collections::HashMap;
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::Server;
use crate::feed::FeedReader;
use crate::redis::Redis;

/// The entries of a feed: the subject by the hash of the row.
#[derive(Default)]
pub struct FeedLedger {
    entries: HashMap<String, String>,
    readers: Vec<JoinHandle<Vec<Value>>>,
}

impl FeedLedger {
    /// Returns the entries of a Redis stream.
    pub fn of_stream(redis: &Redis, name: &str) -> FeedLedger {
        let mut ledger = FeedLedger::default();
        for mut entry in redis.stream_entries(name) {
            let mut take = |field| entry.remove(field).expect("a field of an entry");
            ledger.add(take("hash"), take("subject"));
        }
        ledger
    }

    /// Starts a reader of `/feed`, which reads until this server ends.
    pub fn read_from(&mut self, server: &Server) {
        let mut reader = FeedReader::open(server, "/feed");
        assert_eq!(reader.code, 200, "{}", reader.head);
        let read = move || std::iter::from_fn(|| reader.next_entry()).collect();
        self.readers.push(thread::spawn(read));
    }

    /// Adds the entries of all readers. Their servers must have ended.
    pub fn finish_readers(&mut self) {
        for reader in std::mem::take(&mut self.readers) {
            for entry in reader.join().expect("no panic in a reader") {
                let text = |field: &str| entry[field].as_str().expect("a text").to_owned();
                self.add(text("hash"), text("subject"));
            }
        }
    }

    fn add(&mut self, hash: String, subject: String) {
        let other = self.entries.insert(hash, subject.clone());
        assert_eq!(other, None, "two entries for {subject}");
    }

    /// Asserts that each entry has a row, and that nearly all `rows` (hash and subject) have an entry. Those without one were
    /// saved just before the server was killed, or while the stream was away.
    pub fn assert_each_has_a_row(&self, rows: &[(String, String)]) {
        let rows: HashMap<&str, &str> = rows
            .iter()
            .map(|(hash, subject)| (hash.as_str(), subject.as_str()))
            .collect();
        for (hash, subject) in &self.entries {
            let row = rows.get(hash.as_str());
            assert_eq!(row, Some(&subject.as_str()), "entry {hash} without its row");
        }
        crate::note!(
            "feed: {} entries for {} rows, 0 without a row, 0 twice",
            self.entries.len(),
            rows.len()
        );
        assert!(self.entries.len() * 10 >= rows.len() * 9, "few entries");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(hash: &str, subject: &str) -> (String, String) {
        (hash.to_owned(), subject.to_owned())
    }

    fn ledger() -> FeedLedger {
        let mut ledger = FeedLedger::default();
        ledger.add("1".to_owned(), "first".to_owned());
        ledger
    }

    #[test]
    fn entry_with_its_row_is_accepted() {
        ledger().assert_each_has_a_row(&[row("1", "first")]);
    }

    #[test]
    #[should_panic(expected = "entry 1 without its row")]
    fn entry_without_a_row_is_found() {
        ledger().assert_each_has_a_row(&[row("2", "first")]);
    }

    #[test]
    #[should_panic(expected = "few entries")]
    fn missing_entries_are_found() {
        ledger().assert_each_has_a_row(&[row("1", "first"), row("2", "second")]);
    }

    #[test]
    #[should_panic(expected = "two entries for first")]
    fn second_entry_of_a_row_is_found() {
        ledger().add("1".to_owned(), "first".to_owned());
    }
}
