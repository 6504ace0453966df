//! An upgrade from version 0.1.0 with its MySQL table in place, before and after the statements of the changelog.

use testkit::follow::FollowedList;
use testkit::load::{Load, content_of};
use testkit::mariadb::MariaDb;
use testkit::process::run;
use testkit::redis::Redis;
use testkit::store::inflate;
use testkit::upgrade::{OLD_MAILS, OLD_MYSQL_TABLE, OLD_SQLITE_DUMP, changelog_statements};
use testkit::{Server, test, wait_for};

const STREAM: &str = "arrivals";
const CONFIG: &str = "-config=goguerrilla.conf";

#[test]
fn mysql_table_of_0_1_0_gets_mail_and_the_statements_of_the_changelog_widen_it_under_load() {
    let (database, redis) = (MariaDb::start_with(&[]), Redis::start());
    let contents = create_old_table(&database, &redis);
    let mut server = database.server(&[("REDIS_INTERFACE", &redis.address()), ("GM_FEED", STREAM)]);
    let followed = FollowedList::start(server.folder.path(), &["--json", "--limit=50000"]);
    followed.wait_for_lines(OLD_MAILS.len());
    server.wait_for_log("do not hold every address");
    assert_old_mails_are_readable(&server, &contents);
    let (is_usable, findings) = server.check();
    assert!(is_usable, "{findings}");
    let [changed] = alter_table_findings(&findings)[..] else {
        panic!("expected one ALTER TABLE: {findings}");
    };
    let statements = changelog_statements();
    for clause in changed.split(", ") {
        let clause = clause.trim_start_matches("`new_mail` ");
        assert!(statements[1].contains(clause), "{clause}");
    }

    let long = format!("{}@{}.test", "l".repeat(64), "d".repeat(63));
    assert_eq!(reply_to_recipient(&server, &long), 553);
    let load = Load::start(server.address, 4, "upgrade");
    load.wait_for_more(20);
    for statement in &statements {
        database.sql(statement);
        load.wait_for_more(20);
    }
    let account = load.stop();
    let (is_usable, findings) = server.check();
    assert!(
        is_usable && alter_table_findings(&findings).is_empty(),
        "{findings}"
    );
    assert!(server.stop().success());
    server.start_again();
    let reply = server
        .client()
        .deliver("a@client.test", &long, content_of("long").as_bytes());
    assert_eq!(reply.code, 250, "{}", reply.text());

    // Every new row, and no old one, has an entry in the feed; `list --follow` prints both.
    let count = database.count() as usize;
    followed.wait_for_lines(count);
    assert_eq!(followed.subjects()["grüße"], 2);
    let entries = wait_for("every entry", || {
        Some(redis.stream_entries(STREAM)).filter(|entries| entries.len() >= count - 3)
    });
    let mut subjects: Vec<&str> = entries.iter().map(|entry| &*entry["subject"]).collect();
    assert_eq!(subjects.pop(), Some("long"));
    for marker in &account.acknowledged {
        let found = subjects.iter().filter(|subject| *subject == marker).count();
        assert_eq!(found, 1, "{marker}");
    }
    assert!(!subjects.contains(&"plain"), "{subjects:?}");
    assert_old_mails_are_readable(&server, &contents);

    database.sql("UPDATE new_mail SET `date` = NOW()");
    database.sql("UPDATE new_mail SET `date` = NOW() - INTERVAL 40 DAY WHERE mail_id <= 2");
    let pruned = run(server.folder.path(), &["prune", "--days=30", CONFIG]);
    assert!(pruned.stdout.starts_with("2 rows removed"), "{pruned:?}");
    assert_eq!(server.list().len(), count - 2);
}

/// Creates the old table with the rows of the old SQLite file, the third of them with its content in Redis. Returns the
/// contents.
fn create_old_table(database: &MariaDb, redis: &Redis) -> Vec<Vec<u8>> {
    database.sql(OLD_MYSQL_TABLE);
    let rows = OLD_SQLITE_DUMP
        .lines()
        .filter(|line| line.starts_with("INSERT INTO new_mail "));
    rows.for_each(|row| database.sql(row));
    let streams: Vec<Vec<u8>> = database.rows("SELECT mail FROM new_mail ORDER BY mail_id");
    let from_hex = "local octet = function(digits) return string.char(tonumber(digits, 16)) end
                    local stream = ARGV[1]:gsub('%x%x', octet)
                    return redis.call('setex', KEYS[1], 3600, stream)";
    let hex: String = streams[2]
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let _: String = redis.command(&["EVAL", from_hex, "1", OLD_MAILS[2].0, &hex]);
    database.sql("UPDATE new_mail SET body = 'redis', mail = '' WHERE mail_id = 3");
    streams.iter().map(|stream| inflate(stream)).collect()
}

fn assert_old_mails_are_readable(server: &Server, contents: &[Vec<u8>]) {
    let mut mails = server.list();
    mails.reverse();
    for ((mail, content), (hash, size)) in mails.iter().zip(contents).zip(OLD_MAILS) {
        assert_eq!((&mail["hash"], &mail["size"]), (&hash.into(), &size.into()));
        assert_eq!(server.show(hash), *content);
    }
}

/// Returns the statements that `check` tells to run.
fn alter_table_findings(findings: &str) -> Vec<&str> {
    let lines = findings
        .lines()
        .filter_map(|line| line.split_once("ALTER TABLE "));
    lines.map(|(_, rest)| rest).collect()
}

/// Returns the code of the reply to RCPT.
fn reply_to_recipient(server: &Server, recipient: &str) -> u16 {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test>", "250");
    client.send(format!("RCPT TO:<{recipient}>\r\n"));
    client.read_reply().expect("a reply").code
}
