//! What the columns tell about any content: one line each, and never much time; and what must not make a difference.
//! Where two octets 0 stand in it, what is between them is repeated, so that what is not linear shows.
#![no_main]

use goguerrilla::mail::Summary;
use libfuzzer_sys::fuzz_target;
use nix::time::{ClockId, clock_gettime};

fuzz_target!(|data: &[u8]| {
    let content = repeated(data);
    let before = processor_time();
    let summary = Summary::parse(&content);
    let took = processor_time() - before;
    // A microsecond an octet, in a build that counts each branch, and a moment for whatever else happens.
    let octets = content.len();
    let most = 50_000_000 + octets as i64 * 1_000;
    assert!(took < most, "{} ms for {octets} octets", took / 1_000_000);
    check_texts(&summary, octets);
    check_mark(&content, &summary);
    check_part(&content, &summary);
    check_fold(data);
});

/// Each text is one line and no longer than its octets can be.
fn check_texts(summary: &Summary, octets: usize) {
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
    let (kind, subtype) = text.split_once('/').expect("a slash");
    for word in [kind, subtype] {
        let is_token = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?=".contains(c);
        assert!(!word.is_empty() && word.chars().all(is_token), "{text:?}");
    }
    assert_eq!(text, text.to_ascii_lowercase());
}

/// A byte order mark in front makes no difference.
fn check_mark(content: &[u8], summary: &Summary) {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if !content.starts_with(MARK) {
        assert_eq!(Summary::parse(&[MARK, content].concat()), *summary);
    }
}

/// As a part of another mail, content has the same attachments, as long as it is not nested too deep to be looked into.
fn check_part(content: &[u8], summary: &Summary) {
    let unfolded = content.iter().filter(|octet| !b"\r\n".contains(octet));
    let unfolded: Vec<u8> = unfolded.map(u8::to_ascii_lowercase).collect();
    let count = |text: &[u8]| unfolded.windows(text.len()).filter(|w| *w == text).count();
    if count(b"boundary") > 8 || count(b"the-outer-one") > 0 {
        return;
    }
    let wrapped = [
        &b"Content-Type: multipart/mixed; boundary=the-outer-one\r\n\r\n--the-outer-one\r\n"[..],
        content,
        b"\r\n--the-outer-one--\r\n",
    ];
    let seen = |summary: &Summary| -> Vec<(String, usize)> {
        let attachments = summary.attachments.iter();
        attachments
            .map(|attachment| (attachment.media_type.clone(), attachment.octets))
            .collect()
    };
    assert_eq!(seen(&Summary::parse(&wrapped.concat())), seen(summary));
}

/// A subject says the same folded and on one line.
fn check_fold(data: &[u8]) {
    let line: Vec<u8> = data
        .iter()
        .copied()
        .filter(|octet| !b"\r\n".contains(octet))
        .take(4_000)
        .collect();
    let Some(at) = line.iter().position(|octet| b" \t".contains(octet)) else {
        return;
    };
    let (before, behind) = line.split_at(at);
    let whole = [b"Subject: x", &line[..], b"\r\n\r\n"].concat();
    let folded = [b"Subject: x", before, b"\r\n", behind, b"\r\n\r\n"].concat();
    assert_eq!(Summary::parse(&whole).subject, Summary::parse(&folded).subject);
}

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
