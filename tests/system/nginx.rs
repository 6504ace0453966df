//! Debian's nginx with dist/nginx-mail.conf: mail arrives unchanged with the client's address, and the server's
//! error replies reach the client unchanged.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::clients::{mail, mail_with_final_empty_line};
use testkit::auth_http::auth_address;
use testkit::certificates::{KeyKind, Pair};
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::ports::free_address;
use testkit::project_files::{dist_file, with};
use testkit::proxies::ProxyProcess;
use testkit::status::{STATUS, figures, get, wait_for_metric};
use testkit::store::{StoredMail, mails_after};
use testkit::tls::{TlsClient, config_trusting, starttls};
use testkit::{Client, Server, test, wait_for, without_trace};

#[test]
fn nginx_forwards_mail_from_ipv4_and_ipv6_clients_with_their_addresses() {
    let proxied = ProxiedServer::start(&[]);
    let content = mail("\r\n");
    for (address, source, literal) in [
        (proxied.v4, "127.0.0.2", "[127.0.0.2]"),
        (proxied.v6, "::1", "[IPv6:::1]"),
    ] {
        let mut client = match source {
            "::1" => Client::connect(address),
            _ => connect_from_second_address(address),
        };
        client.expect("220 mx.example.com ESMTP");
        let reply = client.deliver_pipelined(&content);
        assert!(reply.starts_with("250 2.0.0 OK : queued as "), "{reply}");
        let mail = proxied.newest();
        assert_eq!(
            (mail.ip_addr.as_str(), mail.from.as_str()),
            (source, "a@client.test")
        );
        assert_eq!(without_trace(&mail.mail), content);
        let text = String::from_utf8_lossy(&mail.mail).into_owned();
        let received =
            format!("from client.test (client.test {literal})\r\n\tby mx.test with ESMTP id");
        assert!(text.contains(&received), "{text}");
    }
}

#[test]
fn nginx_terminates_starttls_without_session_tickets() {
    let proxied = ProxiedServer::start(&[]);
    let mut plain = Client::connect(proxied.v6);
    plain.expect("220 ");
    let config = config_trusting(&[&proxied.pair.chain]);
    let mut client = TlsClient::over(starttls(plain), config).expect("a handshake");
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client.command("DATA", "354 ");
    client.send(testkit::stuffed(&mail("\r\n")));
    client.expect("250 2.0.0 OK : queued as ");
    assert_eq!(client.tls().tls13_tickets_received(), 0);
    let mail = proxied.newest();
    assert_eq!(mail.ip_addr, "::1");
    assert_eq!(without_trace(&mail.mail), crate::clients::mail("\r\n"));
}

#[test]
fn nginx_clients_with_unusual_command_spelling_are_accepted() {
    let proxied = ProxiedServer::start(&[]);
    let mut client = proxied.client();
    client.command("HELO client.test", "250 ");
    client.command("mail from: <> SIZE=24", "250 ");
    client.command("rcpt to:<\"u v\"@OURS.test>", "250 2.1.5 ");
    client.command("DATA", "354 ");
    client.send("Subject: x\r\n\r\n.\r\n");
    client.expect("250 2.0.0 OK : queued as ");
    client.command("QUIT", "221 2.0.0 ");
    let mail = proxied.newest();
    assert_eq!(
        (mail.from.as_str(), mail.recipient.as_str()),
        ("", "\"u v\"@OURS.test")
    );
    let text = String::from_utf8_lossy(&mail.mail).into_owned();
    assert!(text.contains("by mx.test with SMTP id"), "{text}");

    // nginx accepts MAIL without EHLO; the server then rejects RCPT with 503.
    let mut rude = proxied.client();
    rude.command("MAIL FROM:<a@client.test>", "250 ");
    rude.command("RCPT TO:<u@ours.test>", "503 5.5.1 ");
    rude.expect_close();
}

#[test]
fn nginx_forwards_500_concurrent_clients() {
    let proxied = ProxiedServer::start(&[("GM_MAX_CLIENTS", "600")]);
    fs::write(proxied.server.path("mail"), mail("\n")).expect("a file is written");
    let to = proxied.v6.to_string();
    let program = [
        "smtp-source",
        "-6",
        "-C",
        "20",
        "-M",
        "client.test",
        "-s",
        "500",
        "-m",
        "2000",
    ];
    let envelope = [
        "-f",
        "a@client.test",
        "-t",
        "u@ours.test",
        "-F",
        "mail",
        &to,
    ];
    crate::clients::run(&proxied.server, &program, &envelope);
    let mails = mails_after(&proxied.server.path("goguerrilla.db"), 0);
    assert_eq!(mails.len(), 2_000);
    for mail in mails {
        assert_eq!(mail.ip_addr, "::1");
        assert_eq!(without_trace(&mail.mail), mail_with_final_empty_line());
    }
}

#[test]
fn nginx_rejects_a_relay_recipient_and_the_transaction_continues() {
    let proxied = ProxiedServer::start(&[("GM_ALLOWED_HOSTS", "ours.test")]);
    let mut client = proxied.client();
    client.command("EHLO client.test", "250");
    client.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<a%foreign@ours.test>\r\nRCPT TO:<u@ours.test>\r\nRCPT TO:<v@foreign.test>\r\nDATA\r\n");
    for reply in ["250 ", "550 5.7.1 ", "250 2.1.5 ", "550 5.7.1 ", "354 "] {
        client.expect(reply);
    }
    client.send(".\r\n");
    client.expect("250 2.0.0 OK : queued as ");
    assert_eq!(proxied.newest().recipient, "u@ours.test");
    client.command("QUIT", "221 ");
    proxied.server.wait_for_log(" disconnected ");

    // nginx closes the connection of a client after too many rejected recipients; the server gets no connection for it.
    let mut junk = proxied.client();
    junk.command("EHLO client.test", "250");
    junk.command("MAIL FROM:<a@client.test>", "250 ");
    for _ in 0..10 {
        junk.command("RCPT TO:<v@foreign.test>", "550 5.7.1 ");
    }
    junk.expect_close();
    assert_eq!(proxied.server.log().matches(" disconnected ").count(), 1);
}

#[test]
fn nginx_passes_error_replies_of_the_server_to_the_client() {
    let proxied = ProxiedServer::start(&[("GSMTP_MAX_SIZE", "1000"), ("GM_MAX_CLIENTS", "1")]);
    let rcpt = |mail: &str, reply: &str| {
        let mut client = proxied.client();
        client.command("EHLO client.test", "250");
        client.command(mail, "250 ");
        client.command("RCPT TO:<u@ours.test>", reply);
        client
    };
    rcpt("MAIL FROM:<a@client.test> SIZE=1001", "552 5.3.4 ").expect_close();
    // A slot becomes free a moment after its client disconnected.
    let accepted_recipient = || {
        wait_for("a free slot", || {
            let mut client = proxied.client();
            client.command("EHLO client.test", "250");
            client.command("MAIL FROM:<a@client.test>", "250 ");
            client.send("RCPT TO:<u@ours.test>\r\n");
            let reply = client.read_reply()?;
            (reply.code == 250).then_some(client)
        })
    };
    let mut client = accepted_recipient();
    // All slots are taken.
    rcpt("MAIL FROM:<a@client.test>", "421 4.3.2 ").expect_close();
    // The store is unavailable: a folder has taken the place of its file.
    let file = proxied.server.path("goguerrilla.db");
    let moved = proxied.server.path("moved.db");
    fs::rename(&file, &moved).expect("the store");
    fs::create_dir(&file).expect("a folder in place of the store");
    client.command("DATA", "354 ");
    client.send(".\r\n");
    client.expect("451 4.3.0 ");
    fs::remove_dir(&file).expect("a folder of this test");
    fs::rename(&moved, &file).expect("the store");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client.command("DATA", "354 ");
    client.send(".\r\n");
    client.expect("250 2.0.0 OK");
    // XCLIENT from the client itself is rejected.
    client.command("XCLIENT ADDR=192.0.2.1", "550 5.7.0 ");
    client.command("EHLO again.test", "250-mx.test");
    // A client that disconnects within content frees its slot.
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client.command("DATA", "354 ");
    client.send("Subject: half");
    drop(client);
    proxied.server.wait_for_log(" reason=client_left ");
    accepted_recipient();
    assert_eq!(mails_after(&file, 0).len(), 1);
}

#[test]
fn auth_http_answers_421_while_the_store_is_unavailable() {
    let nobody = free_address(Ipv4Addr::LOCALHOST.into()).to_string();
    let mysql = [
        ("GM_STORE", "mysql"),
        ("MYSQL_HOST", nobody.as_str()),
        ("REDIS_INTERFACE", ""),
    ];
    let proxied = ProxiedServer::start(&mysql);
    proxied.server.wait_for_log(" store_unavailable ");
    let mut client = proxied.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "421 4.3.2 ");
    client.expect_close();
    assert!(!proxied.server.log().contains(" disconnected "));
}

#[test]
fn nginx_client_that_disconnects_frees_its_slot_and_stores_nothing() {
    let proxied = ProxiedServer::start(&[("GM_MAX_CLIENTS", "5"), ("GSMTP_TIMEOUT", "300")]);
    // Clients occupy all slots and disconnect in the middle of their mail.
    for round in 1..=3 {
        let mut clients: Vec<Client> = (0..5).map(|_| proxied.client()).collect();
        for client in &mut clients {
            begin_mail(client);
            client.send("Subject: half of a mail\r\n");
        }
        drop(clients);
        wait_for("all sessions to end", || {
            let log = proxied.server.log();
            (log.matches(" disconnected ").count() == 5 * round).then_some(())
        });
    }
    let mut client = proxied.client();
    begin_mail(&mut client);
    client.send("Subject: a whole one\r\n.\r\n");
    client.expect("250 2.0.0 ");
    let mails = mails_after(&proxied.server.path("goguerrilla.db"), 0);
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0].subject, "a whole one");
}

#[test]
fn nginx_without_proxy_pass_error_message_replies_451() {
    let proxied = ProxiedServer::start_with(
        &[("GSMTP_MAX_SIZE", "1000")],
        &[("proxy_pass_error_message on;", "")],
    );
    let mut client = proxied.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test> SIZE=1001", "250 ");
    client.command("RCPT TO:<u@ours.test>", "451 4.3.2 ");
    client.expect_close();
}

#[test]
fn nginx_forwards_client_addresses_with_the_proxy_protocol() {
    let on = ("GSMTP_PROXY_PROTOCOL", "Y");
    let proxied =
        ProxiedServer::start_with(&[on], &[("xclient on;", "xclient on; proxy_protocol on;")]);
    for (address, source) in [(proxied.v4, "127.0.0.2"), (proxied.v6, "::1")] {
        let mut client = match source {
            "::1" => Client::connect(address),
            _ => connect_from_second_address(address),
        };
        client.expect("220 ");
        let reply = client.deliver_pipelined(b"Subject: x\r\n");
        assert!(reply.starts_with("250 2.0.0 OK : queued as "), "{reply}");
        assert_eq!(proxied.newest().ip_addr, source);
    }
}

#[test]
fn per_ip_limit_counts_the_client_address_given_by_nginx() {
    let proxied = ProxiedServer::start(&[("GM_MAX_CLIENTS_PER_IP", "1")]);
    let begin = |mut client: Client, reply: &str| {
        client.expect("220 ");
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<a@client.test>", "250 ");
        client.command("RCPT TO:<u@ours.test>", reply);
        client
    };
    let _first = begin(Client::connect(proxied.v4), "250 2.1.5 ");
    begin(Client::connect(proxied.v4), "421 4.7.0 ").expect_close();
    let _second = begin(connect_from_second_address(proxied.v4), "250 2.1.5 ");
    let _third = begin(Client::connect(proxied.v6), "250 2.1.5 ");
}

#[test]
fn nginx_rejects_recipients_that_the_query_does_not_find() {
    let mut database = MariaDb::start();
    database.sql("CREATE TABLE mailbox (address varchar(320) PRIMARY KEY)");
    database.sql("INSERT INTO mailbox VALUES ('u@ours.test'), ('v@ours.test')");
    let hosts = database.address().to_string();
    let query = [
        (
            "GM_RECIPIENT_QUERY",
            "SELECT 1 FROM mailbox WHERE address = ?",
        ),
        STATUS,
    ];
    let proxied = ProxiedServer::start(&with_hosts(&hosts, &query));
    wait_for("the store to be ready", || {
        (get(&proxied.server, "/readyz").0 == 200).then_some(())
    });
    let mut client = proxied.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    let unknown = "550 5.1.1 Recipient address rejected: User unknown";
    client.command("RCPT TO:<nobody@ours.test>", unknown);
    client.command("RCPT TO:<u@ours.test>", "250 2.1.5 ");
    client.command("RCPT TO:<nobody@ours.test>", unknown);
    client.command("RCPT TO:<v@ours.test>", "250 2.1.5 ");
    client.command("DATA", "354 ");
    client.send(testkit::stuffed(&mail("\r\n")));
    client.expect("250 2.0.0 OK : queued as ");
    assert_eq!(database.count(), 2);
    let connections = "goguerrilla_connections_total{listener=\"smtp\",outcome=\"client_left\"}";
    drop(client);
    wait_for_metric(&proxied.server, connections, 1.0);
    let mut refused = proxied.client();
    refused.command("EHLO client.test", "250");
    refused.command("MAIL FROM:<a@client.test>", "250 ");
    refused.command("RCPT TO:<nobody@ours.test>", unknown);
    assert_eq!(
        figures(&proxied.server)["goguerrilla_connections_active"],
        0.0
    );
    database.kill();
    refused.command("RCPT TO:<unasked@ours.test>", "451 4.3.0 ");
}

/// Sends the commands up to DATA; nginx answers MAIL by itself.
fn begin_mail(client: &mut Client) {
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250 ");
    client.command("RCPT TO:<u@ours.test>", "250 ");
    client.command("DATA", "354 ");
}

/// The server under test and nginx with dist/nginx-mail.conf.
struct ProxiedServer {
    // Dropped first, so that nginx ends before the server.
    _nginx: ProxyProcess,
    server: Server,
    pair: Pair,
    v4: SocketAddr,
    v6: SocketAddr,
}

impl ProxiedServer {
    fn start(settings: &[(&str, &str)]) -> ProxiedServer {
        ProxiedServer::start_with(settings, &[])
    }

    fn start_with(settings: &[(&str, &str)], replacements: &[(&str, &str)]) -> ProxiedServer {
        let near = [("NGINX_AUTH_ENABLED", "Y"), ("NGINX_AUTH", "127.0.0.1:0")];
        let server = Server::start(&[&near, settings].concat());
        let folder = TempDir::new().expect("a temporary folder");
        let pair = Pair::make(folder.path(), "mx", KeyKind::EcdsaP256, 90);
        let (v4, v6) = (
            free_address(Ipv4Addr::LOCALHOST.into()),
            free_address(Ipv6Addr::LOCALHOST.into()),
        );
        let text = |file: &std::path::Path| file.to_str().expect("UTF-8").to_owned();
        let block = with(
            &dist_file("nginx-mail.conf"),
            &[
                ("127.0.0.1:8025", &auth_address(&server).to_string()),
                ("listen 25;", &format!("listen {v4};")),
                ("listen [::]:25;", &format!("listen {v6};")),
                ("/etc/ssl/certs/mx.pem", &text(&pair.chain)),
                ("/etc/ssl/private/mx.key", &text(&pair.key)),
            ],
        );
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_mail_module.so;\nevents {{ worker_connections 8192; }}\n{}",
            with(&block, replacements)
        );
        let nginx = ProxyProcess::nginx(folder, &config, &[v4, v6]);
        ProxiedServer {
            _nginx: nginx,
            server,
            pair,
            v4,
            v6,
        }
    }

    fn client(&self) -> Client {
        let mut client = Client::connect(self.v4);
        client.expect("220 ");
        client
    }

    fn newest(&self) -> StoredMail {
        let mut mails = mails_after(&self.server.path("goguerrilla.db"), 0);
        mails.pop().expect("a mail")
    }
}

/// Connects from 127.0.0.2; nginx itself connects from 127.0.0.1.
fn connect_from_second_address(to: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
    let from = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), 0);
    socket.bind(&from.into()).expect("an address of loopback");
    socket.connect(&to.into()).expect("nginx accepts");
    Client::over(socket.into())
}
