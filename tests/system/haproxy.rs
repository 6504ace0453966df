//! Debian's HAProxy with dist/haproxy.cfg: PROXY header versions 1 and 2, health checks, and TLS passed
//! through.

use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::clients::mail;
use testkit::ports::free_address;
use testkit::project_files::{dist_file, with};
use testkit::proxies::ProxyProcess;
use testkit::status::{STATUS, figures};
use testkit::store::mails_after;
use testkit::tls::{TlsClient, TlsServer, config_trusting, connection, starttls};
use testkit::{Client, test, wait_for, without_trace};

#[test]
fn haproxy_forwards_mail_with_proxy_v1_and_v2_headers_and_tls() {
    for header in ["send-proxy-v2", "send-proxy"] {
        let proxied = ProxiedServer::start(&[("send-proxy-v2", header)]);
        let config = config_trusting(&[&proxied.tls.pair.chain]);

        let mut plain = proxied.connect(proxied.smtp);
        plain.expect("220 mx.test ESMTP");
        let reply = plain.deliver_pipelined(&mail("\r\n"));
        assert!(reply.starts_with("250 2.0.0 OK"), "{reply}");
        proxied.assert_newest("ESMTP");

        let mut plain = proxied.connect(proxied.smtp);
        plain.expect("220 ");
        let client = TlsClient::over(starttls(plain), config.clone());
        proxied.deliver_in_tls(client.expect("a handshake"));

        let socket = proxied.connect(proxied.smtps);
        let socket = socket.socket().try_clone().expect("a descriptor");
        let mut client = TlsClient::resume(socket, connection(config)).expect("a handshake");
        client.expect("220 ");
        proxied.deliver_in_tls(client);
    }
}

#[test]
fn haproxy_health_checks_succeed_and_are_not_logged() {
    let mut proxied = ProxiedServer::start(&[("inter 5s", "inter 50ms fall 1 rise 1")]);
    wait_for("a successful health check", || {
        let checks = proxied
            .haproxy
            .log()
            .matches("check for server smtp/mx1 succeeded")
            .count();
        (checks >= 1).then_some(())
    });
    let connections = || {
        let figures = figures(&proxied.tls.server);
        let counts = figures.iter();
        let counts = counts.filter(|(name, _)| name.starts_with("goguerrilla_connections_total"));
        counts.map(|(_, count)| count).sum::<f64>()
    };
    let before = connections();
    wait_for("more health checks", || {
        (connections() >= before + 10.0).then_some(())
    });
    let log = proxied.tls.server.log();
    assert!(!log.contains(" disconnected "), "{log}");
    assert!(
        !proxied.haproxy.log().contains("is DOWN"),
        "{}",
        proxied.haproxy.log()
    );
    proxied.tls.server.signal(Signal::SIGTERM);
    assert!(proxied.tls.server.wait().success());
    wait_for("HAProxy to mark the server down", || {
        proxied
            .haproxy
            .log()
            .contains("Server smtp/mx1 is DOWN")
            .then_some(())
    });
}

/// The server under test and HAProxy with dist/haproxy.cfg.
struct ProxiedServer {
    haproxy: ProxyProcess,
    tls: TlsServer,
    smtp: SocketAddr,
    smtps: SocketAddr,
}

impl ProxiedServer {
    fn start(replacements: &[(&str, &str)]) -> ProxiedServer {
        let tls = TlsServer::start(&[
            ("GSMTP_PROXY_PROTOCOL", "Y"),
            ("GM_TRUSTED_PROXIES", "127.0.0.1"),
            STATUS,
        ]);
        let (smtp, smtps) = (
            free_address(Ipv4Addr::LOCALHOST.into()),
            free_address(Ipv4Addr::LOCALHOST.into()),
        );
        let block = with(
            &dist_file("haproxy.cfg"),
            &[
                (
                    "bind :::25 v4v6",
                    &format!("bind {smtp}\n    option log-health-checks"),
                ),
                ("bind :::465 v4v6", &format!("bind {smtps}")),
                ("127.0.0.1:2525", &tls.server.address.to_string()),
                ("127.0.0.1:4650", &tls.implicit_tls_address.to_string()),
            ],
        );
        let block = with(&block, replacements);
        let config = format!(
            "global\n    log stdout format raw local0\n{}",
            with(&block, &[("mode tcp", "mode tcp\n    log global")])
        );
        let folder = TempDir::new().expect("a temporary folder");
        let haproxy = ProxyProcess::haproxy(folder, &config, &[]);
        wait_for("HAProxy to forward a connection", || {
            let mut client = Client::over(std::net::TcpStream::connect(smtp).ok()?);
            client.read_reply().filter(|reply| reply.code == 220)?;
            client.command("QUIT", "221 ");
            Some(())
        });
        // Removes this connection from the log that the tests check.
        let log = tls.server.wait_for_log(" disconnected ");
        let kept: Vec<&str> = log
            .split_inclusive('\n')
            .filter(|line| !line.contains(" disconnected "))
            .collect();
        std::fs::write(tls.server.path("log"), kept.concat()).expect("the log");
        ProxiedServer {
            haproxy,
            tls,
            smtp,
            smtps,
        }
    }

    /// Connects from 127.0.0.2; HAProxy itself connects from 127.0.0.1.
    fn connect(&self, to: SocketAddr) -> Client {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor");
        let from = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), 0);
        socket.bind(&from.into()).expect("an address of loopback");
        socket.connect(&to.into()).expect("HAProxy accepts");
        Client::over(socket.into())
    }

    fn deliver_in_tls(&self, mut client: TlsClient) {
        client.command("EHLO client.test", "250");
        client.begin_mail();
        client.send(testkit::stuffed(&mail("\r\n")));
        client.expect("250 2.0.0 OK");
        self.assert_newest("ESMTPS");
    }

    fn assert_newest(&self, protocol: &str) {
        let mut mails = mails_after(&self.tls.server.path("goguerrilla.db"), 0);
        let stored = mails.pop().expect("a mail");
        assert_eq!(stored.ip_addr, "127.0.0.2");
        assert_eq!(without_trace(&stored.mail), mail("\r\n"));
        let text = String::from_utf8_lossy(&stored.mail).into_owned();
        assert!(
            text.contains(&format!("by mx.test with {protocol} id")),
            "{text}"
        );
    }
}
