//! Micro-benchmarks of the code that each mail passes: no socket, no store, no other program.
//!
//! `cargo bench --bench micro` prints one table in about three seconds; `-- FILTER` runs the benchmarks whose name contains
//! FILTER. `cargo test --bench micro` runs each of them once. Each benchmark asserts that its code returns the expected result,
//! so that a benchmark of something else, such as an error path, fails.

use std::hint::black_box;
use std::time::Duration;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use goguerrilla::Mail;

mod sample_mails;

fn main() {
    divan::Divan::default()
        .sample_count(MAX_SAMPLES)
        .max_time(MAX_TIME)
        .config_with_args()
        .main();
}

/// Maximum duration of one benchmark, which can end earlier.
const MAX_TIME: Duration = Duration::from_millis(200);
/// Maximum number of samples; their median is the figure that other programs disturb least.
const MAX_SAMPLES: u32 = 1_000;
/// The short and the long message of the load benchmarks.
const SHORT: usize = 2_000;
const LONG: usize = 100_000;
/// Lines of base64 in a mail of 100 KB.
const LONG_ATTACHMENT_LINES: usize = LONG / 78;
/// Lines of quoted-printable in a mail of 100 KB.
const LONG_ESCAPED_LINES: usize = LONG / 75;

/// Returns a mail to one recipient.
fn mail(content: impl Into<Vec<u8>>) -> Mail {
    let builder = Mail::builder().recipient("user@ours.test").content(content);
    builder.build().expect("a mail")
}

/// Content after DATA, read through the input buffer of a connection.
mod data_reader {
    use goguerrilla::internals::smtp::{
        CONTENT_READ_SIZE, ContentSink, DataReader, InputBuffer, MemoryBudget, MessageOctets,
    };

    use super::*;
    use crate::sample_mails::{stuff_dots, text_mail, text_with_leading_dots};

    #[divan::bench]
    fn text_2_kb(bencher: Bencher) {
        measure(bencher, &text_mail(SHORT), usize::MAX);
    }

    #[divan::bench]
    fn text_100_kb(bencher: Bencher) {
        measure(bencher, &text_mail(LONG), usize::MAX);
    }

    #[divan::bench]
    fn text_100_kb_in_packets_of_1448(bencher: Bencher) {
        measure(bencher, &text_mail(LONG), 1_448);
    }

    #[divan::bench]
    fn text_2_kb_in_packets_of_1(bencher: Bencher) {
        measure(bencher, &text_mail(SHORT), 1);
    }

    #[divan::bench]
    fn dot_before_each_line_100_kb(bencher: Bencher) {
        measure(bencher, &text_with_leading_dots(LONG), usize::MAX);
    }

    /// Reads `content` as a client sends it, in packets of at most `packet_octets`.
    fn measure(bencher: Bencher, content: &str, packet_octets: usize) {
        let stream = stuff_dots(content);
        let budget = MemoryBudget::new(usize::MAX);
        // A connection keeps its buffer between mails.
        let mut input = InputBuffer::new();
        let mut read = || read_message(stream.as_bytes(), packet_octets, &mut input, &budget);
        assert_eq!(read().octets(), content.as_bytes());
        let octets = BytesCount::new(stream.len());
        bencher.counter(octets).bench_local(read);
    }

    fn read_message(
        stream: &[u8],
        packet_octets: usize,
        input: &mut InputBuffer,
        budget: &MemoryBudget,
    ) -> MessageOctets {
        let mut reader = DataReader::new(MessageOctets::new(usize::MAX, budget));
        let mut rest = black_box(stream);
        let mut is_end_of_message = false;
        while !rest.is_empty() {
            let spare = input.spare_mut(CONTENT_READ_SIZE);
            let count = spare.len().min(rest.len()).min(packet_octets);
            spare[..count].copy_from_slice(&rest[..count]);
            input.mark_spare_octets_as_filled(count);
            rest = &rest[count..];
            let progress = reader.read(input.unconsumed_octets());
            input.consume(progress.used);
            is_end_of_message = progress.is_end_of_message;
        }
        match reader.into_content_sink() {
            ContentSink::Storing(content) if is_end_of_message => content,
            other => panic!("no whole message: {other:?}"),
        }
    }
}

/// Command lines without their CR LF.
mod command_parser {
    use goguerrilla::internals::smtp::{
        MailCommand, Verb, parse_helo_name, parse_rcpt, split_verb_and_argument,
    };

    use super::*;

    const EHLO: &[u8] = b"EHLO mail-ej1-f54.client.test";
    const MAIL: &[u8] =
        b"MAIL FROM:<bounce+alice=ours.test@news.client.test> SIZE=34567 BODY=8BITMIME";
    const RCPT: &[u8] = b"RCPT TO:<alice.smith@mail.ours.test>";
    const RCPT_U_LABEL: &[u8] = "RCPT TO:<alice@münchen.ours.test>".as_bytes();
    const UNKNOWN: &[u8] = b"FOO bar";

    #[divan::bench]
    fn ehlo(bencher: Bencher) {
        let parse = || {
            let (verb, argument) = split_verb_and_argument(black_box(EHLO));
            (verb, parse_helo_name(argument))
        };
        let expected = (Some(Verb::Ehlo), Ok("mail-ej1-f54.client.test"));
        assert_eq!(parse(), expected);
        bencher.bench(parse);
    }

    #[divan::bench]
    fn mail(bencher: Bencher) {
        let parse = || {
            let (verb, argument) = split_verb_and_argument(black_box(MAIL));
            (verb, MailCommand::parse(argument).expect("a command"))
        };
        let (verb, command) = parse();
        assert_eq!(verb, Some(Verb::Mail));
        assert_eq!(command.parameters.size, Some(34_567));
        let path = command.reverse_path.as_str();
        assert_eq!(path, "bounce+alice=ours.test@news.client.test");
        bencher.bench(parse);
    }

    #[divan::bench]
    fn rcpt(bencher: Bencher) {
        measure_rcpt(bencher, RCPT, "alice.smith@mail.ours.test");
    }

    #[divan::bench]
    fn rcpt_with_u_label(bencher: Bencher) {
        measure_rcpt(bencher, RCPT_U_LABEL, "alice@xn--mnchen-3ya.ours.test");
    }

    #[divan::bench]
    fn unknown_verb(bencher: Bencher) {
        let parse = || split_verb_and_argument(black_box(UNKNOWN));
        assert_eq!(parse(), (None, &b"bar"[..]));
        bencher.bench(parse);
    }

    fn measure_rcpt(bencher: Bencher, line: &[u8], mailbox: &str) {
        let parse = || {
            let (verb, argument) = split_verb_and_argument(black_box(line));
            (verb, parse_rcpt(argument, true).expect("a command"))
        };
        let (verb, path) = parse();
        assert_eq!(verb, Some(Verb::Rcpt));
        assert_eq!(path.mailbox_address(), mailbox);
        bencher.bench(parse);
    }
}

/// Subject, charset, media type and attachments of a message.
mod mime_summary {
    use goguerrilla::internals::mail::MimeSummary;
    use goguerrilla::internals::store::{Row, TableColumns};
    use serde_json::{Value, json};

    use super::*;
    use crate::sample_mails::{
        CorpusMail, OCTETS_OF_BASE64_LINE, OCTETS_OF_ESCAPED_LINE, html_newsletter,
        mail_of_empty_attachments, mail_with_attachment,
        nested_multiparts_with_lines_like_delimiters, quoted_printable_attachment, text_mail,
    };

    /// Mails of `tests/corpus` that are malformed, deeply nested or long.
    const HOSTILE: [&str; 6] = [
        "broken-encoded-words",
        "long-parameters",
        "name-2231-oddities",
        "nested-multiparts",
        "one-megabyte",
        "words-oddities",
    ];

    #[divan::bench]
    fn text_2_kb(bencher: Bencher) {
        let summary = measure(bencher, text_mail(SHORT).as_bytes());
        assert_eq!(summary.subject, "Minutes of the meeting");
        assert_eq!(summary.charset, "utf-8");
    }

    #[divan::bench]
    fn base64_attachment_100_kb(bencher: Bencher) {
        let content = mail_with_attachment(LONG_ATTACHMENT_LINES);
        let summary = measure(bencher, content.as_bytes());
        let attachment = &summary.attachments[0];
        assert_eq!(attachment.name, "report.pdf");
        let decoded = LONG_ATTACHMENT_LINES * OCTETS_OF_BASE64_LINE;
        assert_eq!(attachment.octets, decoded);
    }

    #[divan::bench]
    fn html_newsletter_50_kb(bencher: Bencher) {
        let summary = measure(bencher, html_newsletter().as_bytes());
        assert_eq!(summary.subject, "Grüße aus München und Köln");
        assert_eq!(summary.content_type, "multipart/alternative");
        assert!(summary.attachments.is_empty());
    }

    #[divan::bench]
    fn empty_attachments_1_mb(bencher: Bencher) {
        let summary = measure(bencher, mail_of_empty_attachments().as_bytes());
        assert_eq!(summary.attachments.len(), 4_096);
    }

    #[divan::bench]
    fn quoted_printable_attachment_100_kb(bencher: Bencher) {
        let content = quoted_printable_attachment(LONG_ESCAPED_LINES);
        let summary = measure(bencher, content.as_bytes());
        let decoded = LONG_ESCAPED_LINES * OCTETS_OF_ESCAPED_LINE;
        assert_eq!(summary.attachments[0].octets, decoded);
    }

    #[divan::bench]
    fn lines_like_delimiters_in_10_levels_1_mb(bencher: Bencher) {
        let content = nested_multiparts_with_lines_like_delimiters();
        let summary = measure(bencher, content.as_bytes());
        assert!(summary.attachments.is_empty());
    }

    #[divan::bench(args = HOSTILE)]
    fn hostile(bencher: Bencher, name: &str) {
        let CorpusMail { content, expected } = CorpusMail::load(name);
        measure(bencher, &content);
        // The corpus states the values of the columns, which truncate some of these texts.
        let mail = mail(content);
        assert_eq!(as_json(&Row::new(&mail, &TableColumns::DEFAULT)), expected);
    }

    fn measure(bencher: Bencher, content: &[u8]) -> MimeSummary {
        let parse = || MimeSummary::parse(black_box(content));
        let octets = BytesCount::new(content.len());
        bencher.counter(octets).bench(parse);
        parse()
    }

    /// Returns the values as the files of the corpus state them.
    fn as_json(row: &Row) -> Value {
        let attach_info = match row.attach_info.as_str() {
            "" => json!([]),
            text => serde_json::from_str(text).expect("a JSON array"),
        };
        json!({
            "subject": row.subject,
            "charset": row.charset,
            "content_type": row.content_type,
            "has_attach": row.has_attach,
            "attach_info": attach_info,
        })
    }
}

/// The zlib stream of trace fields and content that stores write.
mod zlib_body {
    use goguerrilla::internals::mail::inflate;

    use super::*;
    use crate::sample_mails::{mail_with_attachment, text_mail};

    #[divan::bench]
    fn text_2_kb(bencher: Bencher) {
        measure(bencher, text_mail(SHORT), 0.3..0.7);
    }

    #[divan::bench]
    fn text_100_kb(bencher: Bencher) {
        measure(bencher, text_mail(LONG), 0.2..0.5);
    }

    #[divan::bench]
    fn base64_2_kb(bencher: Bencher) {
        measure(bencher, mail_with_attachment(SHORT / 78), 0.7..1.0);
    }

    #[divan::bench]
    fn base64_100_kb(bencher: Bencher) {
        let content = mail_with_attachment(LONG_ATTACHMENT_LINES);
        measure(bencher, content, 0.7..0.8);
    }

    /// Compresses a mail to one recipient; the compressed size divided by the size of the content must be in `ratio`.
    fn measure(bencher: Bencher, content: String, ratio: std::ops::Range<f64>) {
        let mail = mail(content);
        let recipient = &mail.recipients()[0];
        let compress = || black_box(&mail).zlib_body(recipient).expect("a body");
        let body = compress();
        let plain = [mail.trace_fields(recipient).as_bytes(), mail.content()].concat();
        assert_eq!(inflate(&body, plain.len()), Ok(plain));
        let found = body.len() as f64 / mail.content().len() as f64;
        assert!(ratio.contains(&found), "{found}");
        let octets = BytesCount::new(mail.content().len());
        bencher.counter(octets).bench(compress);
    }
}

/// The column values of a mail whose summary is known.
mod row {
    use goguerrilla::internals::store::{Row, TableColumns};

    use super::*;
    use crate::sample_mails::{CorpusMail, mail_of_empty_attachments, text_mail};

    #[divan::bench]
    fn text(bencher: Bencher) {
        let mail = mail(text_mail(SHORT));
        let row = measure(bencher, &mail);
        assert_eq!(row.subject, "Minutes of the meeting");
        assert_eq!(row.attach_info, "");
        assert_eq!(row.ip_addr, "127.0.0.1");
    }

    #[divan::bench]
    fn attachments_with_encoded_names(bencher: Bencher) {
        let corpus = CorpusMail::load("rfc2231-names");
        let mail = mail(corpus.content);
        let row = measure(bencher, &mail);
        let attach_info: serde_json::Value =
            serde_json::from_str(&row.attach_info).expect("a JSON array");
        assert_eq!(attach_info, corpus.expected["attach_info"]);
    }

    /// The list of attachments is longer than its column.
    #[divan::bench]
    fn attachments_truncated_at_64_kb(bencher: Bencher) {
        let mail = mail(mail_of_empty_attachments());
        let row = measure(bencher, &mail);
        assert!((65_400..=65_535).contains(&row.attach_info.len()));
    }

    fn measure<'a>(bencher: Bencher, mail: &'a Mail) -> Row<'a> {
        // The first call of `new` parses the content, the others do not.
        let row = Row::new(mail, &TableColumns::DEFAULT);
        bencher.bench(|| Row::new(black_box(mail), &TableColumns::DEFAULT));
        row
    }
}

/// GM_ALLOWED_HOSTS with few and many items: half of them domains, half of them `*.` and a parent.
mod allowed_hosts {
    use goguerrilla::Config;
    use goguerrilla::internals::server::LoadedAllowedHosts;
    use goguerrilla::internals::smtp::{AcceptedDomains, ForwardPath};

    use super::*;

    const ITEMS: [usize; 3] = [10, 10_000, 100_000];
    /// Look-ups of one iteration, spread over all items.
    const LOOK_UPS: usize = 1_000;

    #[divan::bench(args = ITEMS)]
    fn load(bencher: Bencher, items: usize) {
        let patterns = patterns(items);
        let load = || domains(black_box(&patterns));
        let example = load().example_allowed_domain();
        assert_eq!(example.as_deref(), Some("n0.example"));
        bencher.counter(ItemsCount::new(items)).bench(load);
    }

    #[divan::bench(args = ITEMS)]
    fn load_file(bencher: Bencher, items: usize) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), patterns(items).join("\n")).expect("a file is written");
        let item = format!("@{}", file.path().display());
        let config = Config::builder().allowed_hosts([&item]).build();
        let config = config.expect("a valid configuration");
        let load = || LoadedAllowedHosts::load(black_box(&config)).expect("valid domains");
        assert_eq!(load().domains().item_count(), items);
        bencher.counter(ItemsCount::new(items)).bench(load);
    }

    #[divan::bench(args = ITEMS)]
    fn accept_domain(bencher: Bencher, items: usize) {
        look_up(bencher, items, true, |n| format!("<u@n{n}.example>"));
    }

    #[divan::bench(args = ITEMS)]
    fn accept_subdomain(bencher: Bencher, items: usize) {
        look_up(bencher, items, true, |n| format!("<u@a.b.w{n}.example>"));
    }

    #[divan::bench(args = ITEMS)]
    fn reject_domain(bencher: Bencher, items: usize) {
        look_up(bencher, items, false, |n| {
            format!("<u@a.foreign{n}.example>")
        });
    }

    /// Looks up recipients; `recipient` returns the path for a number below half the number of items.
    fn look_up(
        bencher: Bencher,
        items: usize,
        is_accepted: bool,
        recipient: impl Fn(usize) -> String,
    ) {
        let allowed = domains(&patterns(items));
        let path = |number: usize| {
            // 7,919 is prime, so that successive look-ups are far apart.
            let text = recipient(number * 7_919 % (items / 2));
            ForwardPath::parse(&text).expect("a path").0
        };
        let paths: Vec<ForwardPath> = (0..LOOK_UPS).map(path).collect();
        let accepted = || {
            let paths = black_box(&paths).iter();
            paths
                .filter(|path| allowed.accepts_recipient_path(path))
                .count()
        };
        assert_eq!(accepted(), if is_accepted { LOOK_UPS } else { 0 });
        bencher.counter(ItemsCount::new(LOOK_UPS)).bench(accepted);
    }

    fn patterns(items: usize) -> Vec<String> {
        let pattern = |number: usize| match number % 2 {
            0 => format!("n{}.example", number / 2),
            _ => format!("*.w{}.example", number / 2),
        };
        (0..items).map(pattern).collect()
    }

    fn domains(patterns: &[String]) -> AcceptedDomains {
        let patterns = patterns.iter().map(String::as_str);
        AcceptedDomains::from_host_patterns(patterns).expect("valid domains")
    }
}
