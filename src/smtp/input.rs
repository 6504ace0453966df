//! The buffer of octets that were received and not yet parsed.

/// A receive buffer: reads append at its end, the parser consumes from its start.
///
/// It starts small, so that thousands of idle clients use little memory, grows while reads fill it, and returns to its
/// first size when it is empty. `octets[start..end]` is unread, the rest is spare.
pub struct Input {
    octets: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all the spare space, so more octets are probably waiting in the kernel.
    was_filled: bool,
}

#[expect(
    clippy::indexing_slicing,
    reason = "`start` is never beyond `end`, nor that beyond the octets there are"
)]
impl Input {
    /// Returns an empty buffer, which allocates at the first [`room`](Input::room).
    pub const fn new() -> Input {
        Input {
            octets: Vec::new(),
            start: 0,
            end: 0,
            was_filled: false,
        }
    }

    /// Returns the octets that were received and not consumed, oldest first.
    pub fn unread(&self) -> &[u8] {
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

    /// Returns spare space for the next read: at least one octet, at most 32 KiB, initially `usual`.
    ///
    /// After the read, call [`filled`](Input::filled).
    pub fn room(&mut self, usual: usize) -> &mut [u8] {
        if self.start > 0 {
            self.octets.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let wanted = match self.was_filled || self.end == self.octets.len() {
            true => (self.octets.len() * GROWTH).clamp(usual, LARGEST.max(self.end + usual)),
            false => usual,
        };
        self.was_filled = false;
        if self.octets.len() < wanted {
            self.octets.resize(wanted, 0);
        }
        &mut self.octets[self.end..]
    }

    /// Marks the first `count` octets of the spare space as received.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        self.was_filled = self.end == self.octets.len();
    }

    /// Frees the memory that a large message made necessary; does nothing while octets are unread.
    pub fn shrink(&mut self) {
        if self.start == self.end && self.octets.len() > KEPT {
            self.octets = Vec::new();
            self.was_filled = false;
        }
    }

    /// Returns a buffer that holds `octets`, for tests and examples.
    pub fn from_octets(octets: &[u8]) -> Input {
        Input {
            octets: octets.to_vec(),
            start: 0,
            end: octets.len(),
            was_filled: false,
        }
    }

    /// Appends `octets` that were received elsewhere.
    pub fn push(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while !rest.is_empty() {
            let room = self.room(COMMAND_ROOM);
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            self.filled(count);
            rest = &rest[count..];
        }
    }
}

impl Default for Input {
    fn default() -> Self {
        Input::new()
    }
}

/// Initial read size for commands: the longest command line. Less than a page, so an idle client uses little memory.
pub const COMMAND_ROOM: usize = 2_048;
/// Initial read size for content: a small mail fits into one read, and an announced SIZE allocates nothing in advance.
pub const CONTENT_ROOM: usize = 4_096;
/// Growth factor of the buffer after a read has filled it.
const GROWTH: usize = 4;
/// Largest read size; larger ones gained nothing with messages of 100 KB.
const LARGEST: usize = 32_768;
/// A buffer up to this size is kept between messages.
const KEPT: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_comes_out_in_order() {
        let mut input = Input::new();
        let octets: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        for piece in octets.chunks(777) {
            input.push(piece);
        }
        assert_eq!(input.unread(), octets);
        input.consume(octets.len());
        input.shrink();
        assert!(input.unread().is_empty());
        assert_eq!(input.octets.capacity(), 0);
    }

    #[test]
    fn room_is_never_empty_and_starts_small() {
        let mut input = Input::new();
        assert_eq!(input.room(COMMAND_ROOM).len(), COMMAND_ROOM);
        input.filled(COMMAND_ROOM);
        assert_eq!(input.room(COMMAND_ROOM).len(), 3 * COMMAND_ROOM);
        input.consume(COMMAND_ROOM - 1);
        assert_eq!(input.room(COMMAND_ROOM).len(), 4 * COMMAND_ROOM - 1);
        assert_eq!(input.room(CONTENT_ROOM).len(), 4 * COMMAND_ROOM - 1);
    }

    #[test]
    fn reads_that_fill_the_room_enlarge_it_up_to_the_largest() {
        let mut input = Input::new();
        let mut rooms = Vec::new();
        for _ in 0..7 {
            let room = input.room(CONTENT_ROOM).len();
            rooms.push(room);
            input.filled(room);
            input.consume(room);
        }
        assert_eq!(
            rooms,
            [4_096, 16_384, 32_768, 32_768, 32_768, 32_768, 32_768]
        );
        input.shrink();
        assert_eq!(input.room(COMMAND_ROOM).len(), COMMAND_ROOM);
    }
}
