//! Compressed content inflates to the original, with two inflaters, however it is divided into runs.
//!
//! The input is a list of pieces. Each is repeated, or continued with pseudo-random octets of all values or of a few, so that a
//! short input makes content of all kinds.
#![no_main]

use std::io::Read;

use arbitrary::Arbitrary;
use flate2::read::ZlibDecoder;
use goguerrilla::internals::mail::{Run, inflate, zlib_stream, zlib_stream_in_runs};
use libfuzzer_sys::fuzz_target;

/// A part of the content.
#[derive(Arbitrary, Debug)]
struct Piece {
    octets: Vec<u8>,
    /// Number of octets of the piece, which begins with `octets`.
    length: u16,
    continuation: Continuation,
    /// If the content is divided here, whether the run that ends with this piece is literal.
    run: Option<bool>,
}

#[derive(Arbitrary, Debug)]
enum Continuation {
    Repeated,
    Random,
    /// As many different octets as the value, at least 1.
    RandomOf(u8),
}

fuzz_target!(|pieces: Vec<Piece>| {
    let mut content = Vec::new();
    let mut runs = Vec::new();
    let mut start = 0;
    for piece in pieces.iter().take(16) {
        append(&mut content, piece);
        if let Some(is_literal) = piece.run {
            runs.push((start..content.len(), is_literal));
            start = content.len();
        }
    }
    runs.push((start..content.len(), true));
    let runs = runs.into_iter();
    let mut runs: Vec<Run> = runs
        .filter(|(octets, _)| !octets.is_empty())
        .map(|(octets, is_literal)| Run { octets, is_literal })
        .collect();
    check(&zlib_stream(b"", &content).expect("memory"), &content);
    // Many short runs may be longer than the bound of the whole content.
    if let Ok(stream) = zlib_stream_in_runs(&content, runs.iter().cloned())
        && !content.is_empty()
    {
        check(&stream, &content);
    }
    if let Some(last) = runs.last_mut() {
        last.is_literal = false;
        if let Ok(stream) = zlib_stream_in_runs(&content, runs) {
            check(&stream, &content);
        }
    }
});

fn append(content: &mut Vec<u8>, piece: &Piece) {
    let end = content.len() + usize::from(piece.length);
    content.extend(&piece.octets);
    let mut state = piece.octets.iter().fold(1, |state: u64, octet| {
        (state ^ u64::from(*octet)).wrapping_mul(0x100_0000_01b3)
    });
    for index in 0.. {
        if content.len() >= end {
            break;
        }
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let random = (state >> 56) as u8;
        content.push(match piece.continuation {
            Continuation::Repeated if piece.octets.is_empty() => 0,
            Continuation::Repeated => piece.octets[index % piece.octets.len()],
            Continuation::Random => random,
            Continuation::RandomOf(kinds) => random % kinds.max(1),
        });
    }
}

/// Asserts that two inflaters restore the content, and that the stream is within the bound of stored blocks.
fn check(stream: &[u8], content: &[u8]) {
    let blocks = content.len().div_ceil(5_000).max(1);
    assert!(stream.len() <= 2 + content.len() + 5 * blocks + 4);
    let mut inflated = Vec::new();
    let mut decoder = ZlibDecoder::new(stream);
    decoder.read_to_end(&mut inflated).expect("a zlib stream");
    assert_eq!(decoder.total_in(), stream.len() as u64);
    assert!(inflated == content, "miniz_oxide inflates other octets");
    let inflated = inflate(stream, content.len()).expect("a zlib stream");
    assert!(inflated == content, "libdeflate inflates other octets");
}
