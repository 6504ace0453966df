//! Retention as documented in docs/operations.md, word for word: partitions by day, and deleting old mail while new mail
//! arrives.

use rusqlite::{Connection, params};

use testkit::front::{documented_block, with};
use testkit::load::{Load, assert_no_loss_or_duplicate, stored_markers as stored_in_sqlite};
use testkit::steps::run_script;
use testkit::{Server, TEST_TIMEOUT, test};

#[test]
fn old_sqlite_rows_are_deleted_in_small_steps_under_load_and_pages_are_reused() {
    let server = Server::start(&[]);
    let file = server.path("goguerrilla.db");
    let database = Connection::open(&file).expect("the server's file");
    database.busy_timeout(TEST_TIMEOUT).expect("an open file");
    let insert = "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash,
                    content_type, recipient, has_attach, ip_addr, attach_info)
                  WITH RECURSIVE mails(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM mails WHERE number < 2500)
                  SELECT datetime('now', '-31 days'), '', '', 'old', 'gzencode', '', randomblob(1000), 0,
                    lower(hex(randomblob(16))), '', '', 0, '', '' FROM mails";
    database.execute(insert, params![]).expect("old mails");
    let load = Load::start(server.address, 4, "piece");
    load.wait_for_more(20);
    let script = documented_block("operations.md", "SELECT changes()");
    let name = file.display().to_string();
    run_script(&with(
        &script,
        &[("/var/lib/goguerrilla/goguerrilla.db", &name)],
    ));
    load.wait_for_more(20);
    let mut account = load.stop();
    let pages = |pragma: &str| -> u32 {
        let figure = database.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0));
        figure.expect("a figure")
    };
    let (size, free) = (pages("page_count"), pages("freelist_count"));
    assert!(free > 100, "{free} of {size} pages are free");

    let more = Load::start(server.address, 4, "more");
    more.wait_for_more(100);
    let more = more.stop();
    assert_eq!(pages("page_count"), size);
    assert!(pages("freelist_count") < free);
    account.sent.extend(more.sent);
    account.acknowledged.extend(more.acknowledged);
    account.deferred.extend(more.deferred);
    assert_no_loss_or_duplicate(&account, &stored_in_sqlite(&file));
    assert_eq!(account.deferred, Vec::<String>::new());
}
