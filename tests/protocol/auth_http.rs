//! The endpoint that nginx asks with auth_http. `tests/system/nginx.rs` tests it with nginx.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use testkit::auth_http::{ask, header};
use testkit::{Server, test};

#[test]
fn auth_http_answers_never_echo_request_data() {
    let server = Server::start(&[
        ("NGINX_AUTH_ENABLED", "Y"),
        ("NGINX_AUTH", "127.0.0.1:0"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
        ("GSMTP_VERBOSE", "Y"),
    ]);
    let port = server.address.port().to_string();
    let ok = format!("OK 127.0.0.1 {port}  ");
    for (headers, want) in [
        (
            "Auth-Method: none\r\nAuth-SMTP-To: RCPT TO:<u@ours.test>",
            ok.as_str(),
        ),
        (
            "auth-method: none\r\nAUTH-SMTP-TO: rcpt to: <Postmaster>",
            &ok,
        ),
        (
            "Auth-Method: none\r\nAuth-SMTP-To: RCPT TO:u@ours.test",
            &ok,
        ),
        ("Auth-Method: none", &ok),
        (
            "Auth-Method: none\r\nAuth-SMTP-To: RCPT TO:<u@foreign.test>",
            RELAY_DENIED,
        ),
        (
            "Auth-Method: none\r\nAuth-SMTP-To: RCPT TO:<a@foreign@ours.test>",
            RELAY_DENIED,
        ),
        (
            "Auth-Method: none\r\nAuth-SMTP-To: RCPT TO:<foreign!a@ours.test>",
            RELAY_DENIED,
        ),
        (
            "Auth-Method: none\r\nAuth-Login-Attempt: 10\r\nAuth-SMTP-To: RCPT TO:<u@foreign.test>",
            "Relay access denied   550 5.7.1 ",
        ),
        (
            // A client may hide a line break in what nginx forwards, so the first header of a name counts.
            "Auth-Method: plain\r\nAuth-User: a\r\nAuth-Pass: s3cr3t-of-a-client\r\nAuth-SMTP-To: RCPT TO:<u@ours.test>\r\nAuth-Method: none",
            NOT_IMPLEMENTED,
        ),
        ("Auth-Method: None", NOT_IMPLEMENTED),
        ("Auth-SMTP-To: RCPT TO:<u@ours.test>", NOT_IMPLEMENTED),
    ] {
        let answer = ask(
            &server,
            &format!("GET / HTTP/1.0\r\nX-Said: s3cr3t-of-a-client\r\n{headers}\r\n\r\n"),
        );
        let reply_headers = ["Status", "Server", "Port", "Error-Code", "Wait"]
            .map(|name| header(&answer, &format!("Auth-{name}")))
            .join(" ");
        assert_eq!(reply_headers, want, "{headers}");
        assert!(!answer.contains("s3cr3t"), "{answer}");
    }
    for (request, status) in [
        (
            "POST / HTTP/1.0\r\nAuth-Method: none\r\n\r\n".to_owned(),
            "405",
        ),
        (
            format!("GET / HTTP/1.0\r\nX: {}", "s3cr3t".repeat(200_000)),
            "431",
        ),
        ("EHLO client.test\r\n".to_owned(), "400"),
    ] {
        let answer = ask(&server, &request);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(!answer.contains("Auth-Status"), "{answer}");
    }
    assert!(!server.output().contains("s3cr3t"), "a password in the log");
}

#[test]
fn auth_http_never_returns_a_wildcard_address() {
    let folder = TempDir::new().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))
        .expect("a folder of this test");
    let mut settings = vec![
        ("NGINX_AUTH_ENABLED", "Y"),
        ("NGINX_AUTH", "127.0.0.1:0"),
        ("GSTMP_LISTEN_INTERFACE", "0.0.0.0:0"),
    ];
    if nix::unistd::geteuid().is_root() {
        settings.extend([("GUID", "65534"), ("SGID", "65534")]);
    }
    let server = Server::start_in(folder, &settings);
    let answer = ask(&server, "GET / HTTP/1.0\r\nAuth-Method: none\r\n\r\n");
    assert_eq!(header(&answer, "Auth-Server"), "127.0.0.1");
    assert_eq!(
        header(&answer, "Auth-Port"),
        server.address.port().to_string()
    );
}

#[test]
fn auth_http_address_in_use_is_a_start_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound socket").to_string();
    let folder = TempDir::new().expect("a temporary folder");
    let settings = [
        ("NGINX_AUTH_ENABLED", "Y"),
        ("NGINX_AUTH", address.as_str()),
    ];
    testkit::write_config(folder.path(), &settings);
    let ended = testkit::process::run(folder.path(), &["-config=goguerrilla.conf"]);
    let expected = format!("goguerrilla: cannot bind {address}: ");
    assert_eq!(ended.status, 1);
    assert!(
        ended.stderr.starts_with(&expected) && ended.stderr.contains("NGINX_AUTH"),
        "{}",
        ended.stderr
    );
}

const RELAY_DENIED: &str = "Relay access denied   550 5.7.1 1";

const NOT_IMPLEMENTED: &str = "Command not implemented   502 5.5.1 ";
