//! `goguerrilla check` on an SQLite file: it reports each problem that the server would have, and changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use rusqlite::Connection;
use tempfile::TempDir;

use testkit::process::run;
use testkit::{Server, let_time_pass, note, run_in, short_mail, test, write_config};

/// The keys of a server that root starts and that runs as user nobody.
const OTHER_USER: [(&str, &str); 2] = [("GUID", "65534"), ("SGID", "65534")];
const FILE: &str = "goguerrilla.db";

/// Creates files in a folder.
type Make = fn(&Path);

#[test]
fn check_changes_no_file_in_any_sqlite_state() {
    assert_check_changes_no_file(&[]);
}

#[test]
fn check_started_as_root_changes_no_file_in_any_sqlite_state() {
    testkit::needs_root();
    assert_check_changes_no_file(&OTHER_USER);
}

/// Runs `check` on a file in each state with these keys, which may name another user than the one that runs the test.
fn assert_check_changes_no_file(ids: &[(&str, &str)]) {
    let cases: &[(&str, Make, i32, &str)] = &[
        ("no file", |_| (), 0, ""),
        (
            "an empty file",
            |folder| fs::write(folder.join(FILE), "").expect("a file"),
            0,
            "",
        ),
        (
            "a file of a server that has stopped",
            |folder| copy_server_files(folder, true),
            0,
            "",
        ),
        (
            "a file of a server that was killed",
            |folder| copy_server_files(folder, false),
            0,
            "",
        ),
        (
            "a file of a server that was killed, without the index of its log",
            |folder| {
                copy_server_files(folder, false);
                fs::remove_file(folder.join("goguerrilla.db-shm")).expect("the index");
            },
            0,
            "",
        ),
        (
            "a file in rollback journal mode",
            |folder| make(folder, &schema(folder)),
            0,
            "",
        ),
        (
            "another program's database",
            |folder| {
                make(
                    folder,
                    "CREATE TABLE a(b); CREATE VIEW v AS SELECT * FROM a",
                )
            },
            0,
            "",
        ),
        ("an unfinished transaction", copy_hot_journal, 0, ""),
        (
            "a table with other columns",
            |folder| make(folder, "CREATE TABLE new_mail(a)"),
            1,
            "; a table of that name with other columns may be there: ",
        ),
        (
            "a view",
            |folder| {
                make(
                    folder,
                    "CREATE TABLE a(b); CREATE VIEW new_mail AS SELECT * FROM a",
                )
            },
            1,
            "GM_SQLITE_FILE: goguerrilla.db: ",
        ),
        (
            "a required column that the server does not fill",
            |folder| {
                make(
                    folder,
                    &schema(folder).replace("DEFAULT NULL", "DEFAULT NULL, x int NOT NULL"),
                )
            },
            1,
            "every mail would be refused: NOT NULL constraint failed: new_mail.x",
        ),
        (
            "a trigger that refuses all",
            |folder| {
                make(
                    folder,
                    &(schema(folder)
                        + "CREATE TRIGGER t BEFORE INSERT ON new_mail BEGIN SELECT RAISE(ABORT, 'closed'); END"),
                )
            },
            1,
            "every mail would be refused: closed",
        ),
        (
            "a trigger that ignores all",
            |folder| {
                make(
                    folder,
                    &(schema(folder)
                        + "CREATE TRIGGER t BEFORE INSERT ON new_mail BEGIN SELECT RAISE(IGNORE); END"),
                )
            },
            1,
            "every mail would be refused: INSERT stored no row: a trigger",
        ),
        (
            "a trigger that reads another table",
            |folder| {
                make(
                    folder,
                    &(schema(folder)
                        + "CREATE TABLE d(n); INSERT INTO d VALUES (1);
                           CREATE TRIGGER t BEFORE INSERT ON new_mail WHEN NOT EXISTS (SELECT 1 FROM d)
                           BEGIN SELECT RAISE(ABORT, 'closed'); END"),
                );
            },
            0,
            "warning: GM_SQLITE_FILE: goguerrilla.db: every mail would be refused: closed",
        ),
        (
            "a unique column with the same value in all mails",
            |folder| {
                make(
                    folder,
                    &(schema(folder) + "CREATE UNIQUE INDEX u ON new_mail(body)"),
                )
            },
            1,
            "every further mail would be refused: UNIQUE constraint failed: new_mail.body",
        ),
        (
            "a unique column with the same value in some mails",
            |folder| {
                make(
                    folder,
                    &(schema(folder) + "CREATE UNIQUE INDEX u ON new_mail(recipient)"),
                )
            },
            0,
            "warning: GM_SQLITE_FILE: goguerrilla.db: a second mail like another one would be refused: ",
        ),
        (
            "no database",
            |folder| fs::write(folder.join(FILE), "A letter.\n".repeat(999)).expect("a file"),
            1,
            "GM_SQLITE_FILE: goguerrilla.db: file is not a database; name another file, or move this one away\n",
        ),
        (
            "a header without pages",
            |folder| {
                make(folder, &schema(folder));
                let octets = fs::read(folder.join(FILE)).expect("a file");
                fs::write(folder.join(FILE), &octets[..600]).expect("a file");
            },
            1,
            "GM_SQLITE_FILE: goguerrilla.db: ",
        ),
        (
            "a schema that is damaged",
            |folder| {
                make(folder, &schema(folder));
                let mut octets = fs::read(folder.join(FILE)).expect("a file");
                octets[100..200].fill(0xff);
                fs::write(folder.join(FILE), octets).expect("a file");
            },
            1,
            "GM_SQLITE_FILE: goguerrilla.db: database disk image is malformed; stop the server, move the file ",
        ),
        (
            "a newer file format",
            |folder| {
                make(folder, &schema(folder));
                let mut octets = fs::read(folder.join(FILE)).expect("a file");
                octets[18] = 3;
                fs::write(folder.join(FILE), octets).expect("a file");
            },
            1,
            "which can only be read",
        ),
        (
            "a folder",
            |folder| fs::create_dir(folder.join(FILE)).expect("a folder"),
            1,
            "found a folder",
        ),
        (
            "a pipe",
            |folder| mkfifo(&folder.join(FILE), Mode::S_IRWXU).expect("a pipe"),
            1,
            "found a folder, pipe or device",
        ),
        (
            "a link to a missing file",
            |folder| symlink("real.db", folder.join(FILE)).expect("a link"),
            0,
            "",
        ),
        (
            "a link into a missing folder",
            |folder| symlink("nowhere/real.db", folder.join(FILE)).expect("a link"),
            1,
            "cannot be created in nowhere: ENOENT",
        ),
        (
            "a link to itself",
            |folder| symlink(FILE, folder.join(FILE)).expect("a link"),
            1,
            "GM_SQLITE_FILE: goguerrilla.db: ",
        ),
        (
            "a log without its file",
            |folder| fs::write(folder.join("goguerrilla.db-wal"), "x").expect("a file"),
            1,
            "goguerrilla.db-wal: holds mails of a database file that is not at goguerrilla.db; ",
        ),
        (
            "a log next to an empty file",
            |folder| {
                fs::write(folder.join(FILE), "").expect("a file");
                fs::write(folder.join("goguerrilla.db-wal"), "x").expect("a file");
            },
            1,
            "goguerrilla.db-wal: holds mails of a database file that is not at goguerrilla.db; ",
        ),
        (
            "a folder in place of the log",
            |folder| {
                make(folder, &schema(folder));
                fs::create_dir(folder.join("goguerrilla.db-wal")).expect("a folder");
            },
            1,
            "goguerrilla.db-wal: expected a regular file",
        ),
    ];
    for (what, make, status, text) in cases {
        let folder = TempDir::new().expect("a temporary folder");
        write_config(folder.path(), ids);
        make(folder.path());
        if !ids.is_empty() {
            chown_to_nobody(folder.path());
        }
        let check = || {
            let ended = run(folder.path(), &["check", "-config=goguerrilla.conf"]);
            assert_eq!(ended.stderr, "", "{what}");
            assert_eq!(ended.status, *status, "{what}: {}", ended.stdout);
            assert!(ended.stdout.contains(text), "{what}: {}", ended.stdout);
            let lines = usize::from(!text.is_empty());
            assert_eq!(
                ended.stdout.lines().count(),
                lines,
                "{what}: {}",
                ended.stdout
            );
        };
        note!("{what}");
        assert_unchanged(folder.path(), |_| true, check);
    }
}

#[test]
fn check_sees_a_table_that_is_only_in_the_wal() {
    for is_live in [true, false] {
        let folder = TempDir::new().expect("a temporary folder");
        write_config(
            folder.path(),
            if geteuid().is_root() {
                &OTHER_USER
            } else {
                &[]
            },
        );
        let elsewhere = TempDir::new().expect("a temporary folder");
        let database_folder = if is_live {
            folder.path()
        } else {
            elsewhere.path()
        };
        let other = Connection::open(database_folder.join(FILE)).expect("a file");
        let made = other.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE new_mail(a)");
        made.expect("a table");
        if !is_live {
            for name in ["goguerrilla.db", "goguerrilla.db-wal", "goguerrilla.db-shm"] {
                fs::copy(database_folder.join(name), folder.path().join(name)).expect("a copy");
            }
        }
        if geteuid().is_root() {
            chown_to_nobody(folder.path());
        }
        let ended = run(folder.path(), &["check", "-config=goguerrilla.conf"]);
        let fix = "; a table of that name with other columns may be there: ";
        assert!(
            ended.status == 1 && ended.stdout.contains(fix),
            "{is_live}: {ended:?}"
        );
    }
}

fn chown_to_nobody(folder: &Path) {
    let entries = fs::read_dir(folder).expect("a folder");
    for path in entries
        .map(|entry| entry.expect("a file").path())
        .chain([folder.to_owned()])
    {
        lchown(path, Some(65_534), Some(65_534)).expect("root may change the owner");
    }
}

#[test]
fn server_saves_mail_wherever_check_reports_no_error() {
    let cases: &[Make] = &[
        |_| (),
        |folder| fs::write(folder.join(FILE), "").expect("a file"),
        |folder| copy_server_files(folder, false),
        |folder| make(folder, &schema(folder)),
        |folder| {
            make(
                folder,
                "CREATE TABLE a(b); CREATE VIEW v AS SELECT * FROM a",
            )
        },
        copy_hot_journal,
        |folder| symlink("real.db", folder.join(FILE)).expect("a link"),
    ];
    for make in cases {
        let folder = TempDir::new().expect("a temporary folder");
        make(folder.path());
        let server = Server::start_in(folder, &[]);
        let reply = (server.client()).deliver("a@client.test", "u@ours.test", &short_mail("x"));
        assert_eq!(reply.code, 250);
    }
}

#[test]
fn check_next_to_a_running_server_changes_at_most_the_shm_file() {
    check_next_to_a_server(&[]);
}

#[test]
fn check_started_as_root_next_to_a_running_server_changes_at_most_the_shm_file() {
    testkit::needs_root();
    check_next_to_a_server(&OTHER_USER);
}

fn check_next_to_a_server(ids: &[(&str, &str)]) {
    let folder = TempDir::new().expect("a temporary folder");
    if !ids.is_empty() {
        chown_to_nobody(folder.path());
    }
    let server = Server::start_in(folder, &[&[("PID_FILE", "pid")], ids].concat());
    for subject in ["", "one", "two"] {
        if !subject.is_empty() {
            let reply =
                (server.client()).deliver("a@client.test", "u@ours.test", &short_mail(subject));
            assert_eq!(reply.code, 250);
        }
        let is_kept = |name: &str| !["goguerrilla.db-shm", "log"].contains(&name);
        assert_unchanged(server.folder.path(), is_kept, || {
            assert_eq!(server.check(), (true, String::new()));
        });
    }
    // A reader, then a writer that soon ends.
    let other = Connection::open(server.path(FILE)).expect("a file");
    other
        .execute_batch("BEGIN; SELECT * FROM new_mail")
        .expect("a reader");
    assert_eq!(server.check(), (true, String::new()));
    other
        .execute_batch("ROLLBACK; BEGIN IMMEDIATE")
        .expect("a writer");
    let writer = thread::spawn(move || {
        let_time_pass(Duration::from_millis(500), "a writer that ends soon");
        drop(other);
    });
    assert_eq!(server.check(), (true, String::new()));
    writer.join().expect("no panic");
}

#[test]
fn check_names_the_process_that_holds_the_sqlite_lock() {
    let (write, exclusive) = (
        "BEGIN IMMEDIATE",
        "PRAGMA locking_mode=EXCLUSIVE; BEGIN IMMEDIATE; COMMIT",
    );
    // `check` waits for five seconds, so all cases wait at the same time.
    thread::scope(|scope| {
        for (mode, lock) in [
            ("WAL", write),
            ("WAL", exclusive),
            ("DELETE", write),
            ("DELETE", "BEGIN EXCLUSIVE"),
        ] {
            scope.spawn(move || assert_check_names_this_process(mode, lock));
        }
    });
}

fn assert_check_names_this_process(mode: &str, lock: &str) {
    let folder = TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[]);
    make(folder.path(), &schema(folder.path()));
    let other = Connection::open(folder.path().join(FILE)).expect("a file");
    let mode_is_set = other.query_row(&format!("PRAGMA journal_mode={mode}"), [], |_| Ok(()));
    mode_is_set.expect("a mode");
    other.execute_batch(lock).expect("a lock");
    // The test must not open the file itself: closing it would release the locks of this process (POSIX locks).
    let ended = run(folder.path(), &["check", "-config=goguerrilla.conf"]);
    let wanted = format!(
        "error: GM_SQLITE_FILE: goguerrilla.db: database is locked; another program holds its lock: process {}\n",
        std::process::id()
    );
    assert_eq!((ended.status, ended.stdout), (1, wanted), "{mode} {lock}");
}

#[test]
fn check_inspects_log_and_pid_file_without_opening_them() {
    let cases: &[(Make, i32)] = &[
        (
            |folder| fs::write(folder.join("file"), "kept\n").expect("a file"),
            0,
        ),
        (
            |folder| mkfifo(&folder.join("file"), Mode::S_IRWXU).expect("a pipe"),
            0,
        ),
        (
            |folder| fs::create_dir(folder.join("file")).expect("a folder"),
            1,
        ),
        (
            |folder| symlink("elsewhere/file", folder.join("file")).expect("a link"),
            1,
        ),
    ];
    for (make, status) in cases {
        for key in ["GSMTP_LOG_FILE", "PID_FILE"] {
            let folder = TempDir::new().expect("a temporary folder");
            write_config(folder.path(), &[(key, "file")]);
            make(folder.path());
            let is_pipe = fs::symlink_metadata(folder.path().join("file")).expect("it exists");
            let is_pipe = std::os::unix::fs::FileTypeExt::is_fifo(&is_pipe.file_type());
            assert_unchanged(
                folder.path(),
                |_| true,
                || {
                    let ended = run(folder.path(), &["check", "-config=goguerrilla.conf"]);
                    // A process id cannot be stored in a pipe.
                    let status = if is_pipe && key == "PID_FILE" {
                        1
                    } else {
                        *status
                    };
                    assert_eq!(ended.status, status, "{key}: {}", ended.stdout);
                    let warning = "warning: GSMTP_LOG_FILE: file is a pipe; the server starts only while a program reads from it\n";
                    let is_warned = is_pipe && key == "GSMTP_LOG_FILE";
                    assert_eq!(ended.stdout == warning, is_warned, "{}", ended.stdout);
                },
            );
        }
    }
}

/// Asserts that `act` changes neither the folder nor anything in it: name, content, mode, owner, inode, links and
/// times.
fn assert_unchanged(folder: &Path, is_kept: impl Fn(&str) -> bool, act: impl FnOnce()) {
    let snapshot = || -> BTreeMap<String, (Vec<u8>, Vec<i64>)> {
        let entries = fs::read_dir(folder).expect("a folder");
        let paths = entries.map(|entry| entry.expect("a file").path());
        paths
            .chain([folder.to_owned()])
            .map(|path| {
                let facts = fs::symlink_metadata(&path).expect("it exists");
                let content = match facts.is_file() {
                    true => fs::read(&path).expect("a file"),
                    false => Vec::new(),
                };
                let facts = vec![
                    facts.mode().into(),
                    facts.uid().into(),
                    facts.ino() as i64,
                    facts.nlink() as i64,
                    facts.mtime_nsec(),
                    facts.mtime(),
                    facts.ctime_nsec(),
                    facts.ctime(),
                ];
                let name = path.file_name().expect("a name").to_string_lossy();
                (name.into_owned(), (content, facts))
            })
            .filter(|(name, _)| is_kept(name))
            .collect()
    };
    let before = snapshot();
    act();
    let after = snapshot();
    let names = |all: &BTreeMap<String, _>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    for (name, facts) in before {
        assert!(after[&name] == facts, "{name} has changed");
    }
}

fn schema(folder: &Path) -> String {
    let octets = run_in(folder, &["schema"]).expect("a schema");
    String::from_utf8(octets).expect("UTF-8")
}

fn make(folder: &Path, sql: &str) {
    let file = Connection::open(folder.join(FILE)).expect("a file");
    file.execute_batch(sql).expect("valid statements");
}

/// Saves a mail with a server in another folder, then copies the files of that server.
fn copy_server_files(folder: &Path, stop: bool) {
    let mut server = Server::start(&[]);
    let reply = (server.client()).deliver("a@client.test", "u@ours.test", &short_mail("x"));
    assert_eq!(reply.code, 250);
    match stop {
        true => assert!(server.stop().success()),
        false => server.kill(),
    }
    for name in ["goguerrilla.db", "goguerrilla.db-wal", "goguerrilla.db-shm"] {
        if server.path(name).exists() {
            fs::copy(server.path(name), folder.join(name)).expect("a copy");
        }
    }
    assert_ne!(folder.join("goguerrilla.db-wal").exists(), stop);
}

/// Copies a file and its journal in the state in which a killed program leaves them after it has begun to write.
fn copy_hot_journal(folder: &Path) {
    let elsewhere = TempDir::new().expect("a temporary folder");
    make(elsewhere.path(), &schema(elsewhere.path()));
    let file = Connection::open(elsewhere.path().join(FILE)).expect("a file");
    file.execute_batch(
        "PRAGMA cache_size=5; CREATE TABLE a(b); BEGIN;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO a SELECT randomblob(2000) FROM n; DROP TABLE new_mail",
    )
    .expect("valid statements");
    for name in ["goguerrilla.db", "goguerrilla.db-journal"] {
        let copy = folder.join(name);
        fs::copy(elsewhere.path().join(name), &copy).expect("a copy");
        fs::set_permissions(copy, Permissions::from_mode(0o640)).expect("the mode is set");
    }
}

#[test]
fn check_does_not_report_damage_if_the_log_has_the_missing_pages() {
    testkit::needs_root();
    let folder = TempDir::new().expect("a temporary folder");
    copy_server_files(folder.path(), false);
    // As a crash in the middle of a checkpoint leaves the file: its first page, which the -wal has too, counts pages that the
    // file does not have yet.
    let file = folder.path().join(FILE);
    let mut octets = fs::read(&file).expect("the file");
    octets[28..32].copy_from_slice(&1_000u32.to_be_bytes());
    let counter: [u8; 4] = octets[24..28].try_into().expect("four octets");
    octets[92..96].copy_from_slice(&counter);
    fs::write(&file, octets).expect("the file is written");
    write_config(folder.path(), &[]);
    let checked = run(folder.path(), &["check"]);
    assert_eq!(checked.status, 0, "{}", checked.stdout);
    assert!(
        checked.stdout.starts_with("warning: GM_SQLITE_FILE: ") && checked.stdout.contains("-wal"),
        "{}",
        checked.stdout
    );
    let mut server = Server::start_in(folder, &[]);
    assert_eq!(server.list().len(), 1);
    assert!(server.stop().success());
    assert_eq!(server.check(), (true, String::new()));
}
