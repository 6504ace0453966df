//! The SQLite file is moved, removed or replaced while the server has it open. Mail gets 451, with one log line, until
//! the file is back or the server is restarted. The server renames, deletes and creates no file.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use rusqlite::Connection;
use tempfile::TempDir;

use testkit::load::{Load, assert_no_loss_or_duplicate, content_of, stored_markers};
use testkit::process::run;
use testkit::steps::rename_files;
use testkit::{Server, test, value, write_config};

const FILE: &str = "goguerrilla.db";

const FILES: [&str; 3] = ["goguerrilla.db", "goguerrilla.db-wal", "goguerrilla.db-shm"];

#[test]
fn moved_sqlite_file_defers_mail_until_it_is_back() {
    let mut server = Server::start(&[]);
    assert_eq!(deliver(&server, "before"), 250);
    for names in [&FILES[..1], &FILES] {
        rename_files(&server, names, "", "moved-");
        let names_before = names_in(server.folder.path());
        for _ in 0..3 {
            assert_eq!(deliver(&server, "away"), 451);
        }
        assert_eq!(names_in(server.folder.path()), names_before);
        rename_files(&server, names, "moved-", "");
        assert_eq!(deliver(&server, "back"), 250);
    }
    let log = testkit::wait_for("both moves in the log", || {
        Some(server.log()).filter(|log| log.matches(" database_moved ").count() >= 2)
    });
    let lines = log.lines().filter(|line| line.contains(" database_moved "));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!(value(lines[0], "file").as_deref(), Some(FILE));
    let fix = value(lines[0], "fix").expect("a fix");
    assert!(fix.contains("move it back to this name, or restart the server"));
    assert!(server.stop().success());
    assert_eq!(subjects(&server.path(FILE)), ["back", "back", "before"]);
}

#[test]
fn sqlite_file_moved_under_load_keeps_all_acknowledged_mail() {
    let mut server = Server::start(&[]);
    let load = Load::start(server.address, 8, "moved");
    for _ in 0..5 {
        load.wait_for_more(20);
        rename_files(&server, &FILES[..1], "", "moved-");
        assert_eq!(deliver(&server, "batch_failed"), 451);
        rename_files(&server, &FILES[..1], "moved-", "");
    }
    load.wait_for_more(20);
    rename_files(&server, &FILES[..1], "", "moved-");
    assert_eq!(deliver(&server, "batch_failed"), 451);
    let account = load.stop();
    // Copies of the files while the server keeps running.
    let copies = TempDir::new().expect("a temporary folder");
    let copy = copies.path().join("copy.db");
    fs::copy(server.path("moved-goguerrilla.db"), &copy).expect("the moved file");
    fs::copy(
        server.path("goguerrilla.db-wal"),
        copies.path().join("copy.db-wal"),
    )
    .expect("its log");
    assert_no_loss_or_duplicate(&account, &markers_of_load(&copy));
    assert!(!account.deferred.is_empty());
    assert!(server.stop().success());
    assert!(!server.path(FILE).exists());
    assert_no_loss_or_duplicate(
        &account,
        &markers_of_load(&server.path("moved-goguerrilla.db")),
    );
    // A restart creates a new file.
    server.start_again();
    assert_eq!(deliver(&server, "new"), 250);
    assert!(server.stop().success());
    assert_eq!(subjects(&server.path(FILE)), ["new"]);
    assert_no_loss_or_duplicate(
        &account,
        &markers_of_load(&server.path("moved-goguerrilla.db")),
    );
}

#[test]
fn file_that_replaces_the_sqlite_file_gets_no_mail_and_is_not_changed() {
    let text = "A letter, and no database.\n".repeat(99).into_bytes();
    let database = {
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("other.db");
        let other = Connection::open(&file).expect("a file");
        other
            .execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE a(b)")
            .expect("a table");
        drop(other);
        fs::read(&file).expect("a file")
    };
    for other in [&text, &database, &Vec::new()] {
        let mut server = Server::start(&[]);
        let load = Load::start(server.address, 4, "replaced");
        load.wait_for_more(20);
        // A second name, so that the test can still open the file.
        fs::hard_link(server.path(FILE), server.path("first.db")).expect("the file exists");
        fs::write(server.path("other"), other).expect("the folder is writable");
        fs::rename(server.path("other"), server.path(FILE)).expect("the file exists");
        assert_eq!(deliver(&server, "batch_failed"), 451);
        let mut account = load.stop();
        // Its batch may have been committed into the first file before the replacement was noticed.
        account.sent.push("batch_failed".to_owned());
        assert_eq!(deliver(&server, "refused"), 451);
        assert!(server.stop().success());
        assert_eq!(&fs::read(server.path(FILE)).expect("the other file"), other);
        assert_no_loss_or_duplicate(&account, &stored_markers(&server.path("first.db")));
        // After the restart the server uses the other file, without any row of the first one.
        if other != &text {
            server.start_again();
            assert_eq!(deliver(&server, "new"), 250);
            assert_eq!(subjects(&server.path(FILE)), ["new"]);
        }
    }
}

#[test]
fn removed_sqlite_file_is_not_created_again() {
    for names in [&FILES[..1], &FILES] {
        let mut server = Server::start(&[]);
        let load = Load::start(server.address, 4, "removed");
        load.wait_for_more(20);
        for name in names {
            fs::remove_file(server.path(name)).expect("the file exists");
        }
        assert_eq!(deliver(&server, "batch_failed"), 451);
        load.stop();
        assert_eq!(deliver(&server, "batch_failed"), 451);
        for name in names {
            assert!(!server.path(name).exists(), "{name}");
        }
        assert!(server.stop().success());
        if names.len() == 1 {
            // The WAL with the remaining mails is kept until the operator decides.
            assert!(fs::metadata(server.path(FILES[1])).expect("the log").len() > 0);
            assert_wal_is_rejected(&server, "goguerrilla.db-wal");
            fs::rename(server.path(FILES[1]), server.path("kept")).expect("the log");
        }
        server.start_again();
        assert_eq!(deliver(&server, "new"), 250);
        assert_eq!(subjects(&server.path(FILE)), ["new"]);
    }
}

#[test]
fn emptied_sqlite_file_gets_no_mail_and_its_wal_is_kept() {
    let mut server = Server::start(&[]);
    assert_eq!(deliver(&server, "before"), 250);
    fs::write(server.path(FILE), "").expect("the file exists");
    let log = fs::read(server.path(FILES[1])).expect("the log");
    assert_eq!(deliver(&server, "batch_failed"), 451);
    server.wait_for_log(" database_moved ");
    assert!(server.stop().success());
    assert_eq!(fs::read(server.path(FILE)).expect("the file exists"), b"");
    assert_eq!(fs::read(server.path(FILES[1])).expect("the log"), log);
    assert_wal_is_rejected(&server, FILES[1]);
}

#[test]
fn missing_wal_or_shm_file_defers_mail_and_loses_none() {
    for name in &FILES[1..] {
        for is_replaced in [false, true] {
            let mut server = Server::start(&[]);
            assert_eq!(deliver(&server, "before"), 250);
            fs::remove_file(server.path(name)).expect("the file exists");
            if is_replaced {
                fs::write(server.path(name), "").expect("another file");
            }
            assert_eq!(deliver(&server, "batch_failed"), 451, "{name}");
            server.wait_for_log(&format!(" database_moved file={name} "));
            assert!(server.stop().success());
            server.start_again();
            assert_eq!(deliver(&server, "after"), 250, "{name}");
            assert_eq!(
                subjects(&server.path(FILE)),
                ["after", "before"],
                "{name} {is_replaced}"
            );
        }
    }
}

#[test]
fn sqlite_file_moved_before_first_mail_or_reload_is_not_created_again() {
    let server = Server::start(&[]);
    rename_files(&server, &FILES[..1], "", "moved-");
    assert_eq!(deliver(&server, "first"), 451);
    write_config(server.folder.path(), &[("GM_MAIL_TABLE", "second")]);
    server.signal(Signal::SIGHUP);
    let log = server.wait_for_log(" reload_refused ");
    assert!(
        log.contains("moved, removed, replaced or truncated while it"),
        "{log}"
    );
    assert!(!server.path(FILE).exists());
    rename_files(&server, &FILES[..1], "moved-", "");
    assert_eq!(deliver(&server, "back"), 250);
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" reload\n");
    assert_eq!(deliver(&server, "in the second table"), 250);
    rename_files(&server, &FILES[..1], "", "moved-");
    assert_eq!(deliver(&server, "away again"), 451);
}

#[test]
fn list_does_not_delete_a_wal_file_next_to_an_empty_database() {
    let mut server = Server::start(&[]);
    assert_eq!(deliver(&server, "old"), 250);
    fs::rename(server.path(FILE), server.path("moved.db")).expect("the file exists");
    server.kill();
    fs::write(server.path(FILE), "").expect("a file in its place");
    let ended = run(server.folder.path(), &["list", "-config=goguerrilla.conf"]);
    let wanted =
        "goguerrilla.db-wal: holds mails of a database file that is not at goguerrilla.db; ";
    assert!(
        ended.status == 1 && ended.stderr.contains(wanted),
        "{ended:?}"
    );
    fs::rename(server.path(FILES[1]), server.path("moved.db-wal")).expect("the log");
    assert_eq!(subjects(&server.path("moved.db")), ["old"]);
}

#[test]
fn wal_file_deleted_by_another_program_after_a_move_loses_no_mail() {
    let mut server = Server::start(&[]);
    for _ in 0..3 {
        assert_eq!(deliver(&server, "old"), 250);
    }
    rename_files(&server, &FILES[..1], "", "moved-");
    assert_eq!(deliver(&server, "batch_failed"), 451);
    // SQLite itself deletes a WAL next to a new file.
    drop(
        Connection::open(server.path(FILE))
            .map(|other| other.execute_batch("CREATE TABLE other(a)")),
    );
    assert!(!server.path(FILES[1]).exists());
    assert_eq!(deliver(&server, "batch_failed"), 451);
    assert!(server.stop().success());
    assert_eq!(subjects(&server.path("moved-goguerrilla.db")), ["old"; 3]);
}

#[test]
fn shutdown_does_not_touch_another_database_at_the_old_name() {
    let mut server = Server::start(&[]);
    assert_eq!(deliver(&server, "before"), 250);
    rename_files(&server, &FILES, "", "moved-");
    let other = Connection::open(server.path(FILE)).expect("a file");
    let made = other.execute_batch(
        "PRAGMA journal_mode=WAL; CREATE TABLE other(a); INSERT INTO other VALUES (1)",
    );
    made.expect("a table");
    assert_eq!(deliver(&server, "batch_failed"), 451);
    let log = fs::read(server.path(FILES[1])).expect("the other program's log");
    assert!(!log.is_empty());
    assert!(server.stop().success());
    assert_eq!(fs::read(server.path(FILES[1])).expect("its log"), log);
    other
        .execute_batch("INSERT INTO other VALUES (2)")
        .expect("its table");
    drop(other);
    assert_eq!(subjects(&server.path("moved-goguerrilla.db")), ["before"]);
}

#[test]
fn reader_of_a_moved_sqlite_file_does_not_cause_loss_of_its_wal() {
    let mut server = Server::start(&[]);
    assert_eq!(deliver(&server, "one"), 250);
    let reader = Connection::open(server.path(FILE)).expect("a file");
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM new_mail")
        .expect("a reader");
    assert_eq!(deliver(&server, "two"), 250);
    rename_files(&server, &FILES[..1], "", "moved-");
    assert!(server.stop().success());
    server.wait_for_log(" wal_preserved file=goguerrilla.db-wal ");
    drop(reader);
    assert_wal_is_rejected(&server, "goguerrilla.db-wal");
    fs::rename(
        server.path(FILES[1]),
        server.path("moved-goguerrilla.db-wal"),
    )
    .expect("the log");
    assert_eq!(
        subjects(&server.path("moved-goguerrilla.db")),
        ["one", "two"]
    );
    server.start_again();
    assert_eq!(deliver(&server, "new"), 250);
}

#[test]
fn wal_file_of_a_missing_or_empty_database_is_kept_and_prevents_the_start() {
    for (link, with_empty_file) in [(None, false), (None, true), (Some("real.db"), false)] {
        let folder = TempDir::new().expect("a temporary folder");
        if let Some(target) = link {
            symlink(target, folder.path().join(FILE)).expect("a link");
        }
        let file = link.unwrap_or(FILE);
        let mut server = Server::start_in(folder, &[]);
        for _ in 0..5 {
            assert_eq!(deliver(&server, "old"), 250);
        }
        fs::rename(server.path(file), server.path("moved.db")).expect("the file");
        server.kill();
        if with_empty_file {
            fs::write(server.path(file), "").expect("a file in its place");
        }
        let log = format!("{file}-wal");
        let octets = fs::read(server.path(&log)).expect("the log");
        assert_wal_is_rejected(&server, &log);
        assert_eq!(fs::read(server.path(&log)).expect("the log"), octets);
        fs::rename(server.path(&log), server.path("moved.db-wal")).expect("the log");
        assert_eq!(subjects(&server.path("moved.db")), ["old"; 5]);
        server.start_again();
        assert_eq!(deliver(&server, "new"), 250);
    }
}

#[test]
fn sqlite_path_that_is_not_a_regular_file_is_rejected_at_start_and_by_check() {
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[]);
    nix::unistd::mkfifo(&folder.path().join(FILE), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let wanted = "GM_SQLITE_FILE: goguerrilla.db: expected a database file, but found a folder, pipe or device; ";
    let started = run(folder.path(), &["-config=goguerrilla.conf"]);
    assert!(
        started.status == 1 && started.stderr.contains(wanted),
        "{started:?}"
    );
    let checked = run(folder.path(), &["check", "-config=goguerrilla.conf"]);
    assert!(
        checked.status == 1 && checked.stdout.contains(wanted),
        "{checked:?}"
    );
}

/// Asserts that the server and `check` reject a WAL that belongs to another file, and name it.
fn assert_wal_is_rejected(server: &Server, log: &str) {
    let wanted =
        format!("GM_SQLITE_FILE: {log}: holds mails of a database file that is not at {FILE}; ");
    let started = run(server.folder.path(), &["-config=goguerrilla.conf"]);
    assert!(
        started.status == 1 && started.stderr.contains(&wanted),
        "{started:?}"
    );
    let checked = run(server.folder.path(), &["check", "-config=goguerrilla.conf"]);
    assert!(
        checked.status == 1 && checked.stdout.contains(&wanted),
        "{checked:?}"
    );
}

fn deliver(server: &Server, subject: &str) -> u16 {
    let mail = content_of(subject).into_bytes();
    let reply = server
        .client()
        .deliver("a@client.test", "u@ours.test", &mail);
    reply.code
}

/// Returns how often each mail of the load is stored. Leaves out the mail of the test itself, which got 451: it is stored too
/// if it joined a batch that had begun before the file was moved.
fn markers_of_load(file: &Path) -> HashMap<String, usize> {
    let mut markers = stored_markers(file);
    markers.remove("batch_failed");
    markers
}

/// Returns the subjects of all rows, sorted.
fn subjects(file: &Path) -> Vec<String> {
    let stored: HashMap<String, usize> = stored_markers(file);
    let mut subjects: Vec<String> = stored
        .into_iter()
        .flat_map(|(subject, count)| std::iter::repeat_n(subject, count))
        .collect();
    subjects.sort();
    subjects
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|entry| entry.expect("a file").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}
