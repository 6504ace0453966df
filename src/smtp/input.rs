//! The octets a client has sent and nobody has used yet.

/// A buffer that is filled at one end and used up at the other.
///
/// It starts small, so that thousands of idle clients cost little, grows while reads fill it, and falls back to its
/// first size once it runs empty. Shape: `octets[start..end]` is unread, the rest is room.
pub struct Input {
    octets: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all the room there was: more is on its way.
    was_filled: bool,
}

#[expect(
    clippy::indexing_slicing,
    reason = "`start` is never beyond `end`, nor that beyond the octets there are"
)]
impl Input {
    /// An empty buffer; memory is taken at the first [`room`](Input::room).
    pub const fn new() -> Input {
        Input {
            octets: Vec::new(),
            start: 0,
            end: 0,
            was_filled: false,
        }
    }

    /// What has been received and not used, oldest first.
    pub fn unread(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// Marks the first `count` unread octets as used.
    pub fn consume(&mut self, count: usize) {
        debug_assert!(count <= self.end - self.start);
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for the next read: at least one octet, at most 32 KiB, at first `usual`.
    ///
    /// Whoever fills it says how much with [`filled`](Input::filled).
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

    /// Says that the first `count` octets of [`room`](Input::room) have been received.
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        self.was_filled = self.end == self.octets.len();
    }

    /// Gives back what a large message made it grow to; does nothing while octets are unread.
    pub fn shrink(&mut self) {
        if self.start == self.end && self.octets.len() > KEPT {
            self.octets = Vec::new();
            self.was_filled = false;
        }
    }

    /// A buffer that holds `octets`, for tests and examples.
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

/// The usual room for commands: one line of the longest, so that an idle client costs no whole page.
pub const COMMAND_ROOM: usize = 2_048;
/// The usual room for content: a small mail fits into it and is read in one go, a promised one claims little.
pub const CONTENT_ROOM: usize = 4_096;
/// How much larger the room gets when a read has filled it.
const GROWTH: usize = 4;
/// The largest: beyond it a read costs its copy and little else (measured on 100 KB messages).
const LARGEST: usize = 32_768;
/// Up to this size the buffer is kept between messages instead of being made anew.
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
