//! Backup and restore as documented in docs/operations.md, word for word, while mail arrives.

use std::collections::HashMap;

use tempfile::TempDir;

use testkit::load::{Account, Load, stored_markers};
use testkit::mariadb::MariaDb;
use testkit::project_files::{documented_block, with};
use testkit::steps::run_script;
use testkit::{Server, test};

#[test]
fn sqlite_backup_under_load_contains_every_mail_acknowledged_before_it() {
    testkit::needs_program("sqlite3");
    let mut server = Server::start(&[]);
    let backups = TempDir::new().expect("a temporary folder");
    let state = server.path("").display().to_string();
    let paths = [
        ("/var/lib/goguerrilla/", &*state),
        ("/var/backups", &*backups.path().to_string_lossy()),
        (" -o goguerrilla -g goguerrilla", ""),
    ];
    let before = Load::start(server.address, 4, "before");
    before.wait_for_more(200);
    let before = before.stop();
    let meanwhile = Load::start(server.address, 4, "meanwhile");
    meanwhile.wait_for_more(20);
    let backup = documented_block("operations.md", "VACUUM INTO");
    run_script(&with(&backup, &paths[..2]));
    meanwhile.wait_for_more(20);
    meanwhile.stop();
    let saved = stored_markers(&backups.path().join("goguerrilla.db"));
    assert_contains_all(&saved, &before);

    // The next server process continues with the backup.
    assert!(server.stop().success());
    let restore = documented_block("operations.md", "install -o goguerrilla");
    run_script(&with(&restore, &paths));
    server.start_again();
    let after = Load::start(server.address, 4, "after");
    after.wait_for_more(20);
    let after = after.stop();
    let stored = stored_markers(&server.path("goguerrilla.db"));
    assert_contains_all(&stored, &before);
    assert_contains_all(&stored, &after);
}

#[test]
fn mariadb_dump_under_load_restores_every_mail_acknowledged_before_it() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    let backups = TempDir::new().expect("a temporary folder");
    let folder = backups.path().display().to_string();
    let options = format!("--no-defaults -u root -S {}", database.socket());
    let before = Load::start(server.address, 4, "before");
    before.wait_for_more(200);
    let before = before.stop();
    let meanwhile = Load::start(server.address, 4, "meanwhile");
    meanwhile.wait_for_more(20);
    let dump = documented_block("operations.md", "mariadb-dump");
    let with_login = format!("mariadb-dump {options} ");
    run_script(&with(
        &dump,
        &[("mariadb-dump ", &with_login), ("/var/backups", &folder)],
    ));
    meanwhile.wait_for_more(20);
    meanwhile.stop();

    database.sql("CREATE DATABASE restored");
    let restore = documented_block("operations.md", "zcat");
    let with_login = format!("mariadb {options} restored");
    run_script(&with(
        &restore,
        &[("mariadb mail", &with_login), ("/var/backups", &folder)],
    ));
    let mut restored = HashMap::new();
    for subject in database.rows::<String>("SELECT subject FROM restored.new_mail") {
        *restored.entry(subject).or_default() += 1;
    }
    assert_contains_all(&restored, &before);
}

fn assert_contains_all(stored: &HashMap<String, usize>, account: &Account) {
    assert!(!account.acknowledged.is_empty());
    for marker in &account.acknowledged {
        assert_eq!(stored.get(marker), Some(&1), "{marker} got a 250");
    }
}
