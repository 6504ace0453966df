//! STARTTLS and implicit TLS: with third-party clients, hostile clients, and certificates that change.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use socket2::SockRef;
use tempfile::TempDir;

use testkit::certificates::{KeyKind, Pair};
use testkit::status::{STATUS, figures, wait_for_metric};
use testkit::steps::wait_for_disconnects;
use testkit::tls::{
    TlsClient, TlsServer, certificate, config_trusting, config_with, connection, starttls,
};
use testkit::{
    Client, Server, TEST_TIMEOUT, assert_took, connect_with_small_buffers, value, wait_for,
    wait_for_within, write_config,
};
use testkit::{note, process, test};

#[test]
fn cve_2011_0411_cve_2024_34083_octets_pipelined_after_starttls_are_rejected() {
    let tls = TlsServer::start(&[]);
    for behind in ["NOOP\r\n", "\n", "\u{16}"] {
        let mut client = tls.server.client();
        client.command("EHLO client.test", "250");
        client.send(format!("STARTTLS\r\n{behind}"));
        client.expect("454 4.5.0 ");
        client.expect_close();
    }
}

#[test]
fn plaintext_session_state_is_discarded_after_starttls() {
    let tls = TlsServer::start(&[]);
    let mut client = tls.server.client();
    client.command("EHLO before.test", "250");
    client.command("MAIL FROM:<before@client.test>", "250");
    client.command("RCPT TO:<before@ours.test>", "250");
    client.command("STARTTLS", "220 2.0.0 ");
    let socket = client.socket().try_clone().expect("a descriptor");
    let config = config_trusting(&[&tls.pair.chain]);
    let mut client = TlsClient::over(socket, config).expect("a handshake");
    client.command("DATA", "503 5.5.1 ");
    client.command("RCPT TO:<u@ours.test>", "503 5.5.1 ");
    client.command("MAIL FROM:<a@client.test>", "503 5.5.1 ");
    client.command("EHLO inside.test", "250");
    client.command("DATA", "503 5.5.1 ");
    client.begin_mail();
    client.send("x\r\n.\r\n");
    client.expect("250 2.0.0 ");
    client.command("QUIT", "221 2.0.0 ");
    client.expect_close_notify();
    let mails = tls.server.list();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0]["from"], "a@client.test");
    let shown = tls.server.show(mails[0]["hash"].as_str().expect("a hash"));
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains("inside.test") && !shown.contains("before.test"),
        "{shown}"
    );
}

#[test]
fn starttls_is_offered_only_before_tls_and_rejected_otherwise() {
    let tls = TlsServer::start(&[]);
    let mut client = tls.server.client();
    let offered = client.command("EHLO client.test", "250").text();
    assert!(offered.contains("250-STARTTLS"), "{offered}");
    client.command("STARTTLS now", "501 5.5.4 ");
    client.command("NOOP", "250 2.0.0 ");
    let mut client = tls.client();
    let offered = client.command("EHLO client.test", "250");
    assert!(!offered.contains("STARTTLS"), "{offered}");
    client.command("STARTTLS", "503 5.5.1 ");
    client.command("NOOP", "250 2.0.0 ");
    let mut client = tls.implicit_tls_client();
    let offered = client.command("EHLO client.test", "250");
    assert!(!offered.contains("STARTTLS"), "{offered}");
    client.command("STARTTLS", "503 5.5.1 ");
    client.command("NOOP", "250 2.0.0 ");

    let without_keys = Server::start(&[]);
    let mut client = without_keys.client();
    let offered = client.command("EHLO client.test", "250").text();
    assert!(!offered.contains("STARTTLS"), "{offered}");
    client.command("STARTTLS", "502 5.5.1 ");
    client.command("NOOP", "250 2.0.0 ");
}

#[test]
fn incomplete_tls_handshake_times_out_without_a_plaintext_reply() {
    let tls = TlsServer::start(&[("GSMTP_TIMEOUT", "2"), ("GM_MAX_CLIENTS", "14")]);
    let hello = client_hello(&tls);
    let half = &hello[..hello.len() / 2];
    // The octets that are sent at once, and whether the rest of the ClientHello follows octet by octet.
    let cases: [(&[u8], bool); 7] = [
        (b"", false),
        (b"\x00\xff\x07garbage\r\n", false),
        (b"EHLO client.test\r\n", false),
        (
            b"MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n",
            false,
        ),
        (half, false),
        (half, true),
        (&hello, false),
    ];
    thread::scope(|scope| {
        for (first, drips) in cases {
            for implicit_tls_address in [false, true] {
                let (tls, hello) = (&tls, &hello);
                scope.spawn(move || {
                    let mut socket = socket_before_handshake(tls, implicit_tls_address);
                    let began_at = Instant::now();
                    socket.write_all(first).expect("the server reads");
                    let heard = if drips {
                        read_while_sending_slowly(&mut socket, &hello[first.len()..])
                    } else {
                        hear(&mut socket)
                    };
                    note!("{}", first.escape_ascii());
                    assert_took(began_at.elapsed(), TIMEOUT);
                    let sent_hello = first.len() == hello.len();
                    assert!(sent_hello || heard.is_empty() || is_alert(&heard));
                    assert_only_records(&heard);
                });
            }
        }
    });
    // Every slot is free again, at the latest a moment after its client was closed.
    let connected = || {
        let mut client = Client::connect(tls.server.address);
        (client.read_reply()?.code == 220).then_some(client)
    };
    let clients: Vec<Client> = (0..14).map(|_| wait_for("a slot", connected)).collect();
    drop(clients);
    assert!(tls.server.list().is_empty());
}

#[test]
fn rustsec_2024_0336_close_notify_after_client_hello_uses_no_cpu_time() {
    let tls = TlsServer::start(&[("GSMTP_TIMEOUT", "2")]);
    for versions in [&[&TLS12], rustls::ALL_VERSIONS] {
        for (implicit_tls_address, in_one_write) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let builder = ClientConfig::builder_with_protocol_versions(versions);
            let builder = builder.with_root_certificates(RootCertStore::empty());
            let hello = hello_of(connection(Arc::new(builder.with_no_client_auth())));
            let mut socket = socket_before_handshake(&tls, implicit_tls_address);
            let before = tls.server.processor_time();
            if in_one_write {
                let both = [&hello, CLOSE_NOTIFY].concat();
                socket.write_all(&both).expect("the server reads");
            } else {
                socket.write_all(&hello).expect("the server reads");
                let answered = socket.peek(&mut [0]).expect("the server answers");
                assert_eq!(answered, 1);
                socket.write_all(CLOSE_NOTIFY).expect("the server reads");
            }
            let began_at = Instant::now();
            assert_only_records(&hear(&mut socket));
            // TLS 1.2 ignores this unauthenticated alert, so the timeout applies.
            assert_took(began_at.elapsed(), TIMEOUT);
            let used = tls.server.processor_time() - before;
            assert!(used < Duration::from_millis(100), "{used:?}");
        }
    }
}

#[test]
fn rustsec_2024_0399_fragmented_client_hello_does_not_panic() {
    let tls = TlsServer::start(&[]);
    let config = config_trusting(&[&tls.pair.chain]);
    let length = client_hello(&tls).len();
    for cut in (1..length).step_by(5) {
        // Tests two packets and two TLS records.
        for in_records in [false, true] {
            if in_records && cut <= RECORD_HEAD {
                continue;
            }
            let mut machine = connection(Arc::clone(&config));
            let mut hello = Vec::new();
            machine.write_tls(&mut hello).expect("a vector");
            let cut = cut.min(hello.len() - 1);
            let (first, second) = if in_records {
                (record(&hello[RECORD_HEAD..cut]), record(&hello[cut..]))
            } else {
                (hello[..cut].to_vec(), hello[cut..].to_vec())
            };
            let mut socket =
                TcpStream::connect(tls.implicit_tls_address).expect("the server accepts");
            socket.set_nodelay(true).expect("an open socket");
            socket.write_all(&first).expect("the server reads");
            thread::yield_now();
            socket.write_all(&second).expect("the server reads");
            let mut client = TlsClient::resume(socket, machine).expect("a handshake");
            client.expect("220 mx.test ESMTP");
        }
    }
    assert!(!tls.server.log().contains("panicked"));
}

#[test]
fn client_hello_in_one_octet_records_does_not_panic() {
    let tls = TlsServer::start(&[]);
    let mut machine = connection(config_trusting(&[&tls.pair.chain]));
    let mut hello = Vec::new();
    machine.write_tls(&mut hello).expect("a vector");
    let mut socket = TcpStream::connect(tls.implicit_tls_address).expect("the server accepts");
    socket.set_nodelay(true).expect("an open socket");
    for octet in &hello[RECORD_HEAD..] {
        socket
            .write_all(&record(&[*octet]))
            .expect("the server reads");
    }
    // Records of one octet are valid. A server may reject so many of them, but only over TLS.
    match TlsClient::resume(socket, machine) {
        Ok(mut client) => drop(client.expect("220 ")),
        Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{error}"),
    }
    assert!(!tls.server.log().contains("panicked"));
}

#[test]
fn client_that_closes_before_the_handshake_counts_as_client_left() {
    let tls = TlsServer::start(&[STATUS]);
    drop(TcpStream::connect(tls.implicit_tls_address).expect("the server accepts"));
    let name = "goguerrilla_connections_total{listener=\"smtps\",outcome=\"client_left\"}";
    wait_for_metric(&tls.server, name, 1.0);
}

#[test]
fn server_uses_the_key_exchange_group_preferred_by_the_client() {
    let tls = TlsServer::start(&[("GM_STORE", "discard")]);
    for offered in [
        vec![X25519, X25519MLKEM768, SECP256R1],
        vec![X25519MLKEM768, X25519, SECP256R1],
        vec![SECP256R1],
    ] {
        let chosen = offered[0];
        let provider = CryptoProvider {
            kx_groups: offered,
            ..aws_lc_rs::default_provider()
        };
        let config = config_with(provider, &[&tls.pair.chain]);
        let socket = TcpStream::connect(tls.implicit_tls_address).expect("the server accepts");
        let mut client = TlsClient::over(socket, config).expect("a handshake");
        let group = client.tls().negotiated_key_exchange_group();
        assert_eq!(group.map(|group| group.name()), Some(chosen.name()));
        client.expect("220 ");
    }
}

#[test]
fn replies_to_pipelined_commands_are_sent_in_one_tls_record() {
    let tls = TlsServer::start(&[]);
    let mut client = tls.client();
    client.command("EHLO client.test", "250");
    let commands =
        "MAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nRCPT TO:<v@ours.test>\r\nDATA\r\n";
    let mut socket = client.socket().try_clone().expect("a descriptor");
    client.send(commands);
    let mut records = vec![0; 4_096];
    let count = socket.peek(&mut records).expect("replies");
    assert_eq!(record_kinds(&records[..count]), [APPLICATION_DATA]);
    for reply in ["250 2.1.0", "250 2.1.5", "250 2.1.5", "354 "] {
        client.expect(reply);
    }
    client.send("one\r\n.\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<u@ours.test>\r\nDATA\r\n");
    for reply in ["250 2.0.0", "250 2.1.0", "250 2.1.5", "354 "] {
        client.expect(reply);
    }
    client.send("two\r\n.\r\nQUIT\r\n");
    client.expect("250 2.0.0");
    client.expect("221 2.0.0");
    client.expect_close_notify();
    socket
        .read_exact(&mut [0])
        .expect_err("the end of the connection");
    assert_eq!(tls.server.contents(), [b"two\r\n", b"one\r\n", b"one\r\n"]);
}

#[test]
fn content_in_tls_records_of_any_size_is_stored_unchanged() {
    let tls = TlsServer::start(&[("GSMTP_MAX_SIZE", "4000000")]);
    let line = format!("{}\r\n", "0123456789".repeat(7));
    let content = line.repeat(600_000 / line.len()).into_bytes();
    for sizes in [
        &[16_384, 1_000][..],
        &[6_000],
        &[1, 16_384, 5, 9_000],
        &[5_500, 5_600, 100],
        &[16_384],
        &[137],
    ] {
        let mut client = tls.client();
        client.command("EHLO client.test", "250");
        client.begin_mail();
        let mut rest = &content[..];
        for size in sizes.iter().cycle() {
            let (part, behind) = rest.split_at(rest.len().min(*size));
            client.send(part);
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        client.send(".\r\n");
        client.expect("250 2.0.0 ");
        assert!(tls.server.contents()[0] == content, "{sizes:?}");
    }
}

#[test]
fn mail_without_final_dot_is_not_stored_however_the_tls_client_disconnects() {
    let tls = TlsServer::start(&[]);
    for (number, leave) in [
        (|client: TlsClient| {
            client
                .socket()
                .shutdown(Shutdown::Write)
                .expect("an open socket")
        }) as fn(TlsClient),
        |client| {
            let implicit_tls_address = Some(Duration::ZERO);
            SockRef::from(client.socket())
                .set_linger(implicit_tls_address)
                .expect("an open socket");
        },
        |mut client| {
            client.tls().send_close_notify();
            client.send("");
        },
        drop,
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = tls.client();
        client.command("EHLO client.test", "250");
        client.begin_mail();
        client.send("Subject: x\r\n\r\nnearly all of it\r\n");
        leave(client);
        wait_for_disconnects(&tls.server, number + 1);
    }
    assert!(tls.server.list().is_empty());
}

#[test]
fn unusable_certificate_or_key_is_a_one_line_error_naming_the_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let folder = folder.path();
    Pair::make(folder, "a", KeyKind::EcdsaP256, 90);
    Pair::make(folder, "b", KeyKind::EcdsaP256, 90);
    Pair::make(folder, "c", KeyKind::Rsa2048, 90);
    fs::write(folder.join("words"), "no PEM at all\n").expect("a file is written");
    fs::write(folder.join("empty"), "").expect("a file is written");
    let cut = fs::read_to_string(folder.join("a.key.pem")).expect("a key");
    fs::write(folder.join("cut"), &cut[..cut.len() / 2]).expect("a file is written");
    let key_form = "a private key (PKCS#8, PKCS#1 or SEC1)";
    let no_key = |file: &str, found: &str| {
        format!("GSMTP_PRV_KEY: expected {key_form} in {file}, but found {found}")
    };
    let no_chain = |file: &str, found: &str| {
        format!("GSMTP_PUB_KEY: expected a certificate in PEM form in {file}, but found {found}")
    };
    let absent = |key: &str| {
        format!(
            "{key}: cannot read absent: No such file or directory (os error 2); name a file this user may read\n"
        )
    };
    let unfit = |chain: &str, key: &str| {
        format!("GSMTP_PRV_KEY: the key in {key} does not fit the certificate in {chain}: ")
    };
    for (chain, key, expected) in [
        ("absent", "a.key.pem", absent("GSMTP_PUB_KEY")),
        ("a.cert.pem", "absent", absent("GSMTP_PRV_KEY")),
        ("words", "a.key.pem", no_chain("words", "none\n")),
        ("empty", "a.key.pem", no_chain("empty", "an empty file\n")),
        ("a.key.pem", "a.key.pem", no_chain("a.key.pem", "a private key; ")),
        ("a.cert.pem", "words", no_key("words", "none\n")),
        ("a.cert.pem", "a.cert.pem", no_key("a.cert.pem", "a certificate; ")),
        ("a.cert.pem", "cut", no_key("cut", "a block \"BEGIN PRIVATE KEY\" that is damaged or not complete; ")),
        ("a.cert.pem", "b.key.pem", unfit("a.cert.pem", "b.key.pem")),
        ("a.cert.pem", "c.key.pem", unfit("a.cert.pem", "c.key.pem")),
        (
            "a.cert.pem",
            "",
            "goguerrilla.conf: GSMTP_PRV_KEY: expected a PEM file, since GSMTP_PUB_KEY is set, but found \"\"\n".to_owned(),
        ),
        (
            "",
            "a.key.pem",
            "goguerrilla.conf: GSMTP_PUB_KEY: expected a PEM file, since GSMTP_PRV_KEY is set, but found \"\"\n".to_owned(),
        ),
    ] {
        let keys = [("GSMTP_PUB_KEY", chain), ("GSMTP_PRV_KEY", key), ("GM_STORE", "sqlite")];
        write_config(folder, &keys);
        let started = process::run(folder, &["-config=goguerrilla.conf"]);
        assert_eq!((started.status, started.stdout.as_str()), (1, ""), "{chain} {key}");
        let line = started.stderr.strip_prefix("goguerrilla: ").expect("the name of the program");
        assert!(line.starts_with(&expected), "{line} for {expected}");
        assert_eq!(line.lines().count(), 1, "{line}");
        let checked = process::run(folder, &["check", "-config=goguerrilla.conf"]);
        assert_eq!(checked.status, 1, "{chain} {key}");
        assert_eq!(checked.stdout, format!("error: {line}"));
    }
}

#[test]
fn expiring_certificate_and_world_readable_key_cause_warnings() {
    for (days, mode, expected) in [
        (
            -1,
            0o600,
            Some(
                "GSMTP_PUB_KEY: the certificate in mx.cert.pem has expired; renew it, clients may refuse it",
            ),
        ),
        (
            5,
            0o600,
            Some("GSMTP_PUB_KEY: the certificate in mx.cert.pem expires in 4 days; renew it"),
        ),
        (
            90,
            0o644,
            Some("GSMTP_PRV_KEY: everybody may read mx.key.pem; run: chmod o-r mx.key.pem"),
        ),
        (15, 0o640, None),
    ] {
        let folder = TempDir::new().expect("a temporary folder");
        let pair = Pair::make(folder.path(), "mx", KeyKind::EcdsaP256, days);
        fs::set_permissions(&pair.key, Permissions::from_mode(mode)).expect("a file of this test");
        let keys = [
            ("GSMTP_PUB_KEY", "mx.cert.pem"),
            ("GSMTP_PRV_KEY", "mx.key.pem"),
        ];
        let server = Server::start_in(folder, &keys);
        let checked = process::run(server.folder.path(), &["check", "-config=goguerrilla.conf"]);
        let warning = expected.map_or(String::new(), |text| format!("warning: {text}\n"));
        assert_eq!((checked.status, checked.stdout), (0, warning));
        match expected {
            Some(text) => {
                drop(server.wait_for_log(&format!(" warn - certificate warning=\"{text}\"")))
            }
            None => assert!(!server.log().contains(" - certificate warning=")),
        }
    }
}

#[test]
fn certificate_that_stays_the_same_is_not_reported_as_renewed() {
    let tls = TlsServer::start(&[("GM_STORE", "discard")]);
    let reloads = |count: usize| {
        tls.server.signal(Signal::SIGHUP);
        wait_for("the reload in the log", || {
            let log = tls.server.log();
            let done = log.lines().filter(|line| line.ends_with(" reload"));
            (done.count() == count).then_some(log)
        })
    };
    assert!(!reloads(1).contains(" certificate_renewed"));
    // Written again with the same content.
    let chain = fs::read(&tls.pair.chain).expect("a file of this test");
    fs::write(&tls.pair.chain, chain).expect("a file of this test");
    assert!(!reloads(2).contains(" certificate_renewed"));
    let elsewhere = TempDir::new().expect("a temporary folder");
    let renewal = Pair::make(elsewhere.path(), "renewed", KeyKind::EcdsaP256, 90);
    replace_pair(&renewal, &tls.pair);
    assert_eq!(reloads(3).matches(" certificate_renewed").count(), 1);
}

#[test]
fn certificate_renewal_under_load_fails_no_handshake() {
    let tls = TlsServer::start(&[("GM_STORE", "discard")]);
    let elsewhere = TempDir::new().expect("a temporary folder");
    let kinds = [
        KeyKind::Rsa2048,
        KeyKind::EcdsaP256,
        KeyKind::Rsa2048,
        KeyKind::EcdsaP256,
    ];
    let renewals: Vec<Pair> = (0..)
        .zip(kinds)
        .map(|(number, kind)| Pair::make(elsewhere.path(), &format!("mx{number}"), kind, 90))
        .collect();
    let first = Pair {
        chain: elsewhere.path().join("first"),
        key: tls.pair.key.clone(),
    };
    fs::copy(&tls.pair.chain, &first.chain).expect("a file of this test");
    let trusted: Vec<&Path> = renewals
        .iter()
        .chain([&first])
        .map(|pair| &*pair.chain)
        .collect();
    let config = config_trusting(&trusted);
    let (stop, handshakes) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for implicit_tls_address in [false, true, false, true] {
            let (tls, config, stop, handshakes) = (&tls, &config, &stop, &handshakes);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let client = TlsClient::over(
                        socket_before_handshake(tls, implicit_tls_address),
                        Arc::clone(config),
                    );
                    client
                        .expect("a handshake")
                        .command("QUIT", if implicit_tls_address { "220" } else { "221" });
                    handshakes.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let _stop = OnDrop(|| stop.store(true, Ordering::SeqCst));
        for (number, renewal) in renewals.iter().enumerate() {
            let seen = handshakes.load(Ordering::SeqCst);
            wait_for("handshakes", || {
                (handshakes.load(Ordering::SeqCst) > seen + 20).then_some(())
            });
            replace_pair(renewal, &tls.pair);
            tls.server.signal(Signal::SIGHUP);
            wait_for("the renewed certificate in the log", || {
                (tls.server.log().matches(" certificate_renewed").count() > number).then_some(())
            });
            let mut client =
                TlsClient::over(socket_before_handshake(&tls, false), Arc::clone(&config))
                    .expect("a handshake");
            assert_eq!(client.certificate(), certificate(&renewal.chain));
        }
    });
    assert!(handshakes.load(Ordering::SeqCst) > 80);
    assert!(!tls.server.log().contains("tls_failed"));
}

#[test]
fn invalid_new_certificate_is_ignored_and_a_valid_one_is_loaded_without_sighup() {
    let tls = TlsServer::start(&[("GM_STORE", "discard")]);
    let elsewhere = TempDir::new().expect("a temporary folder");
    let old = certificate(&tls.pair.chain);
    let old_chain = elsewhere.path().join("old");
    fs::copy(&tls.pair.chain, &old_chain).expect("a file of this test");
    let renewal = Pair::make(elsewhere.path(), "renewed", KeyKind::EcdsaP256, 90);
    let config = config_trusting(&[&old_chain, &renewal.chain]);
    let served = || {
        let client = TlsClient::over(socket_before_handshake(&tls, false), Arc::clone(&config));
        client.expect("a handshake").certificate()
    };
    let mut before = tls.client();
    before.command("EHLO client.test", "250");

    fs::copy(&renewal.chain, &tls.pair.chain).expect("a file of this test");
    tls.server.signal(Signal::SIGHUP);
    let log = tls.server.wait_for_log(" error - reload_refused ");
    let line = log
        .lines()
        .find(|line| line.contains("reload_refused"))
        .expect("a line");
    assert!(
        line.contains("does not fit the certificate in") && line.contains("mx.key.pem"),
        "{line}"
    );
    assert_eq!(served(), old);
    fs::write(&tls.pair.chain, "words\n").expect("a file of this test");
    tls.server.signal(Signal::SIGHUP);
    tls.server
        .wait_for_log("expected a certificate in PEM form in");
    assert_eq!(served(), old);

    replace_pair(&renewal, &tls.pair);
    wait_for_within("the renewed certificate", Duration::from_secs(45), || {
        tls.server
            .log()
            .contains(" certificate_renewed")
            .then_some(())
    });
    assert_eq!(served(), certificate(&renewal.chain));
    // Open sessions continue.
    before.command("NOOP", "250 2.0.0 ");
}

#[test]
fn tls_client_that_does_not_read_the_quit_reply_is_closed_in_time() {
    let tls = TlsServer::start(&[
        ("GSMTP_TIMEOUT", "1"),
        ("GM_STATUS_INTERFACE", "127.0.0.1:0"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
        ("GM_MAX_RECIPIENTS", "10000"),
    ]);
    let idle_sockets = tls.server.sockets();
    let first = client_that_never_reads(&tls, 10_000);
    let mut ended = 1;
    let line = wait_for_disconnects(&tls.server, ended);
    assert!(line.contains(" reason=write_timeout "), "{line}");
    drop(first);
    // How many replies fit into all buffers on the path: at most one for each RCPT that the server read.
    let octets = value(&line, "octets").expect("a figure");
    let most = octets.parse::<usize>().expect("a figure") / REFUSED_RCPT.len();
    // Around the capacity, in steps that are smaller than one read: for some clients all replies fit except those that are
    // sent together with the 221.
    let mut fewest = most.saturating_sub(300);
    let mut quit_before = 0;
    let log = (0..20).find_map(|_| {
        let clients: Vec<TlsClient> = (0..CLIENTS)
            .map(|step| client_that_never_reads(&tls, fewest + step * 25))
            .collect();
        ended += clients.len();
        wait_for_disconnects(&tls.server, ended);
        wait_for("all connections to be closed", || {
            (tls.server.sockets() <= idle_sockets).then_some(())
        });
        let figures = figures(&tls.server);
        let replied = figures["goguerrilla_replies_total{code=\"221\"}"];
        let log = tls.server.log();
        let went_out = log.matches(" reason=quit ").count();
        note!("{fewest} and more: {replied} × 221 replied, of which {went_out} were sent");
        // The kernel may give these connections other buffers than the first one.
        match went_out - quit_before {
            0 => fewest = fewest.saturating_sub(CLIENTS * 25),
            CLIENTS => fewest += CLIENTS * 25,
            _ => {}
        }
        quit_before = went_out;
        (replied > went_out as f64).then_some(log)
    });
    let log = log.expect("a client whose last replies do not fit");
    for line in log.lines().filter(|line| line.contains(" disconnected ")) {
        let is_known = ["quit", "write_timeout"]
            .iter()
            .any(|reason| line.contains(&format!(" reason={reason} ")));
        assert!(is_known, "{line}");
    }
}

/// Clients of one round that never read.
const CLIENTS: usize = 16;

/// Returns a TLS client that has sent `recipients` RCPTs, all rejected, and QUIT, and reads nothing.
fn client_that_never_reads(tls: &TlsServer, recipients: usize) -> TlsClient {
    let socket = connect_with_small_buffers(tls.server.address).expect("the server accepts");
    let mut client = Client::over(socket);
    client.expect("220 ");
    let config = config_trusting(&[&tls.pair.chain]);
    let mut client = TlsClient::over(starttls(client), config).expect("a handshake");
    let timeout = client.socket().set_write_timeout(Some(TEST_TIMEOUT));
    timeout.expect("an open socket");
    client.command("EHLO client.test", "250-");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    let commands = REFUSED_RCPT.repeat(recipients) + "QUIT\r\n";
    let _ = client.try_send(commands.as_bytes());
    client
}

/// Runs its function when it is dropped, also during a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0();
    }
}

/// Replaces certificate and key as ACME clients do: writes new files, then renames them over the old ones.
fn replace_pair(new: &Pair, old: &Pair) {
    for (new, old) in [(&new.chain, &old.chain), (&new.key, &old.key)] {
        let new_file = old.with_extension("new");
        fs::copy(new, &new_file).expect("a file of this test");
        fs::rename(&new_file, old).expect("a file of this test");
    }
}

/// Returns a connected socket whose next octet belongs to the TLS handshake.
fn socket_before_handshake(tls: &TlsServer, implicit_tls_address: bool) -> TcpStream {
    let socket = if implicit_tls_address {
        TcpStream::connect(tls.implicit_tls_address).expect("the server accepts")
    } else {
        starttls(tls.server.client())
    };
    socket.set_nodelay(true).expect("an open socket");
    socket
        .set_read_timeout(Some(TEST_TIMEOUT))
        .expect("an open socket");
    socket
}

/// Returns the first record of a TLS client.
fn client_hello(tls: &TlsServer) -> Vec<u8> {
    hello_of(connection(config_trusting(&[&tls.pair.chain])))
}

fn hello_of(mut machine: ClientConnection) -> Vec<u8> {
    let mut hello = Vec::new();
    machine.write_tls(&mut hello).expect("a vector");
    hello
}

/// Returns a handshake record with these octets.
fn record(octets: &[u8]) -> Vec<u8> {
    let length = (octets.len() as u16).to_be_bytes();
    [&[HANDSHAKE, 3, 1], &length[..], octets].concat()
}

/// Reads until the connection ends.
fn hear(socket: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match socket.read_to_end(&mut heard) {
        Ok(_) => {}
        // The kernel resets a connection that is closed with unread input.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server does not close: {error}"),
    }
    heard
}

/// Reads until the connection ends, while sending one octet per second.
fn read_while_sending_slowly(socket: &mut TcpStream, octets: &[u8]) -> Vec<u8> {
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("an open socket");
    let mut heard = Vec::new();
    for octet in octets.iter().take(60) {
        match socket.read_to_end(&mut heard) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return heard,
        }
        if socket.write_all(&[*octet]).is_err() {
            return heard;
        }
    }
    panic!("the connection is still open after all octets");
}

/// Asserts that no octet is plaintext.
fn assert_only_records(heard: &[u8]) {
    for kind in record_kinds(heard) {
        assert!((20..=23).contains(&kind), "{}", heard.escape_ascii());
    }
}

fn is_alert(heard: &[u8]) -> bool {
    record_kinds(heard) == [ALERT]
}

/// Returns the content type of each TLS record; anything else yields type 0, which does not exist.
fn record_kinds(octets: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut rest = octets;
    while !rest.is_empty() {
        let is_head = rest.len() >= RECORD_HEAD && rest[1] == 3;
        let length = is_head.then(|| usize::from(u16::from_be_bytes([rest[3], rest[4]])));
        match length.and_then(|length| rest.get(RECORD_HEAD + length..)) {
            Some(behind) => {
                kinds.push(rest[0]);
                rest = behind;
            }
            None => {
                kinds.push(0);
                break;
            }
        }
    }
    kinds
}

/// GSMTP_TIMEOUT of the tests of handshakes.
const TIMEOUT: Duration = Duration::from_secs(2);

const REFUSED_RCPT: &str = "RCPT TO:<u@b.test>\r\n";

const HANDSHAKE: u8 = 22;

const ALERT: u8 = 21;

const APPLICATION_DATA: u8 = 23;

const RECORD_HEAD: usize = 5;

const CLOSE_NOTIFY: &[u8] = b"\x15\x03\x03\x00\x02\x01\x00";
