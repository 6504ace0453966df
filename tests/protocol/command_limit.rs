//! The limit of 100 commands since the last saved mail: commands alone do not keep a connection open, and no delivery
//! is interrupted, however many commands it needs.

use testkit::{Client, Server, short_mail, test, value};

#[test]
fn command_101_without_a_saved_mail_closes_the_session() {
    let server = Server::start(&[]);
    for (command, reply) in [
        ("NOOP", "250 2.0.0"),
        ("RSET", "250 2.0.0"),
        ("VRFY u", "252 2.5.0"),
        ("HELP", "214 2.0.0"),
        ("HELO client.test", "250 mx.test"),
        ("EHLO client.test", "250-mx.test"),
        ("XCLIENT ADDR=192.0.2.1", "550 5.7.0"),
    ] {
        let mut client = server.client();
        for _ in 0..100 {
            client.command(command, reply);
        }
        client.command(command, "421 4.7.0 Too many commands");
        client.expect_close();
    }
    let log = server.wait_for_log(" disconnected ");
    let line = log.lines().find(|line| line.contains(" disconnected "));
    assert_eq!(
        value(line.expect("a line"), "reason").as_deref(),
        Some("rejected")
    );
}

#[test]
fn pipelined_commands_count_for_the_command_limit() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.send("NOOP\r\n".repeat(5_000));
    for _ in 0..100 {
        client.expect("250 2.0.0");
    }
    client.expect("421 4.7.0 Too many commands");
    client.expect_close();
}

#[test]
fn quit_over_the_command_limit_still_gets_221() {
    let server = Server::start(&[]);
    let mut client = server.client();
    client.send("NOOP\r\n".repeat(100) + "QUIT\r\n");
    for _ in 0..100 {
        client.expect("250 2.0.0");
    }
    client.expect("221 2.0.0");
    client.expect_close();
}

#[test]
fn commands_of_unsaved_transactions_count_for_the_command_limit() {
    let server = Server::start(&[("GM_ALLOWED_HOSTS", "ours.test")]);
    let begin = "MAIL FROM:<a@client.test>\r\n";
    let greeting = "EHLO again.test\r\n";
    for (round, replies) in [
        (format!("{begin}RSET\r\n"), &["250 2.1.0", "250 2.0.0"][..]),
        (format!("{begin}{greeting}"), &["250 2.1.0", "250-mx.test"]),
        (
            format!("{begin}RCPT TO:<u@elsewhere.test>\r\nRSET\r\n"),
            &["250 2.1.0", "550 5.7.1", "250 2.0.0"],
        ),
        (
            format!("{begin}RCPT TO:<u@ours.test>\r\nNOOP\r\nRSET\r\n"),
            &["250 2.1.0", "250 2.1.5", "250 2.0.0", "250 2.0.0"],
        ),
    ] {
        let mut client = server.client();
        client.command("EHLO client.test", "250-");
        let whole_rounds = 99 / replies.len();
        for _ in 0..whole_rounds {
            client.send(&round);
            for reply in replies {
                client.expect(reply);
            }
        }
        expect_421_within(&mut client, &round, replies.len());
    }
}

#[test]
fn commands_of_mails_refused_after_content_count_for_the_command_limit() {
    let settings = [("GSMTP_MAX_SIZE", "1000"), ("GM_MAX_MEMORY", "8192")];
    let server = Server::start(&settings);
    let envelope = "MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\n";
    let too_large = "x".repeat(2_000);
    for (mail, replies) in [
        (
            format!("{envelope}DATA\r\n{too_large}\r\n.\r\n"),
            &["250 2.1.0", "250 2.1.5", "354 ", "552 5.3.4"][..],
        ),
        (
            format!("{envelope}BDAT 2000 LAST\r\n{too_large}"),
            &["250 2.1.0", "250 2.1.5", "552 5.3.4"],
        ),
    ] {
        let mut client = server.client();
        client.command("EHLO client.test", "250-");
        // EHLO and 33 mails of three commands make 100. The mail that exceeds the limit still gets its own reply.
        for _ in 0..34 {
            client.send(&mail);
            for reply in replies {
                client.expect(reply);
            }
        }
        expect_421_within(&mut client, &mail, replies.len());
    }
}

#[test]
fn rejected_recipients_over_max_recipients_count_for_the_command_limit() {
    let server = Server::start(&[
        ("GM_ALLOWED_HOSTS", "ours.test"),
        ("GM_MAX_RECIPIENTS", "20"),
    ]);
    let mut client = server.client();
    client.command("EHLO client.test", "250-");
    client.command("MAIL FROM:<a@client.test>", "250 2.1.0");
    // EHLO counts. The first 20 RCPT commands count only when the transaction ends without a saved mail.
    client.send("RCPT TO:<u@elsewhere.test>\r\n".repeat(200));
    for _ in 0..20 + 99 {
        client.expect("550 5.7.1");
    }
    client.expect("421 4.7.0 Too many commands");
    client.expect_close();
}

#[test]
fn saved_mail_resets_the_command_count() {
    let server = Server::start(&[("GM_STORE", "discard")]);
    let mut client = server.client();
    for _ in 0..4 {
        for _ in 0..90 {
            client.command("NOOP", "250 2.0.0");
        }
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("again"));
        assert_eq!(reply.code, 250);
    }
}

#[test]
fn command_limit_allows_thousands_of_saved_mails_per_session() {
    let server = Server::start(&[("GM_STORE", "discard")]);
    let mut client = server.client();
    client.command("EHLO client.test", "250-");
    let mail = "MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nBDAT 3 LAST\r\nx\r\n";
    for _ in 0..20 {
        client.send(mail.repeat(100));
        for _ in 0..100 {
            client.expect("250 2.1.0");
            client.expect("250 2.1.5");
            client.expect("250 2.0.0 OK : queued as ");
        }
    }
    client.command("QUIT", "221 ");
}

#[test]
fn command_limit_allows_a_mail_of_1000_recipients_and_1000_chunks() {
    let server = Server::start(&[("GM_MAX_RECIPIENTS", "1000")]);
    let mut client = server.client();
    client.command("EHLO client.test", "250-");
    for _ in 0..90 {
        client.command("NOOP", "250 2.0.0");
    }
    let mut commands = "MAIL FROM:<a@client.test>\r\n".to_owned();
    for number in 0..1_000 {
        commands += &format!("RCPT TO:<u{number}@ours.test>\r\n");
    }
    for _ in 0..1_000 {
        commands += "BDAT 10\r\n01234567\r\n";
    }
    commands += "BDAT 0 LAST\r\n";
    client.send(commands);
    client.expect("250 2.1.0");
    for _ in 0..1_000 {
        client.expect("250 2.1.5");
    }
    for _ in 0..1_000 {
        client.expect("250 2.0.0 OK, chunk received");
    }
    client.expect("250 2.0.0 OK : queued as ");
    assert_eq!(server.list().len(), 1_000);
}

/// Sends one more round of commands and expects 421 and the close among its replies.
fn expect_421_within(client: &mut Client, round: &str, replies: usize) {
    client.send(round);
    for _ in 0..=replies {
        let reply = client
            .read_reply()
            .expect("421 before the connection is closed");
        if reply.code == 421 {
            assert!(reply.text().starts_with("421 4.7.0 "), "{}", reply.text());
            client.expect_close();
            return;
        }
    }
    panic!("no 421 after {round}");
}
