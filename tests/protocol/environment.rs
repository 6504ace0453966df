//! Environment variables GOGUERRILLA_<KEY>: their precedence, errors, warnings, and what `check` says about them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use testkit::process::{ProcessResult, run_with_changed_command};
use testkit::{Server, test, write_config};

#[test]
fn value_of_the_environment_replaces_that_of_the_file_also_after_sighup() {
    let size = ("GSMTP_MAX_SIZE", "1000");
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start_with(folder, &[size], |mut command| {
        command.env("GOGUERRILLA_GSMTP_MAX_SIZE", "2000");
        // An empty variable is unset.
        command.env("GOGUERRILLA_GSMTP_HOST_NAME", "");
        command
    });
    let has_size_2000 = || {
        let reply = server.client().command("EHLO client.test", "250").text();
        assert!(reply.contains("SIZE 2000"), "{reply}");
        reply
    };
    assert!(has_size_2000().contains("mx.test"));

    write_config(
        server.folder.path(),
        &[("GSMTP_MAX_SIZE", "3000"), ("GSMTP_HOST_NAME", "mx2.test")],
    );
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" - reload\n");
    assert!(has_size_2000().contains("mx2.test"));
}

#[test]
fn argument_takes_precedence_over_the_environment() {
    let folder = TempDir::new().expect("a temporary folder");
    let server = Server::start_with(folder, &[("GSMTP_VERBOSE", "N")], |mut command| {
        command.env("GOGUERRILLA_GSMTP_VERBOSE", "Y").arg("-v=n");
        command
    });
    server.client().command("NOOP", "250 ");
    assert!(!server.log().contains("NOOP"), "{}", server.log());

    let variables = [
        ("GOGUERRILLA_GSMTP_LISTEN_INTERFACE", "192.0.2.1:25"),
        ("GOGUERRILLA_GSMTP_VERBOSE", "Y"),
    ];
    let folder = folder_with_config("{\"GSTMP_LISTEN_INTERFACE\": \"192.0.2.2:25\"}");
    let checked = check(folder.path(), &["-if=127.0.0.1:0"], &variables);
    let notes = "note: GSMTP_VERBOSE: from the environment variable GOGUERRILLA_GSMTP_VERBOSE\n\
                 note: GSTMP_LISTEN_INTERFACE: from the argument -if\n";
    assert_eq!((checked.status, checked.stdout.as_str()), (0, notes));
}

#[test]
fn invalid_value_of_the_environment_is_an_error_that_names_the_variable() {
    let with_file = folder_with_config("{\"GSMTP_MAX_SIZE\": \"1000\"}");
    let without_file = TempDir::new().expect("a temporary folder");
    let found = "environment variable GOGUERRILLA_GSMTP_MAX_SIZE: expected a number of octets such as \"131072\", \
                 but found \"128k\"\n";
    let not_utf8 = "environment variable GOGUERRILLA_GSMTP_MAX_SIZE: expected text in UTF-8, but found other octets\n";
    for folder in [with_file.path(), without_file.path()] {
        for (value, error) in [(&b"128k"[..], found), (b"\xff", not_utf8)] {
            let set = |command: &mut Command| {
                command.env("GOGUERRILLA_GSMTP_MAX_SIZE", OsStr::from_bytes(value));
            };
            let ended = run_with_changed_command(folder, &[], set);
            assert_eq!(
                (ended.status, ended.stderr),
                (1, format!("goguerrilla: {error}"))
            );
            let checked = run_with_changed_command(folder, &["check"], set);
            assert_eq!(
                (checked.status, checked.stdout),
                (1, format!("error: {error}"))
            );
        }
    }
    // The file is named if its value is the invalid one, or if its value is missing.
    let partner = [("GOGUERRILLA_GSMTP_PUB_KEY", "chain.pem")];
    let checked = check(with_file.path(), &[], &partner);
    let error = "error: goguerrilla.conf: GSMTP_PRV_KEY: expected a PEM file, since GOGUERRILLA_GSMTP_PUB_KEY is set, but \
                 found \"\"\n";
    assert_eq!((checked.status, checked.stdout.as_str()), (1, error));
}

#[test]
fn unknown_variable_causes_a_warning_unless_a_container_platform_sets_it() {
    let folder = folder_with_config("{\"GSTMP_LISTEN_INTERFACE\": \"127.0.0.1:0\"}");
    let variables = [
        ("GOGUERRILLA_GM_ALOWED_HOSTS", "ours.test"),
        ("GOGUERRILLA_GM_STRE", ""),
        ("GOGUERRILLA_PORT", "tcp://10.0.0.1:25"),
        ("GOGUERRILLA_SERVICE_HOST", "10.0.0.1"),
    ];
    let checked = check(folder.path(), &[], &variables);
    let warning = "warning: GOGUERRILLA_GM_ALOWED_HOSTS: unknown key in the environment, ignored; the nearest known name is \
                   GOGUERRILLA_GM_ALLOWED_HOSTS\n";
    assert_eq!((checked.status, checked.stdout.as_str()), (0, warning));
}

#[test]
fn check_names_the_source_of_a_value_and_warns_of_passwords_in_the_environment() {
    let folder = folder_with_config(
        "{\"GM_STORE\": \"mysql\", \"GSTMP_LISTEN_INTERFACE\": \"127.0.0.1:0\"}",
    );
    let variables = [
        ("GOGUERRILLA_GM_STORE", "discard"),
        ("GOGUERRILLA_MYSQL_PASS", "s3cr3t-1"),
        (
            "GOGUERRILLA_REDIS_INTERFACE",
            "redis://:s3cr3t-2@127.0.0.1:1/",
        ),
    ];
    let checked = check(folder.path(), &[], &variables);
    let lines: Vec<&str> = checked.stdout.lines().collect();
    for line in [
        "note: GM_STORE: from the environment variable GOGUERRILLA_GM_STORE, which replaces the value of the file",
        "note: MYSQL_PASS: from the environment variable GOGUERRILLA_MYSQL_PASS",
        "note: REDIS_INTERFACE: from the environment variable GOGUERRILLA_REDIS_INTERFACE",
    ] {
        assert!(lines.contains(&line), "{line} in {lines:#?}");
    }
    for key in ["MYSQL_PASS", "REDIS_INTERFACE"] {
        let start = format!("warning: GOGUERRILLA_{key}: contains a password, and /proc shows ");
        let warned = lines.iter().any(|line| line.starts_with(&start));
        assert!(warned, "{start} in {lines:#?}");
    }
    assert!(!checked.stdout.contains("s3cr3t"), "{lines:#?}");
    // Without a password in it, the address of Redis is no secret.
    let plain = [("GOGUERRILLA_REDIS_INTERFACE", "127.0.0.1:1"), variables[0]];
    let checked = check(folder.path(), &[], &plain);
    let output = checked.stdout;
    assert!(!output.contains("contains a password"), "{output}");
}

#[test]
fn mysql_key_in_the_environment_selects_the_mysql_store() {
    let folder = TempDir::new().expect("a temporary folder");
    let schema = |variables: &[(&str, &str)]| {
        let ended = run_with_changed_command(folder.path(), &["schema"], |command| {
            command.envs(variables.iter().copied());
        });
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
        ended.stdout
    };
    assert!(!schema(&[]).contains("ENGINE"));
    let mysql = schema(&[("GOGUERRILLA_MYSQL_HOST", "db.test")]);
    assert!(mysql.contains("ENGINE"), "{mysql}");
}

fn folder_with_config(text: &str) -> TempDir {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("goguerrilla.conf"), text).expect("a file is written");
    folder
}

fn check(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> ProcessResult {
    let arguments = [arguments, &["check"]].concat();
    run_with_changed_command(folder, &arguments, |command| {
        command.envs(variables.iter().copied());
    })
}
