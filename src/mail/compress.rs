//! Zlib streams ([RFC 1950](https://www.rfc-editor.org/rfc/rfc1950)) that compress a mail with many recipients once.
//!
//! The stream of each recipient begins with its own trace fields. Layout: two octets of zlib header, the trace fields as
//! stored blocks, the deflated content (the same octets for every recipient), the checksum of both.

use std::collections::TryReserveError;
use std::io;
use std::mem;
use std::panic::catch_unwind;
use std::sync::Mutex;

use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor, adler32};

use crate::sync;

/// Deflated content without header and checksum, and the checksum of the content.
#[derive(Debug)]
pub struct Deflated {
    octets: Vec<u8>,
    plain_octets: usize,
    plain_adler32: u32,
}

/// Memory for data derived from a mail could not be allocated.
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
    /// The octets are not a zlib stream, or are truncated or changed.
    #[error("expected a zlib stream, but found something else or a damaged one")]
    Damaged,
    /// The inflated octets exceed the limit.
    #[error("inflates to more than {0} octets")]
    TooLarge(usize),
}

impl Deflated {
    /// Deflates `plain` at level 1.
    ///
    /// # Errors
    /// No memory for about as many octets again.
    pub fn new(plain: &[u8]) -> Result<Deflated, NoMemory> {
        Ok(Deflated {
            octets: deflate(None, plain)?,
            plain_octets: plain.len(),
            plain_adler32: adler32(plain),
        })
    }

    /// Returns the zlib stream of `prefix` followed by the content.
    ///
    /// # Errors
    /// No memory for the stream.
    pub fn zlib_stream(&self, prefix: &[u8]) -> Result<Vec<u8>, NoMemory> {
        let mut stream = Vec::new();
        stream.try_reserve_exact(zlib_overhead(prefix) + self.octets.len())?;
        write_zlib_header(&mut stream, prefix);
        stream.extend_from_slice(&self.octets);
        write_zlib_trailer(&mut stream, prefix, self.plain_adler32, self.plain_octets);
        Ok(stream)
    }

    /// Returns the size in octets.
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    /// Returns whether there are no octets; never the case, because deflated content has an end mark.
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }
}

/// Returns the zlib stream of `prefix` and `plain`, like [`Deflated::zlib_stream`], with one copy less: for a mail with a
/// single recipient.
///
/// # Errors
/// No memory for about as many octets again.
pub fn zlib_stream(prefix: &[u8], plain: &[u8]) -> Result<Vec<u8>, NoMemory> {
    deflate(Some(prefix), plain)
}

fn write_zlib_header(stream: &mut Vec<u8>, prefix: &[u8]) {
    // Deflate, window of 32 KiB, fastest algorithm (RFC 1950 §2.2).
    stream.extend_from_slice(&[0x78, 0x01]);
    for block in prefix.chunks(MAX_STORED_OCTETS) {
        // At most 65,535, so it fits.
        let length = block.len() as u16;
        // Header of a stored block that is not the last one (RFC 1951 §3.2.4).
        stream.push(0);
        stream.extend_from_slice(&length.to_le_bytes());
        stream.extend_from_slice(&(!length).to_le_bytes());
        stream.extend_from_slice(block);
    }
}

fn write_zlib_trailer(
    stream: &mut Vec<u8>,
    prefix: &[u8],
    plain_adler32: u32,
    plain_octets: usize,
) {
    let checksum = combine_adler32(adler32(prefix), plain_adler32, plain_octets);
    stream.extend_from_slice(&checksum.to_be_bytes());
}

/// Returns how many octets a stream has besides the deflated content.
fn zlib_overhead(prefix: &[u8]) -> usize {
    2 + prefix.len() + prefix.len().div_ceil(MAX_STORED_OCTETS) * 5 + 4
}

/// Inflates a zlib stream to at most `max_octets`.
///
/// # Errors
/// [`InflateError`].
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

/// Returns the Adler-32 of two concatenated pieces from the checksums of each; both halves are sums modulo 65521.
fn combine_adler32(first: u32, second: u32, second_octets: usize) -> u32 {
    const MODULUS: u64 = 65_521;
    let halves = |sum: u32| (u64::from(sum & 0xffff), u64::from(sum >> 16));
    let ((a1, b1), (a2, b2)) = (halves(first), halves(second));
    let octets = second_octets as u64 % MODULUS;
    let a = (a1 + a2 + MODULUS - 1) % MODULUS;
    let b = (b1 + b2 + octets * (a1 + MODULUS - 1)) % MODULUS;
    (b as u32) << 16 | a as u32
}

/// A compressor's state and its output buffer.
struct PooledCompressor {
    compressor: Compressor,
    room: Vec<u8>,
}

/// Idle compressors, LIFO: the state of the last used one (about 300 KB) is probably still in the CPU cache. There are
/// never more than threads that compressed at the same time.
static COMPRESSORS: Mutex<Vec<PooledCompressor>> = Mutex::new(Vec::new());

/// Deflates `plain`; with a `prefix`, returns a whole zlib stream of both.
fn deflate(prefix: Option<&[u8]>, plain: &[u8]) -> Result<Vec<u8>, NoMemory> {
    let mut press = take_compressor()?;
    let PooledCompressor { compressor, room } = &mut press;
    let bound = compressor.deflate_compress_bound(plain.len());
    room.clear();
    room.try_reserve_exact(prefix.map_or(0, zlib_overhead) + bound)?;
    if let Some(prefix) = prefix {
        write_zlib_header(room, prefix);
    }
    let start = room.len();
    room.resize(start + bound, 0);
    // The buffer has the size of the worst case, so this cannot fail.
    let deflated = compressor.deflate_compress(plain, room.get_mut(start..).unwrap_or_default());
    room.truncate(start + deflated.map_err(|_| NoMemory)?);
    if let Some(prefix) = prefix {
        write_zlib_trailer(room, prefix, adler32(plain), plain.len());
    }
    let pressed = if room.capacity() > MAX_IDLE_BUFFER {
        // Frees the unused part of a large buffer.
        room.shrink_to_fit();
        mem::take(room)
    } else {
        let mut pressed = Vec::new();
        pressed.try_reserve_exact(room.len())?;
        pressed.extend_from_slice(room);
        pressed
    };
    return_compressor(press);
    Ok(pressed)
}

fn take_compressor() -> Result<PooledCompressor, NoMemory> {
    let mut idle = sync::lock(&COMPRESSORS);
    let top = idle.pop();
    drop(idle);
    if let Some(press) = top {
        return Ok(press);
    }
    // libdeflater panics if it cannot allocate; it has no other way to report that.
    let compressor = catch_unwind(|| Compressor::new(level())).map_err(|_| NoMemory)?;
    let room = Vec::new();
    Ok(PooledCompressor { compressor, room })
}

/// Level 1, zlib's fastest (libdeflater's `fastest()` is 0, which only stores).
fn level() -> CompressionLvl {
    CompressionLvl::new(1).unwrap_or_default()
}

fn return_compressor(press: PooledCompressor) {
    let mut idle = sync::lock(&COMPRESSORS);
    if idle.len() < MAX_IDLE_COMPRESSORS {
        idle.push(press);
    }
}

/// A stored block has 16 bits for its length (RFC 1951 §3.2.4).
const MAX_STORED_OCTETS: usize = 65_535;
/// More than a machine has processors; compressors beyond it are freed.
const MAX_IDLE_COMPRESSORS: usize = 64;
/// Largest output buffer that an idle compressor keeps.
const MAX_IDLE_BUFFER: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn compressed_content_is_shared_by_recipients_with_different_prefixes() {
        let content = b"content ".repeat(1_000);
        let deflated = Deflated::new(&content).unwrap();
        for prefix in [&b""[..], b"To: a\r\n", &[b'x'; 70_000]] {
            let plain = inflate(&deflated.zlib_stream(prefix).unwrap(), 1 << 20).unwrap();
            assert_eq!(plain, [prefix, &content].concat());
        }
    }

    #[test]
    fn damaged_or_too_large_zlib_stream_is_an_error() {
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
        fn compressed_mail_inflates_to_the_original(
            prefix in proptest::collection::vec(any::<u8>(), 0..300),
            content in proptest::collection::vec(any::<u8>(), 0..3_000),
        ) {
            let stream = Deflated::new(&content)
                .unwrap()
                .zlib_stream(&prefix)
                .unwrap();
            prop_assert_eq!(&stream, &zlib_stream(&prefix, &content).unwrap());
            prop_assert_eq!(inflate(&stream, 1 << 16).unwrap(), [prefix, content].concat());
        }
    }
}
