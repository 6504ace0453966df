//! Message content in memory, and the memory budget shared by all connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::reply::{self, Reply};

/// Limit of message content held at once by all connections (GM_MAX_MEMORY).
///
/// Clones share one counter. Reserved octets return when the [`Content`] that holds them is dropped, also after a panic
/// or a disconnect.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max_octets: AtomicUsize,
    in_use: AtomicUsize,
}

/// The content of one message: header section and body.
///
/// Grows in few steps and only as octets arrive, so an announced SIZE reserves nothing. Limits: `max_octets` of the
/// message and the shared [`MemoryBudget`].
#[derive(Debug)]
pub struct Content {
    octets: Vec<u8>,
    max_octets: usize,
    reservation: Reservation,
}

/// Why octets were not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentError {
    /// The message exceeds its limit: 552.
    TooLarge,
    /// The budget or the machine has no memory left: 452.
    NoMemory,
}

impl From<ContentError> for Reply {
    fn from(error: ContentError) -> Reply {
        match error {
            ContentError::TooLarge => reply::R552_TOO_LARGE,
            ContentError::NoMemory => reply::R452_NO_MEMORY,
        }
    }
}

/// Octets reserved in a [`MemoryBudget`], released on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    octets: usize,
}

impl MemoryBudget {
    /// Returns a budget of `max_octets`.
    pub fn new(max_octets: usize) -> MemoryBudget {
        let (max_octets, in_use) = (AtomicUsize::new(max_octets), AtomicUsize::new(0));
        MemoryBudget {
            shared: Arc::new(Shared { max_octets, in_use }),
        }
    }

    /// Changes the limit. Existing reservations above a lower limit remain until they are released.
    pub fn set_max_octets(&self, max_octets: usize) {
        self.shared.max_octets.store(max_octets, Ordering::Relaxed);
    }

    /// Returns the octets that are reserved now.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(Ordering::Relaxed)
    }

    /// Returns the limit.
    pub fn max_octets(&self) -> usize {
        self.shared.max_octets.load(Ordering::Relaxed)
    }

    /// Returns an empty reservation.
    pub fn reservation(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            octets: 0,
        }
    }
}

impl Reservation {
    /// Grows the reservation to `octets` in total. If that fails, returns `false` and changes nothing.
    #[must_use]
    fn grow_to(&mut self, octets: usize) -> bool {
        let shared = &self.budget.shared;
        let more = octets.saturating_sub(self.octets);
        let max_octets = shared.max_octets.load(Ordering::Relaxed);
        let grown = shared
            .in_use
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |in_use| {
                in_use.checked_add(more).filter(|sum| *sum <= max_octets)
            });
        if grown.is_ok() {
            self.octets += more;
        }
        grown.is_ok()
    }

    /// Releases what exceeds `octets`.
    pub fn shrink_to(&mut self, octets: usize) {
        // Never more than this reservation holds, so the shared counter cannot go below 0.
        let less = self.octets.saturating_sub(octets);
        self.budget.shared.in_use.fetch_sub(less, Ordering::Relaxed);
        self.octets -= less;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget
            .shared
            .in_use
            .fetch_sub(self.octets, Ordering::Relaxed);
    }
}

impl Content {
    /// Returns empty content that may grow to `max_octets`; allocates nothing yet.
    pub fn new(max_octets: usize, budget: &MemoryBudget) -> Content {
        Content {
            octets: Vec::new(),
            max_octets,
            reservation: budget.reservation(),
        }
    }

    /// Returns the octets as sent, without dot-stuffing.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Reserves memory in the same budget for data derived from this content; `None` if the budget is exhausted.
    pub fn reserve_copy(&self, octets: usize) -> Option<Reservation> {
        let mut room = self.reservation.budget.reservation();
        room.grow_to(octets).then_some(room)
    }

    /// Appends all of `more` or nothing.
    ///
    /// # Errors
    /// [`ContentError`]; the content is unchanged.
    pub fn extend(&mut self, more: &[u8]) -> Result<(), ContentError> {
        let sum = self.octets.len() + more.len();
        if sum > self.max_octets {
            return Err(ContentError::TooLarge);
        }
        if sum > self.octets.capacity() {
            self.grow_to(sum)?;
        }
        self.octets.extend_from_slice(more);
        Ok(())
    }

    fn grow_to(&mut self, sum: usize) -> Result<(), ContentError> {
        let capacity = (self.octets.capacity() * GROWTH_FACTOR)
            .max(sum)
            .max(MIN_CAPACITY)
            .min(self.max_octets);
        // If the larger capacity is not available, try the exact size.
        for capacity in [capacity, sum] {
            // `sum` is within the limit and larger than the present length, so this cannot underflow.
            let more = capacity - self.octets.len();
            if self.reservation.grow_to(capacity) && self.octets.try_reserve_exact(more).is_ok() {
                return Ok(());
            }
        }
        Err(ContentError::NoMemory)
    }
}

/// Growth factor: content of 256 KiB is copied three times. Reserved memory that is not used yet is not resident.
const GROWTH_FACTOR: usize = 4;
/// Smallest reservation in octets.
const MIN_CAPACITY: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_at_the_size_limit_is_accepted_and_one_octet_more_is_not() {
        let budget = MemoryBudget::new(1 << 20);
        let mut content = Content::new(5, &budget);
        assert_eq!(content.extend(b"abc"), Ok(()));
        assert_eq!(content.extend(b"def"), Err(ContentError::TooLarge));
        assert_eq!(content.extend(b"de"), Ok(()));
        assert_eq!(content.octets(), b"abcde");
    }

    #[test]
    fn memory_budget_is_shared_and_returns_to_zero() {
        let budget = MemoryBudget::new(10_000);
        let mut first = Content::new(1 << 20, &budget);
        let mut second = Content::new(1 << 20, &budget);
        assert_eq!(first.extend(&[b'a'; 6_000]), Ok(()));
        assert_eq!(second.extend(&[b'b'; 6_000]), Err(ContentError::NoMemory));
        assert_eq!(budget.in_use(), 6_000);
        assert_eq!(first.extend(&[b'a'; 4_000]), Ok(()), "all there is");
        assert_eq!(first.extend(b"a"), Err(ContentError::NoMemory));
        drop(first);
        let mut first = Content::new(1 << 20, &budget);
        assert_eq!(first.extend(&[b'a'; 6_000]), Ok(()));
        assert!(first.reserve_copy(4_001).is_none());
        let mut beside = first.reserve_copy(4_000).expect("just enough");
        beside.shrink_to(1_000);
        assert_eq!(budget.in_use(), 7_000);
        drop((first, beside));
        assert_eq!(second.extend(&[b'b'; 6_000]), Ok(()));
        drop(second);
        assert_eq!(budget.in_use(), 0);
    }
}
