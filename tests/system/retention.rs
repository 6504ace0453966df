//! Old rows and disk space, with what needs root: the change to GUID, and a small file system.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use tempfile::TempDir;

use testkit::process::{run, run_command};
use testkit::status::{STATUS, get};
use testkit::{Server, TEST_TIMEOUT, binary, send_signal, short_mail, test, wait_for};

const NOBODY: u32 = 65_534;

#[test]
fn commands_started_as_root_become_guid_before_they_open_the_store() {
    testkit::needs_root();
    let folder = TempDir::new().expect("a temporary folder");
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("an own folder");
    let state = folder.path().join("state");
    fs::create_dir(&state).expect("a new folder");
    chown(&state, Some(NOBODY), Some(NOBODY)).expect("root");
    let settings = [
        ("GUID", "65534"),
        ("SGID", "65534"),
        ("GM_SQLITE_FILE", "state/mail.db"),
    ];
    let mut server = Server::start_in(folder, &settings);
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &short_mail("one"));
    assert_eq!(reply.code, 250);
    let hash = server.list()[0]["hash"]
        .as_str()
        .expect("a hash")
        .to_owned();
    server.stop();
    let file = server.path("state/mail.db");
    for arguments in [&["list"][..], &["show", &hash], &["prune", "--days=1"]] {
        let ended = run(server.folder.path(), arguments);
        assert_eq!(ended.status, 0, "{arguments:?}: {}", ended.stderr);
        for name in ["mail.db", "mail.db-wal", "mail.db-shm"] {
            if let Ok(metadata) = fs::metadata(server.path("state").join(name)) {
                assert_eq!(metadata.uid(), NOBODY, "{arguments:?}: {name}");
            }
        }
    }
    // Root itself could read this file.
    chown(&file, Some(0), Some(0)).expect("root");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("root");
    for arguments in [&["list"][..], &["show", &hash], &["prune", "--days=1"]] {
        let ended = run(server.folder.path(), arguments);
        assert_eq!(ended.status, 1, "{arguments:?}: {}", ended.stdout);
        assert!(
            ended.stderr.contains("unable to open database file"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn mail_gets_452_and_readyz_is_503_before_the_disk_is_full() {
    testkit::needs_root();
    let folder = TempDir::new().expect("a temporary folder");
    fs::create_dir(folder.path().join("small")).expect("a new folder");
    let script = "mount -t tmpfs -o size=40m tmpfs small && exec \"$@\"";
    let settings = [STATUS, ("GM_SQLITE_FILE", "small/goguerrilla.db")];
    let server = Server::start_with(folder, &settings, |program: Command| {
        let mut unshare = testkit::command("unshare");
        unshare.args(["-m", "sh", "-c", script, "sh"]);
        unshare.arg(program.get_program()).args(program.get_args());
        unshare
    });
    let deliver = || {
        let mut client = server.client();
        client
            .deliver("a@client.test", "u@ours.test", &short_mail("x"))
            .text()
    };
    assert!(deliver().starts_with("250 "));
    // The file system is visible to the server only. A twentieth of it is 2 MiB.
    let path = server.path("small/filler");
    let filler = format!("/proc/{}/root{}", server.pid(), path.display());
    fs::write(&filler, vec![0; 38 << 20]).expect("space is left");
    let (code, reason) = get(&server, "/readyz");
    assert_eq!(code, 503);
    assert!(
        reason.contains("octets left") && reason.contains("free disk space"),
        "{reason}"
    );
    let reply = deliver();
    assert!(reply.starts_with("452 4.3.1 "), "{reply}");
    let script = r#"cd "$0" && exec "$@" check -config=goguerrilla.conf"#;
    let mut check = testkit::command("nsenter");
    check.args(["-t", &server.pid().to_string(), "-m", "sh", "-c", script]);
    let checked = run_command(check.arg(server.folder.path()).arg(binary()));
    assert_eq!(checked.status, 1, "{}", checked.stdout);
    assert!(
        checked.stdout.starts_with("error: GM_SQLITE_FILE: ")
            && checked.stdout.contains("octets left"),
        "{}",
        checked.stdout
    );
    // The server refuses mail while more than a mail needs is still free.
    fs::write(format!("{filler}2"), vec![0; 1 << 20]).expect("space is left");
    fs::remove_file(&filler).expect("the filler");
    let reply = deliver();
    assert!(reply.starts_with("250 "), "{reply}");
    wait_for("a ready server", || {
        (get(&server, "/readyz").0 == 200).then_some(())
    });
}

#[test]
fn prune_shows_its_progress_on_a_terminal() {
    let server = Server::start(&[]);
    insert_old_rows(&server, 3_000);
    let prune = format!("{} prune --days=30", testkit::binary());
    // `script` gives the program a terminal.
    let ended = run_command(
        testkit::command("script")
            .args(["-qec", &prune, "/dev/null"])
            .current_dir(server.folder.path()),
    );
    assert_eq!(ended.status, 0, "{}", ended.stdout);
    assert!(ended.stdout.contains("/3,000 rows"), "{}", ended.stdout);
    assert!(
        ended.stdout.contains("3000 rows removed"),
        "{}",
        ended.stdout
    );
}

#[test]
fn interrupted_prune_ends_after_a_transaction_and_prints_how_many_rows_it_removed() {
    let server = Server::start(&[]);
    let database = insert_old_rows(&server, 60_000);
    let prune = Command::new(testkit::binary())
        .args(["prune", "--days=30"])
        .current_dir(server.folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let count = || -> u64 {
        let count: i64 = database
            .query_row("SELECT count(*) FROM new_mail", [], |row| row.get(0))
            .expect("a number");
        count.unsigned_abs()
    };
    wait_for("the first transaction", || (count() < 60_000).then_some(()));
    send_signal(prune.id(), Signal::SIGINT);
    let output = prune.wait_with_output().expect("the program ends");
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stdout).expect("UTF-8");
    let removed: u64 = printed
        .split(' ')
        .next()
        .and_then(|text| text.parse().ok())
        .expect("a number");
    assert_eq!(removed + count(), 60_000, "{printed}");
    assert!(count() > 0);
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(error.contains("interrupted: older rows remain"), "{error}");
}

fn insert_old_rows(server: &Server, count: u32) -> Connection {
    let insert = "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash,
                    content_type, recipient, has_attach, ip_addr, attach_info)
                  WITH RECURSIVE mails(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM mails WHERE number < ?1)
                  SELECT datetime('now', '-31 days'), '', '', 'old', 'gzencode', '', '', 0,
                    lower(hex(randomblob(16))), '', '', 0, '', '' FROM mails";
    let database = Connection::open(server.path("goguerrilla.db")).expect("a database");
    database.busy_timeout(TEST_TIMEOUT).expect("an open file");
    database.execute(insert, [count]).expect("rows");
    database
}
