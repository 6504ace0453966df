//! SIGHUP: the configuration is read again, all or nothing, while mail is received.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use testkit::certificates::{KeyKind, Pair};
use testkit::ports::free_port;
use testkit::steps::reload;
use testkit::{Client, Server, incompressible, test, value, wait_for, write_config};

#[test]
fn reload_applies_to_new_sessions_and_open_ones_keep_their_settings() {
    let server = Server::start(&[]);
    let mut before = server.client();
    before.command("EHLO client.test", "250");
    reload(
        &server,
        &[
            ("GM_ALLOWED_HOSTS", "ours.test"),
            ("GSMTP_MAX_SIZE", "2000"),
            ("GSMTP_HOST_NAME", "other.test"),
            ("GM_MAX_RECIPIENTS", "1"),
            ("GM_MAX_CLIENTS_PER_IP", "3"),
        ],
    );
    let mut after = Client::connect(server.address);
    after.expect("220 other.test ");
    let offer = after.command("EHLO client.test", "250").text();
    assert!(offer.contains("SIZE 2000"), "{offer}");
    assert!(offer.contains("250-LIMITS RCPTMAX=1\n"), "{offer}");
    after.command("MAIL FROM:<a@client.test>", "250");
    after.command("RCPT TO:<u@theirs.test>", "550 5.7.1");
    after.command("RCPT TO:<u@ours.test>", "250");
    after.command("RCPT TO:<v@ours.test>", "452 4.5.3");
    before.command("MAIL FROM:<a@client.test> SIZE=100000", "250");
    before.command("RCPT TO:<u@theirs.test>", "250");
    before.command("RCPT TO:<v@theirs.test>", "250");
    // The earlier session is not counted, because it began without a limit.
    let _held = (server_greets(&server), server_greets(&server));
    Client::connect(server.address).expect("421 4.7.0 ");
}

#[test]
fn reload_changes_the_connection_limit_and_the_memory_budget() {
    let server = Server::start(&[("GM_MAX_CLIENTS", "2")]);
    let _held = (server.client(), server.client());
    Client::connect(server.address).expect("421 4.3.2 ");
    reload(
        &server,
        &[("GM_MAX_CLIENTS", "4"), ("GM_MAX_MEMORY", "1000")],
    );
    let mut third = server.client();
    let reply = third.deliver("a@client.test", "u@ours.test", &incompressible(4_000));
    assert!(reply.text().starts_with("452 4.3.1"), "{}", reply.text());
    let _fourth = server.client();
    Client::connect(server.address).expect("421 4.3.2 ");
}

#[test]
fn reload_with_a_longer_timeout_closes_no_open_connection() {
    let settings = [("GM_MAX_CLIENTS", "10"), ("GSMTP_TIMEOUT", "20")];
    let server = Server::start(&settings);
    let mut held: Vec<Client> = (0..7).map(|_| server.client()).collect();
    reload(
        &server,
        &[("GM_MAX_CLIENTS", "10"), ("GSMTP_TIMEOUT", "300")],
    );
    // Longer than one scan of all connections by the pool.
    held[0].expect_silence(Duration::from_millis(500));
    for client in &mut held {
        client.command("NOOP", "250");
    }
}

#[test]
fn reload_of_nginx_auth_enabled_does_not_change_xclient_trust() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let nginx = [
        ("NGINX_AUTH_ENABLED", "Y"),
        ("NGINX_AUTH", address.as_str()),
    ];
    let server = Server::start(&nginx);
    let introduce = |server: &Server, reply: &str| {
        server.client().command("XCLIENT ADDR=192.0.2.1", reply);
    };
    introduce(&server, "220 ");
    let log = reload(&server, &[("NGINX_AUTH_ENABLED", "N")]);
    assert!(
        log.contains("key=\"NGINX_AUTH_ENABLED, NGINX_AUTH\"") || log.contains("NGINX_AUTH"),
        "{log}"
    );
    introduce(&server, "220 ");
    let before = Server::start(&[]);
    introduce(&before, "550 5.7.0");
    reload(&before, &nginx);
    introduce(&before, "550 5.7.0");
}

#[test]
fn reload_of_an_invalid_configuration_changes_nothing() {
    let server = Server::start(&[]);
    let refused = |what: &str| {
        let count = |log: &str| log.matches(" reload_refused ").count();
        let before = count(&server.log());
        server.signal(Signal::SIGHUP);
        let log = wait_for("the refusal", || {
            Some(server.log()).filter(|log| count(log) > before)
        });
        let line = log.lines().rfind(|line| line.contains(" reload_refused "));
        let reason = value(line.expect("the line"), "reason").expect("a reason");
        assert!(reason.contains(what), "{reason}");
        let mut client = server.client();
        let offer = client.command("EHLO client.test", "250").text();
        assert!(offer.contains("SIZE 131072"), "{offer}");
        let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: on\r\n");
        assert_eq!(reply.code, 250);
    };
    let file = server.path("goguerrilla.conf");
    fs::write(&file, r#"{"GSMTP_MAX_SIZE": "1000","#).expect("a file");
    refused("strict JSON");
    write_config(
        server.folder.path(),
        &[("GSMTP_MAX_SIZE", "1000"), ("GSMTP_TIMEOUT", "soon")],
    );
    refused("GSMTP_TIMEOUT: expected a number of seconds");
    fs::remove_file(&file).expect("the file was there");
    refused("goguerrilla.conf");
    let pair = |name| Pair::make(server.folder.path(), name, KeyKind::EcdsaP256, 10);
    let (one, other) = (pair("one"), pair("other"));
    let text = |file: &std::path::Path| file.display().to_string();
    let settings = [
        ("GSMTP_MAX_SIZE", "1000".to_owned()),
        ("GSMTP_PUB_KEY", text(&one.chain)),
        ("GSMTP_PRV_KEY", text(&other.key)),
    ];
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (*k, v.as_str())).collect();
    write_config(server.folder.path(), &settings);
    refused("does not fit the certificate");
    write_config(
        server.folder.path(),
        &[("GSMTP_MAX_SIZE", "1000"), ("GSMTP_LOG_FILE", "none/log")],
    );
    refused("GSMTP_LOG_FILE: cannot open none/log");
    assert_eq!(server.list().len(), 5);
    reload(&server, &[("GSMTP_MAX_SIZE", "1000")]);
    let offer = server.client().command("EHLO client.test", "250").text();
    assert!(offer.contains("SIZE 1000"), "{offer}");
}

#[test]
fn reload_applies_what_it_can_and_names_keys_that_need_a_restart() {
    let server = Server::start(&[]);
    let log = reload(
        &server,
        &[
            ("GSTMP_LISTEN_INTERFACE", "127.0.0.1:1"),
            ("GSMTPS_LISTEN_INTERFACE", ""),
            ("GM_SQLITE_FILE", "elsewhere.db"),
            ("GM_STORE", "discard"),
            ("GM_MAIL_TABLE", "of_the_new_store"),
            ("PID_FILE", "pid"),
            ("GUID", "65534"),
            ("SGID", "65534"),
            ("GSMTP_MAX_SIZE", "3000"),
        ],
    );
    let named: Vec<String> = log
        .lines()
        .filter(|line| line.contains(" restart_required "))
        .filter_map(|line| value(line, "key"))
        .collect();
    let keys = [
        "GSTMP_LISTEN_INTERFACE",
        "GUID, SGID",
        "GM_STORE",
        "GM_MAIL_TABLE",
        "GM_SQLITE_FILE",
        "PID_FILE",
    ];
    assert_eq!(named, keys);
    let mut client = server.client();
    let offer = client.command("EHLO client.test", "250").text();
    assert!(offer.contains("SIZE 3000"), "{offer}");
    let reply = client.deliver("a@client.test", "u@ours.test", b"Subject: kept\r\n");
    assert_eq!(reply.code, 250);
    assert!(!server.path("elsewhere.db").exists() && !server.path("pid").exists());
    write_config(server.folder.path(), &[]);
    assert_eq!(server.list().len(), 1);
}

#[test]
fn reload_adds_and_removes_tls_keys() {
    let server = Server::start(&[]);
    let pair = Pair::make(server.folder.path(), "mail", KeyKind::EcdsaP256, 10);
    let offer = |server: &Server| server.client().command("EHLO client.test", "250").text();
    assert!(!offer(&server).contains("STARTTLS"));
    let (chain, key) = (pair.chain.to_str(), pair.key.to_str());
    let keys = [
        ("GSMTP_PUB_KEY", chain.expect("UTF-8")),
        ("GSMTP_PRV_KEY", key.expect("UTF-8")),
    ];
    reload(&server, &keys);
    assert!(offer(&server).contains("STARTTLS"));
    server.client().command("STARTTLS", "220 2.0.0");
    reload(&server, &[]);
    assert!(!offer(&server).contains("STARTTLS"));
}

#[test]
fn reload_changes_the_log_file_and_the_log_format() {
    let server = Server::start(&[]);
    write_config(
        server.folder.path(),
        &[("GSMTP_LOG_FILE", "moved"), ("GM_LOG_FORMAT", "json")],
    );
    server.signal(Signal::SIGHUP);
    let moved = server.path("moved");
    let line = wait_for("the new log", || {
        let log = fs::read_to_string(&moved).ok()?;
        log.lines()
            .find(|line| line.contains("\"reload\""))
            .map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON object");
    assert_eq!(line["event"], "reload");
    assert!(!server.log().contains(" reload "));
}

#[test]
fn reload_with_another_table_applies_to_new_sessions() {
    let server = Server::start(&[]);
    let mut before = server.client();
    before.begin_data("a@client.test", "u@ours.test");
    reload(&server, &[("GM_MAIL_TABLE", "second")]);
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: second\r\n");
    assert_eq!(reply.code, 250);
    assert_eq!(before.send_content(b"Subject: first\r\n").0.code, 250);
    let subjects = || -> Vec<String> {
        let mails = server.list();
        mails
            .iter()
            .map(|mail| mail["subject"].to_string())
            .collect()
    };
    assert_eq!(subjects(), ["\"second\""]);
    write_config(server.folder.path(), &[]);
    assert_eq!(subjects(), ["\"first\""]);
    drop(before);
    // The writer of the first table ends with its last session; the writer of the second table stays.
    wait_for("the old writer to end", || {
        (server.threads_named("writer") == 1).then_some(())
    });
}

fn server_greets(server: &Server) -> Client {
    let mut client = Client::connect(server.address);
    client.expect("220 ");
    client
}

#[test]
fn pipe_in_place_of_a_file_is_refused_and_the_server_still_stops() {
    let folder = TempDir::new().expect("a temporary folder");
    let pair = Pair::make(folder.path(), "a", KeyKind::EcdsaP256, 30);
    let (chain, key) = (pair.chain.to_str(), pair.key.to_str());
    let keys = [
        ("GSMTP_PUB_KEY", chain.expect("UTF-8")),
        ("GSMTP_PRV_KEY", key.expect("UTF-8")),
    ];
    let mut server = Server::start_in(folder, &keys);
    let replace_by_pipe = |file: &Path| {
        fs::rename(file, server.path("moved")).expect("a rename");
        mkfifo(file, Mode::S_IRWXU).expect("a pipe");
        server.signal(Signal::SIGHUP);
    };
    replace_by_pipe(&pair.key);
    server.wait_for_log(" reload_refused reason=\"GSMTP_PRV_KEY: cannot read ");
    fs::rename(server.path("moved"), &pair.key).expect("a rename");
    write_config(server.folder.path(), &keys);
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" reload\n");
    replace_by_pipe(&server.path("goguerrilla.conf"));
    assert!(server.stop().success());
}
