//! The content after 354, compared with a slow and obviously correct model, for any packet boundaries.
#![no_main]

use goguerrilla::internals::smtp::TlsState;
use goguerrilla_fuzz::{Dialogue, StepOutput, split_three_ways};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let expected = model(stream);
    for (max_content, max_budget) in [(1 << 20, 1 << 20), (20, 1 << 20), (1 << 20, 5_000)] {
        for pieces in split_three_ways(stream) {
            let mut dialogue = Dialogue::new(max_content, max_budget, TlsState::Unavailable);
            dialogue.receive(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n");
            let found = read(&mut dialogue, &pieces);
            match (&expected, found) {
                (None, None) => {}
                (Some((content, rest)), Some((step, unused))) => {
                    assert_eq!(*rest, unused);
                    match step {
                        StepOutput::Save(mail) => {
                            assert_eq!(mail.content, *content);
                            assert!(content.len() <= max_content);
                        }
                        StepOutput::Reply(552, _) => assert!(content.len() > max_content),
                        // Memory is reserved for the whole buffer before the buffer is full.
                        StepOutput::Reply(452, _) => {
                            assert!(max_budget < 2 * content.len().max(4_096))
                        }
                        step => panic!("{step:?}"),
                    }
                }
                (expected, found) => panic!("{expected:?}, but found {found:?}"),
            }
            dialogue.end();
        }
    }
});

/// Returns the first step and the octets that are unread at that time.
fn read(dialogue: &mut Dialogue, pieces: &[&[u8]]) -> Option<(StepOutput, Vec<u8>)> {
    for (index, piece) in pieces.iter().enumerate() {
        let mut rest = *piece;
        while !rest.is_empty() {
            rest = &rest[dialogue.fill(rest)..];
            if let Some(step) = dialogue.next() {
                let later = pieces[index + 1..].concat();
                return Some((step, [dialogue.unread(), rest, &later].concat()));
            }
            assert!(
                dialogue.unread().len() <= 2,
                "at most two octets are unread"
            );
        }
    }
    None
}

/// Returns the content and the octets after its end. Reads line by line, where only CR LF ends a line.
fn model(stream: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut content = Vec::new();
    let mut rest = stream;
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line == b"." {
            return Some((content, rest.to_vec()));
        }
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        content.extend_from_slice(b"\r\n");
    }
}
