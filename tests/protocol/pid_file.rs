//! PID_FILE contains the process id of the running server. At shutdown a server removes the file only if it contains
//! its own process id.

use std::fs::{self};
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tempfile::TempDir;

use testkit::process::run;
use testkit::{Server, test, wait_for, write_config};

/// A change to the PID file of a running server.
type Change = fn(&Server);

const NOBODY: u32 = 65_534;

const SETTINGS: [(&str, &str); 1] = [("PID_FILE", "pid")];

#[test]
fn pid_file_of_a_new_server_survives_the_shutdown_of_the_old_one() {
    let mut old = Server::start(&SETTINGS);
    let mut client = old.client();
    client.begin_data("a@client.test", "u@ours.test");
    old.signal(Signal::SIGTERM);
    old.wait_for_log(" shutdown ");
    let folder = TempDir::new().expect("a temporary folder");
    let pid_file = old.path("pid").display().to_string();
    let mut new = Server::start_in(folder, &[("PID_FILE", &pid_file)]);
    assert_eq!(client.send_content(b"x\r\n").0.code, 250);
    assert!(old.wait().success());
    let text = fs::read_to_string(&pid_file).expect("the new server's file");
    assert_eq!(text, format!("{}\n", new.pid()));
    assert!(new.stop().success());
    assert!(!old.path("pid").exists());
}

#[test]
fn pid_file_is_removed_only_if_it_contains_the_own_process_id() {
    fn overwrite(server: &Server, octets: &[u8]) {
        fs::write(server.path("pid"), octets).expect("the PID file is written");
    }
    let cases: &[(&str, Change, Option<&[u8]>)] = &[
        ("untouched", |_| (), None),
        (
            "a copy of it",
            |server| {
                fs::copy(server.path("pid"), server.path("copy")).expect("a copy");
                fs::rename(server.path("copy"), server.path("pid")).expect("a rename");
            },
            None,
        ),
        (
            "another process's",
            |server| {
                fs::write(server.path("other"), "1\n").expect("a file");
                fs::rename(server.path("other"), server.path("pid")).expect("a rename");
            },
            Some(b"1\n"),
        ),
        (
            "a link",
            |server| {
                fs::write(server.path("other"), "1\n").expect("a file");
                fs::remove_file(server.path("pid")).expect("the PID file");
                symlink("other", server.path("pid")).expect("a link");
            },
            Some(b"1\n"),
        ),
        (
            "overwritten",
            |server| overwrite(server, b"1\n"),
            Some(b"1\n"),
        ),
        (
            "no number",
            |server| overwrite(server, b"none"),
            Some(b"none"),
        ),
        ("emptied", |server| overwrite(server, b""), Some(b"")),
        (
            "not UTF-8",
            |server| overwrite(server, b"\r\0\xff"),
            Some(b"\r\0\xff"),
        ),
    ];
    for (what, change, expected) in cases {
        let mut server = Server::start(&SETTINGS);
        change(&server);
        assert!(server.stop().success());
        let octets = fs::read(server.path("pid")).ok();
        assert_eq!(octets.as_deref(), *expected, "{what}");
    }
}

#[test]
fn pid_file_with_a_longer_process_id_is_not_removed() {
    let mut server = Server::start(&SETTINGS);
    let text = format!("{}0\n", server.pid());
    fs::write(server.path("pid"), &text).expect("a file");
    assert!(server.stop().success());
    assert_eq!(fs::read_to_string(server.path("pid")).ok(), Some(text));
}

#[test]
fn symlinked_pid_file_is_removed_but_the_link_stays() {
    let folder = TempDir::new().expect("a temporary folder");
    symlink("real", folder.path().join("pid")).expect("a link");
    // A server started as root does not follow this link, and with GUID it refuses to start.
    let mut server = match geteuid().is_root() {
        true => start_as_nobody(folder),
        false => Server::start_in(folder, &SETTINGS),
    };
    assert!(server.path("real").exists());
    assert!(server.stop().success());
    assert!(!server.path("real").exists());
    assert!(fs::symlink_metadata(server.path("pid")).is_ok());
}

fn start_as_nobody(folder: TempDir) -> Server {
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("permitted for root");
    Server::start_with(folder, &SETTINGS, |program| {
        let mut setpriv = testkit::command("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        setpriv.arg(program.get_program()).args(program.get_args());
        setpriv
    })
}

#[test]
fn pid_file_mode_is_0644_whatever_the_umask() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start_with(folder, &SETTINGS, testkit::with_umask("000"));
    let mode = wait_for("the PID file", || fs::metadata(server.path("pid")).ok());
    assert_eq!(mode.permissions().mode() & 0o777, 0o644);
}

#[test]
fn file_that_holds_more_than_a_process_id_is_left_as_it_is() {
    let folder = TempDir::new().expect("a temporary folder");
    let content = "-----BEGIN PRIVATE KEY-----\n".repeat(3);
    let file = folder.path().join("pid");
    fs::write(&file, &content).expect("a file");
    write_config(folder.path(), &SETTINGS);
    for arguments in [&["check"][..], &[]] {
        let ended = run(folder.path(), arguments);
        assert_eq!(ended.status, 1, "{arguments:?}");
        let text = ended.stdout + &ended.stderr;
        assert!(
            text.contains("PID_FILE: cannot write pid: the file holds more than a process id"),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&file).expect("the file"), content);
    }
}
