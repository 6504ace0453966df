//! STARTTLS and implicit TLS: with third-party clients, hostile clients, and certificates that change.

use std::fs::{self};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rustls::ProtocolVersion;
use tempfile::TempDir;

use crate::clients::{assert_stored, mail, mail_with_final_empty_line, python, run};
use testkit::certificates::{KeyKind, Pair};
use testkit::steps::wait_for_disconnects;
use testkit::test;
use testkit::tls::{TlsServer, certificate};
use testkit::{Server, wait_for};

#[test]
fn openssl_delivers_over_tls_1_2_and_1_3_and_gets_no_session_ticket() {
    let tls = TlsServer::start(&[]);
    let content = mail("\r\n");
    let mut sent = 0;
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        for implicit_tls_address in [false, true] {
            let commands = [
                &b"ehlo client.test\r\nmail from:<a@client.test>\r\nrcpt to:<u@ours.test>\r\ndata\r\n"[..],
                &testkit::stuffed(&content),
                b"quit\r\n",
            ];
            let (output, text) = s_client(
                &tls,
                implicit_tls_address,
                &[version, "-ign_eof"],
                &commands.concat(),
            );
            assert!(
                output.status.success(),
                "{version} {implicit_tls_address}: {text}"
            );
            for wanted in ["250 2.0.0 OK : queued as ", "221 2.0.0 "] {
                assert!(
                    text.contains(wanted),
                    "{version} {implicit_tls_address}: {text}"
                );
            }
            assert!(text.contains(&format!("New, {name}, Cipher is ")), "{text}");
            assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
            let issues = text.contains("Session Ticket") || text.contains("session ticket");
            assert!(!issues, "{version} {implicit_tls_address}: {text}");
            // A TLS 1.2 client would resume a session by its id.
            if version == "-tls1_2" {
                assert!(text.contains("Session-ID: \n"), "{text}");
            }
            sent += 1;
            let line = wait_for_disconnects(&tls.server, sent);
            let in_log = format!(" tls={} cipher=TLS", name.replace('.', "_"));
            assert!(line.contains(&in_log), "{line}");
        }
    }
    assert_stored(&tls.server, &["u@ours.test"; 4], &content);
    assert_all_came_with(&tls.server, "ESMTPS");
}

#[test]
fn tls_sessions_are_never_resumed() {
    let tls = TlsServer::start(&[]);
    for version in ["-tls1_2", "-tls1_3"] {
        let file = tls.server.path("session");
        let file = file.to_str().expect("a path in UTF-8");
        let quit = b"quit\r\n";
        let (_, text) = s_client(&tls, true, &[version, "-ign_eof", "-sess_out", file], quit);
        assert!(text.contains("New, TLSv1"), "{text}");
        // TLS 1.3 without tickets writes no session file.
        if Path::new(file).exists() {
            let (_, text) = s_client(&tls, true, &[version, "-ign_eof", "-sess_in", file], quit);
            assert!(text.contains("New, TLSv1"), "{text}");
            assert!(!text.contains("Reused, "), "{text}");
            fs::remove_file(file).expect("a file of this test");
        }
    }
}

#[test]
fn tls_1_0_and_1_1_are_rejected() {
    let tls = TlsServer::start(&[]);
    for version in ["-tls1", "-tls1_1"] {
        let old = [version, "-cipher", "ALL:@SECLEVEL=0"];
        let (output, text) = s_client(&tls, false, &old, b"");
        assert!(!output.status.success(), "{version}: {text}");
        assert!(text.contains("Cipher is (NONE)"), "{version}: {text}");
        // The alert comes from the server; an openssl without this version would send none.
        assert!(text.contains("SSL alert number "), "{version}: {text}");
    }
    tls.server.wait_for_log("reason=tls_failed");
}

#[test]
fn swaks_delivers_over_tls() {
    let tls = TlsServer::start(&[]);
    fs::write(tls.server.path("mail"), mail("\n")).expect("a file is written");
    for (address, how) in [
        (tls.server.address, "--tls"),
        (tls.implicit_tls_address, "--tls-on-connect"),
    ] {
        let address = address.to_string();
        run(
            &tls.server,
            &["swaks", "--config", "--server", &address, how],
            &[
                "--helo",
                "client.test",
                "--from",
                "a@client.test",
                "--to",
                "u@ours.test",
                "--data",
                "@mail",
            ],
        );
    }
    assert_stored(
        &tls.server,
        &["u@ours.test"; 2],
        &mail_with_final_empty_line(),
    );
    assert_all_came_with(&tls.server, "ESMTPS");
}

#[test]
fn curl_delivers_over_tls() {
    let tls = TlsServer::start(&[]);
    fs::write(tls.server.path("mail"), mail("\r\n")).expect("a file is written");
    for (scheme, address) in [
        ("smtp", tls.server.address),
        ("smtps", tls.implicit_tls_address),
    ] {
        // Uses the host name, so that curl verifies the certificate.
        let port = address.port();
        let url = format!("{scheme}://mx.test:{port}/client.test");
        let resolve = format!("mx.test:{port}:127.0.0.1");
        run(
            &tls.server,
            &[
                "curl",
                "-q",
                "-sS",
                "--noproxy",
                "*",
                "--max-time",
                "30",
                "--ssl-reqd",
            ],
            &[
                "--cacert",
                "mx.cert.pem",
                "--resolve",
                &resolve,
                &url,
                "--mail-from",
                "a@client.test",
                "--mail-rcpt",
                "u@ours.test",
                "-T",
                "mail",
            ],
        );
    }
    assert_stored(&tls.server, &["u@ours.test"; 2], &mail("\r\n"));
    assert_all_came_with(&tls.server, "ESMTPS");
}

#[test]
fn msmtp_delivers_over_tls() {
    testkit::needs_program("msmtp");
    let tls = TlsServer::start(&[]);
    fs::write(tls.server.path("mail"), mail("\n")).expect("a file is written");
    for (address, starttls) in [
        (tls.server.address, "on"),
        (tls.implicit_tls_address, "off"),
    ] {
        let script = "exec msmtp --file=/dev/null --host=127.0.0.1 --port=$0 --tls=on --tls-starttls=$1 \
                      --tls-certcheck=off --auth=off --domain=client.test --from=a@client.test u@ours.test < mail";
        let port = address.port().to_string();
        run(&tls.server, &["sh", "-c", script], &[&port, starttls]);
    }
    assert_stored(&tls.server, &["u@ours.test"; 2], &mail("\r\n"));
    assert_all_came_with(&tls.server, "ESMTPS");
}

#[test]
fn smtplib_delivers_over_tls_with_each_received_protocol_keyword() {
    let tls = TlsServer::start(&[]);
    fs::write(tls.server.path("mail"), mail("\r\n")).expect("a file is written");
    let script = r#"
import ssl
octets = open("mail", "rb").read()
trusting = ssl.create_default_context(cafile="mx.cert.pem")
trusting.check_hostname = False
def deliver(client, to, options=()):
    assert client.sendmail("a@client.test", [to], octets, options) == {}
with smtplib.SMTP(host, port, "client.test", timeout=30) as client:
    client.starttls(context=trusting)
    deliver(client, "esmtps@ours.test")
    deliver(client, "utf8smtps@ours.test", ["SMTPUTF8"])
    assert not client.has_extn("starttls")
with smtplib.SMTP_SSL(host, AT_ONCE, "client.test", timeout=30, context=trusting) as client:
    deliver(client, "esmtps@ours.test")
    assert client.helo("client.test")[0] == 250
    client.esmtp_features = {}
    client.does_esmtp = False
    deliver(client, "smtp@ours.test")
"#;

    let implicit_tls_address = tls.implicit_tls_address.port().to_string();
    python(
        &tls.server,
        &script.replace("AT_ONCE", &implicit_tls_address),
    );
    for content in tls.server.contents() {
        assert_eq!(content, mail("\r\n"));
    }
    let mails = tls.server.list();
    assert_eq!(mails.len(), 4);
    for mail in mails {
        let shown = tls.server.show(mail["hash"].as_str().expect("a hash"));
        let recipient = mail["recipient"].as_str().expect("a recipient");
        let word = recipient
            .split('@')
            .next()
            .unwrap_or_default()
            .to_uppercase();
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.contains(&format!(" with {word} id ")), "{shown}");
    }
}

#[test]
fn private_keys_load_in_pkcs8_pkcs1_and_sec1_form() {
    for kind in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
        let folder = TempDir::new().expect("a temporary folder");
        let pair = Pair::make(folder.path(), "mx", kind, 90);
        let traditional = pair.with_traditional_key(folder.path());
        let first_line = |file: &Path| {
            let text = fs::read_to_string(file).expect("a key");
            text.lines().next().map(str::to_owned)
        };
        let want = match kind {
            KeyKind::EcdsaP256 => "-----BEGIN EC PRIVATE KEY-----",
            KeyKind::Rsa2048 => "-----BEGIN RSA PRIVATE KEY-----",
        };
        assert_eq!(first_line(&traditional.key).as_deref(), Some(want));
        assert_eq!(
            first_line(&pair.key).as_deref(),
            Some("-----BEGIN PRIVATE KEY-----")
        );

        let tls = TlsServer::start_with(folder, traditional, &[("GM_STORE", "discard")]);
        assert_eq!(tls.client().certificate(), certificate(&tls.pair.chain));
        let TlsServer { server, .. } = tls;
        let (_, text) = openssl_s_client(server.address, &["-starttls", "smtp"], b"quit\r\n");
        assert!(text.contains("New, TLSv1.3"), "{kind:?}: {text}");
        drop(server);

        let folder = TempDir::new().expect("a temporary folder");
        let pair = Pair::make(folder.path(), "mx", kind, 90);
        let tls = TlsServer::start_with(folder, pair, &[("GM_STORE", "discard")]);
        let mut client = tls.client();
        assert_eq!(
            client.tls().protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
    }
}

#[test]
fn testssl_and_nmap_find_no_old_tls_version_no_ticket_and_no_weakness() {
    let tls = TlsServer::start(&[("GM_ALLOWED_HOSTS", "ours.test"), ("GSMTP_VERBOSE", "Y")]);
    // nmap mostly waits, so both scanners run at the same time.
    let nmap = scanner(
        &tls.server,
        "nmap",
        &NMAP,
        &tls.server.address.port().to_string(),
    );
    let testssl = scanner(
        &tls.server,
        "testssl",
        &TESTSSL,
        &tls.server.address.to_string(),
    );
    assert_testssl_report_is_clean(&output_of(testssl));
    assert_nmap_report_is_clean(&output_of(nmap));
    // nmap did test for an open relay and for user names. The log may follow with a delay.
    wait_for("the commands of nmap in the log", || {
        let log = tls.server.log();
        let asked = |verb: &str| log.matches(&format!(" smtp_in line=\"{verb} ")).count();
        (asked("RCPT") > 10 && asked("VRFY") > 0).then_some(())
    });
    let log = tls.server.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(tls.server.list().is_empty());
    let reply = tls
        .server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: on\r\n");
    assert_eq!(reply.code, 250);
}

/// Starts a vulnerability scanner with a time limit of three minutes.
fn scanner(server: &Server, program: &str, arguments: &[&str], target: &str) -> Child {
    testkit::needs_program(program);
    let mut command = Command::new("timeout");
    command.args(["180", program]).args(arguments);
    if program == "nmap" {
        command.args(["-p", target, "127.0.0.1"]);
    } else {
        command.arg(target);
    }
    command.current_dir(server.folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().expect("timeout of coreutils starts")
}

fn output_of(scanner: Child) -> String {
    let output = scanner.wait_with_output().expect("a child process");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_testssl_report_is_clean(text: &str) {
    let report_line = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("no line about {name} in\n{text}"))
    };
    for old in ["SSLv2 ", "SSLv3 ", "TLS 1 ", "TLS 1.1 "] {
        assert!(report_line(old).contains("not offered"), "{text}");
    }
    for new in ["TLS 1.2 ", "TLS 1.3 "] {
        assert!(!report_line(new).contains("not offered"), "{text}");
    }
    let resumption = report_line("Session Resumption");
    assert!(resumption.ends_with("Tickets no, ID: no"), "{text}");
    // Heartbleed and RC4 are the first and the last check; an aborted run lacks one of them.
    assert!(
        report_line("Heartbleed ").contains("not vulnerable"),
        "{text}"
    );
    assert!(
        report_line("RC4 ").contains("no RC4 ciphers detected"),
        "{text}"
    );
    let weaknesses = text.split("Testing vulnerabilities").nth(1);
    let weaknesses = weaknesses.expect("a section on vulnerabilities");
    for alarm in ["VULNERABLE", "NOT ok", "WARN"] {
        assert!(!weaknesses.contains(alarm), "{text}");
    }
}

fn assert_nmap_report_is_clean(text: &str) {
    for wanted in [
        "/tcp open  smtp\n",
        // Printed by the script smtp-commands.
        "mx.test, PIPELINING, SIZE 131072, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, CHUNKING, LIMITS RCPTMAX=100, STARTTLS, HELP",
        "smtp-open-relay: Server doesn't seem to be an open relay, all tests failed",
        "Couldn't find any accounts",
        "The SMTP server is not Exim: NOT VULNERABLE",
        "State: NOT VULNERABLE",
        // Printed by the script ssl-enum-ciphers.
        "TLSv1.2: ",
        "TLSv1.3: ",
        "least strength: A\n",
    ] {
        assert!(text.contains(wanted), "no {wanted} in\n{text}");
    }
    for alarm in [
        "State: VULNERABLE",
        "LIKELY VULNERABLE",
        "Server is an open relay",
    ] {
        assert!(!text.contains(alarm), "{text}");
    }
    let old = ["SSLv3", "TLSv1.0", "TLSv1.1", "ntlm-info"];
    assert!(!old.iter().any(|old| text.contains(old)), "{text}");
}

/// Asserts that the Received field of every stored mail contains `with WORD`.
fn assert_all_came_with(server: &Server, word: &str) {
    for mail in server.list() {
        let shown = server.show(mail["hash"].as_str().expect("a hash"));
        let shown = String::from_utf8_lossy(&shown);
        assert!(shown.contains(&format!(" with {word} id ")), "{shown}");
    }
}

/// Runs `openssl s_client` with the server's certificate as trusted. Commands must be lower-case: s_client takes lines
/// that begin with Q or R for its own commands.
fn s_client(
    tls: &TlsServer,
    implicit_tls_address: bool,
    arguments: &[&str],
    input: &[u8],
) -> (Output, String) {
    let chain = tls.pair.chain.to_str().expect("a path in UTF-8");
    let mut all = vec!["-CAfile", chain, "-verify_return_error"];
    all.extend(arguments);
    if implicit_tls_address {
        return openssl_s_client(tls.implicit_tls_address, &all, input);
    }
    all.extend(["-starttls", "smtp"]);
    openssl_s_client(tls.server.address, &all, input)
}

fn openssl_s_client(address: SocketAddr, arguments: &[&str], input: &[u8]) -> (Output, String) {
    testkit::needs_program("openssl");
    let mut child = Command::new("timeout")
        .args([
            "30",
            "openssl",
            "s_client",
            "-connect",
            &address.to_string(),
        ])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("timeout of coreutils starts");
    // Writing fails if s_client has already ended.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input));
    let output = child.wait_with_output().expect("a child process");
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output, text)
}

/// Checks protocols, server defaults and vulnerabilities, without DNS.
const TESTSSL: [&str; 14] = [
    "--starttls",
    "smtp",
    "--quiet",
    "--color",
    "0",
    "--warnings",
    "off",
    "-p",
    "-S",
    "-U",
    "--nodns",
    "none",
    "--ip",
    "127.0.0.1",
];

/// Detects the service and runs all scripts about mail; also prints what was not found.
const NMAP: [&str; 7] = [
    "-n",
    "-Pn",
    "-sV",
    "--script",
    "smtp-commands,smtp-enum-users,smtp-strangeport,smtp-open-relay,smtp-vuln-*,smtp-ntlm-info,ssl-enum-ciphers",
    "--script-args",
    "vulns.showall",
];
