//! The options that SQLite fixes when a database file gets its first page.

use std::fs;

use rusqlite::Connection;

use testkit::steps::{send_mail, stored_subjects};
use testkit::{Server, test};

#[test]
fn new_sqlite_file_has_pages_of_8_kb_and_incremental_auto_vacuum() {
    let server = Server::start(&[]);
    assert_eq!(options(&server), [8_192, INCREMENTAL]);
}

#[test]
fn existing_sqlite_file_keeps_its_page_size_and_auto_vacuum_and_gets_mail() {
    for options_before in [
        [4_096, NONE],
        [512, NONE],
        [65_536, FULL],
        [4_096, INCREMENTAL],
    ] {
        let [page_octets, auto_vacuum] = options_before;
        let mut server = Server::start(&[]);
        send_mail(&server, "first").expect("250 2.0.0 ");
        assert!(server.stop().success());
        // Only VACUUM changes these options of a file that has pages, and not in WAL mode.
        let changed = open(&server).execute_batch(&format!(
            "PRAGMA journal_mode=DELETE; PRAGMA page_size={page_octets}; PRAGMA auto_vacuum={auto_vacuum}; VACUUM"
        ));
        changed.expect("a file that nobody uses");
        for subject in ["second", "third"] {
            server.start_again();
            send_mail(&server, subject).expect("250 2.0.0 ");
            assert_eq!(options(&server), options_before);
            assert!(server.stop().success());
        }
        assert_eq!(stored_subjects(&server), ["first", "second", "third"]);
    }
}

#[test]
fn sqlite_file_of_another_program_keeps_its_page_size_and_auto_vacuum_and_gets_mail() {
    let mut server = Server::start(&[]);
    assert!(server.stop().success());
    fs::remove_file(server.path("goguerrilla.db")).expect("the file exists");
    let made = open(&server).execute_batch("PRAGMA page_size=4096; CREATE TABLE other(a)");
    made.expect("a new file");
    server.start_again();
    send_mail(&server, "first").expect("250 2.0.0 ");
    assert_eq!(options(&server), [4_096, NONE]);
}

/// Returns the page size in octets and the auto-vacuum mode of the server's file.
fn options(server: &Server) -> [u32; 2] {
    let database = open(server);
    ["page_size", "auto_vacuum"].map(|name| {
        let value = database.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0));
        value.expect("a number")
    })
}

fn open(server: &Server) -> Connection {
    Connection::open(server.path("goguerrilla.db")).expect("an SQLite file")
}

/// Values of `PRAGMA auto_vacuum`.
const NONE: u32 = 0;
const FULL: u32 = 1;
const INCREMENTAL: u32 = 2;
