//! The commands `schema`, `list` and `show`.

use std::fs;
use std::process::Stdio;

use tempfile::TempDir;

use testkit::process::run;
use testkit::{Server, test, write_config};

#[test]
fn printed_sqlite_schema_creates_a_table_that_the_server_uses() {
    let folder = TempDir::new().expect("a temporary folder");
    let settings = [("GM_MAIL_TABLE", "main.mail_2")];
    write_config(folder.path(), &settings);
    let schema = run(folder.path(), &["schema", "-config=goguerrilla.conf"]);
    assert_eq!((schema.status, schema.stderr.as_str()), (0, ""));
    // The second run leaves the existing table unchanged.
    for _ in 0..2 {
        let fed = sqlite3(&folder, &schema.stdout);
        assert_eq!((fed.0, fed.1.as_str()), (0, ""), "{}", schema.stdout);
    }
    let (_, columns) = sqlite3(&folder, "SELECT name FROM pragma_table_info('mail_2');");
    let columns: Vec<&str> = columns.lines().collect();
    assert_eq!(
        columns,
        [
            "mail_id",
            "date",
            "from",
            "to",
            "subject",
            "body",
            "charset",
            "mail",
            "spam_score",
            "hash",
            "content_type",
            "recipient",
            "has_attach",
            "ip_addr",
            "delivered",
            "attach_info",
            "dkim_valid"
        ]
    );
    let server = Server::start_in(folder, &settings);
    let content = b"Subject: x\r\n\r\n";
    server
        .client()
        .deliver("a@client.test", "u@ours.test", content);
    assert_eq!(server.contents(), [content]);
    let (_, count) = sqlite3(&server.folder, "SELECT count(*) FROM mail_2;");
    assert_eq!(count, "1\n");
}

/// Runs SQL on the store with the program `sqlite3`. Returns its status and its output.
fn sqlite3(folder: &TempDir, sql: &str) -> (i32, String) {
    let file = folder.path().join("sql");
    fs::write(&file, sql).expect("a file is written");
    let output = testkit::command("sqlite3")
        .arg("goguerrilla.db")
        .current_dir(folder.path())
        .stdin(Stdio::from(fs::File::open(file).expect("a file")))
        .output()
        .expect("sqlite3 is installed by `make tools`");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).expect("UTF-8");
    (output.status.code().expect("no signal"), text)
}
