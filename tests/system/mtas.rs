//! Postfix, Exim, OpenSMTPD and nullmailer deliver their queues to the server: the content arrives unchanged, mails
//! that get 451 are retried, and mails that get 550 are returned to their sender.
//!
//! Each MTA runs in its own chroot, see `tests/mta-root`, with the server as its smarthost.

use std::time::Duration;

use rusqlite::Connection;
use tempfile::TempDir;

use crate::clients;
use testkit::certificates::{KeyKind, Pair};
use testkit::mta::{Exim, Mta, Nullmailer, OpenSmtpd, Postfix, Relay, SENDER};
use testkit::root::MtaRoot;
use testkit::store::{StoredMail, mails_after};
use testkit::{Server, test, value, wait_at_most, wait_for, wait_for_within, without_trace};

#[test]
fn postfix_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<Postfix>(&[" SIZE=", " BODY=8BITMIME", " SMTPUTF8"]);
}

#[test]
fn exim_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<Exim>(&[" SIZE=", " SMTPUTF8", "BDAT "]);
}

#[test]
fn opensmtpd_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<OpenSmtpd>(&[]);
}

#[test]
fn nullmailer_delivers_its_queue_unchanged() {
    assert_delivers_unchanged::<Nullmailer>(&[]);
}

#[test]
fn postfix_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<Postfix>();
}

#[test]
fn exim_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<Exim>();
}

#[test]
fn opensmtpd_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<OpenSmtpd>();
}

#[test]
fn nullmailer_queues_a_mail_after_451_and_retries_it() {
    assert_retries_after_451::<Nullmailer>();
}

#[test]
fn postfix_bounces_a_mail_after_550() {
    assert_bounces_after_550::<Postfix>(Some("DATA"));
}

#[test]
fn exim_bounces_a_mail_after_550() {
    assert_bounces_after_550::<Exim>(Some("BDAT "));
}

#[test]
fn opensmtpd_bounces_a_mail_after_550() {
    assert_bounces_after_550::<OpenSmtpd>(None);
}

#[test]
fn nullmailer_moves_a_mail_to_its_failed_queue_after_550() {
    assert_bounces_after_550::<Nullmailer>(None);
}

/// Asserts that the MTA delivers its queue unchanged, in plaintext and with STARTTLS. `used` lists strings that its
/// commands must contain, to prove that it uses these SMTP extensions.
fn assert_delivers_unchanged<M: Mta>(used: &[&str]) {
    for in_tls in [false, true] {
        let server = server(in_tls);
        let mta = start::<M>(&server, in_tls);
        let mails = mails(M::KNOWS_SMTPUTF8);
        for mail in &mails {
            mta.queue(&mail.recipients, &mail.text("\n"));
        }
        mta.deliver();
        let count = mails.iter().map(|mail| mail.recipients.len()).sum();
        let rows = wait_for("all queued mails to be stored", || {
            Some(rows(&server)).filter(|rows| rows.len() >= count)
        });
        wait_for("an empty queue", || (mta.waiting() == 0).then_some(()));
        for mail in &mails {
            let of_this = rows.iter().filter(|row| row.subject == mail.subject);
            let mut recipients: Vec<&str> = of_this
                .map(|row| {
                    assert_content(row, &mail.text("\r\n"));
                    row.recipient.as_str()
                })
                .collect();
            recipients.sort_unstable();
            assert_eq!(recipients, mail.recipients, "{}", mail.subject);
        }
        assert_eq!(rows.len(), count);
        drop(mta);
        assert_sessions(
            &server,
            mails.len(),
            if in_tls { "TLSv1_3" } else { "none" },
        );
        let client_lines = client_lines(&server);
        for extension in used {
            let is_used = client_lines.iter().any(|line| line.contains(extension));
            assert!(is_used, "{extension} was not used: {client_lines:?}");
        }
    }
}

fn assert_retries_after_451<M: Mta>() {
    let server = server(false);
    let mta = start::<M>(&server, false);
    let store = Connection::open(server.path("goguerrilla.db")).expect("the server's database");
    let refuse =
        "CREATE TRIGGER refuse BEFORE INSERT ON new_mail BEGIN SELECT RAISE(ABORT, 'not now'); END";
    store.execute_batch(refuse).expect("a valid statement");
    let mail = &mails(false)[0];
    mta.queue(&mail.recipients, &mail.text("\n"));
    mta.deliver();
    server.wait_for_log("451 4.3.0 ");
    assert_eq!((mta.waiting(), rows(&server).len()), (1, 0));
    store
        .execute_batch("DROP TRIGGER refuse")
        .expect("a valid statement");
    let rows = wait_for_within("the mail to be retried", Duration::from_secs(60), || {
        mta.deliver();
        // The MTA may still be busy with the first attempt.
        wait_at_most(Duration::from_secs(1), || {
            Some(rows(&server)).filter(|rows| !rows.is_empty())
        })
    });
    wait_for("an empty queue", || (mta.waiting() == 0).then_some(()));
    assert_eq!(rows.len(), mail.recipients.len());
    for row in &rows {
        assert_content(row, &mail.text("\r\n"));
    }
    assert_eq!(mta.returned(), "", "a bounce was sent");
}

/// Asserts that the MTA bounces a mail after 550. `begins` is the command that an MTA with pipelining sends after RCPT
/// before it knows that no recipient was accepted.
fn assert_bounces_after_550<M: Mta>(begins: Option<&str>) {
    let server = server(false);
    let mta = start::<M>(&server, false);
    let mail = &mails(false)[0];
    mta.queue(&["x@foreign.test"], &mail.text("\n"));
    mta.deliver();
    wait_for("the mail to be returned", || {
        let returned = mta.returned();
        let says_why = returned.contains("x@foreign.test") && returned.contains("550");
        says_why.then_some(())
    });
    wait_for("an empty queue", || (mta.waiting() == 0).then_some(()));
    mta.deliver();
    // The log is written after the replies.
    server.wait_for_log(begins.unwrap_or("RCPT TO:<x@foreign.test>"));
    let client_lines = client_lines(&server);
    let tries = client_lines
        .iter()
        .filter(|line| *line == "RCPT TO:<x@foreign.test>");
    assert_eq!(tries.count(), 1, "{client_lines:?}");
    if let Some(begins) = begins {
        let is_pipelined = client_lines.iter().any(|line| line.starts_with(begins));
        assert!(is_pipelined, "{client_lines:?}");
    }
    assert!(rows(&server).is_empty());

    mta.queue(&["u@ours.test", "y@foreign.test"], &mail.text("\n"));
    mta.deliver();
    wait_for("the rejected recipient to be returned", || {
        mta.returned().contains("y@foreign.test").then_some(())
    });
    let accepted: &[&str] = if M::SPLITS { &["u@ours.test"] } else { &[] };
    wait_for("the mail of the accepted recipient", || {
        let rows = rows(&server);
        let recipients = rows.iter().map(|row| row.recipient.as_str());
        recipients.eq(accepted.iter().copied()).then_some(())
    });
}

/// A test mail without its From, To and Date fields.
struct Mail {
    recipients: Vec<&'static str>,
    subject: &'static str,
    head: &'static str,
    lines: Vec<Vec<u8>>,
}

impl Mail {
    fn text(&self, line_end: &str) -> Vec<u8> {
        let head = format!(
            "From: A Sender <{SENDER}>\nTo: {}\nDate: Mon, 01 Jun 2026 12:00:00 +0000\n\
             Message-ID: <{}@client.test>\nSubject: {}\n{}\n",
            self.recipients[0],
            self.subject.len(),
            self.subject,
            self.head,
        );
        let mut text = head.replace('\n', line_end).into_bytes();
        for line in &self.lines {
            text.extend_from_slice(line);
            text.extend_from_slice(line_end.as_bytes());
        }
        text
    }
}

/// Returns mails with content that MTAs tend to change.
fn mails(with_smtputf8: bool) -> Vec<Mail> {
    let text = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n";
    let lines = |lines: &[&str]| lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    let mut mails = vec![
        Mail {
            recipients: vec!["t@ours.test", "u@ours.test", "v@ours.test"],
            subject: "dots and spaces",
            head: text,
            lines: lines(&[
                ".",
                "..",
                ".dot",
                "From the start of a line",
                "spaces at the end  ",
                "a tab at the end\t",
                "Zwölf Boxkämpfer, 用户",
                "",
                "",
                ".",
                "MAIL FROM:<evil@client.test>",
            ]),
        },
        Mail {
            recipients: vec!["u@ours.test"],
            subject: "an attachment of 200 KB",
            head: "MIME-Version: 1.0\nContent-Type: application/octet-stream; name=a.bin\n\
                   Content-Disposition: attachment; filename=a.bin\nContent-Transfer-Encoding: base64\n",
            lines: vec!["QUJD".repeat(19).into_bytes(); 200_000 / 57],
        },
        Mail {
            recipients: vec!["u@ours.test"],
            subject: "raw octets in long lines",
            head: text,
            lines: vec![
                b"x".repeat(998),
                b".".repeat(5_000),
                b"\xff\xfe\x80 is no UTF-8, \x01\x0b\x7f".to_vec(),
                vec![b'\xe4'; 2_000],
            ],
        },
    ];
    if with_smtputf8 {
        mails.push(Mail {
            recipients: vec!["用户@ours.test"],
            subject: "Grüße",
            head: text,
            lines: lines(&["Zwölf Boxkämpfer"]),
        });
    }
    mails
}

/// Starts a server that logs each command.
fn server(in_tls: bool) -> Server {
    let mut settings = vec![
        ("GSMTP_VERBOSE", "Y"),
        ("GSMTP_MAX_SIZE", "400000"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
    ];
    let folder = TempDir::new().expect("a temporary folder");
    if in_tls {
        Pair::make(folder.path(), "mx", KeyKind::EcdsaP256, 90);
        settings.push(("GSMTP_PUB_KEY", "mx.cert.pem"));
        settings.push(("GSMTP_PRV_KEY", "mx.key.pem"));
    }
    Server::start_in(folder, &settings)
}

fn start<M: Mta>(server: &Server, in_tls: bool) -> M {
    let root = MtaRoot::with(M::PACKAGE);
    let relay = Relay {
        smarthost: server.address.port(),
        in_tls,
        listens_on: None,
    };
    M::start(root, relay)
}

fn rows(server: &Server) -> Vec<StoredMail> {
    mails_after(&server.path("goguerrilla.db"), 0)
}

/// Returns the commands received so far.
fn client_lines(server: &Server) -> Vec<String> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(" smtp_in "));
    lines.filter_map(|line| value(line, "line")).collect()
}

/// Asserts that `mails` mails were received and that every session used this TLS version.
fn assert_sessions(server: &Server, mails: usize, version: &str) {
    let log = wait_for("all sessions to end", || {
        let log = server.log();
        let ended = log.lines().filter_map(|line| value(line, "mail"));
        let ended: usize = ended.filter_map(|count| count.parse::<usize>().ok()).sum();
        (ended >= mails).then_some(log)
    });
    for line in log.lines().filter(|line| line.contains(" disconnected ")) {
        assert_eq!(value(line, "tls").as_deref(), Some(version), "{line}");
    }
}

/// Asserts that the row contains the queued content, preceded only by fields that MTAs add.
fn assert_content(row: &StoredMail, mail: &[u8]) {
    let stored = without_trace(&row.mail);
    let added = stored.len().saturating_sub(mail.len());
    let (added, content) = stored.split_at(added);
    clients::assert_octets_equal(content, mail);
    let added = String::from_utf8_lossy(added);
    assert!(added.ends_with("\r\n"), "{added}");
    for line in added.lines() {
        let is_known = line.starts_with("Received: ")
            || line.starts_with([' ', '\t'])
            // OpenSMTPD's sendmail adds this field for long lines.
            || line == "Content-Disposition: inline";
        assert!(is_known, "{line}");
    }
}
