//! The log consists of complete lines that a parser can read back, whatever clients send; failures of the log do not
//! affect mail.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

use testkit::ports::free_address;
use testkit::{
    Client, Server, assert_took, binary, short_mail, test, value, wait_for, write_config,
};

/// The keys and values of a log line. The first four values of the text format have no keys in the log.
type Event = BTreeMap<String, String>;

#[test]
fn text_and_json_logs_parse_back_to_the_same_events() {
    let events_of = |format: &str, parse: fn(&str) -> Event| {
        let mut server = Server::start(&[("GM_LOG_FORMAT", format), ("GSMTP_VERBOSE", "Y")]);
        talk(&server);
        assert!(server.stop().success());
        let log = server.log();
        assert!(log.ends_with('\n'), "the last line is whole");
        let hidden =
            |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{feff}".contains(c));
        assert!(!log.contains(hidden), "{log}");
        log.lines().map(parse).collect::<Vec<Event>>()
    };
    let text = events_of("text", parse_text);
    let json = events_of("json", parse_json);
    assert_eq!(without_varying_keys(&text), without_varying_keys(&json));
    // Commands are logged so that each control character can be read back.
    let client_lines = |event: &Event| (event["event"] == "smtp_in").then(|| event["line"].clone());
    let client_lines: Vec<String> = json.iter().filter_map(client_lines).collect();
    let hostile = HOSTILE.iter().map(|line| (*line).to_owned());
    for line in hostile {
        assert!(client_lines.contains(&line), "{line:?} in {client_lines:?}");
    }
    for (event, keys) in [
        ("saved", &["session", "hash", "from", "rcpt", "octets"][..]),
        (
            "disconnected",
            &[
                "session", "client", "reason", "helo", "ehlo", "mail", "rcpt", "data", "faults",
                "octets", "seconds",
            ],
        ),
    ] {
        let events: Vec<&Event> = json.iter().filter(|line| line["event"] == event).collect();
        assert_eq!(
            events.len(),
            1,
            "one line for the mail, one for the session"
        );
        for key in keys {
            assert!(events[0].contains_key(*key), "{key} in {:?}", events[0]);
        }
    }
}

#[test]
fn closed_log_pipe_loses_no_mail() {
    let folder = TempDir::new().expect("a temporary folder");
    write_config(
        folder.path(),
        &[("GSMTP_LOG_FILE", "/dev/stdout"), ("GSMTP_VERBOSE", "Y")],
    );
    let mut child = Command::new(binary())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let address = lines
        .map(|line| line.expect("text"))
        .find_map(|line| value(&line, "address"))
        .expect("a line with its address");
    // `lines` was consumed, which closed the reading end of the pipe.
    let address = address.parse().expect("an address");
    for number in 0..3 {
        let mut client = Client::connect(address);
        client.expect("220 ");
        let mail = short_mail(&format!("unread {number}"));
        let reply = client.deliver("a@client.test", "u@ours.test", &mail);
        assert_eq!(reply.code, 250);
    }
    assert!(child.try_wait().expect("a child process").is_none());
    child.kill().expect("the process runs");
    child.wait().expect("a child process");
}

#[test]
fn log_reopened_as_an_unread_fifo_delays_nothing() {
    let mut server = Server::start(&[]);
    fs::remove_file(server.path("log")).expect("the log");
    mkfifo(&server.path("log"), Mode::S_IRWXU).expect("a pipe");
    server.signal(Signal::SIGUSR1);
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &short_mail("on"));
    assert_eq!(reply.code, 250);
    assert!(server.stop().success());
}

#[test]
fn stalled_log_reader_does_not_delay_shutdown() {
    let folder = TempDir::new().expect("a temporary folder");
    let address = free_address(Ipv4Addr::LOCALHOST.into());
    let settings = [
        ("GSTMP_LISTEN_INTERFACE", address.to_string()),
        ("GSMTP_LOG_FILE", "/dev/stdout".to_owned()),
        ("GSMTP_VERBOSE", "Y".to_owned()),
    ];
    let settings = settings
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    write_config(folder.path(), &settings);
    let mut server = Command::new(binary())
        .arg("-config=goguerrilla.conf")
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    wait_for("the server to listen", || TcpStream::connect(address).ok());
    let mut clients = [(); 5].map(|()| Client::connect(address));
    for client in &mut clients {
        client.expect("220");
    }
    // The log of these commands exceeds the capacity of a pipe; the last lines are still buffered.
    let line = format!("NOOP {}\r\n", "y".repeat(300));
    for client in &mut clients {
        client.send(line.repeat(80));
    }
    for client in &mut clients {
        for _ in 0..80 {
            client.expect("250");
        }
    }
    let stopped_at = Instant::now();
    let pid = Pid::from_raw(server.id() as i32);
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTERM] {
        kill(pid, signal).expect("the process runs");
    }
    let status = wait_for("the server to end", || {
        server.try_wait().expect("a child process")
    });
    assert!(status.success());
    // The shutdown waits this long for a log that nobody reads.
    assert_took(stopped_at.elapsed(), Duration::from_secs(6));
}

#[test]
fn verbose_log_omits_auth_arguments() {
    let mut server = Server::start(&[("GSMTP_VERBOSE", "Y")]);
    let mut client = server.client();
    for line in [
        "AUTH PLAIN s3cr3t",
        "  auth plain s3cr3t",
        "Auth\tLOGIN s3cr3t",
    ] {
        client.send(format!("{line}\r\n"));
        client.read_reply().expect("a reply");
    }
    client.command("QUIT", "221");
    assert!(server.stop().success());
    let log = server.log();
    assert!(log.contains("AUTH ...") && !log.contains("s3cr3t"), "{log}");
}

/// Runs a session whose commands contain characters that could break the log or its parser.
fn talk(server: &Server) {
    let mut client = server.client();
    client.command("EHLO \"quoted=x\\", "250");
    for line in HOSTILE {
        client.send(format!("{line}\r\n"));
        client.read_reply().expect("a reply");
    }
    client.command("RSET", "250");
    client.command("MAIL FROM:<\"a \\\"b\\\" =c\"@client.test> SMTPUTF8", "250");
    client.command("RCPT TO:<用户@ours.test>", "250");
    client.command("DATA", "354 ");
    client.send("Subject: one\r\n\r\nnothing of this is logged\r\n.\r\n");
    client.expect("250 2.0.0 ");
    client.command("QUIT", "221");
    client.expect_close();
}

const HOSTILE: &[&str] = &[
    "NOOP \u{1b}[2J\u{7}\t\u{7f}",
    "NOOP a=b \"c\" \\n \\u0041",
    "NOOP \u{202e}gpj.exe\u{2066}\u{feff}",
    "NOOP emoji 😀 und Umlaute äöü",
    "NOOP  two  spaces ",
];

/// Returns the events without the values that differ from run to run.
fn without_varying_keys(events: &[Event]) -> Vec<Event> {
    let mut events = events.to_vec();
    for event in &mut events {
        for key in ["time", "seconds", "hash", "address", "clients"] {
            event.remove(key);
        }
        if let Some(line) = event.get_mut("line")
            && let Some((text_before, _)) = line.split_once("queued as ")
        {
            *line = text_before.to_owned();
        }
    }
    events
}

fn parse_json(line: &str) -> Event {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Parses `time level session event key=value …`; a value with special characters is a JSON string.
fn parse_text(line: &str) -> Event {
    let mut event = Event::new();
    let mut rest = line;
    for key in ["time", "level", "session", "event"] {
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        if word != "-" {
            event.insert(key.to_owned(), word.to_owned());
        }
        rest = behind;
    }
    while !rest.is_empty() {
        let (key, behind) = rest.split_once('=').unwrap_or_else(|| panic!("{line}"));
        let (value, behind) = match behind.starts_with('"') {
            false => {
                let end = behind.find(' ').unwrap_or(behind.len());
                (behind[..end].to_owned(), &behind[end..])
            }
            true => {
                let mut values = serde_json::Deserializer::from_str(behind).into_iter::<String>();
                let value = values
                    .next()
                    .expect("a value")
                    .unwrap_or_else(|e| panic!("{e}: {line}"));
                (value, &behind[values.byte_offset()..])
            }
        };
        event.insert(key.to_owned(), value);
        rest = behind.strip_prefix(' ').unwrap_or_else(|| {
            assert!(behind.is_empty(), "{line}");
            behind
        });
    }
    event
}
