//! `goguerrilla ready`: the answer of a running server, and the reason if there is none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::ports::free_port;
use testkit::process::{ProcessResult, run, run_with_changed_command};
use testkit::status::STATUS;
use testkit::{Server, assert_took, test, write_config};

#[test]
fn ready_prints_the_answer_of_readyz_and_exits_with_0_only_if_mail_is_taken() {
    let server = Server::start(&[("GM_STATUS_INTERFACE", &format!("[::1]:{}", free_port()))]);
    let folder = server.folder.path();
    let ready = run(folder, &["ready", "-config=goguerrilla.conf"]);
    assert_eq!(outcome(&ready), (0, "ok\n", ""));
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    server.signal(Signal::SIGTERM);
    server.wait_for_log(" shutdown ");
    let ready = run(folder, &["ready"]);
    assert_eq!(outcome(&ready), (1, "draining\n", ""));
}

#[test]
fn ready_connects_to_loopback_if_the_status_interface_is_a_wildcard() {
    for (wildcard, listening) in [
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "[::1]"),
        ("[::]", "127.0.0.1"),
    ] {
        let address = http_server(&format!("{listening}:0"), "HTTP/1.1 200 OK\r\n\r\nok\n");
        let ready = ready_with_status_interface(&format!("{wildcard}:{}", address.port()));
        assert_eq!(outcome(&ready), (0, "ok\n", ""), "{wildcard}");
    }
}

#[test]
fn ready_needs_no_configuration_file_if_the_environment_has_the_address() {
    let server = Server::start(&[STATUS]);
    let address = testkit::status::address(&server).to_string();
    let folder = TempDir::new().expect("a temporary folder");
    let ready = run_with_changed_command(folder.path(), &["ready"], |command| {
        command.env("GOGUERRILLA_GM_STATUS_INTERFACE", &address);
    });
    assert_eq!(outcome(&ready), (0, "ok\n", ""));
}

#[test]
fn ready_says_why_it_gets_no_answer() {
    let port = free_port();
    let nothing = format!("127.0.0.1:{port}");
    let smtp = Server::start(&[]);
    let smtp_address = smtp.address.to_string();
    for (address, expected) in [
        (
            "",
            "GM_STATUS_INTERFACE: expected an address such as \"127.0.0.1:9125\", but found none"
                .to_owned(),
        ),
        (
            "127.0.0.1:0",
            "GM_STATUS_INTERFACE: expected a fixed port, such as 9125, but found port 0".to_owned(),
        ),
        (
            &nothing,
            format!("{nothing}: nothing listens there (GM_STATUS_INTERFACE)"),
        ),
        (
            &smtp_address,
            format!("{smtp_address}: expected an HTTP response to /readyz, but found other octets"),
        ),
    ] {
        let ready = ready_with_status_interface(address);
        assert_eq!((ready.status, ready.stdout.as_str()), (1, ""), "{address}");
        let expected = format!("goguerrilla: {expected}");
        assert!(ready.stderr.starts_with(&expected), "{}", ready.stderr);
        assert_eq!(ready.stderr.lines().count(), 1, "{}", ready.stderr);
    }
}

#[test]
fn ready_reports_another_http_server_and_prints_no_control_characters() {
    let other = http_server(
        "127.0.0.1:0",
        "HTTP/1.1 404 Not Found\r\n\r\nno such page\n",
    );
    let ready = ready_with_status_interface(&other.to_string());
    let expected = format!(
        "goguerrilla: {other}: expected HTTP status 200 or 503 for /readyz, but found 404; "
    );
    assert!(ready.stderr.starts_with(&expected), "{ready:?}");
    assert_eq!((ready.status, ready.stdout.as_str()), (1, ""));

    // Many programs answer every path with a page of their own.
    let page = http_server("127.0.0.1:0", "HTTP/1.1 200 OK\r\n\r\n<html></html>\n");
    let ready = ready_with_status_interface(&page.to_string());
    let expected = format!(
        "goguerrilla: {page}: expected a text that begins with \"ok\" for /readyz, but found another one; "
    );
    assert!(ready.stderr.starts_with(&expected), "{ready:?}");
    assert_eq!((ready.status, ready.stdout.as_str()), (1, ""));

    let hostile = http_server("127.0.0.1:0", "HTTP/1.1 200 OK\r\n\r\nok \x1b[2J\n");
    let ready = ready_with_status_interface(&hostile.to_string());
    assert_eq!(outcome(&ready), (0, "ok \u{fffd}[2J\n", ""));
}

#[test]
fn ready_ends_after_5_seconds_if_the_server_does_not_answer() {
    // The backlog accepts the connection, and nobody reads the request.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let started_at = Instant::now();
    let ready = ready_with_status_interface(&address);
    assert_took(started_at.elapsed(), Duration::from_secs(5));
    let expected = format!("goguerrilla: {address}: no answer to /readyz within 5 s ");
    assert!(ready.stderr.starts_with(&expected), "{ready:?}");
    assert_eq!(ready.status, 1);
}

#[test]
fn ready_reports_an_invalid_configuration() {
    let ready = ready_with_status_interface("localhost:9125");
    assert_eq!((ready.status, ready.stdout.as_str()), (1, ""));
    assert!(
        ready
            .stderr
            .contains("GM_STATUS_INTERFACE: expected one numeric address"),
        "{ready:?}"
    );
}

/// Runs `ready` with this value of GM_STATUS_INTERFACE, in a folder in which no server runs.
fn ready_with_status_interface(address: &str) -> ProcessResult {
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[("GM_STATUS_INTERFACE", address)]);
    run(folder.path(), &["ready", "-config=goguerrilla.conf"])
}

fn outcome(result: &ProcessResult) -> (i32, &str, &str) {
    (result.status, &result.stdout, &result.stderr)
}

/// Returns the address of a server that sends `response` to its only client.
fn http_server(listening: &str, response: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(listening).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        let mut request = [0; 1_024];
        let count = socket.read(&mut request).expect("a request");
        assert!(request[..count].starts_with(b"GET /readyz HTTP/1.1\r\n"));
        socket
            .write_all(response.as_bytes())
            .expect("a client that reads");
    });
    address
}
