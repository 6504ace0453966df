//! The log consists of complete lines that a parser can read back, whatever clients send; failures of the log do not
//! affect mail.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use testkit::{Client, Server, binary, short_mail, test, value, wait_for, write_config};

#[test]
fn log_to_stdout_still_works_after_the_privilege_drop() {
    testkit::needs_root();
    // After the privilege drop the server cannot open /dev/stdout by its name in either case.
    let (read, written) = io::pipe().expect("a pipe");
    assert_logs_to_stdout_as_nobody(written.into(), read);
    let (read, written) = UnixStream::pair().expect("two sockets");
    assert_logs_to_stdout_as_nobody(OwnedFd::from(written).into(), read);
}

/// Starts the server as root with GUID nobody and reads its log from standard output.
fn assert_logs_to_stdout_as_nobody(stdout: Stdio, output: impl Read) {
    let folder = TempDir::new().expect("a temporary folder");
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("permitted for root");
    let nobody = NOBODY.to_string();
    let settings = [
        ("GSMTP_LOG_FILE", "/dev/stdout"),
        ("GUID", &nobody),
        ("SGID", &nobody),
    ];
    write_config(folder.path(), &settings);
    let mut program = Command::new(binary());
    program.current_dir(folder.path()).stdin(Stdio::null());
    program.stdout(stdout).stderr(Stdio::null());
    let mut child = program.spawn().expect("the program starts");
    // Drops the command's copy of the writing end; otherwise the reader would never see the end.
    drop(program);
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let address = lines
        .find_map(|line| value(&line, "address"))
        .expect("a line with its address");
    let address = address.parse().expect("an address");
    let pid = Pid::from_raw(child.id() as i32);
    for number in 0..3 {
        let mut client = Client::connect(address);
        client.expect("220 ");
        let mail = short_mail(&format!("mail {number}"));
        let reply = client.deliver("a@client.test", "u@ours.test", &mail);
        assert_eq!(reply.code, 250);
        let hash = reply.text();
        let hash = hash.rsplit(' ').next().expect("a hash");
        let saved = lines.find(|line| value(line, "hash").as_deref() == Some(hash));
        assert!(saved.is_some_and(|line| line.contains(" saved ")));
        // Reopening the log on SIGUSR1 keeps using standard output.
        kill(pid, Signal::SIGUSR1).expect("the process runs");
        let reopened = lines.find(|line| line.contains(" log_reopened"));
        assert!(reopened.is_some());
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    assert!(
        status.contains(&format!("Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}")),
        "{status}"
    );
    kill(pid, Signal::SIGTERM).expect("the process runs");
    assert!(
        lines.any(|line| line.contains(" stopped")),
        "the last log line is missing"
    );
    assert!(child.wait().expect("a child process").success());
}

#[test]
fn full_log_disk_loses_log_lines_and_no_mail() {
    testkit::needs_root();
    let folder = TempDir::new().expect("a temporary folder");
    fs::create_dir(folder.path().join("small")).expect("a folder");
    // The log starts outside the small disk, where `start_with` looks for it, and then moves to the disk, which exists
    // only in the server's mount namespace.
    let server = Server::start_with(folder, &[("GSMTP_VERBOSE", "Y")], |program| {
        let mut unshare = testkit::command("unshare");
        let script = "mount -t tmpfs -o size=64k tmpfs small && exec \"$@\"";
        unshare.args(["-m", "sh", "-c", script, "sh"]);
        unshare.arg(program.get_program()).args(program.get_args());
        unshare
    });
    let small = format!(
        "/proc/{}/root{}",
        server.pid(),
        server.path("small/log").display()
    );
    write_config(
        server.folder.path(),
        &[("GSMTP_VERBOSE", "Y"), ("GSMTP_LOG_FILE", "small/log")],
    );
    server.signal(Signal::SIGHUP);
    let length = || fs::metadata(&small).map_or(0, |metadata| metadata.len());
    wait_for("the log on the small disk", || (length() > 0).then_some(()));
    wait_for("the disk to be full", || {
        let mut client = server.client();
        for _ in 0..50 {
            client.command("VRFY somebody", "252");
        }
        (length() >= 65_536).then_some(())
    });
    let mut client = server.client();
    let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("on"));
    assert_eq!(reply.code, 250);
    // After space is freed the log contains complete lines again.
    fs::OpenOptions::new()
        .write(true)
        .open(&small)
        .and_then(|file| file.set_len(0))
        .expect("permitted for root");
    client.command("QUIT", "221");
    let is_last =
        |line: &&str| line.contains(" disconnected ") && line.contains(" helo=client.test ");
    let log = wait_for("the last line", || {
        let log = fs::read_to_string(&small).ok()?;
        log.lines().any(|line| is_last(&line)).then_some(log)
    });
    let line = log.lines().find(is_last);
    assert_eq!(
        value(line.expect("a line for the session"), "data").as_deref(),
        Some("1/1")
    );
    assert!(
        line.expect("a line for the session").starts_with("20"),
        "{log}"
    );
}

const NOBODY: u32 = 65_534;
