//! Summaries of arbitrary content: one line per text, linear time, and the same result for equivalent contents.
//!
//! If the input contains two octets 0, the part between them is repeated, so that more than linear time is noticed.
#![no_main]

use goguerrilla::internals::mail::MimeSummary;
use libfuzzer_sys::fuzz_target;
use nix::time::{ClockId, clock_gettime};

fuzz_target!(|data: &[u8]| {
    let content = repeat_middle(data);
    let before = processor_time();
    let summary = MimeSummary::parse(&content);
    let elapsed = processor_time() - before;
    // 1 µs per octet, because this build counts each branch, and 50 ms for other activity.
    let octets = content.len();
    let limit = 50_000_000 + octets as i64 * 1_000;
    assert!(
        elapsed < limit,
        "{} ms for {octets} octets",
        elapsed / 1_000_000
    );
    check_texts(&summary, octets);
    check_byte_order_mark(&content, &summary);
    check_as_part(&content, &summary);
    check_folding(data);
});

/// Asserts that each text is one line and not longer than its octets can be after decoding.
fn check_texts(summary: &MimeSummary, octets: usize) {
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
    assert!(!summary.charset.is_empty());
    assert_eq!(summary.charset.trim(), summary.charset);
    assert!(summary.attachments.len() <= 4_096);
    for attachment in &summary.attachments {
        assert!(attachment.octets <= octets);
        check_media_type(&attachment.media_type);
    }
    check_media_type(&summary.content_type);
}

fn check_media_type(text: &str) {
    let (top_level, subtype) = text.split_once('/').expect("a slash");
    for word in [top_level, subtype] {
        let is_token = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?=".contains(c);
        assert!(!word.is_empty() && word.chars().all(is_token), "{text:?}");
    }
    assert_eq!(text, text.to_ascii_lowercase());
}

/// Asserts that a byte order mark at the start changes nothing.
fn check_byte_order_mark(content: &[u8], summary: &MimeSummary) {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if !content.starts_with(MARK) {
        assert_eq!(MimeSummary::parse(&[MARK, content].concat()), *summary);
    }
}

/// Asserts that content has the same attachments as a part of another message, unless the maximum depth is exceeded.
fn check_as_part(content: &[u8], summary: &MimeSummary) {
    let unfolded = content.iter().filter(|octet| !b"\r\n".contains(octet));
    let unfolded: Vec<u8> = unfolded.map(u8::to_ascii_lowercase).collect();
    let count = |text: &[u8]| unfolded.windows(text.len()).filter(|w| *w == text).count();
    if count(b"boundary") > 8 || count(b"outer-boundary") > 0 {
        return;
    }
    let wrapped = [
        &b"Content-Type: multipart/mixed; boundary=outer-boundary\r\n\r\n--outer-boundary\r\n"[..],
        content,
        b"\r\n--outer-boundary--\r\n",
    ];
    let attachments_of = |summary: &MimeSummary| -> Vec<(String, usize)> {
        let attachments = summary.attachments.iter();
        attachments
            .map(|attachment| (attachment.media_type.clone(), attachment.octets))
            .collect()
    };
    assert_eq!(
        attachments_of(&MimeSummary::parse(&wrapped.concat())),
        attachments_of(summary)
    );
}

/// Asserts that a folded subject is decoded like one on a single line.
fn check_folding(data: &[u8]) {
    let line: Vec<u8> = data
        .iter()
        .copied()
        .filter(|octet| !b"\r\n".contains(octet))
        .take(4_000)
        .collect();
    let Some(at) = line.iter().position(|octet| b" \t".contains(octet)) else {
        return;
    };
    let (before, after) = line.split_at(at);
    let whole = [b"Subject: x", &line[..], b"\r\n\r\n"].concat();
    let folded = [b"Subject: x", before, b"\r\n", after, b"\r\n\r\n"].concat();
    assert_eq!(
        MimeSummary::parse(&whole).subject,
        MimeSummary::parse(&folded).subject
    );
}

/// Repeats the part between two octets 0, up to [`REPEATED_OCTETS`].
fn repeat_middle(data: &[u8]) -> Vec<u8> {
    let mut parts = data.splitn(3, |octet| *octet == 0);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(start), Some(unit), Some(end)) if !unit.is_empty() => {
            [start, &unit.repeat(REPEATED_OCTETS / unit.len()), end].concat()
        }
        _ => data.to_vec(),
    }
}

/// Returns the processor time of this thread in nanoseconds.
fn processor_time() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has it");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}

const REPEATED_OCTETS: usize = 100_000;
