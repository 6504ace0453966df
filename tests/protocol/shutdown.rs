//! SIGTERM and SIGINT: idle clients are disconnected at once, messages in progress are finished, and no 250 is false.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::Connection;
use tempfile::TempDir;

use testkit::steps::wait_until_draining;
use testkit::tls::TlsServer;
use testkit::{AT_ONCE, Client, Server, assert_took, binary, test, wait_for, write_config};

#[test]
fn sigterm_sends_421_to_idle_clients_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut server = Server::start(&[]);
        let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
        for client in &mut clients[10..] {
            client.command("EHLO client.test", "250");
        }
        let signalled_at = Instant::now();
        server.signal(signal);
        for client in &mut clients {
            client.expect("421 4.3.2 ");
            client.expect_close();
        }
        assert!(server.wait().success());
        assert_took(signalled_at.elapsed(), AT_ONCE);
    }
}

#[test]
fn client_in_a_tls_handshake_does_not_delay_the_shutdown() {
    let mut tls = TlsServer::start(&[]);
    let mut starts = tls.server.client();
    starts.command("EHLO client.test", "250");
    starts.command("STARTTLS", "220");
    let silent = TcpStream::connect(tls.implicit_tls_address).expect("a listener");
    let mut partial = TcpStream::connect(tls.implicit_tls_address).expect("a listener");
    // The beginning of a TLS record.
    partial.write_all(&[22, 3, 1]).expect("a connection");
    // Each connection has a thread that serves it, and one thread per listener accepts.
    wait_for("three connections", || {
        (tls.server.threads_named("client") >= 3 + 2).then_some(())
    });
    let signalled_at = Instant::now();
    tls.server.signal(Signal::SIGTERM);
    assert!(tls.server.wait().success());
    assert_took(signalled_at.elapsed(), AT_ONCE);
    let log = tls.server.log();
    assert_eq!(log.matches(" reason=shutdown ").count(), 3, "{log}");
    drop((silent, partial));
}

#[test]
fn log_is_reopened_while_the_server_waits_for_a_message() {
    let mut server = Server::start(&[]);
    let log = server.path("log");
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    server.signal(Signal::SIGTERM);
    server.wait_for_log(" shutdown ");
    fs::rename(&log, server.path("log.1")).expect("a log");
    server.signal(Signal::SIGUSR1);
    wait_for("the log to be reopened", || {
        let text = fs::read_to_string(&log).ok()?;
        text.contains(" log_reopened").then_some(())
    });
    client.send("Subject: last\r\n\r\n.\r\n");
    client.expect("250 ");
    assert!(server.wait().success());
}

#[test]
fn signal_sent_as_soon_as_the_pid_file_exists_is_handled() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
    ] {
        for _ in 0..10 {
            let folder = TempDir::new().expect("a temporary folder");
            write_config(folder.path(), &[("PID_FILE", "pid")]);
            let mut child = Command::new(binary())
                .arg("-config=goguerrilla.conf")
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .spawn()
                .expect("the program starts");
            let pid_file = folder.path().join("pid");
            // The interval is short, because most of the start follows after the PID file is written.
            while fs::read(&pid_file).map_or(true, |pid| pid.is_empty()) {
                thread::yield_now();
            }
            let send = |signal| kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
            send(signal);
            if matches!(signal, Signal::SIGHUP | Signal::SIGUSR1) {
                send(Signal::SIGTERM);
            }
            let status = child.wait().expect("a child process");
            assert!(status.success(), "{signal}: {status}");
            assert!(!pid_file.exists(), "{signal}");
        }
    }
}

#[test]
fn sigterm_saves_messages_in_progress_and_refuses_new_connections() {
    let mut server = Server::start(&[]);
    let mut in_data = begin_message(&server);
    in_data.send("Subject: finished\r\n\r\nfirst half, ");
    let mut in_transaction = server.client();
    in_transaction.command("EHLO client.test", "250");
    in_transaction.command("MAIL FROM:<a@client.test>", "250");
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    let late = TcpStream::connect(server.address);
    assert!(late.is_err(), "{late:?}");
    in_transaction.command("RCPT TO:<u@ours.test>", "250");
    in_transaction.command("DATA", "354");
    for client in [&mut in_data, &mut in_transaction] {
        client.send("second half\r\n.\r\n");
        client.expect("250 2.0.0 OK : queued as ");
        client.expect("421 4.3.2 ");
        client.expect_close();
    }
    assert!(server.wait().success());
    let mut contents = server.contents();
    contents.sort();
    let half: &[u8] = b"Subject: finished\r\n\r\nfirst half, second half\r\n";
    assert_eq!(contents, [half, b"second half\r\n"]);
}

#[test]
fn connection_closes_when_its_transaction_is_reset_during_shutdown() {
    let mut server = Server::start(&[]);
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    client.command("RSET", "250");
    client.expect("421 4.3.2 ");
    client.expect_close();
    assert!(server.wait().success());
}

#[test]
fn second_sigterm_exits_at_once_without_a_false_250() {
    let mut server = Server::start(&[]);
    let mut client = begin_message(&server);
    client.send("Subject: stalled\r\n\r\nno dot comes\r\n");
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    let signalled_at = Instant::now();
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    assert_took(signalled_at.elapsed(), AT_ONCE);
    client.expect_close();
    assert!(server.list().is_empty());
}

#[test]
fn second_sigterm_exits_even_while_a_reload_hangs() {
    let mut server = Server::start(&[]);
    let config = server.path("goguerrilla.conf");
    std::fs::remove_file(&config).expect("the configuration");
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    server.signal(Signal::SIGHUP);
    // More signals than the server remembers.
    for _ in 0..20 {
        server.signal(Signal::SIGUSR1);
        // A signal that has not been read yet would be merged with the next one.
        server.wait_until_idle();
    }
    // The FIFO opens when the server begins to read it; the read blocks as long as this end stays open.
    let _held = wait_for("the reload to read", || {
        File::options()
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&config)
            .ok()
    });
    let signalled_at = Instant::now();
    // Two signals of the same kind may be merged into one before delivery.
    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGINT);
    assert!(server.wait().success());
    assert_took(signalled_at.elapsed(), AT_ONCE);
}

#[test]
fn stalled_client_delays_shutdown_only_until_its_timeout() {
    let mut server = Server::start(&[("GSMTP_TIMEOUT", "2")]);
    let mut client = begin_message(&server);
    client.send("Subject: stalled\r\n\r\nno dot comes\r\n");
    server.signal(Signal::SIGTERM);
    client.expect("421 4.4.2 ");
    drop(client);
    assert!(server.wait().success());
    assert!(server.list().is_empty());
}

#[test]
fn unfinished_message_is_aborted_30_seconds_after_sigterm() {
    let mut server = Server::start(&[]);
    let mut client = begin_message(&server);
    client.send("Subject: endless\r\n\r\n");
    let signalled_at = Instant::now();
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    let took = signalled_at.elapsed();
    assert!(took >= ABORT_AFTER, "{took:?}");
    assert_took(took, ABORT_AFTER);
    client.expect("421 4.3.2 ");
    client.expect_close();
    assert!(server.list().is_empty());
    let log = server.log();
    assert!(log.contains(" reason=shutdown "), "{log}");
}

#[test]
fn sigterm_waits_for_a_mail_that_waits_for_the_store() {
    let mut server = Server::start(&[]);
    let other = lock_store(&server);
    let mut client = begin_message(&server);
    client.send("Subject: waited\r\n\r\n.\r\n");
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    client.expect_silence(Duration::from_millis(300));
    other.execute_batch("ROLLBACK").expect("valid statements");
    client.expect("250 2.0.0 ");
    client.expect("421 4.3.2 ");
    assert!(server.wait().success());
    assert_eq!(server.list().len(), 1);
}

#[test]
fn second_sigterm_sends_no_250_for_a_mail_that_waits_for_the_store() {
    let mut server = Server::start(&[]);
    let other = lock_store(&server);
    let mut client = begin_message(&server);
    client.send("Subject: waited\r\n\r\n.\r\n");
    server.signal(Signal::SIGTERM);
    wait_until_draining(&server);
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    client.expect_close();
    other.execute_batch("ROLLBACK").expect("valid statements");
    assert!(server.list().is_empty());
}

fn begin_message(server: &Server) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("DATA", "354");
    client
}

/// The time after SIGTERM when messages in progress are aborted.
const ABORT_AFTER: Duration = Duration::from_secs(30);

/// Locks the SQLite file, as another program that writes to it does.
fn lock_store(server: &Server) -> Connection {
    let other = Connection::open(server.path("goguerrilla.db")).expect("the file is there");
    other
        .execute_batch("BEGIN IMMEDIATE")
        .expect("an unlocked file");
    other
}
