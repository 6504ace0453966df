//! Every mail of `tests/corpus` is described by its row as expected and stored octet for octet.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use serde_json::{Value, json};

use testkit::store::{StoredMail, mails_after};
use testkit::{Client, Server, stuffed, test, without_trace};

#[test]
fn corpus_mails_sent_with_data_have_expected_rows_and_unchanged_content() {
    let server = Server::start(&[("GSMTP_MAX_SIZE", "2000000")]);
    let cases = cases();
    let mut client = server.client();
    client.command("EHLO corpus.test", "250");
    for case in &cases {
        begin(&mut client, &case.name);
        client.command("DATA", "354 ");
        client.send(stuffed(&case.content));
        client.expect("250 2.0.0 OK : queued as ");
    }
    let rows = mails_after(&server.path("goguerrilla.db"), 0);
    assert_rows_match(&cases, &rows);
    for (case, row) in cases.iter().zip(&rows) {
        let shown = server.show(&row.hash);
        assert!(shown == row.mail, "`show` of {} differs", case.name);
    }
}

#[test]
fn corpus_mails_sent_with_bdat_have_the_same_rows_and_content() {
    let server = Server::start(&[("GSMTP_MAX_SIZE", "2000000")]);
    let cases = cases();
    let mut client = server.client();
    client.command("EHLO corpus.test", "250");
    for case in &cases {
        begin(&mut client, &case.name);
        // Two chunks; the boundary may lie within a line or a character.
        let (first, last) = case.content.split_at(case.content.len() / 3);
        client.send([format!("BDAT {}\r\n", first.len()).as_bytes(), first].concat());
        client.expect("250 2.0.0 ");
        client.send([format!("BDAT {} LAST\r\n", last.len()).as_bytes(), last].concat());
        client.expect("250 2.0.0 OK : queued as ");
    }
    assert_rows_match(&cases, &mails_after(&server.path("goguerrilla.db"), 0));
}

fn begin(client: &mut Client, name: &str) {
    client.command(&format!("MAIL FROM:<{name}@client.test>"), "250 2.1.0 ");
    client.command(&format!("RCPT TO:<{name}@ours.test>"), "250 2.1.5 ");
}

struct Case {
    name: String,
    content: Vec<u8>,
    expected: Value,
}

impl Case {
    fn load(file: &Path) -> Case {
        let name = file.file_stem().expect("a file name").to_string_lossy();
        let mut content = fs::read(file).expect("a mail");
        // Content sent with DATA always ends in CR LF.
        if !content.is_empty() && !content.ends_with(b"\r\n") {
            content.extend_from_slice(b"\r\n");
        }
        let expected = fs::read(file.with_extension("expected")).expect("what is expected of it");
        Case {
            name: name.into_owned(),
            content,
            expected: serde_json::from_slice(&expected).expect("a JSON object"),
        }
    }

    /// Returns how the row differs from what is expected, if it does.
    fn difference(&self, row: &StoredMail) -> Option<String> {
        let Case {
            name,
            content,
            expected,
        } = self;
        let attach_info = match row.attach_info.as_str() {
            "" => json!([]),
            text => serde_json::from_str(text).unwrap_or(Value::Null),
        };
        let described = json!({
            "subject": row.subject,
            "charset": row.charset,
            "content_type": row.content_type,
            "has_attach": row.has_attach,
            "attach_info": attach_info,
        });
        if described != *expected {
            return Some(format!("{name}: found {described}\nexpected {expected}"));
        }
        (without_trace(&row.mail) != content).then(|| format!("{name}: the content differs"))
    }
}

fn assert_rows_match(cases: &[Case], rows: &[StoredMail]) {
    assert_eq!(rows.len(), cases.len());
    for (Case { name, .. }, row) in cases.iter().zip(rows) {
        assert_eq!(row.from, format!("{name}@client.test"));
        assert_eq!(row.to, format!("{name}@primary.test"));
        assert_eq!(row.recipient, format!("{name}@ours.test"));
        assert_constant_columns(row);
        assert_trace_fields(row);
    }
    let pairs = cases.iter().zip(rows);
    let wrong: Vec<String> = pairs
        .filter_map(|(case, row)| case.difference(row))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

/// Asserts the columns that are the same for every mail of this test.
fn assert_constant_columns(row: &StoredMail) {
    assert_eq!(row.body, "gzencode");
    assert_eq!(row.spam_score, 0.0);
    assert_eq!(row.delivered, 0);
    assert_eq!(row.dkim_valid, rusqlite::types::Value::Null);
    assert_eq!(row.ip_addr, "127.0.0.1");
    let is_hash = |octet: u8| octet.is_ascii_digit() || (b'a'..=b'f').contains(&octet);
    assert!(
        row.hash.len() == 32 && row.hash.bytes().all(is_hash),
        "{}",
        row.hash
    );
    DateTime::strptime("%Y-%m-%d %H:%M:%S", &row.date).expect("a date and a time");
    assert_eq!(row.date.len(), "2026-01-02 03:04:05".len());
}

/// Asserts the five lines of trace fields before the content.
fn assert_trace_fields(row: &StoredMail) {
    let trace = &row.mail[..row.mail.len() - without_trace(&row.mail).len()];
    let trace = std::str::from_utf8(trace).expect("UTF-8");
    let (fields, date) = trace.rsplit_once("\r\n\t").expect("folded lines");
    let (from, to, hash) = (&row.from, &row.to, &row.hash);
    assert_eq!(
        fields,
        format!(
            "Return-Path: <{from}>\r\n\
             Delivered-To: {to}\r\n\
             Received: from corpus.test (corpus.test [127.0.0.1])\r\n\
             \tby mx.test with ESMTP id {hash}@mx.test;"
        )
    );
    let date = date.strip_suffix("\r\n").expect("a whole line");
    jiff::fmt::rfc2822::parse(date).expect("a date as mail has it");
}

fn cases() -> Vec<Case> {
    let folder = testkit::root_folder().join("tests/corpus");
    let entries = fs::read_dir(folder).expect("the corpus");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|file| file.extension().is_some_and(|ext| ext == "eml"))
        .collect();
    assert!(!files.is_empty(), "an empty corpus");
    files.sort();
    files.iter().map(|file| Case::load(file)).collect()
}
