//! The programs in examples/, with real clients.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::support::{BINARY, Client, short_mail, under_strace, without_trace};

#[test]
fn folder_store_writes_one_file_for_each_mail_and_stops_at_sigterm() {
    let folder = TempDir::new().expect("a temporary folder");
    let example = Example::start(&folder, example("folder_store").args([FREE_PORT, "mail"]));
    let swaks = Command::new("swaks")
        .args(["--server", &example.address.to_string()])
        .args(["--helo", "client.test", "--from", "a@client.test"])
        .args(["--to", "u@ours.test,v@ours.test"])
        .args(["--data", "Subject: swaks\\n\\nA line.\\n.\\n"])
        .output()
        .expect("swaks is installed: tests/install-tools");
    assert!(swaks.status.success(), "{swaks:?}");
    let dialog = String::from_utf8(swaks.stdout).expect("ASCII");

    let [name] = &files(&folder, "mail/new")[..] else {
        panic!("not one file");
    };
    assert!(dialog.contains(&format!("250 2.0.0 OK : queued as {name}\n")));
    let stored = fs::read(folder.path().join("mail/new").join(name)).expect("a file");
    let text = String::from_utf8_lossy(&stored);
    assert!(text.starts_with("Return-Path: <a@client.test>\r\nDelivered-To: u@"));
    assert!(text.contains("\r\nReturn-Path: <a@client.test>\r\nDelivered-To: v@"));
    let content = without_trace(without_trace(&stored));
    assert_eq!(content, b"Subject: swaks\r\n\r\nA line.\r\n");
    assert!(files(&folder, "mail/tmp").is_empty());
    assert!(example.stop(Signal::SIGTERM).success());
}

#[test]
fn folder_store_leaves_nothing_of_a_mail_that_it_does_not_save() {
    let folder = TempDir::new().expect("a temporary folder");
    // In the writer's thread, fsync is called at first for the folder, then for the file and for the folder of each mail:
    // fails for the file of the first mail and the folder of the second.
    let strace = under_strace(&[
        "-e",
        "trace=fsync,rename,renameat,renameat2",
        "-e",
        "inject=fsync:error=ENOSPC:when=2..4+2",
    ]);
    let mut program = example("folder_store");
    program.args([FREE_PORT, "mail"]);
    let example = Example::start(&folder, &mut strace(program));
    let mut client = example.client();
    for name in ["first", "second"] {
        let reply = client.deliver("a@client.test", "u@ours.test", &short_mail(name));
        assert_eq!(
            reply.text(),
            "452 4.3.1 Insufficient system storage, try again later"
        );
        assert!(files(&folder, "mail/tmp").is_empty(), "{name}");
        assert!(files(&folder, "mail/new").is_empty(), "{name}");
    }
    let reply = client.deliver("a@client.test", "u@ours.test", &short_mail("third"));
    assert_eq!(files(&folder, "mail/new"), [queued_as(&reply.text())]);
    client.command("QUIT", "221");
    assert!(example.stop(Signal::SIGINT).success());

    let trace = fs::read_to_string(folder.path().join("trace")).expect("a trace");
    let calls = trace
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1));
    let calls = calls.filter_map(|call| Some(call.split_once('(')?.0));
    let calls: Vec<&str> = calls
        .map(|name| {
            if name.starts_with("rename") {
                "rename"
            } else {
                name
            }
        })
        .collect();
    let third = calls.len().checked_sub(3).expect("three calls");
    assert_eq!(calls[third..], ["fsync", "rename", "fsync"], "{trace}");
}

#[test]
fn channel_store_catches_the_mail_of_a_program_under_test() {
    let output = example("channel_store").output().expect("a program");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"caught 1 mail: Your order\n");
}

#[test]
fn recipients_from_set_follow_changes_of_their_file() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name);
    let replace = |addresses: &str| {
        fs::write(file("new"), addresses).expect("a file is written");
        fs::rename(file("new"), file("recipients")).expect("a file is replaced");
    };
    let config = r#"{"GSTMP_LISTEN_INTERFACE": "127.0.0.1:0", "GM_ALLOWED_HOSTS": "ours.test",
        "GM_STORE": "sqlite", "GM_SQLITE_FILE": "mail.db"}"#;
    fs::write(file("config"), config).expect("a file is written");
    replace("Old@Ours.test\n\n  other@ours.test\r\n");
    let mut program = example("recipients_from_set");
    let example = Example::start(&folder, program.args(["config", "recipients"]));

    let mut client = example.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.command("RCPT TO:<old@ours.test>", "250 2.1.5");
    client.command("RCPT TO:<OTHER@ours.test>", "250 2.1.5");
    client.command("RCPT TO:<new@ours.test>", "550 5.1.1");
    replace("new@ours.test\n");
    client.command("RCPT TO:<new@ours.test>", "250 2.1.5");
    client.command("RCPT TO:<third@ours.test>", "550 5.1.1");
    client.command("RCPT TO:<postmaster@ours.test>", "250 2.1.5");
    fs::remove_file(file("recipients")).expect("a file");
    client.command("RCPT TO:<fourth@ours.test>", "451 4.3.0");
    replace("fourth@ours.test\n");
    client.command("RCPT TO:<fourth@ours.test>", "250 2.1.5");
    client.command("DATA", "354");
    client.send([&short_mail("set")[..], b".\r\n"].concat());
    client.expect("250 2.0.0");

    let stored = crate::support::store::mails_after(&file("mail.db"), 0);
    let recipients: Vec<&str> = stored.iter().map(|row| &*row.recipient).collect();
    let want = ["old", "OTHER", "new", "postmaster", "fourth"];
    assert_eq!(recipients, want.map(|name| format!("{name}@ours.test")));
}

/// A running example; dropping it kills the process.
struct Example {
    child: Child,
    address: SocketAddr,
    errors: PathBuf,
    /// Open, so that the program can write to it.
    _output: BufReader<ChildStdout>,
}

impl Example {
    /// Runs the command in a folder and waits until it prints its address.
    fn start(folder: &TempDir, command: &mut Command) -> Example {
        let errors = folder.path().join("stderr");
        let mut child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file for stderr"))
            .spawn()
            .expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        let address = line
            .strip_prefix("listening on ")
            .and_then(|address| address.trim_end().parse().ok());
        let Some(address) = address else {
            let errors = fs::read_to_string(errors);
            panic!("{line:?}, {errors:?}, {:?}", child.wait());
        };
        Example {
            child,
            address,
            errors,
            _output: output,
        }
    }

    /// Connects a client and reads the greeting.
    fn client(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.expect("220 ");
        client
    }

    /// Sends a signal and waits for the exit.
    fn stop(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("a child");
        self.child.wait().expect("a child")
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let errors = fs::read_to_string(&self.errors).unwrap_or_default();
            eprintln!("---- stderr of the example\n{errors}");
        }
    }
}

/// Builds the examples at the first call; returns a command that runs one of them.
fn example(name: &str) -> Command {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| build(&["--examples", "--offline"]));
    Command::new(profile_folder().join("examples").join(name))
}

/// Runs `cargo build` in the target folder and with the profile of the program under test.
fn build(arguments: &[&str]) {
    let profile_folder = profile_folder();
    let is_release = profile_folder.ends_with("release");
    // Cargo sets the variable for the tests that it runs.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--locked", "--target-dir"])
        .arg(profile_folder.parent().expect("a target folder"))
        .args(is_release.then_some("--release"))
        .args(arguments)
        .output()
        .expect("cargo");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

fn profile_folder() -> &'static Path {
    Path::new(BINARY).parent().expect("a folder of programs")
}

/// Returns the mail id in the reply to the final dot.
fn queued_as(reply: &str) -> &str {
    let id = reply.strip_prefix("250 2.0.0 OK : queued as ");
    id.unwrap_or_else(|| panic!("not saved: {reply}"))
}

/// Returns the names of the files in a subfolder.
fn files(folder: &TempDir, subfolder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder.path().join(subfolder)).expect("a folder");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string());
    names.map(|name| name.expect("ASCII")).collect()
}

const FREE_PORT: &str = "127.0.0.1:0";
