//! XCLIENT: the given address appears in the row, in Received and in the log, and counts for the limit per address.

use nix::sys::signal::Signal;

use testkit::steps::newest_mail;
use testkit::tls::{TlsClient, TlsServer};
use testkit::{Client, Server, test, wait_for, write_config};

const TRUSTED: (&str, &str) = ("GM_TRUSTED_PROXIES", "127.0.0.1,::1");

#[test]
fn xclient_address_appears_in_row_received_field_and_log() {
    let server = Server::start(&[TRUSTED]);
    for (arguments, address, literal) in [
        ("ADDR=192.0.2.1 NAME=c.test", "192.0.2.1", "[192.0.2.1]"),
        (
            "NAME=c.test ADDR=192.0.2.2 PROTO=SMTP HELO=x",
            "192.0.2.2",
            "[192.0.2.2]",
        ),
        ("addr=IPV6:2001:db8::1", "2001:db8::1", "[IPv6:2001:db8::1]"),
        ("ADDR=ipv6:::ffff:192.0.2.3", "192.0.2.3", "[192.0.2.3]"),
        ("ADDR=[UNAVAILABLE]", "127.0.0.1", "[127.0.0.1]"),
        (
            "ADDR=[tempunavail] HELO=[UNAVAILABLE]",
            "127.0.0.1",
            "[127.0.0.1]",
        ),
        ("HELO=other.test", "127.0.0.1", "[127.0.0.1]"),
    ] {
        let mut client = server.client();
        client.command("EHLO proxy.test", "250");
        client.command(&format!("XCLIENT {arguments}"), "220 mx.test ESMTP");
        deliver(&mut client);
        let mail = newest_mail(&server);
        assert_eq!(mail.ip_addr, address, "{arguments}");
        let received = format!(
            "Received: from client.test (client.test {literal})\r\n\tby mx.test with ESMTP id"
        );
        let text = String::from_utf8_lossy(&mail.mail).into_owned();
        assert!(text.contains(&received), "{arguments}: {text}");
        server.wait_for_log(&format!(" client={address} reason=quit helo=client.test"));
    }
}

#[test]
fn two_xclient_commands_combine_and_the_later_value_wins() {
    let server = Server::start(&[TRUSTED]);
    let mut client = server.client();
    client.command("XCLIENT ADDR=192.0.2.1", "220 ");
    client.command("XCLIENT HELO=given.test NAME=c.test", "220 ");
    client.command("QUIT", "221 ");
    server.wait_for_log(" client=192.0.2.1 reason=quit helo=given.test");
    let mut client = server.client();
    client.command("XCLIENT ADDR=192.0.2.1", "220 ");
    client.command("XCLIENT ADDR=IPV6:2001:db8::1", "220 ");
    deliver(&mut client);
    assert_eq!(newest_mail(&server).ip_addr, "2001:db8::1");
}

#[test]
fn received_protocol_follows_the_client_greeting_not_xclient_proto() {
    let server = Server::start(&[TRUSTED]);
    let mut client = server.client();
    client.command("XCLIENT ADDR=192.0.2.1 PROTO=ESMTP", "220 ");
    client.command("HELO client.test", "250 ");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client.command("DATA", "354 ");
    client.send(".\r\n");
    client.expect("250 2.0.0 OK");
    let text = String::from_utf8_lossy(&newest_mail(&server).mail).into_owned();
    assert!(text.contains("by mx.test with SMTP id"), "{text}");
}

#[test]
fn untrusted_client_cannot_change_its_address_with_xclient() {
    let server = Server::start(&[("GM_TRUSTED_PROXIES", "192.0.2.1")]);
    let mut client = server.client();
    // Not even a trusted address is accepted from an untrusted client.
    client.command("XCLIENT ADDR=192.0.2.1", "550 5.7.0 ");
    client.command("XCLIENT ADDR=192.0.2.2", "550 5.7.0 ");
    server.wait_for_log(" rejected client=127.0.0.1 command=XCLIENT ");
    deliver(&mut client);
    assert_eq!(newest_mail(&server).ip_addr, "127.0.0.1");
}

#[test]
fn xclient_cannot_change_the_address_after_an_accepted_recipient() {
    let server = Server::start(&[TRUSTED]);
    let mut client = server.client();
    client.command("XCLIENT ADDR=192.0.2.1", "220 ");
    client.command("EHLO client.test", "250");
    // nginx forwards these commands unchanged.
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client.command("RSET", "250 ");
    client.command("XCLIENT ADDR=192.0.2.9", "550 5.7.0 ");
    deliver(&mut client);
    assert_eq!(newest_mail(&server).ip_addr, "192.0.2.1");
}

#[test]
fn xclient_keeps_tls_and_starttls_keeps_the_xclient_address() {
    let tls = TlsServer::start(&[TRUSTED]);
    let mut client = tls.client();
    client.command("EHLO proxy.test", "250");
    client.command("XCLIENT ADDR=192.0.2.1", "220 mx.test ESMTP");
    let listed = client.command("EHLO client.test", "250");
    assert!(
        !listed.contains("STARTTLS") && !listed.contains("CHUNKING"),
        "{listed}"
    );
    deliver_in_tls(&tls.server, &mut client);

    let mut plain = tls.server.client();
    plain.command(
        "XCLIENT ADDR=192.0.2.1 HELO=given.test",
        "220 mx.test ESMTP",
    );
    let socket = testkit::tls::starttls(plain);
    let config = testkit::tls::config_trusting(&[&tls.pair.chain]);
    let mut client = TlsClient::over(socket, config).expect("a handshake");
    client.command("MAIL FROM:<a@client.test>", "503 5.5.1 ");
    let listed = client.command("EHLO client.test", "250");
    assert!(
        !listed.contains("CHUNKING") && !listed.contains("LIMITS"),
        "{listed}"
    );
    deliver_in_tls(&tls.server, &mut client);
}

#[test]
fn reload_changes_xclient_trust_for_new_connections_only() {
    let server = Server::start(&[]);
    let mut before = server.client();
    before.command("XCLIENT ADDR=192.0.2.1", "550 5.7.0 ");
    let wanted = [TRUSTED, ("NGINX_AUTH_ENABLED", "Y")];
    write_config(server.folder.path(), &wanted);
    server.signal(Signal::SIGHUP);
    let log = server.wait_for_log(" reload");
    assert!(
        log.contains(" restart_required key=\"NGINX_AUTH_ENABLED, NGINX_AUTH\""),
        "{log}"
    );
    server.client().command("XCLIENT ADDR=192.0.2.1", "220 ");
    before.command("XCLIENT ADDR=192.0.2.1", "550 5.7.0 ");
}

#[test]
fn per_ip_limit_counts_the_xclient_address() {
    let server = Server::start(&[TRUSTED, ("GM_MAX_CLIENTS_PER_IP", "2")]);
    let introduce = |address: &str| {
        let mut client = server.client();
        client.send(format!("XCLIENT ADDR={address}\r\n"));
        let code = client.read_reply().expect("a reply").code;
        (code, client)
    };
    // Connections of the proxy itself are not limited.
    let _idle: Vec<Client> = (0..5).map(|_| server.client()).collect();
    let mut held = vec![introduce("192.0.2.1"), introduce("192.0.2.1")];
    assert!(held.iter().all(|(code, _)| *code == 220));
    let mut client = server.client();
    client.command("XCLIENT ADDR=192.0.2.1", "421 4.7.0 ");
    client.expect_close();
    let others = [introduce("192.0.2.2"), introduce("[UNAVAILABLE]")];
    assert!(others.iter().all(|(code, _)| *code == 220));
    let (_, mut leaving) = held.remove(0);
    leaving.command("QUIT", "221 ");
    wait_for("the address to have a free connection", || {
        (introduce("192.0.2.1").0 == 220).then_some(())
    });
}

fn deliver(client: &mut Client) {
    let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: x\r\n");
    assert_eq!(reply.code, 250, "{}", reply.text());
    client.command("QUIT", "221 ");
}

fn deliver_in_tls(server: &Server, client: &mut TlsClient) {
    client.begin_mail();
    client.send(".\r\n");
    client.expect("250 2.0.0 OK");
    let mail = newest_mail(server);
    assert_eq!(mail.ip_addr, "192.0.2.1");
    let text = String::from_utf8_lossy(&mail.mail).into_owned();
    assert!(
        text.contains("(client.test [192.0.2.1])\r\n\tby mx.test with ESMTPS id"),
        "{text}"
    );
}
