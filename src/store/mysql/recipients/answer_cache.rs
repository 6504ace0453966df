//! The cache of answers about recipients.
//!
//! Recipients that exist and recipients that do not have a cache each, so that a client that guesses addresses evicts no
//! recipient that exists.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

/// Answers about recipients, with the time of each answer.
pub struct RecipientAnswerCache {
    /// How long an answer is used; zero means that no answer is kept.
    keep: Duration,
    existing: Cache<Box<str>, Instant>,
    missing: Cache<Box<str>, Instant>,
}

/// The result of a look-up in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachedAnswer {
    /// The recipient exists.
    Yes,
    /// The recipient does not exist.
    No,
    /// The recipient existed, but the answer is too old to be used without asking again.
    ExpiredYes,
    /// There is no answer, or an old one that the recipient does not exist.
    Unknown,
}

impl RecipientAnswerCache {
    /// Returns an empty cache that uses each answer for the time `keep`.
    pub fn new(keep: Duration) -> RecipientAnswerCache {
        RecipientAnswerCache {
            keep,
            existing: Cache::new(MAX_EXISTING),
            missing: Cache::new(MAX_MISSING),
        }
    }

    /// Returns the cached answer about the recipient `address`.
    pub fn cached_answer(&self, address: &str) -> CachedAnswer {
        if self.keep.is_zero() {
            return CachedAnswer::Unknown;
        }
        let is_fresh = |answered_at: Instant| answered_at.elapsed() < self.keep;
        match self.existing.get(address) {
            Some(answered_at) if is_fresh(answered_at) => CachedAnswer::Yes,
            Some(_) => CachedAnswer::ExpiredYes,
            None => match self.missing.get(address) {
                Some(answered_at) if is_fresh(answered_at) => CachedAnswer::No,
                _ => CachedAnswer::Unknown,
            },
        }
    }

    /// Returns the answer about the recipient `address` if it is known and not too old.
    pub fn fresh_answer(&self, address: &str) -> Option<bool> {
        match self.cached_answer(address) {
            CachedAnswer::Yes => Some(true),
            CachedAnswer::No => Some(false),
            CachedAnswer::ExpiredYes | CachedAnswer::Unknown => None,
        }
    }

    /// Stores an answer of the database.
    pub fn store_answer(&self, address: &str, exists: bool) {
        if self.keep.is_zero() || address.len() > MAX_CACHED_ADDRESS_OCTETS {
            return;
        }
        let (cache, other) = match exists {
            true => (&self.existing, &self.missing),
            false => (&self.missing, &self.existing),
        };
        cache.insert(address.into(), Instant::now());
        other.remove(address);
    }
}

/// Maximum number of cached recipients that exist. Together with [`MAX_MISSING`] this is the documented limit of
/// GM_RECIPIENT_CACHE_SECONDS, 100,000. With addresses of usual length both caches use about 15 MB.
const MAX_EXISTING: usize = 75_000;
/// Maximum number of cached recipients that do not exist.
const MAX_MISSING: usize = 25_000;
/// Longer addresses are not cached, so that the caches use 45 MB at most: 64 octets of local-part, `@` and 255 octets of domain
/// are the longest address of RFC 5321 §4.5.3.1.
const MAX_CACHED_ADDRESS_OCTETS: usize = 320;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_used_until_they_expire_and_an_expired_yes_is_remembered() {
        let cache = RecipientAnswerCache::new(Duration::from_secs(1_000));
        assert_eq!(cache.cached_answer("a@x"), CachedAnswer::Unknown);
        cache.store_answer("a@x", true);
        cache.store_answer("b@x", false);
        assert_eq!(cache.cached_answer("a@x"), CachedAnswer::Yes);
        assert_eq!(cache.cached_answer("b@x"), CachedAnswer::No);
        assert_eq!(cache.cached_answer("A@x"), CachedAnswer::Unknown);
        cache.store_answer("a@x", false);
        cache.store_answer("b@x", true);
        assert_eq!(cache.fresh_answer("a@x"), Some(false));
        assert_eq!(cache.fresh_answer("b@x"), Some(true));
        let expiring = RecipientAnswerCache::new(Duration::from_nanos(1));
        expiring.store_answer("a@x", true);
        expiring.store_answer("b@x", false);
        assert_eq!(expiring.cached_answer("a@x"), CachedAnswer::ExpiredYes);
        assert_eq!(expiring.cached_answer("b@x"), CachedAnswer::Unknown);
        assert_eq!(expiring.fresh_answer("a@x"), None);
    }

    #[test]
    fn nothing_is_kept_for_zero_seconds_and_no_overlong_address() {
        let off = RecipientAnswerCache::new(Duration::ZERO);
        off.store_answer("a@x", true);
        assert_eq!(off.cached_answer("a@x"), CachedAnswer::Unknown);
        let cache = RecipientAnswerCache::new(Duration::from_secs(1_000));
        let longest = format!("{}@x", "l".repeat(318));
        for (address, want) in [(longest.clone(), Some(true)), (format!("l{longest}"), None)] {
            cache.store_answer(&address, true);
            assert_eq!(cache.fresh_answer(&address), want);
        }
    }

    #[test]
    fn guessed_addresses_evict_no_recipient_that_exists() {
        let cache = RecipientAnswerCache::new(Duration::from_secs(1_000));
        for number in 0..1_000 {
            cache.store_answer(&format!("known{number}@x"), true);
        }
        for number in 0..2 * MAX_MISSING {
            cache.store_answer(&format!("guess{number}@x"), false);
        }
        for number in 0..1_000 {
            let known = format!("known{number}@x");
            assert_eq!(cache.cached_answer(&known), CachedAnswer::Yes, "{known}");
        }
        assert!(cache.missing.len() <= MAX_MISSING);
    }
}
