//! Tests of zlib streams with two inflaters.

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

/// Inflates with miniz_oxide.
fn inflate_with_miniz(stream: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut decoder = flate2::read::ZlibDecoder::new(stream);
    std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    assert_eq!(decoder.total_in() as usize, stream.len());
    plain
}

/// Returns content of one kind: no structure, base64 of that, text, or one octet.
fn content(kind: u8, octets: usize) -> Vec<u8> {
    let mut state = octets as u64 + 1;
    let random = std::iter::repeat_with(move || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    });
    match kind {
        0 => random.take(octets).collect(),
        1 => random.map(|octet| b'0' + octet % 64).take(octets).collect(),
        2 => b"Several words, repeated. "
            .iter()
            .copied()
            .cycle()
            .take(octets)
            .collect(),
        _ => vec![b'x'; octets],
    }
}

#[test]
fn mixed_content_is_at_most_a_hundredth_longer_than_with_libdeflate_alone() {
    let text = content(2, 30_000);
    let attachment = content(1, 70_000);
    let mail = [&text[..], &attachment, &text, &attachment].concat();
    let stream = zlib_stream(b"prefix", &mail).unwrap();
    let whole = Run {
        octets: 0..mail.len(),
        is_literal: false,
    };
    let alone = zlib_stream_in_runs(&mail, [whole]).unwrap();
    assert!(stream.len() <= alone.len() + alone.len() / 100);
    assert_ne!(stream.len(), alone.len());
    let expected = [b"prefix", &mail[..]].concat();
    assert_eq!(inflate_with_miniz(&stream), expected);
    assert_eq!(inflate(&stream, 1 << 20).unwrap(), expected);
}

#[test]
fn incompressible_content_grows_by_five_octets_per_stored_block() {
    for octets in [8_192, 65_535, 65_536, 131_070, 131_071, 1 << 20] {
        let stream = zlib_stream(b"", &content(0, octets)).unwrap();
        let blocks = octets
            .div_ceil(MAX_STORED_OCTETS)
            .max(octets.div_ceil(131_070) * 2);
        assert!(
            stream.len() <= 2 + octets + 5 * blocks + 4,
            "{octets}: {}",
            stream.len()
        );
        assert_eq!(inflate_with_miniz(&stream), content(0, octets));
    }
}

proptest! {
    #[test]
    fn any_division_into_runs_inflates_to_the_original(
        parts in proptest::collection::vec((0..4_u8, 1..40_000_usize), 1..5),
        cuts in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>()), 0..6),
        is_last_literal in any::<bool>(),
    ) {
        let content: Vec<u8> = parts.iter().flat_map(|(kind, octets)| content(*kind, *octets)).collect();
        let mut cuts: Vec<_> = cuts.iter().map(|(at, is_literal)| (at.index(content.len()), *is_literal)).collect();
        cuts.push((content.len(), is_last_literal));
        cuts.sort_unstable();
        cuts.dedup_by_key(|(end, _)| *end);
        cuts.retain(|(end, _)| *end > 0);
        let starts = std::iter::once(0).chain(cuts.iter().map(|(end, _)| *end));
        let runs: Vec<Run> = starts.zip(&cuts).map(|(start, (end, is_literal))| Run { octets: start..*end, is_literal: *is_literal }).collect();
        // A division that does not fit into the bound is an error.
        if let Ok(stream) = zlib_stream_in_runs(&content, runs) {
            prop_assert_eq!(&inflate_with_miniz(&stream), &content);
            prop_assert_eq!(&inflate(&stream, 1 << 20).unwrap(), &content);
        }
        let stream = zlib_stream(b"", &content).unwrap();
        prop_assert_eq!(&inflate_with_miniz(&stream), &content);
    }

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
