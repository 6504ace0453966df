//! Zlib streams ([RFC 1950](https://www.rfc-editor.org/rfc/rfc1950)), made so that a mail with a hundred recipients is
//! compressed once.
//!
//! Each recipient's stream begins with trace fields of its own. Shape of a stream: the two octets of the zlib header, the
//! trace fields as stored blocks, the deflated content (the same octets for everybody), and the checksum of both.

use std::collections::TryReserveError;
use std::io;
use std::panic::catch_unwind;
use std::sync::Mutex;

use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor, adler32};

use crate::locks;

/// Content deflated without a frame, and what a frame needs to know about it.
#[derive(Debug)]
pub struct Deflated {
    octets: Vec<u8>,
    plain_octets: usize,
    plain_adler32: u32,
}

/// The machine has no memory for what is made of a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory to compress a mail")]
pub struct NoMemory;

impl From<TryReserveError> for NoMemory {
    fn from(_: TryReserveError) -> NoMemory {
        NoMemory
    }
}

impl From<NoMemory> for io::Error {
    fn from(error: NoMemory) -> io::Error {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

/// Why a stream could not be inflated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// It is not a zlib stream, or it was cut or changed.
    #[error("expected a zlib stream, but found something else or a damaged one")]
    Damaged,
    /// It would inflate to more than the ceiling.
    #[error("inflates to more than {0} octets")]
    TooLarge(usize),
}

impl Deflated {
    /// Deflates `plain` at the fastest level.
    ///
    /// # Errors
    /// When there is no memory for about as many octets again.
    pub fn new(plain: &[u8]) -> Result<Deflated, NoMemory> {
        let mut compressor = take_compressor()?;
        let bound = compressor.deflate_compress_bound(plain.len());
        let mut octets = Vec::new();
        octets.try_reserve_exact(bound)?;
        octets.resize(bound, 0);
        // The bound leaves room for any input, so this never fails.
        let used = compressor
            .deflate_compress(plain, &mut octets)
            .map_err(|_| NoMemory)?;
        give_back(compressor);
        octets.truncate(used);
        octets.shrink_to_fit();
        Ok(Deflated {
            octets,
            plain_octets: plain.len(),
            plain_adler32: adler32(plain),
        })
    }

    /// The zlib stream of `prefix` and the content behind it.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn zlib_stream(&self, prefix: &[u8]) -> Result<Vec<u8>, NoMemory> {
        let mut stream = Vec::new();
        stream.try_reserve_exact(prefix.len() + self.octets.len() + 32)?;
        // Deflate with a window of 32 KiB, fastest algorithm (RFC 1950 §2.2).
        stream.extend_from_slice(&[0x78, 0x01]);
        for block in prefix.chunks(MAX_STORED_OCTETS) {
            // At most 65,535, so it fits.
            let length = block.len() as u16;
            // Not the last block, stored, filled up to a whole octet (RFC 1951 §3.2.4).
            stream.push(0);
            stream.extend_from_slice(&length.to_le_bytes());
            stream.extend_from_slice(&(!length).to_le_bytes());
            stream.extend_from_slice(block);
        }
        stream.extend_from_slice(&self.octets);
        let checksum = join_adler32(adler32(prefix), self.plain_adler32, self.plain_octets);
        stream.extend_from_slice(&checksum.to_be_bytes());
        Ok(stream)
    }

    /// Octets it takes in memory.
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    /// Whether nothing is there; deflated content always has an end mark.
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }
}

/// Inflates a zlib stream to at most `max_octets`.
///
/// # Errors
/// [`InflateError`] as it says.
pub fn inflate(stream: &[u8], max_octets: usize) -> Result<Vec<u8>, InflateError> {
    let mut decompressor = Decompressor::new();
    let mut room = (stream.len() * 4).clamp(4_096, max_octets.max(4_096));
    loop {
        let mut plain = vec![0; room];
        match decompressor.zlib_decompress(stream, &mut plain) {
            Ok(used) => {
                plain.truncate(used);
                return Ok(plain);
            }
            Err(DecompressionError::InsufficientSpace) if room < max_octets => {
                room = (room * 4).min(max_octets);
            }
            Err(DecompressionError::InsufficientSpace) => {
                return Err(InflateError::TooLarge(max_octets));
            }
            Err(DecompressionError::BadData) => return Err(InflateError::Damaged),
        }
    }
}

/// The checksum of two pieces from the checksums of each: both halves are plain sums modulo 65521.
fn join_adler32(first: u32, second: u32, second_octets: usize) -> u32 {
    const MODULUS: u64 = 65_521;
    let halves = |sum: u32| (u64::from(sum & 0xffff), u64::from(sum >> 16));
    let ((a1, b1), (a2, b2)) = (halves(first), halves(second));
    let octets = second_octets as u64 % MODULUS;
    let a = (a1 + a2 + MODULUS - 1) % MODULUS;
    let b = (b1 + b2 + octets * (a1 + MODULUS - 1)) % MODULUS;
    (b as u32) << 16 | a as u32
}

/// Compressor states not in use, the last used one on top: its memory is still in the processor's cache, and there are
/// never more states than threads that compressed at the same moment.
static COMPRESSORS: Mutex<Vec<Compressor>> = Mutex::new(Vec::new());

fn take_compressor() -> Result<Compressor, NoMemory> {
    let mut idle = locks::lock(&COMPRESSORS);
    let top = idle.pop();
    drop(idle);
    match top {
        Some(compressor) => Ok(compressor),
        // The library knows no other way to say that memory is short.
        None => catch_unwind(|| Compressor::new(level())).map_err(|_| NoMemory),
    }
}

/// Level 1, zlib's fastest (the crate's own "fastest" is 0, which only stores).
fn level() -> CompressionLvl {
    CompressionLvl::new(1).unwrap_or_default()
}

fn give_back(compressor: Compressor) {
    let mut idle = locks::lock(&COMPRESSORS);
    if idle.len() < MAX_IDLE_COMPRESSORS {
        idle.push(compressor);
    }
}

/// A stored block has 16 bits for its length (RFC 1951 §3.2.4).
const MAX_STORED_OCTETS: usize = 65_535;
/// More than processors of one machine; the rest of a burst is freed.
const MAX_IDLE_COMPRESSORS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn streams_of_several_recipients_share_their_content() {
        let content = b"content ".repeat(1_000);
        let deflated = Deflated::new(&content).unwrap();
        for prefix in [&b""[..], b"To: a\r\n", &[b'x'; 70_000]] {
            let plain = inflate(&deflated.zlib_stream(prefix).unwrap(), 1 << 20).unwrap();
            assert_eq!(plain, [prefix, &content].concat());
        }
    }

    #[test]
    fn a_damaged_or_huge_stream_is_an_error() {
        let mut stream = Deflated::new(&[0; 1 << 20])
            .unwrap()
            .zlib_stream(b"")
            .unwrap();
        assert_eq!(
            inflate(&stream, 1 << 19),
            Err(InflateError::TooLarge(1 << 19))
        );
        let last = stream.len() - 1;
        stream[last] ^= 1;
        assert_eq!(inflate(&stream, 1 << 21), Err(InflateError::Damaged));
        assert_eq!(inflate(b"", 100), Err(InflateError::Damaged));
    }

    proptest! {
        #[test]
        fn any_stream_inflates_to_what_went_in(
            prefix in proptest::collection::vec(any::<u8>(), 0..300),
            content in proptest::collection::vec(any::<u8>(), 0..3_000),
        ) {
            let stream = Deflated::new(&content)
                .unwrap()
                .zlib_stream(&prefix)
                .unwrap();
            prop_assert_eq!(inflate(&stream, 1 << 16).unwrap(), [prefix, content].concat());
        }
    }
}
