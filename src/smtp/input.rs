//! The receive buffer of a connection.

/// A buffer of received octets: reads append at its end, the parser consumes from its start.
///
/// The buffer starts small, because thousands of idle clients have one each. It grows while reads fill it.
/// `octets[start..end]` is unread; the octets after `end` are spare space.
pub struct InputBuffer {
    octets: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether the last read filled all the spare space, so that more octets are probably available.
    last_read_was_full: bool,
}

#[expect(
    clippy::indexing_slicing,
    reason = "`start` is never beyond `end`, nor that beyond the octets there are"
)]
impl InputBuffer {
    /// Returns an empty buffer, which allocates at the first [`spare_mut`](InputBuffer::spare_mut).
    pub const fn new() -> InputBuffer {
        InputBuffer {
            octets: Vec::new(),
            start: 0,
            end: 0,
            last_read_was_full: false,
        }
    }

    /// Returns the octets that were received and not consumed, oldest first.
    pub fn unconsumed_octets(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// Consumes the first `count` unread octets.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Returns spare space for the next read: at least one octet, at most 32 KiB. A buffer without allocated memory allocates
    /// `initial_size` octets.
    ///
    /// After the read, call [`mark_octets_received`](InputBuffer::mark_octets_received).
    pub fn spare_mut(&mut self, initial_size: usize) -> &mut [u8] {
        if self.start > 0 {
            self.octets.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = match self.last_read_was_full || self.end == self.octets.len() {
            true => (self.octets.len() * GROWTH_FACTOR)
                .clamp(initial_size, MAX_READ_SIZE.max(self.end + initial_size)),
            false => initial_size,
        };
        self.last_read_was_full = false;
        if self.octets.len() < wanted {
            self.octets.resize(wanted, 0);
        }
        &mut self.octets[self.end..]
    }

    /// Marks the first `count` octets of the spare space as received.
    pub fn mark_octets_received(&mut self, count: usize) {
        self.end += count;
        self.last_read_was_full = self.end == self.octets.len();
    }

    /// Frees the memory of a buffer that grew beyond 16 KiB; does nothing while octets are unread.
    pub fn free_large_empty_buffer(&mut self) {
        if self.start == self.end && self.octets.len() > KEPT_CAPACITY {
            self.octets = Vec::new();
            self.last_read_was_full = false;
        }
    }

    /// Returns a buffer that holds `octets`, for tests and examples.
    pub fn from_octets(octets: &[u8]) -> InputBuffer {
        InputBuffer {
            octets: octets.to_vec(),
            start: 0,
            end: octets.len(),
            last_read_was_full: false,
        }
    }

    /// Appends `octets` that were received into another buffer, such as the octets after a PROXY header.
    pub fn push(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() {
            let spare = self.spare_mut(COMMAND_READ_SIZE);
            let count = spare.len().min(rest.len());
            spare[..count].copy_from_slice(&rest[..count]);
            self.mark_octets_received(count);
            rest = &rest[count..];
        }
    }
}

impl Default for InputBuffer {
    fn default() -> Self {
        InputBuffer::new()
    }
}

/// Number of octets that the first read of commands asks for: the longest command line. This is less than a memory page, so an
/// idle client uses little memory.
pub const COMMAND_READ_SIZE: usize = 2_048;
/// Initial size in octets of a read for content, enough for a small mail. The SIZE that a client declares does not change it.
pub const CONTENT_READ_SIZE: usize = 4_096;
/// Factor by which the receive buffer grows after a read has filled it.
const GROWTH_FACTOR: usize = 4;
/// Maximum size in octets of one read; larger reads were not faster for messages of 100 KB.
const MAX_READ_SIZE: usize = 32_768;
/// Maximum size in octets of a receive buffer that is kept between messages; a larger buffer is freed.
const KEPT_CAPACITY: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_buffer_returns_octets_in_order() {
        let mut input = InputBuffer::new();
        let octets: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        for piece in octets.chunks(777) {
            input.push(piece);
        }
        assert_eq!(input.unconsumed_octets(), octets);
        input.consume(octets.len());
        input.free_large_empty_buffer();
        assert!(input.unconsumed_octets().is_empty());
        assert_eq!(input.octets.capacity(), 0);
    }

    #[test]
    fn input_buffer_always_has_spare_space_and_starts_small() {
        let mut input = InputBuffer::new();
        assert_eq!(input.spare_mut(COMMAND_READ_SIZE).len(), COMMAND_READ_SIZE);
        input.mark_octets_received(COMMAND_READ_SIZE);
        assert_eq!(
            input.spare_mut(COMMAND_READ_SIZE).len(),
            3 * COMMAND_READ_SIZE
        );
        input.consume(COMMAND_READ_SIZE - 1);
        assert_eq!(
            input.spare_mut(COMMAND_READ_SIZE).len(),
            4 * COMMAND_READ_SIZE - 1
        );
        assert_eq!(
            input.spare_mut(CONTENT_READ_SIZE).len(),
            4 * COMMAND_READ_SIZE - 1
        );
    }

    #[test]
    fn input_buffer_grows_up_to_its_maximum_when_reads_fill_it() {
        let mut input = InputBuffer::new();
        let mut sizes = Vec::new();
        for _ in 0..7 {
            let size = input.spare_mut(CONTENT_READ_SIZE).len();
            sizes.push(size);
            input.mark_octets_received(size);
            input.consume(size);
        }
        assert_eq!(
            sizes,
            [4_096, 16_384, 32_768, 32_768, 32_768, 32_768, 32_768]
        );
        input.free_large_empty_buffer();
        assert_eq!(input.spare_mut(COMMAND_READ_SIZE).len(), COMMAND_READ_SIZE);
    }
}
