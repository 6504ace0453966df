//! Finds where the blocks of a deflate stream end, in bits, so that another block can follow.
//!
//! libdeflate compresses whole streams only: its last block is marked as final, and its output does not contain the bit
//! positions at which that block begins and ends. This module reads the codes without making their octets, which takes about a
//! tenth of the time of compression. No library for Rust that is in use here reports bit positions.

use super::huffman::{self, MAX_CODE_BITS, MAX_SYMBOLS};
use super::literal_blocks::{CODE_LENGTH_ORDER, CODE_LENGTH_SYMBOLS, END_OF_BLOCK};

/// Position of the final block of a deflate stream.
#[derive(Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// Index of the bit BFINAL of the final block.
    pub final_bit: usize,
    /// Number of bits of the stream.
    pub bits: usize,
}

/// Returns where the deflate stream that begins `stream` ends; more octets may follow it. Returns `None` if it is truncated or
/// damaged.
pub fn find_deflate_stream_end(stream: &[u8]) -> Option<StreamEnd> {
    let mut reader = BitReader {
        stream,
        position: 0,
    };
    loop {
        let start = reader.position;
        let is_final = reader.take(1)? == 1;
        match reader.take(2)? {
            0b00 => skip_stored_block(&mut reader)?,
            0b01 => {
                let (literals, distances) = fixed_tables();
                skip_codes(&mut reader, &literals, &distances)?;
            }
            0b10 => {
                let (literals, distances) = read_tables(&mut reader)?;
                skip_codes(&mut reader, &literals, &distances)?;
            }
            _ => return None,
        }
        if is_final {
            return Some(StreamEnd {
                final_bit: start,
                bits: reader.position,
            });
        }
    }
}

/// Reads bits, the lowest of an octet first.
struct BitReader<'a> {
    stream: &'a [u8],
    /// Index of the next bit.
    position: usize,
}

impl BitReader<'_> {
    /// Returns the next bits, at least 57 of them, without consuming them. Bits after the end are 0.
    #[inline]
    fn peek(&self) -> u64 {
        let octet = self.position / 8;
        let bits = match self.stream.get(octet..octet + 8) {
            Some(octets) => octets.try_into().map_or(0, u64::from_le_bytes),
            None => {
                let rest = self.stream.get(octet..).unwrap_or_default();
                let next = rest.iter().rev();
                next.fold(0, |bits, &octet| bits << 8 | u64::from(octet))
            }
        };
        bits >> (self.position % 8)
    }

    /// Consumes bits. Returns `None` after the end of the stream.
    #[inline]
    fn skip(&mut self, bits: usize) -> Option<()> {
        self.position += bits;
        (self.position <= self.stream.len() * 8).then_some(())
    }

    /// Returns the next `count` bits, at most 57.
    fn take(&mut self, count: usize) -> Option<usize> {
        let bits = self.peek() & ((1 << count) - 1);
        self.skip(count)?;
        Some(bits as usize)
    }
}

fn skip_stored_block(reader: &mut BitReader) -> Option<()> {
    reader.position = reader.position.next_multiple_of(8);
    let length = reader.take(16)?;
    let complement = reader.take(16)?;
    (length ^ complement == 0xffff).then_some(())?;
    reader.skip(length * 8)
}

/// Consumes the codes of a block, including the one of its end.
fn skip_codes(reader: &mut BitReader, literals: &Table, distances: &Table) -> Option<()> {
    loop {
        // A match needs at most 48 bits (15 + 5 + 15 + 13), so it fits into one `peek`, as do literals of 9 bits before it.
        let mut bits = reader.peek();
        let mut used = 0_u8;
        let mut entry = literals.find(bits)?;
        while entry.kind == Kind::Literal && used + entry.bits <= 57 - 48 {
            used += entry.bits;
            bits >>= entry.bits;
            entry = literals.find(bits)?;
        }
        used += entry.bits;
        match entry.kind {
            Kind::Literal => {}
            Kind::EndOfBlock => return reader.skip(usize::from(used)),
            Kind::Match => used += distances.find(bits >> entry.bits)?.bits,
        }
        reader.skip(usize::from(used))?;
    }
}

/// Returns the tables of the fixed codes (RFC 1951 §3.2.6).
fn fixed_tables() -> (Table, Table) {
    let mut lengths = [8; MAX_SYMBOLS];
    for (symbol, length) in lengths.iter_mut().enumerate() {
        *length = match symbol {
            144..256 => 9,
            256..280 => 7,
            _ => 8,
        };
    }
    let literals = Table::new(&lengths, literal_entry);
    (literals, Table::new(&[5; 32], distance_entry))
}

/// Reads the code lengths of a block (RFC 1951 §3.2.7).
fn read_tables(reader: &mut BitReader) -> Option<(Table, Table)> {
    let literal_count = reader.take(5)? + 257;
    let distance_count = reader.take(5)? + 1;
    let written_lengths = reader.take(4)? + 4;
    let mut code_lengths = [0; CODE_LENGTH_SYMBOLS];
    for &symbol in CODE_LENGTH_ORDER.iter().take(written_lengths) {
        *code_lengths.get_mut(usize::from(symbol))? = reader.take(3)? as u8;
    }
    let table = Table::new(&code_lengths, code_length_entry);
    let mut lengths = [0; MAX_SYMBOLS + MAX_DISTANCE_SYMBOLS];
    let lengths = lengths.get_mut(..literal_count + distance_count)?;
    let mut count = 0;
    while count < lengths.len() {
        let entry = table.find(reader.peek())?;
        reader.skip(usize::from(entry.bits))?;
        let (length, repeats) = match entry.value {
            length @ 0..16 => (length, 1),
            16 => (*lengths.get(count.checked_sub(1)?)?, 3 + reader.take(2)?),
            17 => (0, 3 + reader.take(3)?),
            _ => (0, 11 + reader.take(7)?),
        };
        lengths.get_mut(count..count + repeats)?.fill(length);
        count += repeats;
    }
    let (literals, distances) = lengths.split_at_checked(literal_count)?;
    Some((
        Table::new(literals, literal_entry),
        Table::new(distances, distance_entry),
    ))
}

/// Returns the entry of a symbol of the literal and length alphabet, without its code (RFC 1951 §3.2.5).
fn literal_entry(symbol: usize) -> Entry {
    let (kind, extra_bits) = match symbol {
        ..END_OF_BLOCK => (Kind::Literal, 0),
        END_OF_BLOCK => (Kind::EndOfBlock, 0),
        257..265 | 285.. => (Kind::Match, 0),
        _ => (Kind::Match, (symbol - 261) / 4),
    };
    Entry::new(kind, extra_bits)
}

/// Returns the entry of a symbol of the distance alphabet, without its code (RFC 1951 §3.2.5).
fn distance_entry(symbol: usize) -> Entry {
    Entry::new(Kind::Match, (symbol / 2).saturating_sub(1))
}

/// Returns the entry of a code length symbol; its extra bits are read separately.
fn code_length_entry(symbol: usize) -> Entry {
    let value = symbol as u8;
    Entry {
        value,
        ..Entry::new(Kind::Literal, 0)
    }
}

/// What a code stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Literal,
    EndOfBlock,
    Match,
}

#[derive(Clone, Copy)]
struct Entry {
    kind: Kind,
    /// Length of the code and of the extra bits after it; 0 in the table for a code of more than [`TABLE_BITS`] bits.
    bits: u8,
    /// The code length symbol; 0 in the other alphabets.
    value: u8,
}

impl Entry {
    fn new(kind: Kind, extra_bits: usize) -> Entry {
        let bits = extra_bits as u8;
        Entry {
            kind,
            bits,
            value: 0,
        }
    }
}

/// Decodes the codes of one alphabet.
struct Table {
    /// Indexed by the next bits of the stream.
    entries: [Entry; 1 << TABLE_BITS],
    /// For longer codes: number of codes of each length, and symbols in the order of their codes.
    counts: [u16; MAX_CODE_BITS + 1],
    symbols: [u16; MAX_SYMBOLS],
    entry_of: fn(usize) -> Entry,
}

impl Table {
    fn new(lengths: &[u8], entry_of: fn(usize) -> Entry) -> Table {
        let counts = huffman::length_counts(lengths);
        let mut next_codes = huffman::first_codes(&counts);
        let mut next_ranks = [0_usize; MAX_CODE_BITS + 1];
        let mut rank = 0;
        for (next, count) in next_ranks.iter_mut().zip(counts) {
            *next = rank;
            rank += usize::from(count);
        }
        let mut table = Table {
            entries: [Entry::new(Kind::Match, 0); 1 << TABLE_BITS],
            counts,
            symbols: [0; MAX_SYMBOLS],
            entry_of,
        };
        for (symbol, &length) in lengths
            .iter()
            .enumerate()
            .filter(|(_, length)| **length > 0)
        {
            let index = usize::from(length);
            if let Some(rank) = next_ranks.get_mut(index) {
                if let Some(target) = table.symbols.get_mut(*rank) {
                    *target = symbol as u16;
                }
                *rank += 1;
            }
            let Some(code) = next_codes.get_mut(index) else {
                continue;
            };
            let first = usize::from(huffman::reversed(*code, length));
            *code = code.wrapping_add(1);
            if index <= TABLE_BITS {
                let mut entry = entry_of(symbol);
                entry.bits += length;
                for target in table.entries.iter_mut().skip(first).step_by(1 << length) {
                    *target = entry;
                }
            }
        }
        table
    }

    /// Returns the entry of the code at the start of `bits`, or `None` if there is no such code.
    #[inline]
    fn find(&self, bits: u64) -> Option<Entry> {
        let entry = self.entries.get((bits & TABLE_MASK) as usize)?;
        if entry.bits > 0 {
            return Some(*entry);
        }
        self.find_long_code(bits)
    }

    /// Compares the code with the first and last code of each length, as RFC 1951 §3.2.2 orders them.
    #[cold]
    fn find_long_code(&self, mut bits: u64) -> Option<Entry> {
        let (mut code, mut first, mut rank) = (0_usize, 0, 0);
        for (length, &count) in self.counts.iter().enumerate().skip(1) {
            code |= (bits & 1) as usize;
            bits >>= 1;
            let count = usize::from(count);
            if let Some(offset) = code.checked_sub(first)
                && offset < count
            {
                let symbol = *self.symbols.get(rank + offset)?;
                let mut entry = (self.entry_of)(usize::from(symbol));
                entry.bits += length as u8;
                return Some(entry);
            }
            rank += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// Number of bits that [`Table::entries`] resolves. libdeflate rarely makes longer codes.
const TABLE_BITS: usize = 11;
const TABLE_MASK: u64 = (1 << TABLE_BITS) - 1;
/// Maximum number of distance codes that the header can announce.
const MAX_DISTANCE_SYMBOLS: usize = 32;

#[cfg(test)]
mod tests {
    use libdeflater::{CompressionLvl, Compressor};

    use super::*;

    fn compressed(plain: &[u8], level: i32) -> Vec<u8> {
        let mut compressor = Compressor::new(CompressionLvl::new(level).unwrap());
        let mut stream = vec![0; compressor.deflate_compress_bound(plain.len())];
        let length = compressor.deflate_compress(plain, &mut stream).unwrap();
        stream.truncate(length);
        stream
    }

    #[test]
    fn end_of_each_kind_of_block_is_found() {
        // RFC 1951 §3.2.6: the fixed code of the end of a block has 7 bits 0.
        let end = |final_bit, bits| Some(StreamEnd { final_bit, bits });
        assert_eq!(find_deflate_stream_end(&[0b011, 0]), end(0, 10));
        // An empty stored block before it.
        assert_eq!(
            find_deflate_stream_end(&[0, 0, 0, 0xff, 0xff, 0b011, 0]),
            end(40, 50)
        );
        assert_eq!(
            find_deflate_stream_end(&[1, 2, 0, 0xfd, 0xff, 7, 7]),
            end(0, 56)
        );
    }

    #[test]
    fn end_of_long_streams_is_in_their_last_octet() {
        let mut text = Vec::new();
        for number in 0..60_000_u32 {
            text.extend(number.wrapping_mul(number).to_string().bytes());
            // Frequencies that fall by half at each octet lead to long codes.
            text.push(b'A' + number.trailing_zeros() as u8);
        }
        for level in [1, 6, 9] {
            for length in [10, 100, 1_000, 20_000, 70_000, text.len()] {
                let stream = compressed(&text[..length], level);
                let end = find_deflate_stream_end(&stream).unwrap();
                assert_eq!(end.bits.div_ceil(8), stream.len());
                assert!(end.final_bit < end.bits);
            }
        }
    }

    #[test]
    fn damaged_or_truncated_streams_have_no_end() {
        let stream = compressed(&b"some text ".repeat(100), 1);
        for length in 0..stream.len() {
            assert_eq!(find_deflate_stream_end(&stream[..length]), None);
        }
        // Reserved block type, and a stored block whose length is not confirmed.
        assert_eq!(find_deflate_stream_end(&[0b111, 0]), None);
        assert_eq!(find_deflate_stream_end(&[1, 2, 0, 2, 0, 7, 7]), None);
    }
}
