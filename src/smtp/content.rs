//! Message content in memory, and the memory limit for all connections together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::reply::{self, Reply};

/// The limit of message content in memory for all connections together (GM_MAX_MEMORY).
///
/// Clones share one counter. Reserved octets are released when the [`MessageOctets`] that holds them is dropped, also after a
/// panic or a disconnect.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<MemoryBudgetCounters>,
}

#[derive(Debug)]
struct MemoryBudgetCounters {
    max_octets: AtomicUsize,
    in_use: AtomicUsize,
}

/// The content of one message: header section and body.
///
/// The buffer grows as octets arrive; a declared SIZE reserves no memory. The size of the buffer is limited by `max_octets`
/// and by the shared [`MemoryBudget`].
#[derive(Debug)]
pub struct MessageOctets {
    octets: Vec<u8>,
    max_octets: usize,
    reservation: MemoryReservation,
}

/// The reason why content cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentLimitError {
    /// The message is larger than allowed; the reply is 552.
    TooLarge,
    /// The memory budget is exhausted or an allocation failed; the reply is 452.
    NoMemory,
}

impl From<ContentLimitError> for Reply {
    fn from(error: ContentLimitError) -> Reply {
        match error {
            ContentLimitError::TooLarge => reply::R552_TOO_LARGE,
            ContentLimitError::NoMemory => reply::R452_NO_MEMORY,
        }
    }
}

/// Octets reserved in a [`MemoryBudget`], released on drop.
#[derive(Debug)]
pub struct MemoryReservation {
    budget: MemoryBudget,
    octets: usize,
}

impl MemoryBudget {
    /// Returns a budget of `max_octets`.
    pub fn new(max_octets: usize) -> MemoryBudget {
        let (max_octets, in_use) = (AtomicUsize::new(max_octets), AtomicUsize::new(0));
        MemoryBudget {
            shared: Arc::new(MemoryBudgetCounters { max_octets, in_use }),
        }
    }

    /// Changes the limit. If more octets are reserved than the new limit allows, they stay reserved until they are released.
    pub fn set_memory_budget_octets(&self, max_octets: usize) {
        self.shared.max_octets.store(max_octets, Ordering::Relaxed);
    }

    /// Returns the number of reserved octets.
    pub fn reserved_octets(&self) -> usize {
        self.shared.in_use.load(Ordering::Relaxed)
    }

    /// Returns the maximum number of reserved octets.
    pub fn max_budget_octets(&self) -> usize {
        self.shared.max_octets.load(Ordering::Relaxed)
    }

    /// Returns an empty reservation in this budget.
    pub fn empty_reservation(&self) -> MemoryReservation {
        MemoryReservation {
            budget: self.clone(),
            octets: 0,
        }
    }
}

impl MemoryReservation {
    /// Grows the reservation to `octets` in total. If the budget has too few octets left, returns `false` and changes nothing.
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

    /// Shrinks the reservation to `octets`; does nothing if the reservation is already smaller.
    pub fn reduce_reservation_to(&mut self, octets: usize) {
        // `less` is at most the size of this reservation, so the shared counter cannot fall below 0.
        let less = self.octets.saturating_sub(octets);
        self.budget.shared.in_use.fetch_sub(less, Ordering::Relaxed);
        self.octets -= less;
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.budget
            .shared
            .in_use
            .fetch_sub(self.octets, Ordering::Relaxed);
    }
}

impl MessageOctets {
    /// Returns empty content that may grow to `max_octets`; allocates nothing yet.
    pub fn new(max_octets: usize, budget: &MemoryBudget) -> MessageOctets {
        MessageOctets {
            octets: Vec::new(),
            max_octets,
            reservation: budget.empty_reservation(),
        }
    }

    /// Returns the octets of the message, without dot-stuffing.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Reserves `octets` in the same budget for data derived from this content; `None` if the budget has too few octets left.
    pub fn reserve_for_derived_data(&self, octets: usize) -> Option<MemoryReservation> {
        let mut copy = self.reservation.budget.empty_reservation();
        copy.grow_to(octets).then_some(copy)
    }

    /// Appends all of `more`, or nothing if an error is returned.
    ///
    /// # Errors
    /// [`ContentLimitError`]; the content is unchanged.
    pub fn append_within_limits(&mut self, more: &[u8]) -> Result<(), ContentLimitError> {
        let sum = self.octets.len() + more.len();
        if sum > self.max_octets {
            return Err(ContentLimitError::TooLarge);
        }
        if sum > self.octets.capacity() {
            self.grow_to(sum)?;
        }
        self.octets.extend_from_slice(more);
        Ok(())
    }

    fn grow_to(&mut self, sum: usize) -> Result<(), ContentLimitError> {
        let capacity = (self.octets.capacity() * GROWTH_FACTOR)
            .max(sum)
            .max(MIN_CAPACITY)
            .min(self.max_octets);
        // If the larger capacity is not available, the exact size is tried.
        for capacity in [capacity, sum] {
            // The subtraction cannot underflow: both capacities are at least `sum`, which is at most `max_octets`.
            let more = capacity - self.octets.len();
            if self.reservation.grow_to(capacity) && self.octets.try_reserve_exact(more).is_ok() {
                return Ok(());
            }
            self.reservation
                .reduce_reservation_to(self.octets.capacity());
        }
        Err(ContentLimitError::NoMemory)
    }
}

/// Factor by which the content buffer grows: content of 256 KiB is copied three times while the buffer grows. Unused capacity
/// takes no resident memory.
const GROWTH_FACTOR: usize = 4;
/// Capacity in octets of the first allocation of a content buffer; more if the content needs more, less if `max_octets` is
/// less.
const MIN_CAPACITY: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_at_the_size_limit_is_accepted_and_one_octet_more_is_not() {
        let budget = MemoryBudget::new(1 << 20);
        let mut content = MessageOctets::new(5, &budget);
        assert_eq!(content.append_within_limits(b"abc"), Ok(()));
        assert_eq!(
            content.append_within_limits(b"def"),
            Err(ContentLimitError::TooLarge)
        );
        assert_eq!(content.append_within_limits(b"de"), Ok(()));
        assert_eq!(content.octets(), b"abcde");
    }

    #[test]
    fn memory_budget_is_shared_and_returns_to_zero() {
        let budget = MemoryBudget::new(10_000);
        let mut first = MessageOctets::new(1 << 20, &budget);
        let mut second = MessageOctets::new(1 << 20, &budget);
        assert_eq!(first.append_within_limits(&[b'a'; 6_000]), Ok(()));
        assert_eq!(
            second.append_within_limits(&[b'b'; 6_000]),
            Err(ContentLimitError::NoMemory)
        );
        assert_eq!(budget.reserved_octets(), 6_000);
        assert_eq!(
            first.append_within_limits(&[b'a'; 4_000]),
            Ok(()),
            "all there is"
        );
        assert_eq!(
            first.append_within_limits(b"a"),
            Err(ContentLimitError::NoMemory)
        );
        drop(first);
        let mut first = MessageOctets::new(1 << 20, &budget);
        assert_eq!(first.append_within_limits(&[b'a'; 6_000]), Ok(()));
        assert!(first.reserve_for_derived_data(4_001).is_none());
        let mut copy = first.reserve_for_derived_data(4_000).expect("just enough");
        copy.reduce_reservation_to(1_000);
        assert_eq!(budget.reserved_octets(), 7_000);
        drop((first, copy));
        assert_eq!(second.append_within_limits(&[b'b'; 6_000]), Ok(()));
        drop(second);
        assert_eq!(budget.reserved_octets(), 0);
    }
}
