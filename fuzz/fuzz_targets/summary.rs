//! What the columns tell about any content: one line each, and never much time. Where two octets 0 stand in it, what is
//! between them is repeated, so that what is not linear shows.
#![no_main]

use goguerrilla::mail::Summary;
use libfuzzer_sys::fuzz_target;
use nix::time::{ClockId, clock_gettime};

fuzz_target!(|data: &[u8]| {
    let content = repeated(data);
    let before = processor_time();
    let summary = Summary::of(&content);
    let took = processor_time() - before;
    // A microsecond an octet, in a build that counts each branch, and a moment for whatever else happens.
    let octets = content.len();
    let most = 50_000_000 + octets as i64 * 1_000;
    assert!(took < most, "{} ms for {octets} octets", took / 1_000_000);
    let texts = [&summary.subject, &summary.charset, &summary.content_type];
    let names = summary
        .attachments
        .iter()
        .map(|attachment| &attachment.name);
    for text in texts.into_iter().chain(names) {
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\t'),
            "{text:?}"
        );
        assert!(text.len() <= 4 * octets + 10);
    }
    assert!(summary.attachments.len() <= 4_096);
    for attachment in &summary.attachments {
        assert!(attachment.octets <= octets);
    }
});

fn repeated(data: &[u8]) -> Vec<u8> {
    let mut parts = data.splitn(3, |octet| *octet == 0);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(start), Some(unit), Some(end)) if !unit.is_empty() => {
            [start, &unit.repeat(REPEATED_OCTETS / unit.len()), end].concat()
        }
        _ => data.to_vec(),
    }
}

/// Of this thread, in nanoseconds.
fn processor_time() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

const REPEATED_OCTETS: usize = 100_000;
