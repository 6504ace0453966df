//! Tables in MariaDB and SQLite as administrators and other programs change them: used-up ids, narrow columns, other column
//! types and collations, NULL; and the output of `check`, `list` and `show` in each case.

use std::time::Duration;

use testkit::process::{ProcessResult, run};
use testkit::{Reply, Server, short_mail, test, without_trace};

const CONFIG: &str = "-config=goguerrilla.conf";

fn deliver(server: &Server, subject: &str) -> Reply {
    let mut client = server.client();
    client.set_reply_timeout(Duration::from_secs(35));
    client.begin_data("a@client.test", "u@ours.test");
    client.send_content(&short_mail(subject)).0
}

fn assert_saved(reply: &Reply) {
    assert!(reply.text().starts_with("250 2.0.0 "), "{}", reply.text());
}

fn list(server: &Server, arguments: &[&str]) -> ProcessResult {
    run(
        server.folder.path(),
        &[&["list", CONFIG], arguments].concat(),
    )
}

#[test]
fn list_and_show_print_sqlite_rows_with_other_column_types() {
    let server = Server::start(&[]);
    for subject in ["first", "second", "third"] {
        assert_saved(&deliver(&server, subject));
    }
    let file = rusqlite::Connection::open(server.path("goguerrilla.db")).expect("the store");
    let mails = server.list();
    let hash = |index: usize| mails[index]["hash"].as_str().expect("a hash");
    let content = server.show(hash(1));
    for (change, field, want) in [
        ("subject = 7", "subject", "7"),
        ("subject = 1.5", "subject", "1.5"),
        ("subject = x'61FF62'", "subject", "a\u{fffd}b"),
        ("`date` = 1700000000", "date", "1700000000"),
        ("`from` = x'00'", "from", "\0"),
        ("`to` = 1", "to", "1"),
        ("recipient = 2.5", "recipient", "2.5"),
        ("body = 3", "recipient", "2.5"),
    ] {
        let sql = format!("UPDATE new_mail SET {change} WHERE mail_id = 2");
        file.execute_batch(&sql).expect("valid statements");
        let mails = server.list();
        assert_eq!(mails.len(), 3, "{change}");
        assert_eq!(mails[1][field], want, "{change}");
        assert_eq!(server.show(hash(1)), content, "{change}");
        assert_eq!(list(&server, &[]).stdout.lines().count(), 4, "{change}");
    }
    for mail in ["1", "2.5", "'no zlib'", "x''"] {
        let sql = format!("UPDATE new_mail SET mail = {mail} WHERE mail_id = 2");
        file.execute_batch(&sql).expect("valid statements");
        let mails = server.list();
        assert!(mails.len() == 3 && mails[1]["size"].is_null(), "{mail}");
        let shown = run(server.folder.path(), &["show", hash(1), CONFIG]);
        assert_eq!((shown.status, shown.stdout.as_str()), (1, ""), "{mail}");
        assert!(shown.stderr.contains("column `mail`"), "{}", shown.stderr);
    }
    file.execute_batch("UPDATE new_mail SET hash = x'FF' WHERE mail_id = 2")
        .expect("valid statements");
    assert_eq!(server.list().len(), 3);
    assert!(without_trace(&server.show(hash(0))).starts_with(b"Subject: third"));

    // A view, and a table without mail_id.
    file.execute_batch(
        "ALTER TABLE new_mail RENAME TO hidden;
         CREATE VIEW new_mail AS SELECT hash, `date`, `from`, `to`, recipient, subject, body, mail FROM hidden;
         UPDATE hidden SET `date` = '2001-01-01 00:00:00' WHERE mail_id = 3;
         UPDATE hidden SET `date` = '2002-01-01 00:00:00' WHERE mail_id = 2",
    )
    .expect("a view");
    let mails = server.list();
    assert_eq!(mails.len(), 3);
    assert_eq!(mails[2]["subject"], "third", "the oldest date is last");
}
