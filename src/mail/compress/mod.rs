//! Zlib streams ([RFC 1950](https://www.rfc-editor.org/rfc/rfc1950)) in which mails are stored.
//!
//! The stream of each recipient begins with the trace fields for this recipient, but the content is compressed only
//! once. Layout of a stream: zlib header (2 octets), trace fields in uncompressed blocks, deflated content (the same
//! octets for every recipient), checksum of trace fields and content.
//!
//! libdeflate compresses the content at level 1, except where a sample shows that it has no matches, as in base64 of
//! compressed data: such octets become blocks of literals only, in a fifth of the time. docs/benchmarks.md compares both over
//! mails of many kinds.

mod bit_writer;
mod encoder;
mod huffman;
mod literal_blocks;
mod runs;
mod stream_end;

use std::collections::TryReserveError;
use std::io;
use std::mem;
use std::panic::catch_unwind;
use std::sync::Mutex;

use libdeflater::{CompressionLvl, Compressor, DecompressionError, Decompressor, adler32};

use literal_blocks::MAX_STORED_OCTETS;
pub use runs::Run;

use crate::sync;

/// Content of a mail after compression, without the header and the checksum of a zlib stream.
#[derive(Debug)]
pub struct Deflated {
    octets: Vec<u8>,
    plain_octets: usize,
    plain_adler32: u32,
}

/// Error: the memory for compressed content could not be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory to compress a mail")]
pub struct CompressAllocError;

impl From<TryReserveError> for CompressAllocError {
    fn from(_: TryReserveError) -> CompressAllocError {
        CompressAllocError
    }
}

impl From<CompressAllocError> for io::Error {
    fn from(error: CompressAllocError) -> io::Error {
        io::Error::new(io::ErrorKind::OutOfMemory, error)
    }
}

/// Reasons why [`inflate`] fails.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// The octets are not a zlib stream, or the stream is truncated or corrupted.
    #[error("expected a zlib stream, but found something else or a damaged one")]
    Damaged,
    /// The inflated octets exceed the limit. The value is the limit in octets.
    #[error("inflates to more than {0} octets")]
    TooLarge(usize),
}

impl Deflated {
    /// Compresses `plain` at level 1, the lowest level that compresses.
    ///
    /// # Errors
    /// [`CompressAllocError`]: a buffer of about the length of `plain` cannot be allocated.
    pub fn new(plain: &[u8]) -> Result<Deflated, CompressAllocError> {
        Ok(Deflated {
            octets: compress_with_pool(None, plain)?,
            plain_octets: plain.len(),
            plain_adler32: adler32(plain),
        })
    }

    /// Returns the zlib stream of `prefix` followed by the content.
    ///
    /// # Errors
    /// [`CompressAllocError`]: the memory for the stream cannot be allocated.
    pub fn zlib_stream(&self, prefix: &[u8]) -> Result<Vec<u8>, CompressAllocError> {
        let mut stream = Vec::new();
        stream
            .try_reserve_exact(zlib_octets_without_deflated_content(prefix) + self.octets.len())?;
        write_zlib_header_and_stored_prefix(&mut stream, prefix);
        stream.extend_from_slice(&self.octets);
        write_zlib_trailer(&mut stream, prefix, self.plain_adler32, self.plain_octets);
        Ok(stream)
    }

    /// Returns the number of compressed octets.
    pub fn len(&self) -> usize {
        self.octets.len()
    }

    /// Always returns false, because deflated content contains at least an end-of-block code.
    pub fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }
}

/// Returns the zlib stream of `prefix` followed by `plain`.
///
/// For a mail with a single recipient: the result is the same as that of [`Deflated::zlib_stream`], but the compressed
/// content is copied one time less.
///
/// # Errors
/// [`CompressAllocError`]: a buffer of about the length of `plain` cannot be allocated.
pub fn zlib_stream(prefix: &[u8], plain: &[u8]) -> Result<Vec<u8>, CompressAllocError> {
    compress_with_pool(Some(prefix), plain)
}

/// Returns the zlib stream of `plain`, which is divided into these runs instead of those that samples show.
///
/// For tests: content rarely has many runs.
///
/// # Errors
/// [`CompressAllocError`]: the memory cannot be allocated, or the runs make the stream longer than its bound.
pub fn zlib_stream_in_runs(
    plain: &[u8],
    runs: impl IntoIterator<Item = Run>,
) -> Result<Vec<u8>, CompressAllocError> {
    compress_with(Some(b""), plain, |compressor, output| {
        encoder::deflate_runs(compressor, plain, runs.into_iter(), output)
    })
}

fn write_zlib_header_and_stored_prefix(stream: &mut Vec<u8>, prefix: &[u8]) {
    // CM = deflate, window of 32 KiB, FLEVEL = fastest (RFC 1950 §2.2).
    stream.extend_from_slice(&[0x78, 0x01]);
    for block in prefix.chunks(MAX_STORED_OCTETS) {
        // The cast is exact, because `chunks` limits the length to 65,535 octets.
        let length = block.len() as u16;
        // BFINAL = 0, BTYPE = 00: a stored block that is not the last one (RFC 1951 §3.2.4).
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

/// Returns the length of a zlib stream without its deflated content, in octets.
fn zlib_octets_without_deflated_content(prefix: &[u8]) -> usize {
    2 + prefix.len() + prefix.len().div_ceil(MAX_STORED_OCTETS) * 5 + 4
}

/// Decompresses a zlib stream. The limit of the result is `max_octets`, but at least 4,096 octets.
///
/// # Errors
/// [`InflateError`]: `stream` is not a zlib stream or is damaged, or the result exceeds the limit.
pub fn inflate(stream: &[u8], max_octets: usize) -> Result<Vec<u8>, InflateError> {
    let mut decompressor = Decompressor::new();
    let mut capacity = (stream.len() * 4).clamp(4_096, max_octets.max(4_096));
    loop {
        let mut plain = vec![0; capacity];
        match decompressor.zlib_decompress(stream, &mut plain) {
            Ok(used) => {
                plain.truncate(used);
                return Ok(plain);
            }
            Err(DecompressionError::InsufficientSpace) if capacity < max_octets => {
                capacity = (capacity * 4).min(max_octets);
            }
            Err(DecompressionError::InsufficientSpace) => {
                return Err(InflateError::TooLarge(max_octets));
            }
            Err(DecompressionError::BadData) => return Err(InflateError::Damaged),
        }
    }
}

/// Returns the Adler-32 checksum of two concatenated pieces, computed from the checksums of the pieces. A checksum
/// consists of two 16-bit sums modulo 65,521.
fn combine_adler32(first: u32, second: u32, second_octets: usize) -> u32 {
    const MODULUS: u64 = 65_521;
    let halves = |sum: u32| (u64::from(sum & 0xffff), u64::from(sum >> 16));
    let ((a1, b1), (a2, b2)) = (halves(first), halves(second));
    let octets = second_octets as u64 % MODULUS;
    let a = (a1 + a2 + MODULUS - 1) % MODULUS;
    let b = (b1 + b2 + octets * (a1 + MODULUS - 1)) % MODULUS;
    (b as u32) << 16 | a as u32
}

/// A reusable compressor and its output buffer.
struct PooledCompressor {
    compressor: Compressor,
    buffer: Vec<u8>,
}

/// Idle compressors. The compressor that was used last is taken first, because its state (about 300 KB) is probably
/// still in the CPU cache.
///
/// The list holds at most [`MAX_IDLE_COMPRESSORS`], and never more than the number of threads that compressed at the
/// same time.
static IDLE_COMPRESSORS: Mutex<Vec<PooledCompressor>> = Mutex::new(Vec::new());

/// Compresses `plain`. Returns the whole zlib stream of `prefix` and `plain`; without a `prefix`, returns only the deflated
/// octets.
fn compress_with_pool(prefix: Option<&[u8]>, plain: &[u8]) -> Result<Vec<u8>, CompressAllocError> {
    compress_with(prefix, plain, |compressor, output| {
        encoder::deflate(compressor, plain, output)
    })
}

/// Compresses `plain` like [`compress_with_pool`]. `deflate` writes the deflated octets and returns their number, or `None` if
/// the output is too short.
fn compress_with(
    prefix: Option<&[u8]>,
    plain: &[u8],
    deflate: impl FnOnce(&mut Compressor, &mut [u8]) -> Option<usize>,
) -> Result<Vec<u8>, CompressAllocError> {
    let mut pooled = take_compressor()?;
    let PooledCompressor { compressor, buffer } = &mut pooled;
    let bound = compressor.deflate_compress_bound(plain.len());
    buffer.clear();
    buffer.try_reserve_exact(prefix.map_or(0, zlib_octets_without_deflated_content) + bound)?;
    if let Some(prefix) = prefix {
        write_zlib_header_and_stored_prefix(buffer, prefix);
    }
    let start = buffer.len();
    buffer.resize(start + bound, 0);
    // Compression of the whole content cannot fail, because the buffer has room for the worst case (`bound`).
    let deflated = deflate(compressor, buffer.get_mut(start..).unwrap_or_default());
    buffer.truncate(start + deflated.ok_or(CompressAllocError)?);
    if let Some(prefix) = prefix {
        write_zlib_trailer(buffer, prefix, adler32(plain), plain.len());
    }
    let output = if buffer.capacity() > MAX_IDLE_BUFFER {
        // A large buffer is returned without a copy; only its unused part is freed.
        buffer.shrink_to_fit();
        mem::take(buffer)
    } else {
        let mut output = Vec::new();
        output.try_reserve_exact(buffer.len())?;
        output.extend_from_slice(buffer);
        output
    };
    return_compressor(pooled);
    Ok(output)
}

fn take_compressor() -> Result<PooledCompressor, CompressAllocError> {
    let mut idle = sync::lock(&IDLE_COMPRESSORS);
    let pooled = idle.pop();
    drop(idle);
    if let Some(pooled) = pooled {
        return Ok(pooled);
    }
    // If an allocation fails, libdeflater panics; it does not return an error.
    let compressor =
        catch_unwind(|| Compressor::new(compression_level())).map_err(|_| CompressAllocError)?;
    let buffer = Vec::new();
    Ok(PooledCompressor { compressor, buffer })
}

/// Returns level 1, zlib's fastest. libdeflater's `fastest()` is level 0, which does not compress.
fn compression_level() -> CompressionLvl {
    CompressionLvl::new(1).unwrap_or_default()
}

fn return_compressor(pooled: PooledCompressor) {
    let mut idle = sync::lock(&IDLE_COMPRESSORS);
    if idle.len() < MAX_IDLE_COMPRESSORS {
        idle.push(pooled);
    }
}

/// Maximum number of idle compressors. Most machines have fewer processors. Further compressors are freed after use.
const MAX_IDLE_COMPRESSORS: usize = 64;
/// Largest output buffer that an idle compressor keeps, in octets. A larger buffer is not kept.
const MAX_IDLE_BUFFER: usize = 64 << 10;

#[cfg(test)]
mod tests;
