//! The SQLite file is moved, removed or replaced while the server has it open. Mail gets 451, with one log line, until
//! the file is back or the server is restarted. The server renames, deletes and creates no file.

use std::time::Duration;

use testkit::load::content_of;
use testkit::steps::rename_files;
use testkit::{Server, test, under_strace};

const FILE: &str = "goguerrilla.db";

const FILES: [&str; 3] = ["goguerrilla.db", "goguerrilla.db-wal", "goguerrilla.db-shm"];

#[test]
fn mail_committed_into_a_moved_file_gets_451() {
    let mut server = Server::start(&[]);
    server.stop();
    let log = server.path(FILES[1]).display().to_string();
    let slow = "inject=fsync,fdatasync:delay_enter=1500000";
    server.start_again_with(under_strace(&["-P", &log, "-e", slow]));
    let mut client = server.client();
    client.begin_data("a@client.test", "u@ours.test");
    client.send(format!("{}.\r\n", content_of("late")));
    client.expect_silence(Duration::from_millis(500));
    rename_files(&server, &FILES[..1], "", "moved-");
    client.expect("451 4.3.0 ");
    server.wait_for_log(" database_moved ");
    assert!(!server.path(FILE).exists());
}
