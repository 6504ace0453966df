//! An upgrade from version 0.1.0: this program uses the old SQLite file and the old configuration as they are.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use tempfile::TempDir;

use testkit::feed::FeedReader;
use testkit::follow::FollowedList;
use testkit::load::content_of;
use testkit::process::run;
use testkit::status::STATUS;
use testkit::store::mails_after;
use testkit::upgrade::{OLD_CONFIG, OLD_MAILS, OLD_SQLITE_DUMP};
use testkit::{Server, test, without_trace, write_config};

const CONFIG: &str = "-config=goguerrilla.conf";

#[test]
fn sqlite_file_of_0_1_0_is_read_gets_mail_and_loses_only_old_rows() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("goguerrilla.db");
    let made = open(&file).execute_batch(&format!("{OLD_SQLITE_DUMP} PRAGMA journal_mode=WAL;"));
    made.expect("the file of 0.1.0");
    let stored = mails_after(&file, 0);
    let mut settings = old_settings();
    settings.extend([STATUS, ("GM_FEED", "http")].map(|(key, value)| (key.into(), value.into())));
    let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (&**k, &**v)).collect();
    write_config(folder.path(), &settings);
    let checked = run(folder.path(), &["check", CONFIG]);
    assert_eq!(
        (checked.status, checked.stdout + &checked.stderr),
        (0, String::new())
    );

    let mut server = Server::start_in(folder, &settings);
    let followed = FollowedList::start(server.folder.path(), &["--json"]);
    followed.wait_for_lines(OLD_MAILS.len());
    let mut reader = FeedReader::open(&server, "/feed");
    // The old column is varchar(128), which SQLite does not enforce.
    let recipient = format!("{}@{}.ours.test", "l".repeat(64), "d".repeat(63));
    let content = content_of("new").into_bytes();
    let reply = server
        .client()
        .deliver("a@client.test", &recipient, &content);
    assert_eq!(reply.code, 250, "{}", reply.text());
    assert_eq!(reader.next_subjects(1), ["new"]);
    let subjects = ["plain", "grüße", "grüße", "new"];
    followed.wait_for_lines(subjects.len());
    let followed = followed.mails();
    assert_eq!(
        followed
            .iter()
            .map(|mail| &mail["subject"])
            .collect::<Vec<_>>(),
        subjects
    );

    let mut mails = server.list();
    mails.reverse();
    assert_eq!(mails, followed);
    assert_eq!(mails[3]["recipient"], recipient.as_str());
    assert_eq!(
        without_trace(&server.show(text(&mails[3]["hash"]))),
        content
    );
    for ((mail, row), (hash, size)) in mails.iter().zip(&stored).zip(OLD_MAILS) {
        assert_eq!((&mail["hash"], &mail["size"]), (&hash.into(), &size.into()));
        assert_eq!(server.show(hash), row.mail);
    }
    let database = open(&server.path("goguerrilla.db"));
    let pages: u32 = database
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .expect("a number");
    assert_eq!(pages, 4_096);

    // The other rows have the date on which the file was made, which may be long ago or in the future.
    database
        .execute_batch(
            "UPDATE new_mail SET `date` = datetime('now');
             UPDATE new_mail SET `date` = datetime('now', '-40 days') WHERE mail_id <= 2",
        )
        .expect("valid statements");
    let pruned = run(server.folder.path(), &["prune", "--days=30", CONFIG]);
    assert!(pruned.stdout.starts_with("2 rows removed"), "{pruned:?}");
    assert!(server.stop().success());
    server.start_again();
    let left = server.list();
    assert_eq!(
        left.iter().map(|mail| &mail["hash"]).collect::<Vec<_>>(),
        [&mails[3]["hash"], &mails[2]["hash"]]
    );
}

#[test]
fn configuration_of_0_1_0_passes_check_without_a_warning() {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("goguerrilla.conf"), OLD_CONFIG).expect("a file");
    let checked = run(folder.path(), &["check", CONFIG]);
    assert_eq!(
        (checked.status, checked.stdout + &checked.stderr),
        (0, String::new())
    );
}

/// Returns the keys of the sample configuration of 0.1.0, with a free port and a log file.
fn old_settings() -> Vec<(String, String)> {
    let config: serde_json::Value = serde_json::from_str(OLD_CONFIG).expect("JSON");
    let keys = config.as_object().expect("an object").iter();
    let adapted = keys.map(|(key, value)| {
        let value = match key.as_str() {
            "GSTMP_LISTEN_INTERFACE" => "127.0.0.1:0",
            "GSMTP_LOG_FILE" => "log",
            _ => text(value),
        };
        (key.clone(), value.to_owned())
    });
    adapted.collect()
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().expect("a text")
}

fn open(file: &Path) -> Connection {
    Connection::open(file).expect("an SQLite file")
}
