//! Steps that tests in several binaries take.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use crate::load::{content_of, stored_markers};
use crate::store::{StoredMail, mails_after};
use crate::{Client, Server, short_mail, wait_for, write_config};

pub fn rename_files(server: &Server, names: &[&str], from: &str, to: &str) {
    for name in names {
        let (from, to) = (format!("{from}{name}"), format!("{to}{name}"));
        fs::rename(server.path(&from), server.path(&to)).expect("the file exists");
    }
}

pub fn run_script(script: &str) {
    let output = Command::new("sh").args(["-c", script]).output();
    let output = output.expect("a shell");
    let output_text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output_text.as_str()), (Some(0), ""));
}

/// Returns the processor time of a mail to `recipients` recipients, and by how many KiB it raised the server's peak
/// memory.
pub fn cost_of_mail(server: &Server, recipients: usize, content: &[u8]) -> (Duration, u64) {
    let (time, memory) = (server.processor_time(), server.status_kib("VmHWM"));
    let mut client = server.client();
    client.set_reply_timeout(Duration::from_secs(60));
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    for number in 0..recipients {
        client.command(&format!("RCPT TO:<u{number}@ours.test>"), "250");
    }
    client.command("DATA", "354");
    let (reply, _) = client.send_content(content);
    assert_eq!(reply.code, 250, "{}", reply.text());
    let time = server.processor_time() - time;
    (time, server.status_kib("VmHWM") - memory)
}

pub fn assert_newest_mail_came_from(server: &Server, address: &str, protocol: &str, what: &str) {
    let mut mails = mails_after(&server.path("goguerrilla.db"), 0);
    let mail = mails.pop().expect("a mail");
    assert_eq!(mail.ip_addr, address, "{what}");
    let text = String::from_utf8_lossy(&mail.mail).into_owned();
    let literal = match address.contains(':') {
        true => format!("[IPv6:{address}]"),
        false => format!("[{address}]"),
    };
    let received =
        format!("from client.test (client.test {literal})\r\n\tby mx.test with {protocol} id");
    assert!(text.contains(&received), "{what}: {text}");
}

/// Delivers a mail from an address of the loopback network.
pub fn deliver_from(server: &Server, address: Ipv4Addr) -> (u16, Duration) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from = SocketAddr::from((address, 0));
    socket.bind(&from.into()).expect("a loopback address");
    socket
        .connect(&server.address.into())
        .expect("the server accepts");
    let mut client = Client::over(socket.into());
    client.set_reply_timeout(Duration::from_secs(40));
    client.expect("220");
    client.begin_data("a@client.test", "u@ours.test");
    let (reply, took) = client.send_content(&short_mail("any"));
    (reply.code, took)
}

/// Writes the configuration again, sends SIGHUP, and returns the log after the reload.
pub fn reload(server: &Server, settings: &[(&str, &str)]) -> String {
    let count = |log: &str, what: &str| log.matches(what).count();
    let before = count(&server.log(), " reload");
    let refused = count(&server.log(), " reload_refused ");
    write_config(server.folder.path(), settings);
    server.signal(Signal::SIGHUP);
    let log = wait_for("the reload", || {
        Some(server.log()).filter(|log| count(log, " reload") > before)
    });
    assert_eq!(count(&log, " reload_refused "), refused, "{log}");
    log
}

pub fn wait_until_draining(server: &Server) {
    wait_for("the shutdown to begin", || {
        server.log().contains(" shutdown ").then_some(())
    });
}

/// Returns a client that has sent a mail with its final dot and has not read the reply.
pub fn send_mail(server: &Server, subject: &str) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<u@ours.test>", "250");
    client.command("DATA", "354");
    client.send(format!("{}.\r\n", content_of(subject)));
    client
}

/// Delivers one mail for each subject over its own connection; all final dots are sent at once. Returns each subject with the
/// code of its reply.
pub fn deliver_together(server: &Server, subjects: &[String]) -> Vec<(String, u16)> {
    let start = Barrier::new(subjects.len());
    thread::scope(|scope| {
        let clients: Vec<_> = subjects
            .iter()
            .map(|subject| {
                let start = &start;
                scope.spawn(move || {
                    let mut client = server.client();
                    client.command("EHLO client.test", "250");
                    client.command("MAIL FROM:<a@client.test>", "250");
                    client.command("RCPT TO:<u@ours.test>", "250");
                    client.command("DATA", "354");
                    client.send(content_of(subject));
                    start.wait();
                    client.send(".\r\n");
                    let reply = client.read_reply().expect("a reply to the final dot");
                    (subject.clone(), reply.code)
                })
            })
            .collect();
        let codes = clients.into_iter().map(|client| client.join());
        codes.map(|code| code.expect("no panic")).collect()
    })
}

/// Returns the subject of each row, sorted.
pub fn stored_subjects(server: &Server) -> Vec<String> {
    let stored = stored_markers(&server.path("goguerrilla.db"));
    let mut subjects: Vec<String> = stored
        .into_iter()
        .flat_map(|(subject, count)| std::iter::repeat_n(subject, count))
        .collect();
    subjects.sort();
    subjects
}

/// Waits until `count` connections have ended and returns the log line of the last one.
pub fn wait_for_disconnects(server: &Server, count: usize) -> String {
    wait_for("the end of a connection in the log", || {
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains(" disconnected "));
        lines.nth(count - 1).map(str::to_owned)
    })
}

pub fn newest_mail(server: &Server) -> StoredMail {
    let mut mails = mails_after(&server.path("goguerrilla.db"), 0);
    mails.pop().expect("a mail")
}
