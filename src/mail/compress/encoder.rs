//! Compresses content: runs without matches as blocks of literals, all others with libdeflate.

use libdeflater::Compressor;

use super::bit_writer::BitWriter;
use super::literal_blocks::{write_alignment, write_literal_blocks};
use super::runs::{Run, Runs};
use super::stream_end::find_deflate_stream_end;

/// Writes the deflate stream of `plain` into `output` and returns its length.
///
/// Returns `None` if `output` is too short. The bound of libdeflate suffices.
pub fn deflate(compressor: &mut Compressor, plain: &[u8], output: &mut [u8]) -> Option<usize> {
    if plain.len() >= MIN_SAMPLED_OCTETS {
        let mut runs = Runs::new(plain);
        let first = runs.next();
        let is_whole = |run: &Run| !run.is_literal && run.octets.len() == plain.len();
        if !first.as_ref().is_some_and(is_whole) {
            let joined = deflate_runs(compressor, plain, first.into_iter().chain(runs), output);
            if joined.is_some() {
                return joined;
            }
        }
    }
    compressor.deflate_compress(plain, output).ok()
}

/// Writes the deflate stream of `plain`, which consists of `runs`, into `output` and returns its length.
///
/// Returns `None` if `output` is too short.
pub fn deflate_runs(
    compressor: &mut Compressor,
    plain: &[u8],
    runs: impl Iterator<Item = Run>,
    output: &mut [u8],
) -> Option<usize> {
    let mut writer = BitWriter::new(output);
    for run in runs {
        let is_final = run.octets.end == plain.len();
        let octets = plain.get(run.octets)?;
        if run.is_literal {
            write_literal_blocks(&mut writer, octets, is_final);
            continue;
        }
        if !writer.is_aligned() {
            write_alignment(&mut writer);
        }
        let target = writer.unused();
        let length = compressor.deflate_compress(octets, target).ok()?;
        let mut bits = length * 8;
        if !is_final {
            let stream = target.get_mut(..length)?;
            let end = find_deflate_stream_end(stream)?;
            *stream.get_mut(end.final_bit / 8)? &= !(1 << (end.final_bit % 8));
            bits = end.bits;
        }
        writer.advance(bits);
    }
    writer.finish()
}

/// Length of content from which on it is sampled. Shorter content gains nothing from a second block.
const MIN_SAMPLED_OCTETS: usize = 8 << 10;
