//! MYSQL_PASS_FILE and REDIS_PASS_FILE: errors at start, and what `check` says. `tests/stores` has files that are used.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use testkit::process::run;
use testkit::{test, write_config};

/// A store whose servers are not asked before the files have been read.
const STORE: [(&str, &str); 4] = [
    ("GM_STORE", "mysql"),
    ("MYSQL_HOST", "127.0.0.1:1"),
    ("MYSQL_DB", "mail"),
    ("REDIS_INTERFACE", "127.0.0.1:1"),
];

#[test]
fn unusable_password_file_at_start_is_an_error_that_does_not_show_its_content() {
    let folder = TempDir::new().expect("a temporary folder");
    let long = "s3cr3t".repeat(2_000);
    for key in ["MYSQL_PASS_FILE", "REDIS_PASS_FILE"] {
        for (content, reason) in [
            (None, "No such file or directory (os error 2)"),
            (Some(&b""[..]), "it contains no password"),
            (Some(b"\n"), "it contains no password"),
            (Some(b"s3cr3t\xff\n"), "its content is not UTF-8"),
            (Some(b"s\x003\x00cr3t"), "it contains a NUL octet"),
            (
                Some(b"\xef\xbb\xbfs3cr3t"),
                "it begins with a byte order mark",
            ),
            (Some(long.as_bytes()), "the file is longer than 8192 octets"),
        ] {
            let _ = fs::remove_file(folder.path().join("password"));
            if let Some(content) = content {
                fs::write(folder.path().join("password"), content).expect("a file is written");
            }
            write_config(folder.path(), &[&STORE[..], &[(key, "password")]].concat());
            let fix =
                "name a regular file that this user may read and that contains only the password";
            let error = format!("{key}: cannot use password: {reason}; {fix}\n");
            let ended = run(folder.path(), &["-config=goguerrilla.conf"]);
            assert_eq!(
                (ended.status, ended.stderr),
                (1, format!("goguerrilla: {error}"))
            );
            let checked = run(folder.path(), &["check"]);
            assert_eq!(checked.status, 1);
            assert!(
                checked.stdout.contains(&format!("error: {error}")),
                "{}",
                checked.stdout
            );
            let listed = run(folder.path(), &["list"]);
            assert_eq!(
                (listed.status, listed.stderr),
                (1, format!("goguerrilla: {error}"))
            );
            let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            assert!(
                !format!("{}{log}", checked.stdout).contains("cr3t"),
                "{log}"
            );
        }
    }
}

#[test]
fn password_and_password_file_together_are_a_start_error() {
    let folder = TempDir::new().expect("a temporary folder");
    let with_password = [("REDIS_INTERFACE", "redis://:s3cr3t@127.0.0.1:1/")];
    for (key, rival, also) in [
        (
            "MYSQL_PASS_FILE",
            "MYSQL_PASS is set",
            ("MYSQL_PASS", "s3cr3t"),
        ),
        (
            "REDIS_PASS_FILE",
            "REDIS_INTERFACE contains a password",
            with_password[0],
        ),
    ] {
        let settings = [&STORE[..], &[also, (key, "/nowhere")]].concat();
        write_config(folder.path(), &settings);
        let ended = run(folder.path(), &["-config=goguerrilla.conf"]);
        let error = format!(
            "goguerrilla: goguerrilla.conf: {key}: expected \"\", since {rival}; remove one of the two passwords, but found \
             \"/nowhere\"\n"
        );
        assert_eq!((ended.status, ended.stderr), (1, error));
    }
}

#[test]
fn check_warns_of_password_files_that_others_may_read() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("password");
    fs::write(&file, "s3cr3t").expect("a file is written");
    write_config(
        folder.path(),
        &[&STORE[..], &[("MYSQL_PASS_FILE", "password")]].concat(),
    );
    for (mode, warning) in [
        (0o400, None),
        (0o600, None),
        (
            0o640,
            Some("its group may read password; run: chmod g-r password"),
        ),
        (
            0o604,
            Some("every user may read password; run: chmod go-r password"),
        ),
        (
            0o644,
            Some("every user may read password; run: chmod go-r password"),
        ),
    ] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a file of this test");
        let checked = run(folder.path(), &["check"]);
        let warned = checked.stdout.contains("warning: MYSQL_PASS_FILE: ");
        assert_eq!(warned, warning.is_some(), "{mode:o} {}", checked.stdout);
        if let Some(warning) = warning {
            let line = format!("warning: MYSQL_PASS_FILE: {warning}\n");
            assert!(checked.stdout.contains(&line), "{}", checked.stdout);
        }
        assert!(!checked.stdout.contains("s3cr3t"), "{}", checked.stdout);
    }
}
