//! SMTP smuggling: the 13 end-of-data forms of "Email Spoofing with SMTP Smuggling" (USENIX Security 2025, table 1), sent
//! to the server directly and through Postfix, Exim, OpenSMTPD and nullmailer.
//!
//! A content with one of the forms, followed by the commands of a second mail, must be stored as the one mail that the
//! client or the MTA sent. `docs/testing.md` has the table of what arrived; `-- --nocapture` prints it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::str;

use testkit::mta::{Exim, Mta, Nullmailer, OpenSmtpd, Postfix, Relay};
use testkit::ports::free_port;
use testkit::root::MtaRoot;
use testkit::smuggling::{FIRST, FORMS, content};
use testkit::store::{StoredMail, mails_after};
use testkit::{Server, TEST_TIMEOUT, test, wait_for, without_trace};

#[test]
fn every_mail_that_postfix_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<Postfix>();
}

#[test]
fn every_mail_that_exim_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<Exim>();
}

#[test]
fn every_mail_that_opensmtpd_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<OpenSmtpd>();
}

#[test]
fn every_mail_that_nullmailer_queues_with_a_smuggling_form_is_stored_as_one_mail() {
    assert_one_mail_for_each_queued::<Nullmailer>();
}

/// Asserts that the server stores as many mails as the MTA has queued, for each form injected by a local program and
/// received by SMTP.
fn assert_one_mail_for_each_queued<M: Mta>() {
    let server = Server::start(&[("GM_ALLOWED_HOSTS", "ours.test"), ("GSMTP_VERBOSE", "Y")]);
    let root = MtaRoot::with(M::PACKAGE);
    let port = free_port();
    let relay = Relay {
        smarthost: server.address.port(),
        in_tls: false,
        listens_on: M::LISTENS.then_some(port),
    };
    let mta = M::start(root, relay);
    let mut last_mail_id = 0;
    for form in [NO_FORM].into_iter().chain(FORMS) {
        for by_smtp in [false, true] {
            if by_smtp && !M::LISTENS {
                continue;
            }
            let replies = match by_smtp {
                true => send(port, &content(form, "\r\n")),
                false => {
                    mta.queue(&["u@ours.test"], &content(form, "\n"));
                    mta.deliver();
                    vec![250]
                }
            };
            // The client gets 250 for each content and for commands; no content follows another reply than 354.
            let queued = replies.iter().filter(|reply| **reply == 250).count();
            let rows = wait_for("all queued mails to be stored", || {
                let rows = mails_after(&server.path("goguerrilla.db"), last_mail_id);
                (rows.len() >= queued && mta.waiting() == 0).then_some(rows)
            });
            last_mail_id = rows.last().map_or(last_mail_id, |row| row.mail_id);
            let is_form = form != NO_FORM;
            let form = form.escape_ascii();
            let case = format!(
                "{} {form} by_smtp={by_smtp} {replies:?}: {}",
                M::PACKAGE,
                arrived(&rows)
            );
            testkit::note!("{case}");
            assert_eq!(rows.len(), queued, "{case}");
            assert!(queued == 1 || is_form, "{case}");
            if let [row] = rows.as_slice() {
                let envelope = (row.from.as_str(), row.recipient.as_str());
                assert_eq!(envelope, ("a@client.test", "u@ours.test"), "{case}");
            }
        }
    }
}

/// Sends a content to an MTA and returns the replies to its end of data and to the end of data of each mail after it.
fn send(port: u16, content: &[u8]) -> Vec<u16> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the MTA listens");
    let timeout = socket.set_read_timeout(Some(TEST_TIMEOUT));
    timeout.expect("an open socket");
    let mut replies = BufReader::new(socket.try_clone().expect("a descriptor"));
    let commands = [
        ("EHLO client.test", 250),
        ("MAIL FROM:<a@client.test>", 250),
        ("RCPT TO:<u@ours.test>", 250),
        ("DATA", 354),
    ];
    assert_eq!(read_reply(&mut replies), Some(220));
    for (command, code) in commands {
        let sent = (&socket).write_all(format!("{command}\r\n").as_bytes());
        sent.expect("an open socket");
        assert_eq!(read_reply(&mut replies), Some(code), "{command}");
    }
    let sent = (&socket).write_all(&[content, b"\r\n.\r\n"].concat());
    sent.expect("an open socket");
    let mut to_contents: Vec<u16> = read_reply(&mut replies).into_iter().collect();
    // OpenSMTPD rejects a mail if another command follows in the same packet.
    let _ = (&socket).write_all(b"QUIT\r\n");
    let mut is_content = false;
    while let Some(code) = read_reply(&mut replies) {
        to_contents.extend(is_content.then_some(code));
        is_content = code == 354;
    }
    to_contents
}

/// Returns the code of the next reply; `None` at the end of the connection.
fn read_reply(replies: &mut impl BufRead) -> Option<u16> {
    loop {
        let mut line = Vec::new();
        // An MTA that closes the connection before it has read everything resets it.
        replies
            .read_until(b'\n', &mut line)
            .ok()
            .filter(|count| *count > 0)?;
        if line.get(3) != Some(&b'-') {
            return str::from_utf8(line.get(..3)?).ok()?.parse().ok();
        }
    }
}

/// Returns for each row what is stored after the first words of its body, up to the commands of the second mail.
fn arrived(rows: &[StoredMail]) -> String {
    let texts = rows.iter().map(|row| {
        let mail = without_trace(&row.mail).escape_ascii().to_string();
        let Some((_, after)) = mail.split_once(FIRST) else {
            return format!("a mail to {}", row.recipient);
        };
        match after.split_once("MAIL FROM") {
            Some((form, _)) => format!("`{form}` and the commands"),
            None => format!("`{after}`"),
        }
    });
    texts.collect::<Vec<_>>().join("; ")
}

/// A line end, so that the content is an ordinary mail: each MTA must accept and relay it.
const NO_FORM: &[u8] = b"\r\n";
