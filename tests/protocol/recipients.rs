//! Which recipients are accepted, what their rows contain, and that no data of one mail appears in the next.

use testkit::store::{StoredMail, mails_after};
use testkit::{Client, Server, test};

#[test]
fn only_recipients_in_allowed_domains_are_accepted() {
    let hosts = "ours.test, *.parent.test,Other.Test,[192.0.2.1]";
    let server = Server::start(&[("GM_ALLOWED_HOSTS", hosts)]);
    let foreign = "550 5.7.1 ";
    let ours = "250 2.1.5 ";
    for (path, want) in [
        ("<a@foreign.test>", foreign),
        ("<a@sub.ours.test>", foreign),
        ("<a@ours.test.evil.test>", foreign),
        ("<a@ours.evil>", foreign),
        ("<a@evil-ours.test>", foreign),
        ("<a@parent.test>", foreign),
        ("<a@xparent.test>", foreign),
        ("<a@[192.0.2.2]>", foreign),
        ("<a%foreign.test@ours.test>", foreign),
        ("<foreign.test!a@ours.test>", foreign),
        ("<a@foreign.test@ours.test>", foreign),
        ("<a@ours.test@foreign.test>", foreign),
        ("<\"a@foreign.test\"@ours.test>", foreign),
        ("<\"a%foreign.test\"@ours.test>", foreign),
        ("<@ours.test:a@foreign.test>", foreign),
        ("<@ours.test,@other.test:a@foreign.test>", foreign),
        ("<a@ours.test>", ours),
        ("<A@OURS.TEST>", ours),
        ("<a@sub.parent.test>", ours),
        ("<a@x.y.Parent.test>", ours),
        ("<a@other.test>", ours),
        ("<a@[192.0.2.1]>", ours),
        ("<\"a b\"@ours.test>", ours),
        ("<@x.test,@y.test:routed@ours.test>", ours),
        ("<postmaster>", ours),
        ("<PostMaster@ours.test>", ours),
        ("<../../x@ours.test>", ours),
    ] {
        let mut client = in_transaction(&server);
        client.command(&format!("RCPT TO:{path}"), want);
        if want == foreign {
            client.command("DATA", "503 5.5.1 ");
        } else {
            finish(&mut client, b"");
        }
    }
    let rows = rows(&server);
    let paths: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row.recipient.as_str(), row.to.as_str()))
        .collect();
    assert_eq!(
        paths,
        [
            ("a@ours.test", "a@primary.test"),
            ("A@OURS.TEST", "A@primary.test"),
            ("a@sub.parent.test", "a@primary.test"),
            ("a@x.y.Parent.test", "a@primary.test"),
            ("a@other.test", "a@primary.test"),
            ("a@[192.0.2.1]", "a@primary.test"),
            ("\"a b\"@ours.test", "\"a b\"@primary.test"),
            ("@x.test,@y.test:routed@ours.test", "routed@primary.test"),
            ("postmaster", "postmaster@primary.test"),
            ("PostMaster@ours.test", "PostMaster@primary.test"),
            ("../../x@ours.test", "../../x@primary.test"),
        ]
    );
}

#[test]
fn recipient_is_stored_without_truncation_or_rejected() {
    let server = Server::start(&[]);
    let too_long = "553 5.1.3 ";
    let unstorable_is_never_cut = [
        // Column `recipient` is the limit here …
        (local_part("a", 310), "@ours.test", too_long),
        (local_part("a", 310), "@ours.test.", too_long),
        (local_part("a", 307), "@ours.example", "250 2.1.5 "),
        (local_part("a", 307), "@ours.examples", too_long),
        // … and here column `to`, whose domain is longer.
        (local_part("a", 307), "@o.test", "250 2.1.5 "),
        (local_part("b", 308), "@o.test", too_long),
        // The width is counted in characters, not in octets.
        (local_part("ü", 307), "@ours.example", "250 2.1.5 "),
        (local_part("ü", 307), "@ours.examples", too_long),
    ];
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test> SMTPUTF8", "250 2.1.0 ");
    for (local_part, domain, want) in &unstorable_is_never_cut {
        let path = format!("{local_part}{domain}");
        client.command(&format!("RCPT TO:<{path}>"), want);
    }
    finish(&mut client, b"");
    let rows = rows(&server);
    let widths: Vec<(usize, usize)> = rows
        .iter()
        .map(|row| (row.recipient.chars().count(), row.to.chars().count()))
        .collect();
    assert_eq!(widths, [(320, 320), (314, 320), (320, 320)]);
    assert_eq!(
        rows[2].recipient,
        format!("{}@ours.example", "ü".repeat(307))
    );
}

#[test]
fn each_distinct_recipient_gets_one_row_with_its_own_hash_and_trace_fields() {
    let server = Server::start(&[("GM_MAX_RECIPIENTS", "3")]);
    let mut client = in_transaction(&server);
    for (path, want) in [
        ("one@ours.test", "250 2.1.5 "),
        ("two@ours.test", "250 2.1.5 "),
        ("one@ours.test", "250 2.1.5 "),
        ("one@OURS.test", "250 2.1.5 "),
        ("ONE@ours.test", "250 2.1.5 "),
        ("four@ours.test", "452 4.5.3 "),
        ("two@ours.test", "250 2.1.5 "),
    ] {
        client.command(&format!("RCPT TO:<{path}>"), want);
    }
    let queued_hash = finish(&mut client, b"Subject: for three\r\n\r\n");
    let rows = rows(&server);
    let recipients: Vec<&str> = rows.iter().map(|row| row.recipient.as_str()).collect();
    assert_eq!(
        recipients,
        ["one@ours.test", "two@ours.test", "ONE@ours.test"]
    );
    assert_eq!(rows[0].hash, queued_hash);
    for row in &rows {
        let mail = String::from_utf8_lossy(&row.mail);
        assert!(
            mail.contains(&format!("\r\nDelivered-To: {}\r\n", row.to)),
            "{mail}"
        );
        assert!(
            mail.contains(&format!(" id {}@mx.test;", row.hash)),
            "{mail}"
        );
        assert_eq!(row.subject, "for three");
        assert_eq!(row.date, rows[0].date);
        let same = rows.iter().filter(|other| other.hash == row.hash).count();
        assert_eq!(same, 1);
    }
}

#[test]
fn second_mail_of_a_session_contains_no_data_of_the_first() {
    let server = Server::start(&[]);
    let mut client = in_transaction(&server);
    client.command("RCPT TO:<one@ours.test>", "250");
    client.command("RCPT TO:<both@ours.test>", "250");
    finish(
        &mut client,
        b"Subject: the first\r\nContent-Type: application/pdf; charset=koi8-r; name=a.pdf\r\n\r\nsecret\r\n",
    );
    client.command("MAIL FROM:<>", "250");
    client.command("RCPT TO:<both@ours.test>", "250");
    finish(&mut client, b"\r\nno header\r\n");
    let rows = rows(&server);
    assert_eq!(rows.len(), 3);
    let first = &rows[0];
    assert_eq!(
        first.attach_info,
        r#"[{"name":"a.pdf","type":"application/pdf","size":8}]"#
    );
    let second = &rows[2];
    assert_eq!((second.from.as_str(), second.subject.as_str()), ("", ""));
    assert_eq!(
        (second.charset.as_str(), second.content_type.as_str()),
        ("UTF-8", "text/plain")
    );
    assert_eq!((second.has_attach, second.attach_info.as_str()), (0, ""));
    assert_eq!(second.recipient, "both@ours.test");
    let mail = String::from_utf8_lossy(&second.mail);
    assert!(mail.starts_with("Return-Path: <>\r\n"), "{mail}");
    assert!(!mail.contains("secret"), "{mail}");
}

#[test]
fn received_field_names_the_protocol_and_a_sanitized_helo_name() {
    let server = Server::start(&[]);
    for (hello, parameters, from) in [
        (
            "HELO client.test",
            "",
            "client.test (client.test [127.0.0.1])\r\n\tby mx.test with SMTP id ",
        ),
        (
            "EHLO [192.0.2.1]",
            "",
            "[192.0.2.1] ([192.0.2.1] [127.0.0.1])\r\n\tby mx.test with ESMTP id ",
        ),
        (
            "EHLO client.test",
            " SMTPUTF8",
            "client.test (client.test [127.0.0.1])\r\n\tby mx.test with UTF8SMTP id ",
        ),
        (
            "HELO x) by e; id \"y\" (z",
            "",
            "x??by?e??id??y???z (x??by?e??id??y???z [127.0.0.1])\r\n\tby mx.test with SMTP id ",
        ),
    ] {
        let mut client = server.client();
        client.command(hello, "250");
        client.command(&format!("MAIL FROM:<a@client.test>{parameters}"), "250");
        client.command("RCPT TO:<u@ours.test>", "250");
        let hash = finish(&mut client, b"");
        let mail = String::from_utf8(server.show(&hash)).expect("UTF-8");
        assert!(
            mail.contains(&format!("Received: from {from}{hash}@mx.test;\r\n\t")),
            "{mail}"
        );
    }
}

fn local_part(character: &str, times: usize) -> String {
    character.repeat(times)
}

fn in_transaction(server: &Server) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250 2.1.0 ");
    client
}

/// Sends content that needs no dot-stuffing and returns the hash of the reply.
fn finish(client: &mut Client, content: &[u8]) -> String {
    client.command("DATA", "354 ");
    client.send([content, b".\r\n"].concat());
    let reply = client.expect("250 2.0.0 OK : queued as ").text();
    reply.rsplit(' ').next().unwrap_or_default().to_owned()
}

fn rows(server: &Server) -> Vec<StoredMail> {
    mails_after(&server.path("goguerrilla.db"), 0)
}
