//! Recipient and size limits of a session follow the table in use, not a table that a rejected reload named or that a
//! reload has replaced.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use testkit::mariadb::{MariaDb, with_hosts};
use testkit::{Server, test, wait_for, write_config};

#[test]
fn rejected_reload_to_narrower_columns_keeps_the_recipient_length_limit() {
    let database = MariaDb::start();
    make_narrow_table(&database);
    let server = database.server(&[]);
    assert_rcpt_reply(&server, "250");
    let hosts = database.address().to_string();
    let refused = [("GM_MAIL_TABLE", "narrow"), ("GSMTP_LOG_FILE", "none/log")];
    write_config(server.folder.path(), &with_hosts(&hosts, &refused));
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" reload_refused ");
    // The store that was started for the rejected reload may still read the columns of its table.
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline && !server.log().contains("`narrow`") {
        assert_rcpt_reply(&server, "250");
    }
    for _ in 0..20 {
        assert_rcpt_reply(&server, "250");
    }
}

#[test]
fn reload_to_a_narrower_table_applies_its_recipient_limit() {
    let database = MariaDb::start();
    make_narrow_table(&database);
    let hosts = database.address().to_string();
    let server = database.server(&[]);
    // This session keeps the old store alive.
    let mut before = server.client();
    before.command("EHLO client.test", "250");
    reload(
        &server,
        &with_hosts(&hosts, &[("GM_MAIL_TABLE", "narrow")]),
        1,
    );
    wait_for("the narrow table", || {
        (rcpt_reply_code(&server) == 553).then_some(())
    });
    before.command("MAIL FROM:<a@client.test>", "250");
    before.command(&rcpt_command(), "250");
    // Each new connection of the old store reads the changed columns.
    database.sql("ALTER TABLE new_mail MODIFY `recipient` varchar(200), DROP COLUMN dkim_valid");
    database.kill_connections();
    let missing_column_lines = |log: &str| log.matches("dkim_valid").count();
    wait_for("the old store's new connection", || {
        (missing_column_lines(&server.log()) > 0).then_some(())
    });
    for _ in 0..20 {
        assert_rcpt_reply(&server, "553");
    }
    // The change back applies at once, although `held` keeps the store of the narrow table alive.
    let mut held = server.client();
    database.sql("ALTER TABLE new_mail ADD COLUMN dkim_valid tinyint DEFAULT NULL");
    reload(&server, &with_hosts(&hosts, &[]), 2);
    assert_rcpt_reply(&server, "250");
    held.command("EHLO client.test", "250");
    held.command("MAIL FROM:<a@client.test>", "250");
    held.command(&rcpt_command(), "553 5.1.3 ");
    database.sql("ALTER TABLE narrow MODIFY `recipient` varchar(15), DROP COLUMN dkim_valid");
    let before = missing_column_lines(&server.log());
    database.kill_connections();
    wait_for("the narrow table's new connection", || {
        (missing_column_lines(&server.log()) > before).then_some(())
    });
    for _ in 0..20 {
        assert_rcpt_reply(&server, "250");
    }
}

fn make_narrow_table(database: &MariaDb) {
    database.sql("CREATE TABLE narrow LIKE new_mail");
    database.sql("ALTER TABLE narrow MODIFY `recipient` varchar(20) NOT NULL");
}

/// Asserts the reply of a new session to a recipient that the narrow table cannot store.
fn assert_rcpt_reply(server: &Server, wanted: &str) {
    assert_eq!(rcpt_reply_code(server).to_string(), wanted);
}

fn rcpt_reply_code(server: &Server) -> u16 {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.send(format!("{}\r\n", rcpt_command()));
    client.read_reply().expect("a reply").code
}

fn rcpt_command() -> String {
    format!("RCPT TO:<{}@ours.test>", "u".repeat(30))
}

fn reload(server: &Server, settings: &[(&str, &str)], nth: usize) {
    write_config(server.folder.path(), settings);
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || {
        (server.log().matches(" reload\n").count() == nth).then_some(())
    });
}
