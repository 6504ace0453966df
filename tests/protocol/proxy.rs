//! PROXY protocol headers, octet by octet: which client address the session gets, and which connections are closed
//! without a reply.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use testkit::steps::assert_newest_mail_came_from;
use testkit::store::mails_after;
use testkit::tls::{TlsClient, TlsServer, config_trusting, connection, starttls};
use testkit::{Client, Server, assert_took, test, wait_for};

const PROXY_PROTOCOL_ON: &[(&str, &str)] = &[
    ("GSMTP_PROXY_PROTOCOL", "Y"),
    ("GM_TRUSTED_PROXIES", "127.0.0.1"),
];

const V1: &str = "PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r\n";

#[test]
fn valid_proxy_headers_set_the_client_address() {
    let server = Server::start(PROXY_PROTOCOL_ON);
    let v4 = [192, 0, 2, 1, 192, 0, 2, 2, 3, 232, 0, 25];
    let v6 = |ip: &str| {
        let ip: std::net::Ipv6Addr = ip.parse().expect("an address");
        [&ip.octets()[..], &[0; 20]].concat()
    };
    let tlv = |octets: usize| {
        let length = (octets as u16).to_be_bytes();
        [&v4[..], &[0xee], &length, &vec![7; octets]].concat()
    };
    for (header, address) in [
        (V1.into(), "192.0.2.1"),
        ("PROXY TCP6 2001:db8::1 ::1 1 25\r\n".into(), "2001:db8::1"),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 25\r\n".into(),
            "192.0.2.1",
        ),
        ("PROXY UNKNOWN\r\n".into(), "127.0.0.1"),
        ("PROXY UNKNOWN what ever 192.0.2.1\r\n".into(), "127.0.0.1"),
        (v2(0x21, 0x11, &v4), "192.0.2.1"),
        (v2(0x21, 0x11, &tlv(3)), "192.0.2.1"),
        (v2(0x21, 0x11, &tlv(60_000)), "192.0.2.1"),
        (v2(0x21, 0x21, &v6("2001:db8::1")), "2001:db8::1"),
        (v2(0x21, 0x21, &v6("::ffff:192.0.2.1")), "192.0.2.1"),
        (v2(0x21, 0x31, &[b'x'; 216]), "127.0.0.1"),
        (v2(0x21, 0x00, &[]), "127.0.0.1"),
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
        (v2(0x20, 0x11, &v4), "127.0.0.1"),
    ] {
        // Sends the header in one packet with the first command, alone, and octet by octet.
        let shown = header[..header.len().min(40)].escape_ascii().to_string();
        let mut eager = Client::connect(server.address);
        eager.send([&header[..], b"EHLO client.test\r\n"].concat());
        eager.expect("220 mx.test ESMTP");
        eager.expect("250-mx.test");
        deliver(&server, eager, address, &shown);
        let mut calm = Client::connect(server.address);
        calm.send(&header);
        calm.expect("220 mx.test ESMTP");
        deliver(&server, calm, address, &shown);
        if header.len() < 60 {
            let mut slow = Client::connect(server.address);
            for octet in &header {
                slow.send([*octet]);
                server.wait_until_idle();
            }
            slow.expect("220 mx.test ESMTP");
            deliver(&server, slow, address, &shown);
        }
    }
}

#[test]
fn invalid_proxy_header_closes_the_connection_without_a_reply() {
    let server = Server::start(PROXY_PROTOCOL_ON);
    let mut bad_signature = v2(0x21, 0x11, &[0; 12]);
    bad_signature[11] = b'\r';
    for header in [
        b"EHLO client.test\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1000 25\r\n".into(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01000 25\r\n".into(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 65536\r\n".into(),
        b"PROXY TCP4 2001:db8::1 ::1 1000 25\r\n".into(),
        b"PROXY TCP5 192.0.2.1 192.0.2.2 1000 25\r\n".into(),
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1000 25\r\n".into(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\nEHLO client.test\r\n".into(),
        b"PROXY TCP4 192.0.2.1\x1b 192.0.2.2 1000 25\r\n".into(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 94]].concat(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 10_000]].concat(),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x21, 0x12, &[0; 12]),
        v2(0x22, 0x11, &[0; 12]),
        v2(0x31, 0x11, &[0; 12]),
        bad_signature,
        vec![0; 10_000],
    ] {
        let started_at = Instant::now();
        let mut client = Client::connect(server.address);
        client.send(&header);
        client.expect_close();
        // An incomplete header would be awaited for more than three seconds.
        assert_took(started_at.elapsed(), Duration::from_millis(200));
    }
    server.wait_for_log(" reason=no_proxy_header ");
    assert!(mails_after(&server.path("goguerrilla.db"), 0).is_empty());
    let mut client = Client::connect(server.address);
    client.send(V1);
    client.expect("220 ");
}

#[test]
fn incomplete_proxy_header_times_out_after_seconds() {
    let server = Server::start(&[PROXY_PROTOCOL_ON, &[("GSMTP_TIMEOUT", "60")]].concat());
    let halves = [&V1.as_bytes()[..20], &v2(0x21, 0x11, &[0; 12])[..20], b""];
    thread::scope(|scope| {
        for half in halves {
            let server = &server;
            scope.spawn(move || {
                let mut client = Client::connect(server.address);
                client.send(half);
                let started_at = Instant::now();
                client.expect_close();
                let waited = started_at.elapsed();
                assert!(waited > Duration::from_secs(3), "{waited:?}");
                // Less than GSMTP_TIMEOUT.
                assert_took(waited, Duration::from_secs(5));
            });
        }
        // A header that is completed within a TCP retransmission time is accepted.
        let mut late = Client::connect(server.address);
        late.send(&V1[..20]);
        late.expect_silence(Duration::from_secs(3));
        late.send(&V1[20..]);
        late.expect("220 ");
    });
}

#[test]
fn connection_from_an_untrusted_proxy_is_closed_whatever_it_sends() {
    let server = Server::start(PROXY_PROTOCOL_ON);
    for header in ["", V1, "PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\n"] {
        let mut client = connect_from(&server, Ipv4Addr::new(127, 0, 0, 2));
        client.send(header);
        client.expect_close();
    }
    server.wait_for_log(" client=127.0.0.2 reason=untrusted_proxy ");
    let server = Server::start(&[("GSMTP_PROXY_PROTOCOL", "Y")]);
    let mut client = Client::connect(server.address);
    client.send(V1);
    client.expect_close();
    let note = "GSMTP_PROXY_PROTOCOL: is Y, but GM_TRUSTED_PROXIES is empty";
    assert!(server.log().contains(note));
}

#[test]
fn proxy_header_is_an_unknown_command_when_the_proxy_protocol_is_off() {
    let server = Server::start(&[("GM_TRUSTED_PROXIES", "127.0.0.1")]);
    let mut client = server.client();
    client.command("PROXY TCP4 192.0.2.1 192.0.2.2 1000 25", "500 5.5.2 ");
    client.command("NOOP", "250 ");
    let mut client = server.client();
    client.send(v2(0x21, 0x11, &[0; 12]));
    // The lines of a version 2 header are unknown commands too; the last one ends in a bare LF, which closes the
    // connection.
    while let Some(reply) = client.read_reply() {
        assert!(reply.text().starts_with("500 5.5.2 "), "{}", reply.text());
    }
}

#[test]
fn health_checks_are_not_logged_as_sessions() {
    let server = Server::start(PROXY_PROTOCOL_ON);
    // A load balancer that only connects, and one that sends PROXY LOCAL.
    drop(TcpStream::connect(server.address).expect("the server accepts"));
    let mut check = Client::connect(server.address);
    check.send(v2(0x20, 0x00, &[]));
    check.expect("220 ");
    check.command("HELO localhost", "250 ");
    check.command("QUIT", "221 ");
    check.expect_close();
    let mut client = Client::connect(server.address);
    client.send(V1);
    client.expect("220 ");
    client.command("QUIT", "221 ");
    let log = server.wait_for_log(" client=192.0.2.1 ");
    assert_eq!(log.matches(" disconnected ").count(), 1, "{log}");
}

#[test]
fn proxy_header_is_read_before_the_tls_handshake() {
    let tls = TlsServer::start(PROXY_PROTOCOL_ON);
    let mut plain = Client::connect(tls.server.address);
    plain.send(V1);
    plain.expect("220 ");
    let config = config_trusting(&[&tls.pair.chain]);
    let mut client = TlsClient::over(starttls(plain), config.clone()).expect("a handshake");
    client.command("EHLO client.test", "250");
    deliver_in_tls(&tls.server, &mut client);

    // Sends the header alone, and in one packet with the ClientHello.
    for together in [false, true] {
        let mut socket = TcpStream::connect(tls.implicit_tls_address).expect("the server accepts");
        let mut machine = connection(config.clone());
        let mut first = V1.as_bytes().to_vec();
        if together {
            machine.write_tls(&mut first).expect("a ClientHello");
        }
        std::io::Write::write_all(&mut socket, &first).expect("the server reads");
        let mut client = TlsClient::resume(socket, machine).expect("a handshake");
        client.expect("220 ");
        client.command("EHLO client.test", "250");
        deliver_in_tls(&tls.server, &mut client);
    }

    // A handshake without a header is rejected.
    let socket = TcpStream::connect(tls.implicit_tls_address).expect("the server accepts");
    assert!(TlsClient::over(socket, config).is_err());
}

#[test]
fn proxy_header_address_counts_for_the_ip_limit_and_xclient_cannot_change_it() {
    let server = Server::start(&[PROXY_PROTOCOL_ON, &[("GM_MAX_CLIENTS_PER_IP", "1")]].concat());
    let mut first = Client::connect(server.address);
    first.send(V1);
    first.expect("220 ");
    let mut second = Client::connect(server.address);
    second.send(V1);
    second.expect("421 4.7.0 ");
    second.expect_close();
    // The address of the header is fixed: XCLIENT cannot change it, but nginx may repeat it.
    first.command("XCLIENT ADDR=192.0.2.9", "550 5.7.0 ");
    first.command("XCLIENT ADDR=[UNAVAILABLE]", "550 5.7.0 ");
    first.command("XCLIENT ADDR=192.0.2.1 NAME=[UNAVAILABLE]", "220 ");
    first.command("EHLO client.test", "250");
    deliver(&server, first, "192.0.2.1", "twice");
    // If the header names no client, XCLIENT may.
    let mut third = Client::connect(server.address);
    third.send("PROXY UNKNOWN\r\n");
    third.expect("220 ");
    third.command("XCLIENT ADDR=192.0.2.9", "220 ");
    third.command("EHLO client.test", "250");
    deliver(&server, third, "192.0.2.9", "named later");
}

#[test]
fn shutdown_does_not_wait_for_proxy_headers() {
    let mut server = Server::start(PROXY_PROTOCOL_ON);
    let mut waiting = Client::connect(server.address);
    waiting.send("PROXY ");
    wait_for("a thread to wait for the header", || {
        (server.threads() > 6).then_some(())
    });
    let started_at = Instant::now();
    server.signal(Signal::SIGTERM);
    waiting.expect_close();
    drop(waiting);
    assert!(server.wait().success());
    assert_took(started_at.elapsed(), Duration::from_millis(200));
}

/// Returns a header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [
        b"\r\n\r\n\0\r\nQUIT\n",
        &[command, family][..],
        &length,
        body,
    ]
    .concat()
}

/// Delivers a mail and asserts its client address.
fn deliver(server: &Server, mut client: Client, address: &str, what: &str) {
    let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: x\r\n");
    assert_eq!(reply.code, 250, "{what}: {}", reply.text());
    client.command("QUIT", "221 ");
    assert_newest_mail_came_from(server, address, "ESMTP", what);
}

fn deliver_in_tls(server: &Server, client: &mut TlsClient) {
    client.begin_mail();
    client.send(".\r\n");
    client.expect("250 2.0.0 OK");
    assert_newest_mail_came_from(server, "192.0.2.1", "ESMTPS", "in TLS");
}

fn connect_from(server: &Server, source: Ipv4Addr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let from = SocketAddr::new(source.into(), 0);
    socket.bind(&from.into()).expect("an address of loopback");
    let to = server.address.into();
    socket.connect(&to).expect("the server accepts");
    Client::over(socket.into())
}
