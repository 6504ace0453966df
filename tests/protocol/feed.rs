//! The feed over HTTP: what its readers get, who may read it, and that neither slow nor hostile readers delay mail.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use testkit::feed::FeedReader;
use testkit::status::{STATUS, address, figures, get, wait_for_metric};
use testkit::steps::{reload, send_mail};
use testkit::{
    AT_ONCE, Server, assert_took, connect_with_small_buffers, short_mail, test, wait_for,
};

const FEED: (&str, &str) = ("GM_FEED", "http");

/// Delivers a mail with one recipient for each address.
fn deliver_to(server: &Server, recipients: &[&str], content: &[u8]) {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<sender@client.test> SMTPUTF8", "250");
    for recipient in recipients {
        client.command(&format!("RCPT TO:<{recipient}>"), "250");
    }
    client.command("DATA", "354");
    let (reply, _) = client.send_content(content);
    assert_eq!(reply.code, 250, "{}", reply.text());
}

/// Returns the entries without their dates, sorted by hash, and asserts that they have exactly the expected fields.
fn without_dates(mut entries: Vec<Value>) -> Vec<Value> {
    for entry in &mut entries {
        let fields = entry.as_object_mut().expect("an object");
        let date = fields.remove("date").expect("a date");
        assert_eq!(
            date.as_str().map(str::len),
            Some("2026-11-30 22:22:35".len())
        );
        assert_eq!(fields.len(), 6, "{fields:?}");
    }
    entries.sort_by_key(|entry| entry["hash"].to_string());
    entries
}

#[test]
fn reader_gets_one_entry_for_each_row_and_each_equals_its_row() {
    let server = Server::start(&[STATUS, FEED, ("GM_PRIMARY_MAIL_HOST", "mx.test")]);
    let mut earlier = FeedReader::open(&server, "/feed");
    deliver_to(
        &server,
        &["early@ours.test"],
        &short_mail("before the reader"),
    );
    // An entry follows the reply to its mail, and may be later than the next reader.
    assert_eq!(earlier.next_subjects(1), ["before the reader"]);
    drop(earlier);
    let mut reader = FeedReader::open(&server, "/feed");
    assert_eq!(reader.code, 200);
    let head = reader.head.to_ascii_lowercase();
    for field in [
        "content-type: text/event-stream\r\n",
        "cache-control: no-store\r\n",
        "connection: close\r\n",
    ] {
        assert!(head.contains(field), "{head}");
    }
    for field in ["access-control-", "content-length", "transfer-encoding"] {
        assert!(!head.contains(field), "{head}");
    }
    deliver_to(
        &server,
        &["a@ours.test", "b@theirs.test"],
        &short_mail("two rows"),
    );
    deliver_to(
        &server,
        &["@relay.test:c@ours.test"],
        &short_mail(&"long ".repeat(100)),
    );
    deliver_to(
        &server,
        &["postmaster"],
        &short_mail("=?UTF-8?B?R3LDvMOfZQ==?="),
    );
    deliver_to(&server, &["u@münchen.example"], b"no header section\r\n");
    let entries = (0..5)
        .map(|_| reader.next_entry().expect("an entry"))
        .collect();
    let mut rows = server.list();
    rows.retain(|row| row["recipient"] != "early@ours.test");
    assert_eq!(rows.len(), 5);
    assert_eq!(without_dates(entries), without_dates(rows));
}

#[test]
fn mail_that_is_not_saved_has_no_entry() {
    let server = Server::start(&[STATUS, FEED, ("GM_MAX_RECIPIENTS", "1")]);
    let mut reader = FeedReader::open(&server, "/feed");
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    drop(client);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("RCPT TO:<v@ours.test>", "452");
    client.command("DATA", "354");
    client.send_content(&short_mail("saved for one"));
    let entry = reader.next_entry().expect("an entry");
    assert_eq!(entry["recipient"], "u@ours.test");
    deliver_to(&server, &["w@ours.test"], &short_mail("next"));
    assert_eq!(reader.next_subjects(1), ["next"]);

    let discard = Server::start(&[STATUS, FEED, ("GM_STORE", "discard")]);
    let mut reader = FeedReader::open(&discard, "/feed");
    deliver_to(&discard, &["u@ours.test"], &short_mail("gone"));
    reader
        .socket()
        .shutdown(std::net::Shutdown::Write)
        .expect("an open socket");
    // The server notices that the reader is leaving, and has sent nothing but its first comment.
    assert_eq!(reader.next_entry(), None);
}

#[test]
fn reader_with_a_filter_gets_the_entries_of_one_recipient() {
    let server = Server::start(&[STATUS, FEED, ("GM_PRIMARY_MAIL_HOST", "mx.test")]);
    let mut by_recipient = FeedReader::open(&server, "/feed?to=U%2Btag@XN--mnchen-3ya.example");
    let mut by_to = FeedReader::open(&server, "/feed?to=b@mx.test");
    for (number, recipient) in [
        "a@ours.test",
        "u+tag@münchen.example",
        "b@ours.test",
        "u+tag@MÜNCHEN.example.",
    ]
    .iter()
    .enumerate()
    {
        deliver_to(&server, &[recipient], &short_mail(&number.to_string()));
    }
    assert_eq!(by_recipient.next_subjects(2), ["1", "3"]);
    assert_eq!(by_to.next_subjects(1), ["2"]);
    for query in [
        "to=",
        "to=nobody",
        "t=u@ours.test",
        "to=a@b&to=c@d",
        "to=a%0db@c",
    ] {
        let refused = FeedReader::open(&server, &format!("/feed?{query}"));
        assert_eq!(refused.code, 400, "{query}");
        assert!(
            refused.body().starts_with("expected no query, or to="),
            "{query}"
        );
    }
}

#[test]
fn hostile_subjects_and_addresses_do_not_break_out_of_their_event() {
    let server = Server::start(&[STATUS, FEED]);
    let mut reader = FeedReader::open(&server, "/feed");
    let subjects = [
        "=?UTF-8?Q?a=0D=0A=0D=0Adata:_{}=0Aid:_1?=",
        "=?UTF-8?Q?b=00=1B[31m=7F?=",
        "=?UTF-8?B?Y+KAqOKAqcKF4oCu?=",
        "d\",\"hash\":\"</script><script>alert(1)</script>",
        "e\\u0000 \\",
    ];
    for subject in subjects {
        deliver_to(&server, &["\"q\\\"}\"@ours.test"], &short_mail(subject));
    }
    for _ in subjects {
        let line = loop {
            let line = reader.next_line().expect("a line");
            if !line.is_empty() && !line.starts_with(':') {
                break line;
            }
        };
        assert!(
            !line
                .chars()
                .any(|c| c.is_control() || "\u{2028}\u{2029}\u{202e}".contains(c)),
            "{line:?}"
        );
        let json = line.strip_prefix("data: ").expect("only data lines");
        let entry: Value = serde_json::from_str(json).expect("JSON");
        assert_eq!(entry["recipient"], "\"q\\\"}\"@ours.test");
        let listed = server.list();
        let row = listed.iter().find(|row| row["hash"] == entry["hash"]);
        assert_eq!(row.expect("a row")["subject"], entry["subject"]);
    }
}

#[test]
fn request_of_a_foreign_page_or_client_is_refused() {
    let server = Server::start(&[STATUS, FEED, ("GSMTP_HOST_NAME", "mx.example.com")]);
    let port = address(&server).port();
    let local = format!("Host: 127.0.0.1:{port}");
    for (fields, code) in [
        (local.clone(), 200),
        ("Host: MX.example.com.".to_owned(), 200),
        (format!("{local}\r\nSec-Fetch-Site: same-origin"), 200),
        ("Host: rebound.test".to_owned(), 403),
        (format!("{local}\r\nHost: rebound.test"), 403),
        ("X-Host: localhost".to_owned(), 403),
        (format!("{local}\r\nSec-Fetch-Site: cross-site"), 403),
        (format!("{local}\r\nSec-Fetch-Site: same-site"), 403),
    ] {
        let request = format!("GET /feed HTTP/1.1\r\n{fields}\r\nOrigin: http://evil.test\r\n\r\n");
        let reader = FeedReader::open_with(&server, &request);
        assert_eq!(reader.code, code, "{fields}");
        assert!(
            !reader.head.to_ascii_lowercase().contains("access-control-"),
            "{fields}"
        );
        if code == 403 {
            assert!(reader.body().starts_with("forbidden: "), "{fields}");
        }
    }
    let absolute = "GET http://localhost/feed HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(FeedReader::open_with(&server, absolute).code, 404);

    // Another address of this machine is not in GM_FEED_CLIENTS, but other pages are for everybody.
    let elsewhere = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("a socket");
        let from: SocketAddr = (Ipv4Addr::new(127, 0, 0, 2), 0).into();
        socket.bind(&from.into()).expect("a loopback address");
        socket
            .connect(&address(&server).into())
            .expect("the server accepts");
        TcpStream::from(socket)
    };
    let refused = FeedReader::over(elsewhere(), "GET /feed HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(refused.code, 403);
    assert!(refused.body().contains("GM_FEED_CLIENTS"));
    let live = FeedReader::over(elsewhere(), "GET /livez HTTP/1.1\r\nHost: any.test\r\n\r\n");
    assert_eq!(live.code, 200);

    let off = Server::start(&[STATUS]);
    assert_eq!(FeedReader::open(&off, "/feed").code, 404);
    let head = FeedReader::open_with(&server, "HEAD /feed HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((head.code, head.body().as_str()), (200, ""));
}

#[test]
fn seventeenth_reader_gets_503_and_readers_do_not_use_up_other_connections() {
    let server = Server::start(&[STATUS, FEED]);
    let mut readers: Vec<FeedReader> = (0..16)
        .map(|_| FeedReader::open(&server, "/feed"))
        .collect();
    assert!(readers.iter().all(|reader| reader.code == 200));
    let refused = FeedReader::open(&server, "/feed");
    assert_eq!(refused.code, 503);
    assert!(
        refused.head.to_ascii_lowercase().contains("retry-after: "),
        "{}",
        refused.head
    );
    assert_eq!(figures(&server)["goguerrilla_feed_readers"], 16.0);
    // All 32 places of other requests are free.
    let held: Vec<TcpStream> = (0..31)
        .map(|_| TcpStream::connect(address(&server)).expect("a place"))
        .collect();
    assert_eq!(get(&server, "/livez").0, 200);
    drop(held);
    deliver_to(&server, &["u@ours.test"], &short_mail("for all"));
    for reader in &mut readers {
        assert_eq!(reader.next_subjects(1), ["for all"]);
    }
    // A reader that leaves is noticed, although no entry comes.
    readers.pop();
    wait_for_metric(&server, "goguerrilla_feed_readers", 15.0);
    assert_eq!(FeedReader::open(&server, "/feed").code, 200);
}

#[test]
fn slow_reader_is_disconnected_and_delays_no_mail() {
    let server = Server::start(&[STATUS, FEED]);
    let mut quick = FeedReader::open(&server, "/feed");
    let socket = connect_with_small_buffers(address(&server)).expect("the server accepts");
    let slow = FeedReader::over(socket, "GET /feed HTTP/1.1\r\nHost: localhost\r\n\r\n");
    // A subject of 255 characters of four octets; each of the 100 recipients has an entry.
    let subject = format!("=?UTF-8?B?{}?=", "8J+YgPCfmIDwn5iA".repeat(85));
    let recipients: Vec<String> = (0..100)
        .map(|number| format!("u{number}@ours.test"))
        .collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let started_at = Instant::now();
    let mut count = 0;
    // More octets than the buffers of the kernel hold, and fewer entries than the feed keeps.
    while !server.log().contains(" feed_reader_dropped ") {
        assert!(
            count < 9_000 || started_at.elapsed() < Duration::from_secs(60),
            "not dropped"
        );
        if count < 9_000 {
            let before = Instant::now();
            deliver_to(&server, &recipients, &short_mail(&subject));
            assert_took(before.elapsed(), AT_ONCE);
            count += recipients.len();
            for _ in &recipients {
                assert!(quick.next_entry().is_some());
            }
        }
    }
    wait_for_metric(&server, "goguerrilla_feed_readers", 1.0);
    drop(slow);
}

#[test]
fn readers_end_at_once_when_the_server_stops() {
    let mut server = Server::start(&[STATUS, FEED]);
    let mut reader = FeedReader::open(&server, "/feed");
    // This message keeps the server from stopping.
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    let started_at = Instant::now();
    server.signal(Signal::SIGTERM);
    assert_eq!(reader.next_entry(), None);
    assert_took(started_at.elapsed(), AT_ONCE);
    assert_eq!(FeedReader::open(&server, "/feed").code, 503);
    client.send_content(&short_mail("last"));
    drop(client);
    assert!(server.wait().success());
}

#[test]
fn sighup_turns_the_feed_on_and_off_and_changes_who_may_read_it() {
    let server = Server::start(&[STATUS]);
    assert_eq!(FeedReader::open(&server, "/feed").code, 404);
    send_mail(&server, "off").expect("250");
    reload(&server, &[STATUS, FEED]);
    let mut reader = FeedReader::open(&server, "/feed");
    deliver_to(&server, &["u@ours.test"], &short_mail("on"));
    assert_eq!(reader.next_subjects(1), ["on"]);
    reload(&server, &[STATUS, FEED, ("GM_FEED_CLIENTS", "192.0.2.1")]);
    assert_eq!(reader.next_entry(), None);
    assert_eq!(FeedReader::open(&server, "/feed").code, 403);
    reload(&server, &[STATUS, FEED]);
    let mut reader = FeedReader::open(&server, "/feed");
    assert_eq!(reader.code, 200);
    reload(&server, &[STATUS]);
    assert_eq!(reader.next_entry(), None);
    assert_eq!(FeedReader::open(&server, "/feed").code, 404);
    wait_for("no reader", || {
        (figures(&server)["goguerrilla_feed_readers"] == 0.0).then_some(())
    });
}

#[test]
fn kill_9_leaves_no_entry_without_its_row() {
    let mut server = Server::start(&[STATUS, FEED]);
    let mut reader = FeedReader::open(&server, "/feed");
    let load = testkit::load::Load::start(server.address, 8, "feed");
    load.wait_for_more(200);
    server.kill();
    load.stop();
    let mut hashes = Vec::new();
    while let Some(entry) = reader.next_entry() {
        hashes.push(entry["hash"].as_str().expect("a hash").to_owned());
    }
    assert!(hashes.len() > 100, "{}", hashes.len());
    let stored = testkit::store::mails_after(&server.path("goguerrilla.db"), 0);
    for hash in hashes {
        assert!(
            stored.iter().any(|mail| mail.hash == hash),
            "{hash} has no row"
        );
    }
}
