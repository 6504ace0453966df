//! Bits of a deflate stream, the least significant first (RFC 1951 §3.1.1).

/// Writes bits into a buffer of fixed length.
///
/// Writing beyond the end of the buffer sets a flag, which [`BitWriter::finish`] reports, so that each write needs no error.
pub struct BitWriter<'a> {
    output: &'a mut [u8],
    /// Number of complete octets in `output`.
    octets: usize,
    /// Bits that do not fill an octet yet. The bits above `bit_count` are 0.
    bits: u64,
    /// Number of bits in `bits`, at most 7.
    bit_count: u32,
    has_overflowed: bool,
}

impl<'a> BitWriter<'a> {
    /// Returns a writer that fills `output` from its start.
    pub fn new(output: &'a mut [u8]) -> BitWriter<'a> {
        BitWriter {
            output,
            octets: 0,
            bits: 0,
            bit_count: 0,
            has_overflowed: false,
        }
    }

    /// Writes the `count` low bits of `bits`. `count` is at most 56, and the other bits are 0.
    ///
    /// Each call stores 8 octets, so the last 8 octets of the buffer cannot be used.
    #[inline]
    pub fn write(&mut self, bits: u64, count: u32) {
        self.bits |= bits << self.bit_count;
        self.bit_count += count;
        match self.output.get_mut(self.octets..self.octets + 8) {
            Some(target) => target.copy_from_slice(&self.bits.to_le_bytes()),
            None => self.has_overflowed = true,
        }
        self.octets += (self.bit_count / 8) as usize;
        // The shift is at most 56, because `bit_count` is at most 7 + 56.
        self.bits >>= self.bit_count & !7;
        self.bit_count &= 7;
    }

    /// Returns whether the next bit is the first of an octet.
    pub fn is_aligned(&self) -> bool {
        self.bit_count == 0
    }

    /// Fills the current octet with bits 0.
    pub fn align(&mut self) {
        if self.bit_count > 0 {
            self.write_octets(&[self.bits as u8]);
            self.bits = 0;
            self.bit_count = 0;
        }
    }

    /// Writes octets. The writer is aligned.
    pub fn write_octets(&mut self, octets: &[u8]) {
        match self.output.get_mut(self.octets..self.octets + octets.len()) {
            Some(target) => target.copy_from_slice(octets),
            None => self.has_overflowed = true,
        }
        self.octets += octets.len();
    }

    /// Returns the unused part of the buffer. The writer is aligned.
    pub fn unused(&mut self) -> &mut [u8] {
        self.output.get_mut(self.octets..).unwrap_or_default()
    }

    /// Counts the first `bits` bits of [`BitWriter::unused`] as written. The writer is aligned.
    pub fn advance(&mut self, bits: usize) {
        self.octets += bits / 8;
        self.bit_count = (bits % 8) as u32;
        let last = self.output.get(self.octets).copied().unwrap_or_default();
        self.bits = u64::from(last) & ((1 << self.bit_count) - 1);
    }

    /// Returns the number of octets written, or `None` if the buffer was too short.
    pub fn finish(mut self) -> Option<usize> {
        self.align();
        (!self.has_overflowed && self.octets <= self.output.len()).then_some(self.octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_fill_octets_from_the_lowest_bit() {
        let mut output = [0; 20];
        let mut writer = BitWriter::new(&mut output);
        writer.write(0b101, 3);
        writer.write((1 << 56) - 1, 56);
        writer.align();
        writer.write_octets(b"ab");
        writer.unused()[0] = 0b1111_1010;
        writer.advance(4);
        writer.write(0b11, 2);
        assert_eq!(writer.finish(), Some(11));
        assert_eq!(output[..11], *b"\xfd\xff\xff\xff\xff\xff\xff\x07ab\x3a");
    }

    #[test]
    fn writing_beyond_the_buffer_is_reported() {
        let mut writer = BitWriter::new(&mut []);
        writer.write(1, 1);
        assert_eq!(writer.finish(), None);
        let mut output = [0; 3];
        let mut writer = BitWriter::new(&mut output);
        writer.write_octets(b"abc");
        assert_eq!(writer.finish(), Some(3));
        let mut writer = BitWriter::new(&mut output);
        writer.write_octets(b"abcd");
        assert_eq!(writer.finish(), None);
    }
}
