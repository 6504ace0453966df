//! TLS to MySQL and MariaDB: which servers are accepted, and what the user reads about the others.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mysql::prelude::Queryable;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::mysql_faults::server_with_hosts_file;
use crate::mysql_hanging::{commits, hang, release, semi_synchronous_with};
use testkit::certificates::{Authority, Pair};
use testkit::fault_proxy::{Fault, FaultProxy};
use testkit::mariadb::{EXISTING_TABLE, MariaDb, PASSWORD, USER, with_hosts};
use testkit::ports::free_port;
use testkit::server_programs::is_mysql;
use testkit::steps::reload;
use testkit::{AT_ONCE, Server, needs, needs_root, short_mail, test, wait_for, write_config};

/// Maximum time until the reply: ten times the expected 20 s, 10 s for a COMMIT and 10 s until the batch is given up.
const MAX_REPLY_TIME: Duration = Duration::from_secs(200);

/// An authority and a database with a certificate of it.
struct TlsDatabase {
    folder: TempDir,
    authority: Authority,
    database: MariaDb,
}

impl TlsDatabase {
    /// Starts a database whose certificate names `hosts` and is valid for `days` days.
    fn start(hosts: &[&str], days: i32) -> TlsDatabase {
        let folder = TempDir::new().expect("a temporary folder");
        let authority = Authority::make(folder.path(), "authority");
        let database = database_with(&authority.issue("server", hosts, days));
        TlsDatabase {
            folder,
            authority,
            database,
        }
    }

    /// Returns MYSQL_HOST with this name.
    fn at(&self, name: &str) -> String {
        format!("{name}:{}", self.database.address().port())
    }

    fn ca(&self) -> &str {
        text_of(&self.authority.file)
    }

    /// Starts goguerrilla with verified TLS.
    fn server(&self, name: &str) -> Server {
        let tls = [("MYSQL_TLS", "Y"), ("MYSQL_CA", self.ca())];
        self.database.server_at(&self.at(name), &tls)
    }

    /// From now on the account can log in over TLS only.
    fn require_tls(&self) {
        let statement = format!("ALTER USER {USER}@'%' REQUIRE SSL");
        self.database.sql(&statement);
    }
}

fn tls_options(pair: &Pair) -> [String; 2] {
    [
        format!("--ssl-cert={}", pair.chain.display()),
        format!("--ssl-key={}", pair.key.display()),
    ]
}

fn database_with(pair: &Pair) -> MariaDb {
    let options = tls_options(pair);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let database = MariaDb::start_with(&options);
    database.sql(EXISTING_TABLE);
    database
}

fn text_of(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn deliver(server: &Server, subject: &str) -> String {
    let mut client = server.client();
    client.set_reply_timeout(MAX_REPLY_TIME);
    client
        .deliver("a@client.test", "u@ours.test", &short_mail(subject))
        .text()
}

fn wait_until_saved(server: &Server, subject: &str) {
    wait_for("a mail to be saved", || {
        deliver(server, subject).starts_with("250").then_some(())
    });
}

fn assert_check_succeeds(server: &Server) {
    let (is_well, output_text) = server.check();
    assert!(is_well, "{output_text}");
}

/// Asserts that `check` fails with one error that contains all of `parts`, and that `list` fails and mail is deferred for the
/// same reason.
fn assert_refused(server: &Server, parts: &[&str]) {
    let (is_well, output_text) = server.check();
    let errors: Vec<&str> = (output_text.lines())
        .filter(|line| line.starts_with("error"))
        .collect();
    assert!(!is_well && errors.len() == 1, "{output_text}");
    for part in parts {
        assert!(errors[0].contains(part), "{part}: {output_text}");
    }
    let arguments = ["list", "-config=goguerrilla.conf"];
    let error_text = server.command(&arguments).expect_err("a refusal");
    assert!(error_text.contains(parts[0]), "{error_text}");
    let reply = deliver(server, "refused");
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    let log = server.wait_for_log(" store_unavailable ");
    assert!(log.contains(parts[0]), "{log}");
    assert!(!(log + &output_text).contains(PASSWORD));
}

#[test]
fn verified_tls_saves_lists_and_shows_mail_by_name_and_by_address() {
    let tls = TlsDatabase::start(&["localhost", "127.0.0.1"], 1);
    tls.require_tls();
    for name in ["localhost", "127.0.0.1"] {
        let server = tls.server(name);
        wait_until_saved(&server, name);
        assert_check_succeeds(&server);
        let mails = server.list();
        assert_eq!(mails.len() as u64, tls.database.count());
        let hash = mails[0]["hash"].as_str().expect("a hash");
        assert!(!server.show(hash).is_empty());
    }
}

#[test]
fn account_and_server_that_require_tls_refuse_plaintext_with_the_fix() {
    let tls = TlsDatabase::start(&["localhost"], 1);
    let host = tls.at("localhost");
    tls.require_tls();
    let plain = tls.database.server_at(&host, &[]);
    let (is_well, output_text) = plain.check();
    assert!(
        !is_well && output_text.contains("1045") && output_text.contains("set MYSQL_TLS to Y"),
        "{output_text}"
    );
    let statement = format!("ALTER USER {USER}@'%' REQUIRE NONE");
    let mut root = tls.database.connection();
    root.query_drop(statement).expect("a valid statement");
    root.query_drop("SET GLOBAL require_secure_transport = ON")
        .expect("a variable");
    // MariaDB 10.11 answers with the code of a wrong password.
    let (is_well, output_text) = plain.check();
    let is_refused = ["3159", "1045"]
        .iter()
        .any(|code| output_text.contains(code));
    assert!(
        !is_well && is_refused && output_text.contains("set MYSQL_TLS to Y"),
        "{output_text}"
    );
    let server = tls.server("localhost");
    wait_until_saved(&server, "over TLS");
    // A connection to the socket of the server counts as secure, and MYSQL_TLS does not apply to it.
    let settings = [("MYSQL_TLS", "Y"), ("MYSQL_CA", tls.ca())];
    let local = tls.database.server_at(&tls.database.socket(), &settings);
    wait_until_saved(&local, "by the socket");
    assert_check_succeeds(&local);
    root.query_drop("SET GLOBAL require_secure_transport = OFF")
        .expect("a variable");
}

#[test]
fn ed25519_account_logs_in_over_tls() {
    needs("MariaDB", !is_mysql());
    let tls = TlsDatabase::start(&["localhost"], 1);
    tls.database.sql("INSTALL SONAME 'auth_ed25519'");
    tls.database.sql(&format!(
        "ALTER USER {USER}@'%' IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}') REQUIRE SSL"
    ));
    let server = tls.server("localhost");
    wait_until_saved(&server, "ed25519");
    assert_check_succeeds(&server);
}

#[test]
fn mysql_clear_password_is_sent_over_verified_tls_only() {
    needs("MariaDB", !is_mysql());
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let [certificate, key] = tls_options(&authority.issue("server", &["localhost"], 1));
    let pam = [
        "--plugin-load-add=auth_pam",
        "--loose-pam-use-cleartext-plugin",
    ];
    let database = MariaDb::start_with(&[&[&*certificate, &*key], &pam[..]].concat());
    let query = "SELECT plugin_name FROM information_schema.PLUGINS WHERE plugin_name = 'pam'";
    needs(
        "the plugin auth_pam of MariaDB",
        !database.rows::<String>(query).is_empty(),
    );
    let statement = format!("ALTER USER {USER}@'%' IDENTIFIED VIA pam USING 'goguerrilla-test'");
    database.sql(&statement);
    let host = format!("localhost:{}", database.address().port());
    let check = |settings: &[(&str, &str)]| database.server_at(&host, settings).check();
    for mode in ["N", "insecure", "unverified"] {
        let (is_well, output_text) = check(&[("MYSQL_TLS", mode)]);
        assert!(!is_well, "{output_text}");
        for part in [
            "clear text (mysql_clear_password)",
            "set MYSQL_TLS to Y",
            "insecure",
        ] {
            assert!(output_text.contains(part), "{output_text}");
        }
    }
    // The server gets the password, and PAM knows no such user.
    let tls = [("MYSQL_TLS", "Y"), ("MYSQL_CA", text_of(&authority.file))];
    let (is_well, output_text) = check(&tls);
    assert!(
        !is_well && output_text.contains("ERROR 1045"),
        "{output_text}"
    );
}

#[test]
fn server_with_an_unsuitable_certificate_is_refused_with_the_reason_and_accepted_if_unverified() {
    for (hosts, days, reason, fix) in [
        (&["localhost"][..], -1, "has expired on 2", "renew it"),
        (
            &["other.test", "192.0.2.1"],
            1,
            "is for other.test, 192.0.2.1, not for localhost",
            "name the server in MYSQL_HOST as its certificate does",
        ),
        (
            &[],
            1,
            "names no host in subjectAltName",
            "set MYSQL_TLS to unverified",
        ),
    ] {
        let tls = TlsDatabase::start(hosts, days);
        let host = tls.at("localhost");
        let server = tls.server("localhost");
        assert_refused(&server, &[reason, &host, "error: MYSQL_TLS: ", fix]);
        tls.require_tls();
        let unverified = (tls.database).server_at(&host, &[("MYSQL_TLS", "unverified")]);
        wait_until_saved(&unverified, "unverified");
        let (is_well, output_text) = unverified.check();
        assert!(
            is_well && output_text.contains("warning: MYSQL_TLS: unverified"),
            "{output_text}"
        );
    }
}

#[test]
fn server_of_another_authority_is_refused_with_the_name_of_the_file() {
    let tls = TlsDatabase::start(&["localhost"], 1);
    let host = tls.at("localhost");
    let other = Authority::make(tls.folder.path(), "other");
    let other = text_of(&other.file);
    for (settings, found) in [
        (&[("MYSQL_TLS", "Y"), ("MYSQL_CA", other)][..], other),
        (&[("MYSQL_TLS", "Y")], "which is empty"),
    ] {
        let server = tls.database.server_at(&host, settings);
        assert_refused(
            &server,
            &[
                "neither one of Mozilla's nor in MYSQL_CA",
                found,
                &host,
                "name the PEM file of its authority in MYSQL_CA",
            ],
        );
    }
}

#[test]
fn server_without_tls_is_refused() {
    let database = MariaDb::start_with(&[if is_mysql() {
        "--tls-version="
    } else {
        "--skip-ssl"
    }]);
    database.sql(EXISTING_TABLE);
    for mode in ["Y", "unverified"] {
        let host = database.address().to_string();
        let server = database.server_at(&host, &[("MYSQL_TLS", mode)]);
        assert_refused(&server, &["offers no TLS", &host, "set MYSQL_TLS to N"]);
    }
}

/// Starts a server that sends the greeting of `database`, which offers TLS, and answers the request for TLS with these octets.
fn fake_tls_server(database: &MariaDb, answer: &'static [u8]) -> SocketAddr {
    let mut socket = TcpStream::connect(database.address()).expect("it listens");
    let mut greeting = vec![0; 4];
    socket.read_exact(&mut greeting).expect("a header");
    let length = usize::from(greeting[0]) + (usize::from(greeting[1]) << 8);
    greeting.resize(4 + length, 0);
    socket.read_exact(&mut greeting[4..]).expect("a packet");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    // The thread ends with the test process.
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 4_096];
            // A client may disconnect at any time.
            let _ = client.write_all(&greeting);
            let _ = client.read(&mut request);
            let _ = client.write_all(answer);
            let _ = client.shutdown(Shutdown::Write);
            let _ = client.read(&mut request);
        }
    });
    address
}

#[test]
fn answer_that_is_no_tls_is_a_one_line_error() {
    let tls = TlsDatabase::start(&["127.0.0.1"], 1);
    for answer in [
        b"".as_slice(),
        b"neither TLS nor MySQL",
        b"\x15\x03\x03\0\x02\x02\x28",
        b"\x16\x03\x03\xff\xff",
        b"\x16\x03\x03\0\x04\x02\xff\xff\xff",
    ] {
        let address = fake_tls_server(&tls.database, answer).to_string();
        for mode in ["Y", "unverified"] {
            let server = (tls.database).server_at(&address, &[("MYSQL_TLS", mode)]);
            let (is_well, output_text) = server.check();
            let errors = output_text.lines().filter(|line| line.starts_with("error"));
            let errors: Vec<&str> = errors.collect();
            assert!(
                !is_well && errors.len() == 1 && errors[0].contains(&address),
                "{output_text}"
            );
            server.wait_for_log(" store_unavailable ");
            assert!(!server.output().contains("panicked"), "{}", server.output());
        }
    }
}

#[test]
fn unusable_ca_file_is_an_error_that_names_it_and_a_replaced_file_is_used_without_a_signal() {
    let tls = TlsDatabase::start(&["localhost"], 1);
    let file = tls.folder.path().join("my-ca.pem");
    let name = text_of(&file);
    let settings = [("MYSQL_TLS", "Y"), ("MYSQL_CA", name)];
    let server = tls.database.server_at(&tls.at("localhost"), &settings);
    for (content, reason) in [
        (None, "No such file"),
        (Some("no certificate"), "holds no certificate in PEM form"),
        (
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "certificate 1 of the file cannot be used",
        ),
    ] {
        if let Some(content) = content {
            fs::write(&file, content).expect("a file is written");
        }
        assert_refused(&server, &["MYSQL_CA: ", name, reason]);
    }
    fs::copy(&tls.authority.file, &file).expect("a file is written");
    wait_until_saved(&server, "with the right file");
    assert_check_succeeds(&server);
}

#[test]
fn ca_file_that_guid_cannot_read_is_an_error_of_check_and_of_the_server() {
    needs_root();
    let tls = TlsDatabase::start(&["localhost"], 1);
    let hosts = tls.at("localhost");
    let settings = [
        ("MYSQL_TLS", "Y"),
        ("MYSQL_CA", tls.ca()),
        ("GUID", "65534"),
        ("SGID", "65534"),
    ];
    let only_owner = Permissions::from_mode(0o600);
    fs::set_permissions(&tls.authority.file, only_owner).expect("a file of this test");
    let server = Server::start(&with_hosts(&hosts, &settings));
    let (is_well, output_text) = server.check();
    assert!(
        !is_well && output_text.contains("MYSQL_CA: ") && output_text.contains("Permission denied"),
        "{output_text}"
    );
    wait_for("the error in the log", || {
        let output = server.output();
        (output.contains("MYSQL_CA: ") && output.contains("Permission denied")).then_some(())
    });
}

#[test]
fn each_of_several_hosts_is_verified_by_its_own_name() {
    let first = TlsDatabase::start(&["localhost"], 1);
    let pair = first.authority.issue("second", &["127.0.0.1"], 1);
    let second = database_with(&pair);
    let hosts = |first_name: &str, second_name: &str| {
        let port = second.address().port();
        format!("{},{second_name}:{port}", first.at(first_name))
    };
    let tls = [("MYSQL_TLS", "Y"), ("MYSQL_CA", first.ca())];
    let server = second.server_at(&hosts("localhost", "127.0.0.1"), &tls);
    wait_until_saved(&server, "first");
    assert_check_succeeds(&server);
    let swapped = second.server_at(&hosts("127.0.0.1", "localhost"), &tls);
    let (is_well, output_text) = swapped.check();
    assert!(!is_well, "{output_text}");
    for reason in [
        "is for localhost, not for 127.0.0.1",
        "is for 127.0.0.1, not for localhost",
    ] {
        assert!(output_text.contains(reason), "{output_text}");
    }
    let TlsDatabase {
        database: mut first,
        ..
    } = first;
    assert!(first.count() > 0 && second.count() == 0);
    first.kill();
    wait_until_saved(&server, "second");
}

#[test]
fn sighup_applies_mysql_tls_and_mysql_ca() {
    let tls = TlsDatabase::start(&["localhost"], 1);
    let host = tls.at("localhost");
    let server = tls.database.server_at(&host, &[]);
    wait_until_saved(&server, "plaintext");
    let reload_with = |settings: &[(&str, &str)]| reload(&server, &with_hosts(&host, settings));
    let damaged = tls.folder.path().join("damaged.pem");
    let content = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&damaged, content).expect("a file is written");
    for file in ["/no/such/file", text_of(&damaged)] {
        let settings = with_hosts(&host, &[("MYSQL_TLS", "Y"), ("MYSQL_CA", file)]);
        write_config(server.folder.path(), &settings);
        server.signal(Signal::SIGHUP);
        wait_for("the refused reload", || {
            let log = server.log();
            let mut refused = log.lines().filter(|line| line.contains(" reload_refused "));
            refused.any(|line| line.contains(file)).then_some(())
        });
        wait_until_saved(&server, "in plaintext still");
    }
    tls.require_tls();
    reload_with(&[("MYSQL_TLS", "Y"), ("MYSQL_CA", tls.ca())]);
    wait_until_saved(&server, "verified");
    assert_check_succeeds(&server);
}

#[test]
fn name_with_ipv6_and_ipv4_addresses_is_verified_and_connects_to_the_one_that_answers() {
    needs_root();
    let tls = TlsDatabase::start(&["db.test"], 1);
    tls.require_tls();
    let settings = [("MYSQL_TLS", "Y"), ("MYSQL_CA", tls.ca())];
    let host = tls.at("db.test");
    let addresses = "::1 db.test\n127.0.0.2 db.test\n127.0.0.1 db.test\n";
    let server = server_with_hosts_file(addresses, &host, &settings);
    wait_until_saved(&server, "by its third address");
    let TlsDatabase { mut database, .. } = tls;
    database.kill();
    wait_for("mail to be refused at once", || {
        let started_at = Instant::now();
        let reply = deliver(&server, "while down");
        (reply.starts_with("451") && started_at.elapsed() < AT_ONCE * 10).then_some(())
    });
    let log = server.wait_for_log(" store_unavailable ");
    assert!(log.contains("Connection refused"), "{log}");
}

/// Starts a database with TLS for localhost and db.test, whose COMMITs may hang.
fn database_that_can_hang(authority: &Authority) -> MariaDb {
    let pair = authority.issue("server", &["localhost", "db.test"], 1);
    let options = tls_options(&pair);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    semi_synchronous_with(&options)
}

#[test]
fn mail_with_an_unanswered_commit_over_tls_is_stored_once() {
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let database = database_that_can_hang(&authority);
    let proxy = FaultProxy::start(database.address());
    let host = proxy.address().replace("127.0.0.1", "localhost");
    let settings = [("MYSQL_TLS", "Y"), ("MYSQL_CA", text_of(&authority.file))];
    let server = database.server_at(&host, &settings);
    wait_until_saved(&server, "first");
    let stored = database.count();
    // MariaDB may still list the answered COMMIT for a moment.
    wait_for("the first COMMIT to end", || {
        (commits(&database) == 0).then_some(())
    });
    hang(&database);
    let reply = thread::scope(|scope| {
        let reply = scope.spawn(|| deliver(&server, "unanswered"));
        wait_for("a COMMIT", || (commits(&database) > 0).then_some(()));
        proxy.set(Fault::Refuse);
        proxy.set(Fault::Pass);
        release(&database);
        reply.join().expect("a reply")
    });
    assert!(reply.starts_with("250 "), "{reply}");
    server.wait_for_log(" commit_resolved");
    assert_eq!(database.count(), stored + 1);
}

#[test]
fn unanswered_commit_over_tls_is_not_looked_up_at_another_address_of_the_name() {
    needs_root();
    let folder = TempDir::new().expect("a temporary folder");
    let authority = Authority::make(folder.path(), "authority");
    let database = database_that_can_hang(&authority);
    let other = database_with(&authority.issue("other", &["db.test"], 1));
    let port = free_port();
    // The resolver returns the address that the machine itself uses, 127.0.0.1, first. Nothing listens there yet.
    let (first, second) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    let proxy = FaultProxy::start_at((second, port).into(), database.address());
    let settings = [("MYSQL_TLS", "Y"), ("MYSQL_CA", text_of(&authority.file))];
    let addresses = "127.0.0.1 db.test\n127.0.0.2 db.test\n";
    let server = server_with_hosts_file(addresses, &format!("db.test:{port}"), &settings);
    wait_until_saved(&server, "first");
    // MariaDB may still list the answered COMMIT for a moment.
    wait_for("the first COMMIT to end", || {
        (commits(&database) == 0).then_some(())
    });
    hang(&database);
    let reply = thread::scope(|scope| {
        let reply = scope.spawn(|| deliver(&server, "unanswered"));
        wait_for("a COMMIT", || (commits(&database) > 0).then_some(()));
        let _first = FaultProxy::start_at((first, port).into(), other.address());
        proxy.set(Fault::Refuse);
        proxy.set(Fault::Pass);
        release(&database);
        reply.join().expect("a reply")
    });
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    let log = server.wait_for_log("5 connections to db.test did not reach its address 127.0.0.2");
    assert!(!log.contains(" commit_resolved"), "{log}");
    assert_eq!(other.count(), 0);
}
