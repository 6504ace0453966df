//! Deflate blocks of literals only, for content without matches (RFC 1951 §3.2.7).
//!
//! Base64 of compressed data has no matches that are worth their code, but libdeflate searches for them at each octet. A
//! block of literals needs only a histogram and one table: 100 KB of base64 take a sixth of the time, at the same ratio.
//! No library offers this without a search: zlib-rs with `Z_HUFFMAN_ONLY` takes four to five times as long.

use super::bit_writer::BitWriter;
use super::huffman;

/// Writes `plain` as blocks. The last one is the final block of the stream if `is_final`.
pub fn write_literal_blocks(writer: &mut BitWriter, plain: &[u8], is_final: bool) {
    // Blocks of equal length: none is so short that its code lengths cost more than they bring.
    let blocks = plain.len().div_ceil(MAX_BLOCK_OCTETS).max(1);
    let mut chunks = plain.chunks(plain.len().div_ceil(blocks).max(1)).peekable();
    while let Some(chunk) = chunks.next() {
        write_block(writer, chunk, is_final && chunks.peek().is_none());
    }
}

/// Writes an empty stored block, which is not the final one, so that the next block begins with an octet.
pub fn write_alignment(writer: &mut BitWriter) {
    write_stored_block(writer, &[], false);
}

/// Writes one block of at most [`MAX_BLOCK_OCTETS`] octets, or stored blocks if those are not longer.
fn write_block(writer: &mut BitWriter, plain: &[u8], is_final: bool) {
    let frequencies = literal_frequencies(plain);
    let lengths = huffman::compute_huffman_code_lengths(&frequencies, MAX_LITERAL_BITS);
    let header = Header::new(&lengths);
    let literal_bits: u64 = frequencies
        .iter()
        .zip(lengths)
        .map(|(&frequency, length)| u64::from(frequency) * u64::from(length))
        .sum();
    let stored_blocks = plain.len().div_ceil(MAX_STORED_OCTETS);
    let stored_bits = 8 * (plain.len() + stored_blocks * STORED_HEADER_OCTETS) as u64;
    if stored_bits <= literal_bits + u64::from(header.bits()) {
        let mut blocks = plain.chunks(MAX_STORED_OCTETS).peekable();
        while let Some(block) = blocks.next() {
            write_stored_block(writer, block, is_final && blocks.peek().is_none());
        }
        return;
    }
    // BFINAL, then BTYPE = 10: dynamic Huffman codes.
    writer.write(u64::from(is_final) | 0b10 << 1, 3);
    header.write(writer);
    write_literals(writer, plain, &lengths);
}

/// Writes a stored block of at most [`MAX_STORED_OCTETS`] octets (RFC 1951 §3.2.4).
fn write_stored_block(writer: &mut BitWriter, plain: &[u8], is_final: bool) {
    writer.write(u64::from(is_final), 3);
    writer.align();
    // The cast is exact, because the length is at most 65,535.
    let length = plain.len() as u16;
    writer.write_octets(&length.to_le_bytes());
    writer.write_octets(&(!length).to_le_bytes());
    writer.write_octets(plain);
}

/// Returns how often each octet occurs, and 1 for the end-of-block symbol.
///
/// Four tables: the increment of a counter waits for the previous one of the same counter, and octets repeat.
#[expect(
    clippy::indexing_slicing,
    reason = "an octet is less than the length of each table"
)]
fn literal_frequencies(plain: &[u8]) -> [u32; LITERAL_SYMBOLS] {
    let mut tables = [[0_u32; 256]; 4];
    let [first, second, third, fourth] = &mut tables;
    let (groups, rest) = plain.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in groups {
        first[usize::from(a)] += 1;
        second[usize::from(b)] += 1;
        third[usize::from(c)] += 1;
        fourth[usize::from(d)] += 1;
        first[usize::from(e)] += 1;
        second[usize::from(f)] += 1;
        third[usize::from(g)] += 1;
        fourth[usize::from(h)] += 1;
    }
    for &octet in rest {
        first[usize::from(octet)] += 1;
    }
    let mut frequencies = [1; LITERAL_SYMBOLS];
    let sums = first.iter().zip(second).zip(third).zip(fourth);
    for (frequency, (((a, b), c), d)) in frequencies.iter_mut().zip(sums) {
        *frequency = *a + *b + *c + *d;
    }
    frequencies
}

/// Writes the codes of the octets of `plain` and the end-of-block code.
#[expect(
    clippy::indexing_slicing,
    reason = "an octet is less than the length of the table"
)]
fn write_literals(writer: &mut BitWriter, plain: &[u8], lengths: &[u8; LITERAL_SYMBOLS]) {
    let codes = huffman::codes(lengths);
    // Code in the low 16 bits, length above: one load for both.
    let mut table = [0_u32; 256];
    for (entry, (&code, &length)) in table.iter_mut().zip(codes.iter().zip(lengths)) {
        *entry = u32::from(length) << 16 | u32::from(code);
    }
    let code = |octet: u8| {
        let entry = table[usize::from(octet)];
        (u64::from(entry & 0xffff), entry >> 16)
    };
    let pair = |low: (u64, u32), high: (u64, u32)| (low.0 | high.0 << low.1, low.1 + high.1);
    let (groups, rest) = plain.as_chunks::<4>();
    for &[a, b, c, d] in groups {
        // 4 * MAX_LITERAL_BITS is 56, the limit of `write`.
        let (bits, count) = pair(pair(code(a), code(b)), pair(code(c), code(d)));
        writer.write(bits, count);
    }
    for &octet in rest {
        let (bits, count) = code(octet);
        writer.write(bits, count);
    }
    writer.write(
        u64::from(codes[END_OF_BLOCK]),
        u32::from(lengths[END_OF_BLOCK]),
    );
}

/// The code lengths of a dynamic block, coded with run lengths (RFC 1951 §3.2.7).
struct Header {
    /// Symbol, value of its extra bits, and their number.
    items: [(u8, u8, u8); LITERAL_SYMBOLS + DISTANCE_SYMBOLS],
    item_count: usize,
    lengths: [u8; CODE_LENGTH_SYMBOLS],
    /// Number of lengths of `lengths` that are written, in the order of [`CODE_LENGTH_ORDER`].
    written_lengths: usize,
}

impl Header {
    fn new(literal_lengths: &[u8; LITERAL_SYMBOLS]) -> Header {
        let mut header = Header {
            items: [(0, 0, 0); LITERAL_SYMBOLS + DISTANCE_SYMBOLS],
            item_count: 0,
            lengths: [0; CODE_LENGTH_SYMBOLS],
            written_lengths: 0,
        };
        // Two distances of one bit, which no literal uses: a complete code, which every inflater accepts.
        let mut all = [1; LITERAL_SYMBOLS + DISTANCE_SYMBOLS];
        for (target, length) in all.iter_mut().zip(literal_lengths) {
            *target = *length;
        }
        for run in all.chunk_by(|a, b| a == b) {
            header.add_run(run.first().copied().unwrap_or_default(), run.len());
        }
        let mut frequencies = [0; CODE_LENGTH_SYMBOLS];
        for (symbol, _, _) in header.items() {
            if let Some(frequency) = frequencies.get_mut(usize::from(*symbol)) {
                *frequency += 1;
            }
        }
        header.lengths = huffman::compute_huffman_code_lengths(&frequencies, MAX_CODE_LENGTH_BITS);
        let last = CODE_LENGTH_ORDER
            .iter()
            .rposition(|&symbol| header.code_length(symbol) > 0);
        header.written_lengths = last.map_or(0, |last| last + 1).max(4);
        header
    }

    /// Adds `count` times `length`.
    fn add_run(&mut self, length: u8, mut count: usize) {
        if length != 0 {
            // Symbol 16 repeats the previous length, so the first one is written as it is.
            self.add((length, 0, 0));
            count -= 1;
        }
        while count > 0 {
            // Symbols 16, 17 and 18 stand for 3 to 6 repeats, 3 to 10 zeros and 11 to 138 zeros.
            let (symbol, base, extra_bits, longest) = match (length, count) {
                (_, ..3) => (length, 1, 0, 1),
                (0, ..11) => (17, 3, 3, 10),
                (0, _) => (18, 11, 7, 138),
                _ => (16, 3, 2, 6),
            };
            let run = count.min(longest);
            self.add((symbol, (run - base) as u8, extra_bits));
            count -= run;
        }
    }

    fn add(&mut self, item: (u8, u8, u8)) {
        if let Some(target) = self.items.get_mut(self.item_count) {
            *target = item;
            self.item_count += 1;
        }
    }

    fn items(&self) -> &[(u8, u8, u8)] {
        self.items.get(..self.item_count).unwrap_or_default()
    }

    fn code_length(&self, symbol: u8) -> u8 {
        let length = self.lengths.get(usize::from(symbol));
        length.copied().unwrap_or_default()
    }

    /// Returns the length of the block header in bits, including the first three.
    fn bits(&self) -> u32 {
        let items = self.items().iter();
        let item_bits: u32 = items
            .map(|&(symbol, _, extra_bits)| u32::from(self.code_length(symbol) + extra_bits))
            .sum();
        3 + 5 + 5 + 4 + 3 * self.written_lengths as u32 + item_bits
    }

    /// Writes the header without the first three bits.
    fn write(&self, writer: &mut BitWriter) {
        writer.write((LITERAL_SYMBOLS - 257) as u64, 5);
        writer.write((DISTANCE_SYMBOLS - 1) as u64, 5);
        writer.write((self.written_lengths - 4) as u64, 4);
        for &symbol in CODE_LENGTH_ORDER.iter().take(self.written_lengths) {
            writer.write(u64::from(self.code_length(symbol)), 3);
        }
        let codes = huffman::codes(&self.lengths);
        for &(symbol, extra, extra_bits) in self.items() {
            let code = codes.get(usize::from(symbol)).copied().unwrap_or_default();
            let length = self.code_length(symbol);
            let bits = u64::from(code) | u64::from(extra) << length;
            writer.write(bits, u32::from(length + extra_bits));
        }
    }
}

/// Order in which the lengths of the codes of code lengths are written (RFC 1951 §3.2.7).
pub const CODE_LENGTH_ORDER: [u8; CODE_LENGTH_SYMBOLS] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// Maximum length of a stored block in octets; its length field has 16 bits (RFC 1951 §3.2.4).
pub const MAX_STORED_OCTETS: usize = 65_535;
/// Number of code length symbols: 16 lengths and 3 kinds of runs.
pub const CODE_LENGTH_SYMBOLS: usize = 19;
/// The symbol that ends a block.
pub const END_OF_BLOCK: usize = 256;

/// Literals and the end-of-block symbol; no lengths of matches.
const LITERAL_SYMBOLS: usize = 257;
const DISTANCE_SYMBOLS: usize = 2;
/// Maximum length of a code of code lengths in bits: its length is written in 3 bits.
const MAX_CODE_LENGTH_BITS: usize = 7;
/// Maximum length of a literal's code in bits: four codes fit into one write. The limit of the format, 15, would not make
/// blocks measurably shorter.
const MAX_LITERAL_BITS: usize = 14;
/// BFINAL and BTYPE with padding, LEN and NLEN.
const STORED_HEADER_OCTETS: usize = 5;
/// Maximum length of a block, two stored blocks. Longer blocks adapt less to the content, shorter ones cost more code lengths
/// (60 to 140 octets each) and time (about 5 µs each).
const MAX_BLOCK_OCTETS: usize = 2 * MAX_STORED_OCTETS;
