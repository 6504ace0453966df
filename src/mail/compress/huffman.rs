//! Huffman codes of limited length, in the canonical form of RFC 1951 §3.2.2.

/// Maximum number of symbols of an alphabet: literals and lengths (RFC 1951 §3.2.5).
pub const MAX_SYMBOLS: usize = 288;
/// Maximum length of a code in bits (RFC 1951 §3.2.7).
pub const MAX_CODE_BITS: usize = 15;

/// Returns the lengths in bits of the codes of `N` symbols with these frequencies. Symbols that do not occur have no code.
///
/// No code is longer than `limit`. If fewer than two symbols occur, other symbols get codes as well, so that the code is
/// complete: some inflaters reject an incomplete one. `N` is from 2 to [`MAX_SYMBOLS`], 2^`limit` is at least `N`, and a
/// frequency is less than 2^22.
pub fn compute_huffman_code_lengths<const N: usize>(
    frequencies: &[u32; N],
    limit: usize,
) -> [u8; N] {
    let mut lengths = [0; N];
    // Frequency in the high bits and symbol in the low ones, so that the sort is one of plain numbers.
    let mut keys = [0_u32; N];
    let mut count = 0;
    for (symbol, &frequency) in (0_u32..).zip(frequencies) {
        if frequency > 0
            && let Some(key) = keys.get_mut(count)
        {
            *key = frequency << SYMBOL_BITS | symbol;
            count += 1;
        }
    }
    let used = keys.get_mut(..count).unwrap_or_default();
    if used.len() < 2 {
        let only = used.first().map_or(0, |key| key & SYMBOL_MASK);
        for symbol in [only, u32::from(only == 0)] {
            if let Some(length) = lengths.get_mut(symbol as usize) {
                *length = 1;
            }
        }
        return lengths;
    }
    used.sort_unstable();
    let counts = limited(depth_counts(used), limit);
    // The rarest symbols get the longest codes.
    let mut rest = used.iter();
    for (length, &count) in counts.iter().enumerate().rev() {
        for key in rest.by_ref().take(count as usize) {
            if let Some(target) = lengths.get_mut((key & SYMBOL_MASK) as usize) {
                *target = length as u8;
            }
        }
    }
    lengths
}

/// Returns for each depth the number of leaves in the Huffman tree of `keys`, which are sorted. Greater depths than the last
/// one are counted there.
#[expect(
    clippy::indexing_slicing,
    reason = "all indexes are below `nodes`, which is at most 2 * MAX_SYMBOLS; depths are limited by `min`"
)]
fn depth_counts(keys: &[u32]) -> [u32; MAX_DEPTH + 1] {
    let keys = keys.get(..MAX_SYMBOLS).unwrap_or(keys);
    let leaves = keys.len();
    let nodes = 2 * leaves - 1;
    // Leaves are at the start, in ascending order. Inner nodes follow, and they are made in ascending order as well, so the
    // two lightest nodes are always the next leaf or the next inner node without a parent.
    let mut weights = [0_u32; 2 * MAX_SYMBOLS];
    let mut parents = [0_u16; 2 * MAX_SYMBOLS];
    for (weight, key) in weights.iter_mut().zip(keys) {
        *weight = key >> SYMBOL_BITS;
    }
    let (mut leaf, mut inner) = (0, leaves);
    for node in leaves..nodes {
        for _ in 0..2 {
            let is_leaf = leaf < leaves && (inner == node || weights[leaf] <= weights[inner]);
            let next = if is_leaf { &mut leaf } else { &mut inner };
            weights[node] += weights[*next];
            parents[*next] = node as u16;
            *next += 1;
        }
    }
    let mut depths = [0_u8; 2 * MAX_SYMBOLS];
    let mut counts = [0; MAX_DEPTH + 1];
    for node in (0..nodes - 1).rev() {
        let depth = (depths[usize::from(parents[node])] + 1).min(MAX_DEPTH as u8);
        depths[node] = depth;
        if node < leaves {
            counts[usize::from(depth)] += 1;
        }
    }
    counts
}

/// Shortens codes that are longer than `limit`, and lengthens others so that the code stays complete.
///
/// A leaf at the limit and a shorter leaf become two leaves one level below the shorter one: the sum of 2^-length falls by
/// 2^-`limit` at each step, until it is 1.
fn limited(counts: [u32; MAX_DEPTH + 1], limit: usize) -> [u32; MAX_CODE_BITS + 1] {
    let mut limited = [0; MAX_CODE_BITS + 1];
    for (depth, &count) in counts.iter().enumerate() {
        if let Some(target) = limited.get_mut(depth.min(limit)) {
            *target += count;
        }
    }
    let space = |(length, &count): (usize, &u32)| count << (limit - length);
    let mut used: u32 = limited.iter().enumerate().take(limit + 1).map(space).sum();
    while used > 1 << limit {
        let shorter = limited.iter().take(limit).rposition(|&count| count > 0);
        let Some(length) = shorter else { break };
        for (length, change) in [(limit, -1), (length, -1), (length + 1, 2)] {
            if let Some(count) = limited.get_mut(length) {
                *count = count.wrapping_add_signed(change);
            }
        }
        used -= 1;
    }
    limited
}

/// Returns the first code of each length, from the numbers of codes of each length (RFC 1951 §3.2.2).
pub fn first_codes(counts: &[u16; MAX_CODE_BITS + 1]) -> [u16; MAX_CODE_BITS + 1] {
    let mut first_codes = [0; MAX_CODE_BITS + 1];
    let mut code = 0_u16;
    for (first, count) in first_codes.iter_mut().skip(1).zip(counts.iter().skip(1)) {
        *first = code;
        code = code.wrapping_add(*count) << 1;
    }
    first_codes
}

/// Returns the codes of symbols with these lengths, with the first bit of a code as the lowest one, as they are written.
pub fn codes<const N: usize>(lengths: &[u8; N]) -> [u16; N] {
    let mut next = first_codes(&length_counts(lengths));
    let mut codes = [0; N];
    for (code, &length) in codes.iter_mut().zip(lengths) {
        if length > 0
            && let Some(next) = next.get_mut(usize::from(length))
        {
            *code = reversed(*next, length);
            *next += 1;
        }
    }
    codes
}

/// Returns a code with its first bit as the lowest one. `length` is at least 1.
pub fn reversed(code: u16, length: u8) -> u16 {
    code.reverse_bits() >> (16 - u32::from(length))
}

/// Returns how many codes have each length. Symbols without a code are not counted.
pub fn length_counts(lengths: &[u8]) -> [u16; MAX_CODE_BITS + 1] {
    let mut counts = [0; MAX_CODE_BITS + 1];
    for &length in lengths {
        if length > 0
            && let Some(count) = counts.get_mut(usize::from(length))
        {
            *count += 1;
        }
    }
    counts
}

/// Depth from which on leaves of a tree are counted together. It is greater than every limit, and small enough that
/// 2^`MAX_DEPTH` needs no more than 32 bits.
const MAX_DEPTH: usize = 30;
/// Bits of a symbol in a key: [`MAX_SYMBOLS`] is less than 2^9 + 1.
const SYMBOL_BITS: u32 = 9;
const SYMBOL_MASK: u32 = (1 << SYMBOL_BITS) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the sum of 2^-length in units of 2^-15.
    fn kraft_sum(lengths: &[u8]) -> u32 {
        let used = lengths.iter().filter(|length| **length > 0);
        used.map(|length| 1 << (15 - u32::from(*length))).sum()
    }

    #[test]
    fn frequent_symbols_get_short_codes() {
        assert_eq!(
            compute_huffman_code_lengths(&[5, 0, 1, 1, 2], 15),
            [1, 0, 3, 3, 2]
        );
        assert_eq!(codes(&[1, 0, 3, 3, 2]), [0, 0, 0b011, 0b111, 0b01]);
    }

    #[test]
    fn fewer_than_two_symbols_still_make_a_complete_code() {
        assert_eq!(compute_huffman_code_lengths(&[0, 0, 0], 15), [1, 1, 0]);
        assert_eq!(compute_huffman_code_lengths(&[7, 0, 0], 15), [1, 1, 0]);
        assert_eq!(compute_huffman_code_lengths(&[0, 0, 7], 15), [1, 0, 1]);
    }

    #[test]
    fn codes_of_fibonacci_frequencies_are_limited() {
        let mut frequencies = [1; 25];
        for symbol in 2..25 {
            frequencies[symbol] = frequencies[symbol - 1] + frequencies[symbol - 2];
        }
        for limit in [5, 7, 14, 15] {
            let lengths = compute_huffman_code_lengths(&frequencies, limit);
            assert!(
                lengths
                    .iter()
                    .all(|length| (1..=limit).contains(&usize::from(*length)))
            );
            assert_eq!(kraft_sum(&lengths), 1 << 15);
        }
    }

    proptest! {
        #[test]
        fn codes_are_complete_and_within_the_limit(
            frequencies in proptest::collection::vec(prop_oneof![Just(0), 0..4_u32, 0..1_u32 << 17], 257),
            limit in 9..=15_usize,
        ) {
            let frequencies: [u32; 257] = frequencies.try_into().unwrap();
            let lengths = compute_huffman_code_lengths(&frequencies, limit);
            prop_assert_eq!(kraft_sum(&lengths), 1 << 15);
            prop_assert!(lengths.iter().all(|length| usize::from(*length) <= limit));
            if frequencies.iter().filter(|frequency| **frequency > 0).count() > 1 {
                for (frequency, length) in frequencies.iter().zip(lengths) {
                    prop_assert_eq!(*frequency == 0, length == 0);
                }
            }
        }
    }
}
