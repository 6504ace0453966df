//! Compares built mails with mails of an SMTP session.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::mail::inflate;
use crate::smtp::{
    AcceptedDomains, InputBuffer, RecipientColumnLimits, Session, SessionSettings, Step, TlsState,
};

#[derive(Debug)]
struct UnlimitedRecipientColumns;

impl RecipientColumnLimits for UnlimitedRecipientColumns {
    fn can_store_recipient(&self, _: &str, _: &str) -> bool {
        true
    }
}

/// Returns the mail that a session gives for these commands and content.
fn mail_of_session(commands: &str, content: &str, received_at: SystemTime) -> Mail {
    let settings = Arc::new(SessionSettings {
        host_name: "mx.test".to_owned(),
        primary_mail_host: "primary.test".to_owned(),
        allowed_hosts: AcceptedDomains::accepting_every_domain(),
        max_content_octets: 100_000,
        max_recipients: 100,
        recipient_limits: Arc::new(UnlimitedRecipientColumns),
        recipient_hook: None,
        verbose: false,
    });
    let budget = MemoryBudget::new(1 << 20);
    let mut session = Session::new(Arc::clone(&settings), budget, TlsState::Unavailable);
    let dialogue = format!("{commands}DATA\r\n{content}.\r\n");
    let mut input = InputBuffer::from_octets(dialogue.as_bytes());
    loop {
        match session.next_step(&mut input) {
            Step::Reply(reply) => assert!(reply.three_digit_code() < 400, "{reply:?}"),
            Step::Save(envelope, content) => {
                let origin = MailOrigin {
                    client_ip: [192, 0, 2, 7].into(),
                    helo_name: session.helo_name().to_owned(),
                    protocol: session.received_field_protocol(&envelope),
                    host_name: settings.host_name.clone(),
                    received_at,
                };
                return Mail::new(envelope, content, origin, |path| {
                    settings.address_for_to_column(path)
                })
                .unwrap();
            }
            step => panic!("expected a mail, but found {step:?}"),
        }
    }
}

/// Replaces the random mail ids, which differ between two mails.
fn replace_mail_ids_with_placeholder(mail: &Mail, text: &str) -> String {
    mail.recipients().iter().fold(text.to_owned(), |text, one| {
        text.replace(one.hash.as_str(), "ID")
    })
}

fn assert_same(built: &Mail, received: &Mail) {
    assert_eq!(built.reverse_path(), received.reverse_path());
    assert_eq!(built.recipients().len(), received.recipients().len());
    for (one, other) in built.recipients().iter().zip(received.recipients()) {
        assert_eq!(
            (&one.to, &one.recipient),
            (&other.to, &other.recipient),
            "a recipient"
        );
        let trace = replace_mail_ids_with_placeholder(built, &built.trace_fields(one));
        let other_trace =
            replace_mail_ids_with_placeholder(received, &received.trace_fields(other));
        assert_eq!(trace, other_trace);
        let stored = inflate(&built.zlib_body(one).unwrap(), 1 << 20).unwrap();
        let expected = [built.trace_fields(one).as_bytes(), built.content()].concat();
        assert_eq!(stored, expected);
    }
    assert_eq!(built.content(), received.content());
    assert_eq!(built.mime_summary(), received.mime_summary());
    assert_eq!(built.attach_info(), received.attach_info());
    assert_eq!(built.client_ip(), received.client_ip());
    assert_eq!(built.helo_name(), received.helo_name());
    assert_eq!(built.protocol(), received.protocol());
    assert_eq!(built.host_name(), received.host_name());
    assert_eq!(built.received_at(), received.received_at());
}

fn builder(received_at: SystemTime) -> MailBuilder {
    Mail::builder()
        .client_ip([192, 0, 2, 7])
        .primary_mail_host("primary.test")
        .received_at(received_at)
}

#[test]
fn built_mail_equals_the_mail_of_a_session() {
    let received_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let content = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nContent-Type: application/pdf; name=\"a.pdf\"\r\n\r\nx\r\n";
    let received = mail_of_session(
        "EHLO c.example\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<@r.test:u@Ours.test>\r\n\
         RCPT TO:<\"a b\"@ours.test>\r\nRCPT TO:<u@OURS.test.>\r\nRCPT TO:<postmaster>\r\n",
        content,
        received_at,
    );
    let built = builder(received_at)
        .helo_name("c.example")
        .sender("<a@client.test>")
        .recipient("@r.test:u@Ours.test")
        .recipients(["\"a b\"@ours.test", "u@OURS.test.", "postmaster"])
        .content(content);
    let built = built.build().unwrap();
    assert_same(&built, &received);
    assert_eq!(built.recipients().len(), 3);
    assert_eq!(built.subject(), "Gr\u{fc}\u{df}e");
    assert_eq!(
        built.attach_info(),
        r#"[{"name":"a.pdf","type":"application/pdf","size":3}]"#
    );
    let trace = built.trace_fields(&built.recipients()[0]);
    assert!(trace.contains("Tue, 14 Nov 2023 22:13:20 +0000"), "{trace}");
}

#[test]
fn built_bounce_equals_the_bounce_of_a_session() {
    let received_at = SystemTime::UNIX_EPOCH;
    let received = mail_of_session(
        "HELO client.test\r\nMAIL FROM:<>\r\nRCPT TO:<u@ours.test>\r\n",
        "\r\n",
        received_at,
    );
    for sender in ["", "<>"] {
        let built = builder(received_at)
            .sender(sender)
            .recipient("u@ours.test")
            .protocol("SMTP")
            .content("\r\n");
        assert_same(&built.build().unwrap(), &received);
    }
}

#[test]
fn built_mail_with_a_unicode_address_equals_that_of_a_session() {
    let received_at = SystemTime::now();
    let received = mail_of_session(
        "EHLO client.test\r\nMAIL FROM:<a@b.test> SMTPUTF8\r\nRCPT TO:<用户@例子.测试>\r\n",
        "",
        received_at,
    );
    let built = builder(received_at)
        .sender("a@b.test")
        .recipient("用户@例子.测试");
    assert_same(&built.build().unwrap(), &received);
}

#[test]
fn each_built_mail_has_its_own_id() {
    let builder = Mail::builder().recipient("u@ours.test");
    let (one, other) = (builder.clone().build().unwrap(), builder.build().unwrap());
    assert_ne!(one.hash(), other.hash());
    assert_eq!(one.reverse_path(), "sender@client.test");
    assert_eq!(one.recipients()[0].to, "u@mx.test");
    assert_eq!(one.protocol(), "ESMTP");
    assert_eq!(one.attach_info(), "");
}

#[test]
fn invalid_address_is_named_with_what_was_expected() {
    for address in [
        "u",
        "u@",
        "@ours.test",
        "u@ours.test>",
        "<u@ours.test",
        "u@ours.test> SIZE=5",
        "<u@ours.test> BODY=8BITMIME",
        "u@ours.test\r\nDATA",
        "u@foreign.test@ours.test",
        " u@ours.test",
    ] {
        let built = Mail::builder().recipient(address).build();
        let error = built.expect_err(address).to_string();
        let want =
            format!("recipient: expected an address such as u@example.com, but found {address:?}");
        assert_eq!(error, want);
        let built = Mail::builder()
            .sender(address)
            .recipient("u@ours.test")
            .build();
        let error = built.expect_err(address);
        assert!(matches!(&error, MailBuildError::InvalidSender(found) if found == address));
        assert!(
            error.to_string().contains(&format!("{address:?}")),
            "{error}"
        );
    }
    let error = Mail::builder().recipient("").build().unwrap_err();
    assert!(
        matches!(error, MailBuildError::InvalidRecipient(_)),
        "{error}"
    );
    let error = Mail::builder().build().unwrap_err();
    assert!(matches!(error, MailBuildError::NoRecipient), "{error}");
    let built = Mail::builder()
        .recipient("u@ours.test")
        .helo_name("a\r\nb")
        .build();
    assert!(matches!(built, Err(MailBuildError::InvalidHeloName(_))));
}

#[test]
fn time_that_no_date_can_show_becomes_the_last_one() {
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 60);
    let mail = builder(far).recipient("u@ours.test").build().unwrap();
    let trace = mail.trace_fields(&mail.recipients()[0]);
    assert!(trace.contains(" Dec 9999 "), "{trace}");
}

#[test]
fn names_that_could_forge_trace_fields_are_errors() {
    let builder = || Mail::builder().recipient("u@ours.test");
    for name in ["mx\r\nBcc: x", "", "a b", "mx;"] {
        let error = builder().host_name(name).build();
        assert!(
            matches!(error, Err(MailBuildError::InvalidHostName(_))),
            "{name:?}"
        );
        let error = builder().primary_mail_host(name).build();
        assert!(
            matches!(error, Err(MailBuildError::InvalidHostName(_))),
            "{name:?}"
        );
    }
    for keyword in ["", "E\r\nX2: 1", "ESMTP S"] {
        let error = builder().protocol(keyword).build();
        assert!(
            matches!(error, Err(MailBuildError::InvalidProtocol(_))),
            "{keyword:?}"
        );
    }
    assert!(
        builder()
            .host_name("[192.0.2.1]")
            .protocol("LMTP")
            .build()
            .is_ok()
    );
}
