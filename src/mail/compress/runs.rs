//! Divides content into runs with and without matches.
//!
//! The content is sampled: 128 octets of each 2,048. In most samples of text, HTML, programs and base64 of these, 10 to 80 of
//! the 125 sequences of four octets occurred before in a sample within 32 KiB; in samples of compressed or encrypted data,
//! and in base64 of it, at most one. The search stops at the fourth, so text costs little.
//!
//! The header section of an attachment is shorter than the distance of two samples. It is found by the boundary delimiter
//! before it.

use std::ops::Range;

use memchr::memmem::Finder;

/// Adjacent octets that are compressed in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The octets of the run, of which there is at least one.
    pub octets: Range<usize>,
    /// Whether the octets have no matches that are worth their code.
    pub is_literal: bool,
}

/// The runs of some content, in order. Together they are the content.
pub struct Runs<'a> {
    plain: &'a [u8],
    /// What a sequence of four octets with a certain hash was last, and where: see [`Runs::has_repetitions`].
    sequences: [u16; 1 << HASH_BITS],
    /// Finds the start of a boundary delimiter (RFC 2046 §5.1.1).
    delimiter: Finder<'static>,
    /// Number of octets that have been sampled.
    sampled: usize,
    /// Number of octets whose run has been decided.
    decided: usize,
    /// The run that follows the one returned last.
    next_run: Option<Run>,
}

impl<'a> Runs<'a> {
    /// Returns the runs of `plain`.
    pub fn new(plain: &'a [u8]) -> Runs<'a> {
        Runs {
            plain,
            sequences: [0; 1 << HASH_BITS],
            delimiter: Finder::new("\n--"),
            sampled: 0,
            decided: 0,
            next_run: None,
        }
    }

    /// Samples the next region. Returns whether it has matches, and its start.
    fn sample_next_region(&mut self) -> Option<(bool, usize)> {
        let start = self.sampled;
        let region = self.plain.get(start..).filter(|rest| !rest.is_empty())?;
        self.sampled += region.len().min(REGION_OCTETS);
        let sample = region.get(..SAMPLE_OCTETS).unwrap_or(region);
        // The number starts again after 64 KiB, which at worst makes a repetition out of a distant one.
        let region_number = (start / REGION_OCTETS) as u16 & REGION_MASK;
        let has_matches =
            self.has_repetitions(sample, region_number) || self.contains_mime_part_header(start);
        Some((has_matches, start))
    }

    /// Returns whether the sampled region from `start` contains header fields of a body part.
    ///
    /// The delimiter at the end of the content has none.
    fn contains_mime_part_header(&self, start: usize) -> bool {
        let end = self
            .sampled
            .min(self.plain.len().saturating_sub(PART_HEADER_OCTETS));
        let searched = self
            .plain
            .get(start.saturating_sub(PART_HEADER_OCTETS)..end);
        searched.is_some_and(|octets| self.delimiter.find(octets).is_some())
    }

    /// Returns whether at least [`MIN_REPETITIONS`] sequences of four octets in `sample` occurred before within the window.
    fn has_repetitions(&mut self, sample: &[u8], region_number: u16) -> bool {
        let mut repetitions = 0;
        for octets in sample.array_windows::<4>() {
            // A multiplicative hash with D. Knuth's constant of 2^64 divided by the golden ratio.
            let hash =
                (u64::from(u32::from_le_bytes(*octets)) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let index = (hash >> (64 - HASH_BITS)) as usize;
            // 10 other bits of the hash stand for the sequence. That of another one is equal by chance once in 1,024 times.
            let tag = (hash >> 32) as u16 & !REGION_MASK | 1 << REGION_BITS;
            if let Some(entry) = self.sequences.get_mut(index) {
                let age = region_number.wrapping_sub(*entry) & REGION_MASK;
                if *entry & !REGION_MASK == tag && age <= WINDOW_REGIONS {
                    repetitions += 1;
                    if repetitions == MIN_REPETITIONS {
                        return true;
                    }
                }
                *entry = tag | region_number;
            }
        }
        false
    }

    /// Returns whether these octets without matches become a literal run.
    ///
    /// Before it, the end of the blocks of libdeflate has to be found, which takes 1 ns for each octet that they stand for. A
    /// literal run saves 5 ns for each of its octets.
    fn is_worth_a_block(&self, start: usize, end: usize) -> bool {
        let is_outer = start == 0 || end == self.plain.len();
        let least = if is_outer {
            MIN_OUTER_OCTETS
        } else {
            WINDOW_OCTETS
        };
        end - start >= least.max((start - self.decided) / 4)
    }

    /// Returns the octets from `decided` to `start` as a run with matches, and those to `end` as a literal run after it.
    fn decide(&mut self, start: usize, end: usize) -> Option<Run> {
        let matching = Run {
            octets: self.decided..start,
            is_literal: false,
        };
        let literal = Run {
            octets: start..end,
            is_literal: true,
        };
        self.decided = end;
        let mut runs = [matching, literal].into_iter();
        let mut runs = runs.by_ref().filter(|run| !run.octets.is_empty());
        let first = runs.next();
        self.next_run = runs.next();
        first
    }
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if let Some(run) = self.next_run.take() {
            return Some(run);
        }
        let end = self.plain.len();
        let mut literal_start = None;
        while let Some((has_matches, region)) = self.sample_next_region() {
            if !has_matches {
                literal_start.get_or_insert(region);
                continue;
            }
            if let Some(start) = literal_start.take()
                && self.is_worth_a_block(start, region)
            {
                return self.decide(start, region);
            }
            if region > self.decided {
                // Another region of a run with matches: the next one is likely to have matches as well.
                self.sampled = end.min(self.sampled + REGION_OCTETS);
            }
        }
        match literal_start.filter(|start| self.is_worth_a_block(*start, end)) {
            Some(start) => self.decide(start, end),
            None => self.decide(end, end),
        }
    }
}

/// Length of a part of the content that is either text or not, by its sample.
const REGION_OCTETS: usize = 2_048;
const SAMPLE_OCTETS: usize = 128;
/// Number of repetitions in a sample from which on the region counts as one with matches.
const MIN_REPETITIONS: usize = 4;
/// Window of deflate. A literal run between two runs with matches has at least this length: then no match across it is lost.
const WINDOW_OCTETS: usize = 32 << 10;
/// Length of the header section of a body part with its delimiter; few are longer.
const PART_HEADER_OCTETS: usize = 384;
const WINDOW_REGIONS: u16 = (WINDOW_OCTETS / REGION_OCTETS) as u16;
/// Minimum length of a literal run at the start or the end of the content. Shorter ones save less time than another block
/// costs.
const MIN_OUTER_OCTETS: usize = 6 << 10;
/// 2,048 sequences: 16 samples, as many as fit into the window.
const HASH_BITS: u32 = 11;
/// An entry of the table consists of the number of its region, a bit that is set, and bits of the hash.
const REGION_BITS: u32 = 5;
const REGION_MASK: u16 = (1 << REGION_BITS) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns base64 without line breaks.
    fn base64(octets: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut digit = move || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            b'0' + (state >> 58) as u8
        };
        (0..octets).map(|_| digit()).collect()
    }

    /// Returns the length of each run and whether it is literal.
    fn lengths(content: &[u8]) -> Vec<(usize, bool)> {
        let runs: Vec<Run> = Runs::new(content).collect();
        let mut end = 0;
        for run in &runs {
            assert_eq!(run.octets.start, end);
            end = run.octets.end;
        }
        assert_eq!(end, content.len());
        let length = |run: &Run| (run.octets.len(), run.is_literal);
        runs.iter().map(length).collect()
    }

    #[test]
    fn text_and_base64_are_divided_at_a_region() {
        let text = b"Words, ".repeat(1_000);
        let attachment = base64(40_000);
        assert_eq!(lengths(b""), []);
        assert_eq!(lengths(&text), [(7_000, false)]);
        assert_eq!(lengths(&attachment), [(40_000, true)]);
        let mail = [&text[..], &attachment, &text, &attachment].concat();
        let expected = [
            (10_240, false),
            (36_864, true),
            (10_240, false),
            (36_656, true),
        ];
        assert_eq!(lengths(&mail), expected);
    }

    #[test]
    fn no_match_is_lost_across_a_literal_run() {
        let text = b"Words, ".repeat(1_000);
        let mail = [&text[..], &base64(30_000), &text].concat();
        assert_eq!(lengths(&mail), [(44_000, false)]);
    }

    #[test]
    fn short_literal_runs_after_long_text_are_not_worth_a_block() {
        let text = b"Words, ".repeat(10_000);
        let mail = [&text[..], &base64(15_000)].concat();
        assert_eq!(lengths(&mail), [(85_000, false)]);
    }

    #[test]
    fn header_of_a_body_part_between_samples_ends_a_literal_run() {
        let mut mail = base64(80_000);
        mail[40_500..40_503].copy_from_slice(b"\n--");
        let expected = [(38_912, true), (2_048, false), (39_040, true)];
        assert_eq!(lengths(&mail), expected);
        // The delimiter at the end has no header after it.
        let mut mail = base64(80_000);
        mail[79_900..79_903].copy_from_slice(b"\n--");
        assert_eq!(lengths(&mail), [(80_000, true)]);
    }
}
