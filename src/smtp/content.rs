//! Message content in memory, and the one budget that all content of all connections shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::reply::{self, Reply};

/// How many octets of message content may be held at once, by all connections together.
///
/// Clones share one count. What is reserved comes back when the [`Content`] that holds it is dropped, also when its
/// connection panics or hangs up.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    max_octets: AtomicUsize,
    in_use: AtomicUsize,
}

/// The content of one message: what follows DATA, header section and body.
///
/// Grows in few steps, and only as octets arrive: a promised SIZE claims nothing. Ceilings: `max_octets` of the message
/// and the shared [`MemoryBudget`].
#[derive(Debug)]
pub struct Content {
    octets: Vec<u8>,
    max_octets: usize,
    reservation: Reservation,
}

/// Why octets were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentError {
    /// The message is larger than one may be: 552.
    TooLarge,
    /// The machine or the budget has no room for it now: 452.
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

/// A share of a [`MemoryBudget`], given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    octets: usize,
}

impl MemoryBudget {
    /// A budget of `max_octets`.
    pub fn new(max_octets: usize) -> MemoryBudget {
        let (max_octets, in_use) = (AtomicUsize::new(max_octets), AtomicUsize::new(0));
        MemoryBudget {
            shared: Arc::new(Shared { max_octets, in_use }),
        }
    }

    /// Changes the ceiling. What is held beyond a lower one stays until it is given back.
    pub fn set_max_octets(&self, max_octets: usize) {
        self.shared.max_octets.store(max_octets, Ordering::Relaxed);
    }

    /// Octets reserved at this moment.
    pub fn in_use(&self) -> usize {
        self.shared.in_use.load(Ordering::Relaxed)
    }

    /// Octets that may be reserved at once.
    pub fn max_octets(&self) -> usize {
        self.shared.max_octets.load(Ordering::Relaxed)
    }

    /// An empty share that can grow.
    pub fn reservation(&self) -> Reservation {
        Reservation {
            budget: self.clone(),
            octets: 0,
        }
    }
}

impl Reservation {
    /// Grows the share to `octets` in all. On `false` nothing has changed.
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

    /// Gives back what is beyond `octets`.
    pub fn shrink_to(&mut self, octets: usize) {
        // Never more than this share has taken, so the count of all does not fall below 0.
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
    /// Empty content that may grow to `max_octets`; takes no memory yet.
    pub fn new(max_octets: usize, budget: &MemoryBudget) -> Content {
        Content {
            octets: Vec::new(),
            max_octets,
            reservation: budget.reservation(),
        }
    }

    /// The octets as sent, dots unstuffed.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// Room in the same budget for what is made of this content; `None` when there is none.
    pub fn room_beside(&self, octets: usize) -> Option<Reservation> {
        let mut room = self.reservation.budget.reservation();
        room.grow_to(octets).then_some(room)
    }

    /// Appends `more`, all of it or nothing.
    ///
    /// # Errors
    /// [`ContentError`] says which ceiling was met; content is as before.
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
        let capacity = (self.octets.capacity() * GROWTH)
            .max(sum)
            .max(SMALLEST)
            .min(self.max_octets);
        // Where there is no room for more than is needed now, that has to do.
        for capacity in [capacity, sum] {
            // `sum` is within the ceiling, so capacity is no less, and there was less before.
            let more = capacity - self.octets.len();
            if self.reservation.grow_to(capacity) && self.octets.try_reserve_exact(more).is_ok() {
                return Ok(());
            }
        }
        Err(ContentError::NoMemory)
    }
}

/// Large mail is copied thrice on its way to 256 KiB; what is reserved and not used yet takes no memory of the machine.
const GROWTH: usize = 4;
/// Fewer octets than this are not worth a reservation of their own.
const SMALLEST: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_exactly_the_limit_is_taken_and_one_octet_more_is_not() {
        let budget = MemoryBudget::new(1 << 20);
        let mut content = Content::new(5, &budget);
        assert_eq!(content.extend(b"abc"), Ok(()));
        assert_eq!(content.extend(b"def"), Err(ContentError::TooLarge));
        assert_eq!(content.extend(b"de"), Ok(()));
        assert_eq!(content.octets(), b"abcde");
    }

    #[test]
    fn the_budget_holds_for_all_and_returns_to_zero() {
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
        assert!(first.room_beside(4_001).is_none());
        let mut beside = first.room_beside(4_000).expect("just enough");
        beside.shrink_to(1_000);
        assert_eq!(budget.in_use(), 7_000);
        drop((first, beside));
        assert_eq!(second.extend(&[b'b'; 6_000]), Ok(()));
        drop(second);
        assert_eq!(budget.in_use(), 0);
    }
}
