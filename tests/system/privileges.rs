//! The privilege drop from root to GUID and SGID. These tests need root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::{Server, run_in, test, wait_for, write_config};

const NOBODY: u32 = 65_534;

const DROP: [(&str, &str); 4] = [
    ("GUID", "65534"),
    ("SGID", "65534"),
    ("PID_FILE", "pid"),
    ("GM_SQLITE_FILE", "state/mail.db"),
];

#[test]
fn no_server_thread_keeps_root_privileges() {
    let folder = folder();
    let mut server = Server::start_in(folder, &DROP);
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: x\r\n");
    assert_eq!(reply.code, 250);
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).expect("the server runs");
    let mut seen = 0;
    for task in tasks {
        let status = fs::read_to_string(task.expect("a task").path().join("status"));
        let status = status.expect("a task has a status");
        let field = |name: &str| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.expect("a known field")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(field("Uid"), "65534 65534 65534 65534");
        assert_eq!(field("Gid"), "65534 65534 65534 65534");
        assert_eq!(field("Groups"), "");
        assert_eq!(field("CapEff"), "0000000000000000");
        assert_eq!(field("NoNewPrivs"), "1");
        seen += 1;
    }
    assert!(seen >= 4, "log, signals, writer and clients: {seen}");
    for file in [
        "log",
        "pid",
        "state/mail.db",
        "state/mail.db-wal",
        "state/mail.db-shm",
    ] {
        let owner = fs::metadata(server.path(file))
            .expect("a file of the server")
            .uid();
        assert_eq!(owner, NOBODY, "{file}");
    }
    let pid = fs::read_to_string(server.path("pid")).expect("a PID file");
    assert_eq!(pid.trim(), server.pid().to_string());
    assert!(server.stop().success());
    // The folder belongs to root, so the server could only empty the file.
    assert_eq!(fs::read(server.path("pid")).expect("still there"), b"");
}

#[test]
fn server_refuses_to_run_as_root_on_a_public_address() {
    testkit::needs_root();
    let folder = TempDir::new().expect("a temporary folder");
    for ids in [
        &[][..],
        &[("GUID", "0"), ("SGID", "0")],
        &[("GUID", "65534"), ("SGID", "0")],
        &[("GUID", "0"), ("SGID", "65534")],
    ] {
        let mut settings = vec![("GSTMP_LISTEN_INTERFACE", "0.0.0.0:0")];
        settings.extend(ids);
        write_config(folder.path(), &settings);
        let error =
            run_in(folder.path(), &["-config=goguerrilla.conf"]).expect_err("a refusal to start");
        assert!(error.contains("GUID and SGID"), "{error}");
    }
}

#[test]
fn running_as_root_on_loopback_logs_a_warning() {
    testkit::needs_root();
    let server = Server::start(&[]);
    server.wait_for_log(" runs_as_root ");
}

#[test]
fn check_started_as_root_tests_the_store_as_the_server_user() {
    let folder = folder();
    chown(folder.path().join("state"), Some(0), Some(0)).expect("permitted for root");
    write_config(folder.path(), &DROP);
    let outcome = run_in(folder.path(), &["check", "-config=goguerrilla.conf"]);
    assert!(
        outcome.is_err(),
        "check succeeded although user nobody may not write there"
    );
}

#[test]
fn store_owned_by_root_is_a_start_error_naming_file_and_user() {
    let folder = folder();
    write_config(folder.path(), &DROP);
    let state = folder.path().join("state");
    let file = state.join("mail.db");
    let refusal = || {
        let output_text =
            run_in(folder.path(), &["-config=goguerrilla.conf"]).expect_err("a refusal to start");
        assert!(output_text.contains("state/mail.db: "), "{output_text}");
        assert!(output_text.contains("user 65534"), "{output_text}");
        assert_eq!(output_text.lines().count(), 1, "{output_text}");
    };
    chown(&state, Some(0), Some(0)).expect("permitted for root");
    refusal();
    assert!(!file.exists(), "the server created a file as root");
    // A database file that root created, for example by starting the server as root.
    chown(&state, Some(NOBODY), Some(NOBODY)).expect("permitted for root");
    fs::write(&file, b"").expect("permitted for root");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permitted for root");
    refusal();
    assert_eq!(fs::metadata(&file).expect("the file exists").uid(), 0);
}

#[test]
fn sigusr1_keeps_the_old_log_when_the_new_one_cannot_be_opened() {
    let folder = folder();
    let server = Server::start_in(folder, &DROP);
    let (log, moved) = (server.path("log"), server.path("log.1"));
    fs::rename(&log, &moved).expect("the log is there");
    server.signal(Signal::SIGUSR1);
    let assert_log_contains = |file: &Path, text: &str| {
        wait_for(text, || {
            fs::read_to_string(file).ok()?.contains(text).then_some(())
        });
    };
    assert_log_contains(&moved, " log_reopen_failed ");
    // If the folder permits it, the log continues in a new file.
    chown(server.folder.path(), Some(NOBODY), None).expect("permitted for root");
    server.signal(Signal::SIGUSR1);
    assert_log_contains(&log, " log_reopened");
}

/// Returns a world-readable folder of root with a subfolder `state` of user nobody.
fn folder() -> TempDir {
    testkit::needs_root();
    let folder = TempDir::new().expect("a temporary folder");
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.path(), everybody).expect("a folder of this test");
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("a folder of this test");
    chown(&state, Some(NOBODY), Some(NOBODY)).expect("permitted for root");
    folder
}

#[test]
fn root_does_not_chown_symlinked_or_hard_linked_log_and_pid_files() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let owner = |name: &str| fs::metadata(path(name)).expect("the file exists").uid();
    // The server's user may create any link in its own folder.
    for name in ["secret", "secret too"] {
        fs::write(path(name), "root's\n").expect("permitted for root");
    }
    symlink(path("secret"), path("linked")).expect("a link");
    fs::hard_link(path("secret too"), path("second name")).expect("a link");
    for (key, name, why) in [
        ("GSMTP_LOG_FILE", "linked", "symbolic link"),
        ("PID_FILE", "linked", "symbolic link"),
        ("GSMTP_LOG_FILE", "second name", "several hard links"),
        ("PID_FILE", "second name", "several hard links"),
    ] {
        write_config(
            folder.path(),
            &[("GUID", "65534"), ("SGID", "65534"), (key, name)],
        );
        let refused = run_in(folder.path(), &["-config=goguerrilla.conf"]).expect_err("a refusal");
        let file = format!("{key}: cannot ");
        assert!(
            refused.contains(&file) && refused.contains(why),
            "{refused}"
        );
    }
    for secret in ["secret", "secret too"] {
        assert_eq!(owner(secret), 0);
        assert_eq!(
            fs::read_to_string(path(secret)).expect("the file"),
            "root's\n"
        );
    }
}

#[test]
fn server_started_as_the_target_user_keeps_its_supplementary_groups() {
    let folder = folder();
    chown(folder.path(), Some(NOBODY), Some(NOBODY)).expect("permitted for root");
    let server = Server::start_with(folder, &DROP, |program| {
        let mut setpriv = testkit::command("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--groups=65534,50"]);
        setpriv.arg(program.get_program()).args(program.get_args());
        setpriv
    });
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", b"Subject: x\r\n");
    assert_eq!(reply.code, 250);
}
