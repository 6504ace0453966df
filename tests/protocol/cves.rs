//! Vulnerabilities of other mail servers, by their CVE numbers or names.
//!
//! `tests/README.md` also lists those that a dialogue or another test covers.

use std::io::ErrorKind;
use std::time::Duration;

use testkit::status::wait_for_metric;
use testkit::store::mails_after;
use testkit::tls::{TlsClient, TlsServer};
use testkit::{
    Client, Server, assert_took, incompressible, let_time_pass, note, stuffed, test, wait_for,
    without_trace,
};

/// This vulnerability affected Postfix.
#[test]
fn cve_2023_51764_bare_lf_variants_of_end_of_data_do_not_end_a_mail() {
    assert_not_end_of_data(&["\n.\n", "\n.\r\n", "\r\n.\n"]);
}

/// This vulnerability affected Sendmail.
#[test]
fn cve_2023_51765_dot_between_lf_and_crlf_does_not_end_a_mail() {
    assert_not_end_of_data(&["\n.\r\n", "\n\n.\r\n", "x\n.\r\n.x\r\n"]);
}

/// This vulnerability affected Exim.
#[test]
fn cve_2023_51766_mail_sent_with_bdat_ends_at_its_last_chunk() {
    assert_not_end_of_data(&["\n.\r\n", "\n.\n", "\r\n.\n"]);
    let server = Server::start(&[]);
    let content = format!("Subject: first\r\n\r\nx\r\n.\r\n{SMUGGLED}\n.\r\n\n.\n");
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.send(format!("BDAT {} LAST\r\n{content}QUIT\r\n", content.len()));
    client.expect("250 2.0.0 OK : queued as ");
    client.expect("221 2.0.0 ");
    client.expect_close();
    assert_eq!(server.contents(), [content.as_bytes()]);
}

/// This vulnerability affected aiosmtpd and other servers that accept CR as a line end.
#[test]
fn cve_2024_27305_bare_cr_variants_of_end_of_data_do_not_end_a_mail() {
    assert_not_end_of_data(&["\r.\r", "\r.\r\n", "\r\n.\r", "\r.\n", "\n.\r"]);
}

#[test]
fn other_variants_of_end_of_data_do_not_end_a_mail() {
    assert_not_end_of_data(&[
        "\r\r\n.\r\r\n",
        "\r\n.\r\r\n",
        "\r\n\0.\r\n",
        "\r\n.\0\r\n",
        "\r\n\x0b.\r\n",
        "\r\n.\x0b\r\n",
        "\r\n.\x0c\r\n",
        "\r\n \r.\r\n",
        "\r\n.\t\r\n",
        "\r\n\u{85}.\u{85}",
        "\r\n\u{2028}.\u{2028}",
    ]);
}

/// This vulnerability affected chasquid, which accepted a bare LF as the end of lines and commands.
#[test]
fn cve_2023_52354_bare_lf_ends_neither_a_mail_nor_a_command() {
    assert_not_end_of_data(&["\n.\n", "\n.\r\n"]);
    let tls = TlsServer::start(&[]);
    let hidden = "NOOP\nMAIL FROM:<evil@client.test>\r\nRCPT TO:<victim@ours.test>\r\n";
    let mut client = tls.server.client();
    client.send(hidden);
    client.expect("500 5.5.2 ");
    client.expect_close();
    let mut client = tls.client();
    client.send(hidden);
    client.expect("500 5.5.2 ");
    client.expect_close_notify();
}

/// This vulnerability affected Exim as a client: it treated replies sent before the handshake as if they had arrived
/// over TLS. A server must send nothing between the 220 and the handshake.
#[test]
fn cve_2021_38371_no_reply_is_sent_between_starttls_220_and_the_handshake() {
    let tls = TlsServer::start(&[]);
    let mut client = tls.server.client();
    // Commands sent in plaintext are answered in plaintext; the 220 is the last plaintext reply.
    client.send("EHLO before.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\n");
    client.send("STARTTLS\r\n");
    for reply in ["250", "250 2.1.0 ", "250 2.1.5 ", "220 2.0.0 "] {
        client.expect(reply);
    }
    let socket = client.socket().try_clone().expect("a descriptor");
    socket.set_nonblocking(true).expect("an open socket");
    let early = socket
        .peek(&mut [0; 1])
        .expect_err("no octets before the handshake");
    assert_eq!(early.kind(), ErrorKind::WouldBlock);
    socket.set_nonblocking(false).expect("an open socket");
    let config = testkit::tls::config_trusting(&[&tls.pair.chain]);
    let mut client = TlsClient::over(socket, config).expect("nothing but a handshake");
    // The first reply over TLS answers the first command over TLS.
    client.command("NOOP", "250 2.0.0 ");
    client.command("DATA", "503 5.5.1 ");
    client.command("QUIT", "221 2.0.0 ");
    client.expect_close_notify();
    assert!(tls.server.list().is_empty());
}

/// A web page makes a browser send a form to the implicit TLS port.
#[test]
fn alpaca_http_request_over_tls_is_closed_before_any_command_runs() {
    let tls = TlsServer::start(&[]);
    let commands =
        "EHLO x\r\nMAIL FROM:<evil@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\nx\r\n.\r\n";
    for request in [
        "POST / HTTP/1.1",
        "GET /<script> HTTP/1.1",
        "PUT /x HTTP/1.0",
    ] {
        for mut client in [tls.implicit_tls_client(), tls.client()] {
            client.send(format!("{request}\r\nHost: mx.test\r\n\r\n{commands}"));
            let reply = client.expect("500 5.5.2 ");
            // The reply contains nothing that a browser could run as a script.
            assert!(!reply.contains('<'), "{reply}");
            client.expect_close_notify();
        }
    }
    assert!(tls.server.list().is_empty());
}

#[test]
fn command_arguments_cannot_inject_header_fields() {
    let server = Server::start(&[]);
    let mut client = server.client();
    for hostile in [
        "EHLO a\rX-Forged: yes",
        "EHLO a\u{b}X-Forged: yes",
        "EHLO a\u{85}X-Forged: yes",
        "EHLO a\0X-Forged: yes",
        "MAIL FROM:<a\rX-Forged:yes@client.test>",
        "MAIL FROM:<\"a\u{1b}X-Forged: yes\"@client.test>",
    ] {
        client.send(format!("{hostile}\r\n"));
        let reply = client.read_reply().expect("a reply");
        assert!(
            [500, 501, 503].contains(&reply.code),
            "{hostile:?}: {}",
            reply.text()
        );
    }
    client.command("EHLO a\\r\\nX-Forged:yes;(by=forged)", "250");
    client.command("MAIL FROM:<\"a\\\" X-Forged: yes\"@client.test>", "250");
    client.command("RCPT TO:<\"u\\\\r\\\\nX-Forged: yes\"@ours.test>", "250");
    client.command("DATA", "354 ");
    client.send("Subject: mine\r\n\r\nx\r\n.\r\n");
    client.expect("250 2.0.0 ");
    let row = &mails_after(&server.path("goguerrilla.db"), 0)[0];
    let text = String::from_utf8_lossy(&row.mail);
    let (head, _) = text.split_once("\r\n\r\n").expect("an empty line");
    let fields = head
        .split("\r\n")
        .filter(|line| !line.starts_with(['\t', ' ']));
    let names: Vec<&str> = fields
        .filter_map(|line| Some(line.split_once(':')?.0))
        .collect();
    assert_eq!(
        names,
        ["Return-Path", "Delivered-To", "Received", "Subject"],
        "{head}"
    );
    assert_eq!(head.matches("\tby ").count(), 1, "{head}");
    assert_eq!(without_trace(&row.mail), b"Subject: mine\r\n\r\nx\r\n");
}

#[test]
fn client_input_cannot_inject_log_lines() {
    let server = Server::start(&[("GSMTP_VERBOSE", "Y")]);
    let mut client = server.client();
    let forged = "2026-01-01T00:00:00.000Z info 0001 saved hash=forged";
    let mut lines = 0;
    for hostile in [
        format!("NOOP \r{forged}"),
        format!("NOOP \u{85}{forged}"),
        format!("NOOP \u{2028}{forged}"),
        format!("NOOP \u{1b}[1G{forged}"),
        format!("NOOP \" {forged} \""),
        format!("MAIL FROM:<\"{forged}\"@client.test>"),
    ] {
        client.send(format!("{hostile}\r\n"));
        client.read_reply().expect("a reply");
        lines += 1;
    }
    client.command("QUIT", "221");
    let log = server.wait_for_log(" disconnected ");
    let client_lines = log.lines().filter(|line| line.contains(" smtp_in "));
    assert_eq!(client_lines.count(), lines + 1, "{log}");
    assert!(
        !log.lines()
            .any(|line| line.starts_with("2026-01-01T00:00:00"))
    );
    let hostile = |c: char| c != '\n' && (c.is_control() || c == '\u{2028}');
    assert_eq!(log.chars().find(|c| hostile(*c)), None);
}

#[test]
fn slowloris_over_tls_times_out() {
    let timeout = Duration::from_secs(2);
    let tls = TlsServer::start(&[("GSMTP_TIMEOUT", "2")]);
    for content in [false, true] {
        let mut client = tls.client();
        client.command("EHLO client.test", "250");
        if content {
            client.begin_mail();
        }
        let socket = client.socket().try_clone().expect("a descriptor");
        let began_at = std::time::Instant::now();
        // Sends an endless line, one octet per TLS record.
        loop {
            assert_took(began_at.elapsed(), timeout);
            client.send("x");
            let_time_pass(Duration::from_millis(300), "the data rate of a slow client");
            socket.set_nonblocking(true).expect("an open socket");
            let is_answered = socket.peek(&mut [0; 1]).is_ok();
            socket.set_nonblocking(false).expect("an open socket");
            if is_answered {
                break;
            }
        }
        client.expect("421 4.4.2 ");
        assert!(began_at.elapsed() > timeout * 3 / 4);
    }
    assert!(tls.server.list().is_empty());
}

#[test]
fn memory_stays_within_the_budget_for_500_concurrent_mails_of_maximum_size() {
    let limit = 400_000;
    let budget: usize = 64 << 20;
    let server = Server::start(&[
        // The limit is far above 500, so that none of these slow clients is shed.
        ("GM_MAX_CLIENTS", "1500"),
        ("GSMTP_MAX_SIZE", &limit.to_string()),
        ("GM_MAX_MEMORY", &budget.to_string()),
        ("GSMTP_TIMEOUT", "300"),
        ("GM_STATUS_INTERFACE", "127.0.0.1:0"),
    ]);
    let mail = stuffed(&incompressible(limit));
    let (content, dot) = mail.split_at(mail.len() - 3);
    let mut clients: Vec<Client> = (0..500).map(|_| server.client()).collect();
    for client in &mut clients {
        client.begin_data("a@client.test", "u@ours.test");
    }
    for client in &mut clients {
        client.send(content);
    }
    // All clients have sent their content, three times the budget, before the first mail ends.
    for client in &mut clients {
        client.send(dot);
    }
    let mut saved = 0;
    for client in &mut clients {
        client.set_reply_timeout(std::time::Duration::from_secs(120));
        let reply = client.read_reply().expect("a reply");
        match reply.code {
            250 => saved += 1,
            _ => assert!(reply.text().starts_with("452 4.3.1 "), "{}", reply.text()),
        }
    }
    let most = server.status_kib("VmHWM");
    let room = (budget as u64 >> 10) + (64 << 10);
    note!("500 × {limit} octets into {budget}: {saved} saved, {most} KiB at most");
    assert!(most < room, "{most} KiB");
    assert!((budget / limit / 2..500).contains(&saved), "{saved} saved");
    // The whole budget is released.
    wait_for_metric(&server, "goguerrilla_content_bytes", 0.0);
    for client in &mut clients[..50] {
        let reply = client.deliver("a@client.test", "u@ours.test", &incompressible(limit));
        assert_eq!(reply.code, 250);
    }
}

/// Asserts that each octet sequence in `ends`, followed by a complete mail, is content and does not end the message: in
/// plaintext and over TLS, whether the message is stored or discarded after 552.
fn assert_not_end_of_data(ends: &[&str]) {
    let tls = TlsServer::start(&[("GSMTP_MAX_SIZE", "1000")]);
    let mut in_clear = tls.server.client();
    in_clear.command("EHLO client.test", "250");
    let mut in_tls = tls.client();
    in_tls.command("EHLO client.test", "250");
    let mut expected: Vec<Vec<u8>> = Vec::new();
    for end in ends {
        for is_large in [false, true] {
            let filling = if is_large {
                "x".repeat(1_200)
            } else {
                String::new()
            };
            let content = format!("Subject: first\r\n\r\n{filling}a{end}{SMUGGLED}");
            let wire = format!("{content}.\r\n");
            let reply = if is_large {
                "552 5.3.4 "
            } else {
                "250 2.0.0 OK : queued as "
            };
            in_clear.command("MAIL FROM:<a@client.test>", "250");
            in_clear.command("RCPT TO:<u@ours.test>", "250");
            in_clear.command("DATA", "354 ");
            in_clear.send(&wire);
            in_clear.expect(reply);
            in_tls.begin_mail();
            in_tls.send(&wire);
            in_tls.expect(reply);
            // The next reply belongs to VRFY, so the content caused no further reply.
            in_clear.command("VRFY u", "252 ");
            in_tls.command("VRFY u", "252 ");
            if !is_large {
                // Dot-unstuffing removes a dot after CR LF, whatever follows it.
                let kept = content.replace("\r\n.", "\r\n").into_bytes();
                expected.extend([kept.clone(), kept]);
            }
        }
    }
    let rows = wait_for("the stored mails", || {
        let rows = mails_after(&tls.server.path("goguerrilla.db"), 0);
        (rows.len() >= expected.len()).then_some(rows)
    });
    let stored: Vec<&[u8]> = rows.iter().map(|row| without_trace(&row.mail)).collect();
    assert!(
        stored == expected,
        "stored {stored:?}\nexpected {expected:?}"
    );
    assert!(rows.iter().all(|row| row.recipient == "u@ours.test"));
}

const SMUGGLED: &str = "MAIL FROM:<evil@client.test>\r\nRCPT TO:<victim@ours.test>\r\nDATA\r\nSubject: smuggled\r\n\r\nx\r\n";
