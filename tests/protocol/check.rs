//! `goguerrilla check`: its findings, its exit status, and that it changes no file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use tempfile::TempDir;

use testkit::process::{ProcessResult, run, run_command};
use testkit::{Server, binary, test, write_config};

#[test]
fn check_without_findings_exits_with_0_and_creates_no_file() {
    let folder = with_config(&[]);
    assert_eq!(check(folder.path()), (0, String::new()));
    let entries: Vec<_> = fs::read_dir(folder.path()).expect("the folder").collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
}

#[test]
fn check_next_to_a_running_server_changes_nothing() {
    let server = Server::start(&[]);
    server
        .client()
        .deliver("a@client.test", "u@ours.test", b"x\r\n");
    assert_eq!(check(server.folder.path()), (0, String::new()));
    assert_eq!(server.list().len(), 1);
    server
        .client()
        .deliver("a@client.test", "u@ours.test", b"y\r\n");
    assert_eq!(server.list().len(), 2);
}

#[test]
fn check_says_how_to_correct_a_malformed_redis_interface() {
    for url in ["redis://:secret@h:1/x", "redis://:secret@[::1:5"] {
        let folder = with_config(&[
            ("GM_STORE", "mysql"),
            ("MYSQL_HOST", "127.0.0.1:1"),
            ("REDIS_INTERFACE", url),
        ]);
        let (status, printed) = check(folder.path());
        assert_eq!(status, 1, "{printed}");
        let mut lines = printed.lines();
        let line = lines.find(|line| line.starts_with("error: REDIS_INTERFACE: "));
        let line = line.expect("a finding about Redis");
        assert!(line.contains("; write host:port, "), "{line}");
        assert!(!printed.contains("secret"), "{printed}");
    }
}

#[test]
fn check_with_only_warnings_exits_with_0() {
    let folder = with_config(&[("GM_STORE", "discard"), ("GSMTP_MAXSIZE", "1")]);
    assert_eq!(
        check(folder.path()),
        (
            0,
            "warning: GSMTP_MAXSIZE: unknown key, ignored; the nearest known key is GSMTP_MAX_SIZE\n\
             warning: GM_STORE: discard accepts every mail and stores none; set \"sqlite\" to keep mail\n"
                .to_owned()
        )
    );
    // Store `discard` needs no database, so every finding is about the file.
    let folder = with_config(&[("GM_STORE", "discard"), ("MYSQL_PASS", "s3cr3t-of-check")]);
    let file = folder.path().join("goguerrilla.conf");
    for (mode, warned) in [(0o644, true), (0o640, false)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a file");
        let (status, output) = check(folder.path());
        let warning =
            "every user may read it, and it contains a password; run: chmod o-r goguerrilla.conf";
        assert_eq!((status, output.contains(warning)), (0, warned), "{output}");
        assert!(!output.contains("s3cr3t"), "{output}");
    }
    let folder = with_config(&[
        ("GM_STORE", "discard"),
        ("GSMTP_LISTEN_INTERFACE", "127.0.0.1:1"),
    ]);
    let (status, output) = check(folder.path());
    let warning = "warning: GSMTP_LISTEN_INTERFACE: ignored because GSTMP_LISTEN_INTERFACE is set too; remove one of them\n";
    assert!(status == 0 && output.starts_with(warning), "{output}");
    let folder = TempDir::new().expect("a temporary folder");
    let ended = run(folder.path(), &["check"]);
    assert_eq!(
        (ended.status, ended.stdout.as_str()),
        (
            0,
            "warning: no -config and no goguerrilla.conf in the current folder: using built-in defaults\n"
        )
    );
}

#[test]
fn check_reports_an_unwritable_store_with_its_remedy() {
    let folder = with_config(&[("GM_SQLITE_FILE", "missing/mail.db")]);
    let (status, finding) = check(folder.path());
    assert_eq!(status, 1);
    let user = geteuid();
    assert_eq!(
        finding,
        format!(
            "error: GM_SQLITE_FILE: missing/mail.db: cannot be created in missing: \
             ENOENT: No such file or directory; give user {user} the right to write there\n"
        )
    );

    let folder = with_config(&[("GM_SQLITE_FILE", "mail.db")]);
    fs::write(
        folder.path().join("mail.db"),
        "no database at all\n".repeat(100),
    )
    .expect("a file");
    assert_eq!(
        check(folder.path()),
        (
            1,
            "error: GM_SQLITE_FILE: mail.db: file is not a database; name another file, or move this one away\n".to_owned()
        )
    );

    let folder = with_config(&[("GM_SQLITE_FILE", "mail.db")]);
    fs::create_dir(folder.path().join("mail.db")).expect("a folder");
    let (status, finding) = check(folder.path());
    assert_eq!(status, 1);
    assert!(
        finding.starts_with("error: GM_SQLITE_FILE: mail.db: "),
        "{finding}"
    );
}

#[test]
fn check_reports_log_and_pid_files_that_cannot_be_written() {
    for key in ["GSMTP_LOG_FILE", "PID_FILE"] {
        let folder = with_config(&[(key, "nowhere/file")]);
        let (status, output) = check(folder.path());
        assert_eq!(status, 1, "{output}");
        assert!(
            output.starts_with(&format!("error: {key}: cannot ")),
            "{output}"
        );
        let started = run(folder.path(), &[]);
        assert_eq!(started.status, 1);
        let why = output.trim_start_matches("error: ").trim_end();
        assert!(
            started.stderr.contains(why),
            "{} is not {why}",
            started.stderr
        );
    }
}

#[test]
fn check_names_the_user_that_lacks_file_permissions() {
    let folder = with_config(&[("GSMTP_LOG_FILE", "/dev/stdout")]);
    let program = folder.path().join("goguerrilla");
    // `cp` writes the copy: a child process of another test could inherit a descriptor that this process has open for writing,
    // and then the program could not be executed (ETXTBSY).
    let copied = Command::new("cp").arg(binary()).arg(&program).status();
    assert!(copied.expect("cp starts").success());
    fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).expect("our folder");
    let (user, ended) = check_without_rights(folder.path(), &program);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert_eq!(
        ended.stdout,
        format!(
            "error: GM_SQLITE_FILE: goguerrilla.db: cannot be created in .: \
             EACCES: Permission denied; give user {user} the right to write there\n"
        )
    );

    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our folder");
    let schema = run(folder.path(), &["schema"]).stdout;
    let file = folder.path().join("goguerrilla.db");
    let made = rusqlite::Connection::open(&file).and_then(|file| file.execute_batch(&schema));
    made.expect("a store");
    fs::set_permissions(&file, Permissions::from_mode(0o444)).expect("a file");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o555)).expect("our folder");
    let (user, ended) = check_without_rights(folder.path(), &program);
    assert_eq!(ended.status, 1, "{ended:?}");
    let names_the_user =
        format!("; user {user} needs the right to write this file and its folder\n");
    assert!(
        ended
            .stdout
            .starts_with("error: GM_SQLITE_FILE: goguerrilla.db: ")
            && ended.stdout.ends_with(&names_the_user),
        "{ended:?}"
    );
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("our folder");
}

#[test]
fn check_reports_a_table_with_other_columns_in_one_line() {
    let folder = with_config(&[]);
    let file = rusqlite::Connection::open(folder.path().join("goguerrilla.db")).expect("a file");
    for table in ["a", "`date`, `to`, hash"] {
        let sql = format!("DROP TABLE IF EXISTS new_mail; CREATE TABLE new_mail({table})");
        file.execute_batch(&sql).expect("a table");
        let fix = "; a table of that name with other columns may be there: rename it, or name another one in GM_MAIL_TABLE";
        let is_one_line =
            |output: &str| output.ends_with(&format!("{fix}\n")) && output.lines().count() == 1;
        let (status, output) = check(folder.path());
        assert!(status == 1 && is_one_line(&output), "{output}");
        for command in [&[][..], &["list"]] {
            let ended = run(folder.path(), command);
            assert!(ended.status == 1 && is_one_line(&ended.stderr), "{ended:?}");
        }
    }
}

#[test]
fn check_reports_an_unbindable_address_but_not_one_in_use() {
    let (status, output) =
        check(with_config(&[("GSTMP_LISTEN_INTERFACE", "192.0.2.9:2525")]).path());
    let fix = "name an address of this machine in GSTMP_LISTEN_INTERFACE or with -if=";
    let error = "cannot bind 192.0.2.9:2525: Cannot assign requested address (os error 99)";
    let is_reported = output
        .lines()
        .any(|line| line == format!("error: {error}; {fix}"));
    assert!(status == 1 && is_reported, "{output}");
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let folder = with_config(&[("GSTMP_LISTEN_INTERFACE", address.as_str())]);
    assert_eq!(check(folder.path()), (0, String::new()));
    let twice = format!("{address},{address}");
    let folder = with_config(&[("GSTMP_LISTEN_INTERFACE", twice.as_str())]);
    let (status, output) = check(folder.path());
    assert!(
        status == 1 && output.contains(&format!("cannot bind {address}: ")),
        "{output}"
    );
    for key in ["GM_STATUS_INTERFACE", "NGINX_AUTH"] {
        let folder = with_config(&[
            ("GSTMP_LISTEN_INTERFACE", "0.0.0.0:2525"),
            (key, "127.0.0.1:2525"),
            ("NGINX_AUTH_ENABLED", "Y"),
        ]);
        let (status, output) = check(folder.path());
        let is_reported = output.contains("cannot bind 127.0.0.1:2525: ") && output.contains(key);
        assert!(status == 1 && is_reported, "{key}: {output}");
    }
}

/// Runs `check` as user nobody: file permissions do not apply to root.
fn check_without_rights(folder: &Path, program: &Path) -> (u32, ProcessResult) {
    let mut command = Command::new(program);
    command.args(["check", "-config=goguerrilla.conf"]);
    let mut user = geteuid().as_raw();
    if user == 0 {
        user = NOBODY;
        command.uid(user).gid(NOBODY);
    }
    (user, run_command(command.current_dir(folder)))
}

fn with_config(settings: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), settings);
    folder
}

fn check(folder: &Path) -> (i32, String) {
    let ended = run(folder, &["check", "-config=goguerrilla.conf"]);
    assert_eq!(ended.stderr, "");
    (ended.status, ended.stdout)
}

/// The id of Debian's user `nobody`.
const NOBODY: u32 = 65_534;
