//! The status endpoint: its metrics are true, its probes show the state of the server, and hostile HTTP clients do no harm.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::process::run;
use testkit::status::{STATUS, address, figures, get, wait_for_metric};
use testkit::{
    AT_ONCE, Client, Server, assert_took, let_time_pass, short_mail, test, wait_for, write_config,
};

#[test]
fn metrics_count_saved_and_rejected_mails() {
    let settings = [
        STATUS,
        ("GSMTP_MAX_SIZE", "10000"),
        ("GM_ALLOWED_HOSTS", "ours.test"),
    ];
    let server = Server::start(&settings);
    let before = figures(&server);
    let figure = |name: &str| before.get(name).copied();
    assert_eq!(
        figure("goguerrilla_mails_total{outcome=\"saved\"}"),
        Some(0.0)
    );
    assert_eq!(figure("goguerrilla_connections_limit"), Some(500.0));
    assert_eq!(
        figure("goguerrilla_content_limit_bytes"),
        Some(268_435_456.0)
    );
    assert_eq!(figure("goguerrilla_store_up"), Some(1.0));
    let build = concat!(
        "goguerrilla_build_info{version=\"",
        env!("CARGO_PKG_VERSION"),
        "\"}"
    );
    assert_eq!(figure(build), Some(1.0));
    assert!(figure("process_start_time_seconds").is_some_and(|start| start > 1.6e9));
    assert_eq!(
        figure("goguerrilla_certificate_expiry_timestamp_seconds"),
        None
    );

    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("RCPT TO:<v@ours.test>", "250");
    client.command("RCPT TO:<v@theirs.test>", "550");
    client.command("DATA", "354");
    client.command("Subject: two rows\r\n\r\n.", "250 2.0.0 OK : queued as ");
    client.command("MAIL FROM:<a@client.test> SIZE=20000", "552 5.3.4");
    wait_for_metric(&server, "goguerrilla_connections_active", 1.0);
    client.command("QUIT", "221");
    let mut large = server.client();
    large.begin_data("a@client.test", "u@ours.test");
    large.send("x\r\n".repeat(5_000));
    large.command(".", "552 5.3.4");
    drop(large);

    for (name, wanted) in [
        (
            "goguerrilla_connections_total{listener=\"smtp\",outcome=\"quit\"}",
            1.0,
        ),
        (
            "goguerrilla_connections_total{listener=\"smtp\",outcome=\"client_left\"}",
            1.0,
        ),
        (
            "goguerrilla_connections_total{listener=\"smtps\",outcome=\"quit\"}",
            0.0,
        ),
        ("goguerrilla_connections_active", 0.0),
        ("goguerrilla_mails_total{outcome=\"saved\"}", 1.0),
        ("goguerrilla_mails_total{outcome=\"too_large\"}", 2.0),
        ("goguerrilla_recipients_saved_total", 2.0),
        ("goguerrilla_replies_total{code=\"220\"}", 2.0),
        ("goguerrilla_replies_total{code=\"354\"}", 2.0),
        ("goguerrilla_replies_total{code=\"550\"}", 1.0),
        ("goguerrilla_replies_total{code=\"552\"}", 2.0),
        ("goguerrilla_save_seconds_count", 1.0),
        ("goguerrilla_batch_mails_sum", 1.0),
        ("goguerrilla_batch_mails_bucket{le=\"1\"}", 1.0),
        ("goguerrilla_content_bytes", 0.0),
        ("goguerrilla_store_errors_total{kind=\"unavailable\"}", 0.0),
    ] {
        wait_for_metric(&server, name, wanted);
    }
    let received = figures(&server)["goguerrilla_received_bytes_total"];
    assert!((15_000.0..16_000.0).contains(&received), "{received}");
}

#[test]
fn metrics_count_rejected_connections_by_reason() {
    let settings = [
        STATUS,
        ("GM_MAX_CLIENTS", "2"),
        ("GM_MAX_CLIENTS_PER_IP", "1"),
    ];
    let server = Server::start(&settings);
    let held = server.client();
    Client::connect(server.address).expect("421 4.7.0 ");
    let name = |outcome: &str| {
        format!("goguerrilla_connections_total{{listener=\"smtp\",outcome=\"{outcome}\"}}")
    };
    wait_for_metric(&server, &name("address_limit_reached"), 1.0);
    drop(held);
    wait_for_metric(&server, &name("client_left"), 1.0);

    let full = Server::start(&[STATUS, ("GM_MAX_CLIENTS", "1")]);
    let _held = full.client();
    Client::connect(full.address).expect("421 4.3.2 ");
    wait_for_metric(&full, &name("limit_reached"), 1.0);
}

#[test]
fn metrics_show_reloads_and_the_new_limits() {
    let server = Server::start(&[STATUS]);
    let reloads = |outcome: &str| {
        format!("goguerrilla_reloads_total{{what=\"configuration\",outcome=\"{outcome}\"}}")
    };
    let reload = |settings: &[(&str, &str)]| {
        write_config(server.folder.path(), settings);
        server.signal(Signal::SIGHUP);
    };
    reload(&[
        STATUS,
        ("GM_MAX_CLIENTS", "7"),
        ("GM_MAX_MEMORY", "1000000"),
    ]);
    wait_for_metric(&server, &reloads("applied"), 1.0);
    let figures = figures(&server);
    assert_eq!(figures["goguerrilla_connections_limit"], 7.0);
    assert_eq!(figures["goguerrilla_content_limit_bytes"], 1_000_000.0);
    reload(&[STATUS, ("GM_MAX_CLIENTS", "none")]);
    wait_for_metric(&server, &reloads("refused"), 1.0);
    reload(&[("GM_STATUS_INTERFACE", "127.0.0.1:1")]);
    wait_for_metric(&server, &reloads("applied"), 2.0);
    server.wait_for_log(" restart_required key=GM_STATUS_INTERFACE ");
}

#[test]
fn status_endpoints_answer_during_shutdown_and_readyz_is_503() {
    let mut server = Server::start(&[STATUS]);
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    assert_eq!(get(&server, "/readyz"), (200, "ok\n".to_owned()));
    server.signal(Signal::SIGTERM);
    server.wait_for_log(" shutdown ");
    assert_eq!(get(&server, "/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(get(&server, "/livez"), (200, "ok\n".to_owned()));
    assert_eq!(figures(&server)["goguerrilla_connections_active"], 1.0);
    let (reply, _) = client.send_content(&short_mail("under way"));
    assert_eq!(reply.code, 250);
    assert!(server.wait().success());
}

#[test]
fn malformed_oversized_and_slow_http_requests_to_the_status_port_are_rejected() {
    let server = Server::start(&[STATUS]);
    let address = address(&server);
    let (threads, sockets) = (server.threads(), server.sockets());
    let connect = || TcpStream::connect(address).expect("an open connection");
    let answer_to = |sent: &[u8]| {
        let mut socket = connect();
        // The server may close before everything is written.
        let _ = socket.write_all(sent);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let started_at = Instant::now();
    for (sent, status) in [
        (b"GET /elsewhere HTTP/1.1\r\n\r\n".to_vec(), "404"),
        (b"GET //metrics HTTP/1.1\r\n\r\n".to_vec(), "404"),
        (
            b"POST /metrics HTTP/1.1\r\nContent-Length: 2\r\n\r\nab".to_vec(),
            "405",
        ),
        (b"EHLO a\r\nMAIL FROM:<>\r\n".to_vec(), "400"),
        (vec![b'\n'; 8_192], "431"),
        (vec![b'a'; 1 << 20], "431"),
        (b"GET / HTTP/1.1\r\nA: b\r\n".repeat(10_000), "400"),
        ((0..=255).collect(), "400"),
    ] {
        let answer = answer_to(&sent);
        let shown = sent.escape_ascii().to_string();
        let shown = shown.get(..60).unwrap_or(&shown);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown}: {answer}"
        );
    }
    // A single request that the server waits for takes five seconds.
    assert_took(started_at.elapsed(), AT_ONCE);

    // One client sends an octet a second, one an endless head, and a hundred send nothing.
    let started_at = Instant::now();
    let idle: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    let mut trickling = connect();
    let trickle = thread::spawn(move || {
        for octet in b"GET /metrics HTTP/1.1\r\n\r\n" {
            if trickling.write_all(&[*octet]).is_err() {
                return;
            }
            let_time_pass(Duration::from_secs(1), "the data rate of a slow request");
        }
        panic!("the connection was still open after half a minute");
    });
    let mut client = server.client();
    let asked_at = Instant::now();
    let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("unaffected"));
    assert_eq!(reply.code, 250);
    assert_took(asked_at.elapsed(), AT_ONCE);
    client.command("QUIT", "221");
    assert!(server.sockets() <= sockets + 40, "{}", server.sockets());
    for mut socket in idle {
        // Ten times the five seconds for which the server waits for a request.
        let remaining = Duration::from_secs(50).saturating_sub(started_at.elapsed());
        socket
            .set_read_timeout(Some(remaining.max(Duration::from_millis(1))))
            .expect("an open socket");
        let end = socket.read(&mut [0; 64]);
        // The connection must be closed or reset, not open.
        let is_open = matches!(&end, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_open, "{end:?} after {:?}", started_at.elapsed());
    }
    trickle.join().expect("it was closed");
    wait_for("threads and sockets to be as before", || {
        // The thread of the SMTP client stays for the next client.
        let back = server.threads() <= threads + 1 && server.sockets() <= sockets;
        back.then_some(())
    });
    assert_eq!(get(&server, "/livez").0, 200);
}

#[test]
fn status_address_in_use_is_a_start_error_naming_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[("GM_STATUS_INTERFACE", &address)]);
    let ended = run(folder.path(), &["-config=goguerrilla.conf"]);
    let expected = format!(
        "goguerrilla: cannot bind {address}: Address already in use (os error 98); set GM_STATUS_INTERFACE to "
    );
    assert!(ended.stderr.starts_with(&expected), "{}", ended.stderr);
    assert_eq!(ended.status, 1);
}
