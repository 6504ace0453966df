//! CNS 11643, the character set of EUC-TW and ISO-2022-CN (Taiwan), decoded through Big5.
//!
//! Planes 1 and 2 contain the characters of Big5 in nearly the same order, so a list of runs of consecutive
//! characters maps these planes to Big5. The runs were computed with glibc's EUC-TW and Python's Big5 codecs. The 43
//! characters of these planes that Big5 lacks become U+FFFD.
//! All characters of the other planes, which are rare, also become U+FFFD.

use encoding_rs::BIG5;

/// Decodes a character from its plane and its two octets, each between 21 and 7E (hex); U+FFFD if Big5 lacks it.
pub fn decode(plane: u8, [row, column]: [u8; 2]) -> char {
    cns_11643_character(plane, row, column).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Decodes EUC-TW.
pub fn decode_euc_tw(octets: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = octets;
    while let [_, tail @ ..] = rest {
        let c;
        (c, rest) = match rest {
            [octet, tail @ ..] if octet.is_ascii() => (char::from(*octet), tail),
            [
                0x8e,
                plane @ 0xa1..=0xb0,
                row @ 0xa1..=0xfe,
                column @ 0xa1..=0xfe,
                tail @ ..,
            ] => (decode(*plane - 0xa0, [*row & 0x7f, *column & 0x7f]), tail),
            [row @ 0xa1..=0xfe, column @ 0xa1..=0xfe, tail @ ..] => {
                (decode(1, [*row & 0x7f, *column & 0x7f]), tail)
            }
            _ => (char::REPLACEMENT_CHARACTER, tail),
        };
        text.push(c);
    }
    text
}

fn cns_11643_character(plane: u8, row: u8, column: u8) -> Option<char> {
    let runs = match plane {
        1 => PLANE_1,
        2 => PLANE_2,
        _ => return None,
    };
    let position = u16::from(row.checked_sub(0x21)?) * 94 + u16::from(column.checked_sub(0x21)?);
    let following = runs.partition_point(|(start, _, _)| *start <= position);
    let (start, length, pointer) = runs.get(following.checked_sub(1)?)?;
    let offset = position.checked_sub(*start).filter(|at| at < length)?;
    let pointer = pointer + offset;
    // A pointer is an index into the Encoding Standard's Big5 table, which has 157 entries for each lead octet.
    let (lead, trail) = (pointer / 157 + 0x81, pointer % 157);
    let trail = if trail < 0x3f {
        trail + 0x40
    } else {
        trail + 0x62
    };
    let pair = [u8::try_from(lead).ok()?, u8::try_from(trail).ok()?];
    BIG5.decode_without_bom_handling_and_without_replacement(&pair)?
        .chars()
        .next()
}

/// Runs of consecutive characters: position of the first one in plane 1 (counted from 0, 94 per row), number of characters,
/// index of the first one in the Encoding Standard's Big5 table.
const PLANE_1: &[(u16, u16, u16)] = &[
    (0, 5, 5024),
    (6, 8, 5030),
    (15, 6, 5039),
    (21, 2, 5047),
    (24, 1, 5046),
    (29, 44, 5053),
    (73, 1, 5098),
    (74, 1, 5097),
    (75, 22, 5099),
    (98, 1, 5122),
    (100, 27, 5124),
    (127, 1, 5152),
    (128, 1, 5151),
    (129, 19, 5153),
    (148, 1, 5173),
    (149, 1, 5172),
    (150, 4, 5174),
    (155, 1, 5045),
    (156, 2, 5182),
    (160, 1, 5184),
    (162, 1, 5186),
    (165, 69, 5189),
    (282, 29, 5258),
    (312, 1, 5288),
    (314, 142, 5290),
    (470, 30, 10896),
    (571, 1, 10929),
    (578, 1, 10932),
    (583, 1, 10933),
    (3290, 1412, 5495),
    (4702, 424, 6908),
    (5126, 1, 6907),
    (5127, 1876, 7332),
    (7003, 1, 9595),
    (7004, 387, 9208),
    (7391, 525, 9596),
    (7916, 1, 10310),
    (7917, 105, 10121),
    (8023, 83, 10227),
    (8106, 84, 10311),
    (8190, 1, 10541),
    (8191, 54, 10395),
    (8245, 1, 10450),
    (8246, 1, 10449),
    (8247, 90, 10451),
    (8337, 354, 10542),
];

const PLANE_2: &[(u16, u16, u16)] = &[
    (0, 10, 11304),
    (10, 33, 11315),
    (43, 1, 11396),
    (44, 48, 11348),
    (92, 46, 11397),
    (138, 1, 11610),
    (139, 167, 11443),
    (306, 1840, 11611),
    (2146, 1, 14098),
    (2147, 108, 13452),
    (2255, 537, 13561),
    (2792, 1, 13451),
    (2793, 100, 14099),
    (2893, 1, 13560),
    (2894, 399, 14199),
    (3293, 1637, 14599),
    (4930, 1, 16785),
    (4931, 146, 16236),
    (5077, 1, 16923),
    (5078, 287, 16382),
    (5365, 1, 17532),
    (5366, 116, 16669),
    (5482, 137, 16786),
    (5619, 104, 16924),
    (5723, 1, 17449),
    (5724, 222, 17028),
    (5946, 198, 17251),
    (6144, 82, 17450),
    (6226, 86, 17533),
    (6312, 1, 17250),
    (6313, 8, 17619),
    (6321, 153, 17628),
    (6474, 56, 17782),
    (6530, 1, 18138),
    (6531, 113, 17838),
    (6644, 1, 17627),
    (6645, 142, 17951),
    (6787, 1, 17781),
    (6788, 45, 18093),
    (6833, 71, 18139),
    (6904, 1, 18404),
    (6905, 194, 18210),
    (7099, 490, 18405),
    (7589, 1, 18938),
    (7590, 43, 18895),
    (7633, 1, 18939),
    (7634, 11, 18941),
    (7645, 1, 18940),
    (7646, 4, 18952),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cns_11643_planes_1_and_2_are_decoded() {
        let cases: &[(&[u8], &str)] = &[
            (b"a\xc4\xe3", "a中"),
            (b"\xc4\xe3\x8e\xa1\xc4\xe3", "中中"),
            (b"\x8e\xa2\xa1\xa1", "乂"),
            (b"\x8e\xa3\xa1\xa1x", "\u{fffd}x"),
            (b"\xc4", "\u{fffd}"),
        ];
        for (octets, want) in cases {
            assert_eq!(decode_euc_tw(octets), *want, "{}", octets.escape_ascii());
        }
        assert_eq!(decode(1, [0, 0]), '\u{fffd}');
    }
}
