//! Tables in MariaDB and SQLite as administrators and other programs change them: used-up ids, narrow columns, other column
//! types and collations, NULL; and the output of `check`, `list` and `show` in each case.

use std::time::{Duration, Instant};

use mysql::prelude::Queryable;

use testkit::mariadb::{EXISTING_TABLE, MariaDb, PASSWORD, USER};
use testkit::ports::free_address;
use testkit::process::{ProcessResult, run};
use testkit::server_programs::is_mysql;
use testkit::status::{figures, get};
use testkit::{Reply, Server, assert_took, short_mail, test, value, wait_for, write_config};

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

fn assert_deferred(reply: &Reply) {
    assert!(reply.text().starts_with("451 4.3.0 "), "{}", reply.text());
}

fn with_status(database: &MariaDb, settings: &[(&str, &str)]) -> Server {
    let status = free_address([127, 0, 0, 1].into()).to_string();
    let mut all = vec![("GM_STATUS_INTERFACE", status.as_str())];
    all.extend_from_slice(settings);
    database.server(&all)
}

/// Starts MariaDB with the table that `goguerrilla schema` prints.
fn with_printed_table() -> MariaDb {
    let database = MariaDb::start_with(&[]);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    write_config(folder.path(), &[("GM_STORE", "mysql")]);
    database.sql(&run(folder.path(), &["schema", CONFIG]).stdout);
    database
}

/// Returns the statement at the end of the finding about this column.
fn fix(output: &str, column: &str) -> Option<String> {
    let about = output.lines().filter(|line| line.contains(column));
    let mut statements = about.filter_map(|line| line.split_once(" run: ALTER TABLE "));
    statements
        .next()
        .map(|(_, rest)| format!("ALTER TABLE {rest}"))
}

fn used_ratio(server: &Server) -> Option<f64> {
    figures(server)
        .get("goguerrilla_mail_id_used_ratio")
        .copied()
}

/// Returns the findings about `mail_id` in the log.
fn id_findings(server: &Server) -> Vec<String> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains(" store_check "));
    let findings = lines.filter_map(|line| value(line, "finding"));
    findings.filter(|text| text.contains("`mail_id`")).collect()
}

#[test]
fn used_up_mail_ids_make_the_store_unavailable_and_are_reported_with_their_fix() {
    let database = MariaDb::start();
    // Two ids are left; the trial row of `check` uses one of them.
    database.sql("ALTER TABLE new_mail AUTO_INCREMENT = 2147483646");
    let server = with_status(&database, &[("GM_SAVE_WORKERS", "1")]);
    wait_for("the store", || {
        (get(&server, "/readyz").0 == 200).then_some(())
    });
    let (is_ok, output) = server.check();
    assert!(is_ok, "{output}");
    assert!(
        output.contains("99 % of the ids of column `mail_id`"),
        "{output}"
    );
    let warned = "ALTER TABLE `new_mail` MODIFY `mail_id` bigint unsigned NOT NULL AUTO_INCREMENT";
    assert_eq!(fix(&output, "`mail_id`").as_deref(), Some(warned));
    assert!(used_ratio(&server).is_some_and(|ratio| ratio > 0.999));
    server.wait_for_log("of the ids of column `mail_id`");

    assert_saved(&deliver(&server, "the last id"));
    let asked = Instant::now();
    assert_deferred(&deliver(&server, "none left"));
    // A batch that is tried again is given up after 20 s.
    assert_took(asked.elapsed(), Duration::from_secs(1));
    let log = server.wait_for_log(" batch_failed ");
    assert!(
        log.contains("`mail_id` of `new_mail` has no ids left"),
        "{log}"
    );
    let (code, body) = get(&server, "/readyz");
    assert!(code == 503 && body.contains("mail_id"), "{body}");
    assert_eq!(used_ratio(&server), Some(1.0));

    // Another receiver reports the shortage before it has received any mail.
    let other = with_status(&database, &[]);
    wait_for("the other receiver to report it", || {
        let (code, output) = get(&other, "/readyz");
        (code == 503 && output.contains("mail_id")).then_some(())
    });
    let (is_ok, output) = server.check();
    assert!(!is_ok && !output.contains("grant"), "{output}");
    let fix = fix(&output, "`mail_id`").expect("a fix");
    database.sql(&fix);
    for server in [&server, &other] {
        wait_for("the store to be ready again", || {
            (get(server, "/readyz").0 == 200).then_some(())
        });
        assert_saved(&deliver(server, "healed"));
    }
    assert!(used_ratio(&server).is_some_and(|ratio| ratio < 0.001));
    let (is_ok, output) = server.check();
    assert!(is_ok && !output.contains("mail_id"), "{output}");
    assert_eq!(database.count(), 3);
}

#[test]
fn batch_that_fails_for_used_up_mail_ids_is_not_split() {
    for last in [
        "MODIFY mail_id tinyint NOT NULL AUTO_INCREMENT, AUTO_INCREMENT = 127",
        // MariaDB returns error 1467 here instead of 167.
        "MODIFY mail_id bigint unsigned NOT NULL AUTO_INCREMENT, AUTO_INCREMENT = 18446744073709551615",
    ] {
        let database = MariaDb::start();
        database.sql(&format!("ALTER TABLE new_mail {last}"));
        if last.contains("tiny") {
            let columns = "`date`, `from`, `to`, subject, body, charset, mail, hash, content_type, recipient, \
                           spam_score, has_attach, ip_addr, attach_info";
            database.sql(&format!(
                "INSERT INTO new_mail ({columns}) VALUES (NOW(){},0,0,'','')",
                ",''".repeat(9)
            ));
        }
        let rows = database.count();
        assert_not_split(&database);
        assert_eq!(database.count(), rows, "{last}");
    }
}

#[test]
fn duplicate_mail_id_makes_the_store_unavailable_and_other_duplicates_do_not() {
    for (text, is_mail_id) in [
        ("Duplicate entry ''2147483647'' for key ''PRIMARY''", true),
        ("Duplicate entry ''5'' for key ''new_mail.PRIMARY''", true),
        ("Duplicate entry ''5'' for key ''own''", false),
    ] {
        let database = MariaDb::start();
        database.sql(&format!(
            "CREATE TRIGGER ids BEFORE INSERT ON new_mail FOR EACH ROW SIGNAL SQLSTATE '23000'
             SET MYSQL_ERRNO = 1062, MESSAGE_TEXT = '{text}'"
        ));
        match is_mail_id {
            true => {
                assert_not_split(&database);
                let (is_ok, output) = database.server(&[]).check();
                assert!(!is_ok && !output.contains("grant"), "{output}");
                let fix = fix(&output, "`mail_id`").expect("a fix");
                database.sql(&fix);
            }
            false => {
                let server = with_status(&database, &[]);
                assert_deferred(&deliver(&server, "refused"));
                server.wait_for_log(" batch_failed ");
                assert_eq!(get(&server, "/readyz").0, 200, "{text}");
            }
        }
    }
}

/// Asserts that a failed INSERT of a batch is not repeated mail by mail: eight mails queue up while the table is locked and
/// share one INSERT.
fn assert_not_split(database: &MariaDb) {
    let server = with_status(database, &[("GM_SAVE_WORKERS", "1")]);
    let executed = || {
        let rows: Vec<(String, u64)> = database.rows("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'");
        rows.first().expect("a status variable").1
    };
    // The first mail prepares the statement and reads the table's definition.
    assert_deferred(&deliver(&server, "alone"));
    let mut holder = database.connection();
    holder
        .query_drop("LOCK TABLES new_mail WRITE")
        .expect("a lock");
    let mut clients: Vec<_> = (0..8)
        .map(|number| {
            let mut client = server.client();
            client.set_reply_timeout(Duration::from_secs(35));
            client.begin_data("a@client.test", "u@ours.test");
            client.send(testkit::stuffed(&short_mail(&format!("mail {number}"))));
            client
        })
        .collect();
    wait_for("an INSERT to wait for the lock", || {
        (database.running_inserts("Waiting") > 0).then_some(())
    });
    let before = executed();
    holder.query_drop("UNLOCK TABLES").expect("unlocked");
    for client in &mut clients {
        assert_deferred(&client.read_reply().expect("a reply"));
    }
    let more = executed() - before;
    assert!(more < 8, "{more} statements for eight mails");
    let (code, body) = get(&server, "/readyz");
    assert!(code == 503 && body.contains("mail_id"), "{body}");
}

#[test]
fn running_server_logs_a_warning_when_half_of_the_mail_ids_are_used() {
    let database = MariaDb::start();
    database.sql("ALTER TABLE new_mail MODIFY mail_id tinyint unsigned NOT NULL AUTO_INCREMENT, AUTO_INCREMENT = 119");
    let server = with_status(&database, &[("GM_SAVE_WORKERS", "1")]);
    assert_saved(&deliver(&server, "below half"));
    // Each `check` uses up one id for its trial row.
    assert!(id_findings(&server).is_empty());
    assert!(used_ratio(&server).is_some_and(|ratio| ratio < 0.5));
    let (is_ok, output) = server.check();
    assert!(is_ok && !output.contains("mail_id"), "{output}");
    for number in 0..10 {
        assert_saved(&deliver(&server, &format!("mail {number}")));
    }
    server.wait_for_log("50 % of the ids of column `mail_id`");
    assert_eq!(id_findings(&server).len(), 1, "once for each tenth");
    let ratio = used_ratio(&server).expect("a ratio");
    assert!((ratio - 130.0 / 255.0).abs() < 0.0001, "{ratio}");
    let (is_ok, output) = server.check();
    assert!(is_ok && output.contains("(130 of 255)"), "{output}");
    database.sql(&fix(&output, "`mail_id`").expect("a fix"));
    let (is_ok, output) = server.check();
    assert!(is_ok && !output.contains("mail_id"), "{output}");
}

#[test]
fn mail_id_ratio_is_absent_if_mail_id_is_not_auto_increment() {
    let database = MariaDb::start();
    for change in [
        "MODIFY mail_id int(11) NOT NULL DEFAULT 2147483647, DROP PRIMARY KEY",
        "DROP COLUMN mail_id",
        "ADD COLUMN id tinyint NOT NULL AUTO_INCREMENT PRIMARY KEY, AUTO_INCREMENT = 100",
    ] {
        database.sql(&format!("ALTER TABLE new_mail {change}"));
        let server = with_status(&database, &[]);
        assert_saved(&deliver(&server, change));
        assert_eq!(used_ratio(&server), None, "{change}");
        assert!(id_findings(&server).is_empty(), "{change}");
        let mails = server.list();
        assert!(
            mails.iter().any(|mail| mail["subject"] == change),
            "{change}"
        );
    }
}

#[test]
fn attachment_count_is_clamped_to_its_column_type() {
    let database = MariaDb::start();
    let mut content = b"Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n".to_vec();
    for number in 0..300 {
        let part =
            format!("--b\r\nContent-Disposition: attachment; filename=f{number}\r\n\r\nx\r\n");
        content.extend_from_slice(part.as_bytes());
    }
    content.extend_from_slice(b"--b--\r\n");
    for (kind, want) in [
        ("tinyint", "127"),
        ("tinyint unsigned", "255"),
        ("smallint", "300"),
        ("bit(1)", "1"),
        ("bit(8)", "255"),
        ("decimal(2,0)", "99"),
        ("decimal(4,3) unsigned", "9.000"),
        ("float", "300"),
        ("float(3,1)", "99.0"),
        ("double", "300"),
        ("varchar(2)", "99"),
        ("char(3)", "300"),
        ("text", "300"),
        ("bigint unsigned", "300"),
    ] {
        database.sql(&format!(
            "ALTER TABLE new_mail MODIFY has_attach {kind} NOT NULL, MODIFY spam_score {kind} NOT NULL,
             MODIFY delivered {kind} NOT NULL, MODIFY dkim_valid {kind} NULL"
        ));
        let server = database.server(&[]);
        assert_saved(
            &server
                .client()
                .deliver("a@client.test", "u@ours.test", &content),
        );
        let column = match kind.starts_with("bit") {
            true => "has_attach + 0",
            false => "has_attach",
        };
        let newest = format!("SELECT {column} FROM new_mail ORDER BY mail_id DESC LIMIT 1");
        let stored: Vec<String> = database.rows(&newest);
        assert_eq!(stored, [want], "{kind}");
        // A running server notices that a column became narrower.
        database.sql("TRUNCATE TABLE new_mail");
        database.sql("ALTER TABLE new_mail MODIFY has_attach bit(1) NOT NULL");
        assert_saved(
            &server
                .client()
                .deliver("a@client.test", "u@ours.test", &content),
        );
        assert_eq!(database.count(), 1, "{kind}");
        database.sql("TRUNCATE TABLE new_mail");
    }
}

#[test]
fn narrow_address_columns_cause_a_warning_with_a_sufficient_alter_table() {
    for format in ["DYNAMIC", "COMPACT"] {
        let database = MariaDb::start_with(&["--innodb-file-per-table=ON"]);
        let table = EXISTING_TABLE.replace(
            "ENGINE=InnoDB",
            &format!("ENGINE=InnoDB ROW_FORMAT={format}"),
        );
        database.sql(&table);
        let server = database.server(&[]);
        assert_saved(&deliver(&server, "the older table works"));
        let (is_ok, output) = server.check();
        assert!(is_ok, "{output}");
        let fix = fix(&output, "`recipient`").expect("a fix");
        for column in ["`from`", "`to`", "`recipient`"] {
            assert!(
                fix.contains(&format!("MODIFY {column} varchar(320)")),
                "{fix}"
            );
        }
        server.wait_for_log("do not hold every address");
        assert!(output.lines().all(|line| !line.contains("  ")), "{output}");
        database.sql(&fix);
        let (is_ok, output) = server.check();
        assert!(is_ok && !output.contains("every address"), "{output}");

        let server = database.server(&[]);
        assert_saved(&deliver(&server, "learned"));
        let domain = format!(
            "{}{}.test",
            "d".repeat(60),
            format!(".{}", "e".repeat(62)).repeat(3)
        );
        assert_eq!(domain.len(), 254);
        let recipient = format!("{}@{domain}", "l".repeat(64));
        let mut client = server.client();
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<b@client.test> SMTPUTF8", "250 2.1.0");
        client.command(&format!("RCPT TO:<{recipient}>"), "250 2.1.5");
        client.command("RCPT TO:<用户@ours.test>", "250 2.1.5");
        client.command("DATA", "354 ");
        client.send(".\r\n");
        assert_saved(&client.read_reply().expect("a reply"));
        let stored: Vec<String> = database
            .rows("SELECT recipient FROM new_mail WHERE `from` LIKE 'b@%' ORDER BY mail_id");
        assert_eq!(stored, [recipient.as_str(), "用户@ours.test"]);
    }
    let database = with_printed_table();
    let server = database.server(&[]);
    let (is_ok, output) = server.check();
    assert!(is_ok && !output.contains("ALTER TABLE"), "{output}");
    // The columns are wide enough, but their character set lacks characters.
    database
        .sql("ALTER TABLE new_mail MODIFY recipient varchar(400) CHARACTER SET latin1 NOT NULL");
    let (is_ok, output) = server.check();
    assert!(
        is_ok && output.contains("(`recipient`: 400 of latin1)"),
        "{output}"
    );
}

#[test]
fn check_reports_columns_too_narrow_for_every_row_as_errors() {
    let database = MariaDb::start();
    let server = database.server(&[]);
    for (column, kind) in [("hash", "char(16)"), ("body", "varchar(5)")] {
        database.sql(&format!(
            "ALTER TABLE new_mail MODIFY {column} {kind} NOT NULL"
        ));
        let (is_ok, output) = server.check();
        assert!(!is_ok, "{output}");
        database.sql(&fix(&output, &format!("column `{column}`")).expect("a fix"));
        let (is_ok, output) = server.check();
        assert!(is_ok, "{output}");
    }
    assert_saved(&deliver(&server, "healed"));
}

fn list(server: &Server, arguments: &[&str]) -> ProcessResult {
    run(
        server.folder.path(),
        &[&["list", CONFIG], arguments].concat(),
    )
}

fn listed_recipients(server: &Server, to: &str) -> Vec<String> {
    let ended = list(server, &["--json", "--to", to]);
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{to}");
    let mails: Vec<serde_json::Value> = serde_json::from_str(&ended.stdout).expect("JSON");
    let recipient = |mail: &serde_json::Value| mail["recipient"].as_str().map(str::to_owned);
    mails.iter().filter_map(recipient).collect()
}

#[test]
fn list_and_show_print_null_in_mysql_rows() {
    let columns = [
        "date",
        "from",
        "to",
        "subject",
        "body",
        "charset",
        "mail",
        "recipient",
        "hash",
    ];
    let database = with_printed_table();
    for column in columns {
        let kind = match column {
            "date" => "datetime",
            "mail" => "longblob",
            _ => "varchar(320)",
        };
        database.sql(&format!(
            "ALTER TABLE new_mail MODIFY `{column}` {kind} NULL"
        ));
    }
    let mysql = database.server(&[]);
    let sqlite = Server::start(&[]);
    let file = rusqlite::Connection::open(sqlite.path("goguerrilla.db")).expect("the store");
    let nullable = run(sqlite.folder.path(), &["schema", CONFIG])
        .stdout
        .replace(" NOT NULL", "");
    let anew = format!("DROP TABLE new_mail; {nullable}");
    file.execute_batch(&anew).expect("a table of NULLs");
    for (server, change) in [
        (&mysql, &(|sql: &str| database.sql(sql)) as &dyn Fn(&str)),
        (&sqlite, &|sql: &str| file.execute_batch(sql).expect("done")),
    ] {
        assert_saved(&deliver(server, "oldest"));
        for column in columns {
            assert_saved(&deliver(server, column));
            change(&format!(
                "UPDATE new_mail SET `{column}` = NULL WHERE subject = '{column}'"
            ));
        }
        assert_saved(&deliver(server, "newest"));
        let ended = list(server, &["--limit", "100"]);
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
        assert_eq!(ended.stdout.lines().count(), 12, "{}", ended.stdout);
        assert!(ended.stdout.contains("NULL"), "{}", ended.stdout);
        let mails = server.list();
        assert_eq!(mails.len(), 11);
        for (mail, column) in mails.iter().skip(1).zip(columns.iter().rev()) {
            match *column {
                "body" | "charset" => assert!(mail["size"].is_u64(), "{mail}"),
                "mail" => assert!(mail["size"].is_null(), "{mail}"),
                column => assert!(mail[column].is_null(), "{column}: {mail}"),
            }
            let Some(hash) = mail["hash"].as_str() else {
                continue;
            };
            let shown = run(server.folder.path(), &["show", hash, CONFIG]);
            match *column {
                "mail" => {
                    assert_eq!((shown.status, shown.stdout.as_str()), (1, ""));
                    assert!(shown.stderr.contains("column `mail`"), "{}", shown.stderr);
                }
                _ => assert_eq!(shown.status, 0, "{column}: {}", shown.stderr),
            }
        }
        assert_eq!(
            listed_recipients(server, "u@ours.test").len(),
            10,
            "one by its column `to` alone is not listed"
        );
    }
}

#[test]
fn list_and_show_print_mysql_rows_with_other_column_types() {
    let database = MariaDb::start();
    let server = database.server(&[("REDIS_INTERFACE", "")]);
    assert_saved(&deliver(&server, "first"));
    let hash = server.list()[0]["hash"]
        .as_str()
        .expect("a hash")
        .to_owned();
    let content = server.show(&hash);
    // The changes accumulate: each row is read after all changes before it.
    for (change, field, want) in [
        (
            "UPDATE new_mail SET `date` = '0000-00-00 00:00:00'",
            "date",
            "0000-00-00 00:00:00",
        ),
        (
            "ALTER TABLE new_mail MODIFY `date` varchar(40) NOT NULL",
            "date",
            "0000-00-00 00:00:00",
        ),
        (
            "UPDATE new_mail SET `date` = 'yesterday'",
            "date",
            "yesterday",
        ),
        (
            "ALTER TABLE new_mail MODIFY subject varbinary(255) NOT NULL",
            "subject",
            "first",
        ),
        (
            "UPDATE new_mail SET subject = x'61FF62'",
            "subject",
            "a\u{fffd}b",
        ),
        (
            "ALTER TABLE new_mail MODIFY `to` varbinary(128) NOT NULL",
            "to",
            "u@primary.test",
        ),
        (
            "ALTER TABLE new_mail MODIFY recipient varchar(128) COLLATE latin1_bin NOT NULL",
            "recipient",
            "u@ours.test",
        ),
        (
            "ALTER TABLE new_mail DROP KEY `to`, MODIFY `from` int NOT NULL DEFAULT 7, DROP COLUMN `charset`",
            "to",
            "u@primary.test",
        ),
        (
            "CREATE VIEW mails AS SELECT * FROM new_mail",
            "to",
            "u@primary.test",
        ),
        ("RENAME TABLE new_mail TO hidden, mails TO shown", "to", ""),
    ] {
        database
            .connection()
            .query_drop("SET GLOBAL sql_mode = ''")
            .expect("permitted for root");
        let mut connection = database.connection();
        connection
            .query_drop(change)
            .unwrap_or_else(|error| panic!("{change}: {error}"));
        if want.is_empty() {
            break;
        }
        let mails = server.list();
        assert_eq!(mails.len(), 1, "{change}");
        assert_eq!(mails[0][field], want, "{change}");
        assert_eq!(mails[0]["size"], content.len(), "{change}");
        assert_eq!(server.show(&hash), content, "{change}");
        for to in ["U@PRIMARY.test", "u@OURS.test"] {
            assert_eq!(listed_recipients(&server, to).len(), 1, "{change}: {to}");
        }
        assert!(
            listed_recipients(&server, "ü@ours.test").is_empty(),
            "{change}"
        );
    }
    // A view without mail_id is readable as well.
    database.sql("CREATE VIEW new_mail AS SELECT hash, `date`, `from`, `to`, recipient, subject, body, mail FROM hidden");
    assert_eq!(server.list().len(), 1);
    assert_eq!(server.show(&hash), content);
    for (mail, body, words) in [
        ("''", "gzencode", "column `mail`: expected a zlib stream"),
        (
            "'no zlib'",
            "gzencode",
            "column `mail`: expected a zlib stream",
        ),
        ("'no zlib'", "gzip", "column `body` is \"gzip\""),
        ("''", "redis", "REDIS_INTERFACE"),
    ] {
        database.sql(&format!("UPDATE hidden SET mail = {mail}, body = '{body}'"));
        assert!(server.list()[0]["size"].is_null(), "{mail} {body}");
        let shown = run(server.folder.path(), &["show", &hash, CONFIG]);
        assert_eq!((shown.status, shown.stdout.as_str()), (1, ""));
        assert!(shown.stderr.contains(words), "{}", shown.stderr);
        assert_eq!(shown.stderr.lines().count(), 1, "{}", shown.stderr);
    }
}

#[test]
fn list_with_option_to_ignores_case_but_not_accents() {
    for database in [MariaDb::start(), with_printed_table()] {
        let server = database.server(&[]);
        assert_saved(&deliver(&server, "learned"));
        let mut client = server.client();
        for recipient in ["jose@ours.test", "josé@ours.test", "JOSÉ@Ours.test"] {
            client.command("EHLO client.test", "250");
            client.command("MAIL FROM:<a@client.test> SMTPUTF8", "250 2.1.0");
            client.command(&format!("RCPT TO:<{recipient}>"), "250 2.1.5");
            client.command("DATA", "354 ");
            client.send(".\r\n");
            assert_saved(&client.read_reply().expect("a reply"));
        }
        for (to, want) in [
            ("jose@ours.test", &["jose@ours.test"][..]),
            ("JOSE@OURS.TEST", &["jose@ours.test"]),
            ("jose@primary.test", &["jose@ours.test"]),
            ("josé@ours.test", &["JOSÉ@Ours.test", "josé@ours.test"]),
            ("josé@PRIMARY.test", &["JOSÉ@Ours.test", "josé@ours.test"]),
            ("用户@ours.test", &[]),
            ("😀@ours.test", &[]),
            ("jos_@ours.test", &[]),
            ("' OR 1=1 -- ", &[]),
        ] {
            assert_eq!(listed_recipients(&server, to), want, "{to}");
        }
        // With an index on both columns, both are used.
        database.sql("ALTER TABLE new_mail ADD KEY recipient (recipient)");
        assert_eq!(
            listed_recipients(&server, "jose@ours.test"),
            ["jose@ours.test"]
        );
        for limit in ["0", "1", "4294967295"] {
            let ended = list(&server, &["--limit", limit]);
            assert_eq!((ended.status, ended.stderr.as_str()), (0, ""), "{limit}");
        }
    }
}

#[test]
fn list_and_show_errors_name_the_configuration_key() {
    let database = MariaDb::start();
    database.sql("CREATE USER limited@'%' IDENTIFIED BY 's3cr3t-of-limited'");
    database.sql("GRANT SELECT (hash) ON mail.new_mail TO limited@'%'");
    let address = database.address().to_string();
    let limited = [
        ("MYSQL_USER", "limited"),
        ("MYSQL_PASS", "s3cr3t-of-limited"),
    ];
    let closed = free_address([127, 0, 0, 1].into()).to_string();
    for (settings, key, code) in [
        (
            &[("MYSQL_PASS", "s3cr3t-wrong")][..],
            "MYSQL_USER, MYSQL_PASS: ",
            "(error 1045)",
        ),
        (
            &[("MYSQL_USER", "nobody")],
            "MYSQL_USER, MYSQL_PASS: ",
            // MySQL asks for any of its plugins if there is no such account.
            if is_mysql() { "" } else { "(error 1045)" },
        ),
        (
            &[
                ("MYSQL_DB", "nowhere"),
                ("MYSQL_USER", "root"),
                ("MYSQL_PASS", ""),
            ],
            "MYSQL_DB: ",
            "(error 1049)",
        ),
        (&[("MYSQL_DB", "mysql")], "MYSQL_DB: ", "(error 1044)"),
        (&[("MYSQL_DB", "")], "MYSQL_DB: ", "(error 1046)"),
        (
            &[("GM_MAIL_TABLE", "no_mail")],
            "GM_MAIL_TABLE: ",
            "(error 1146)",
        ),
        (
            &[("GM_MAIL_TABLE", "nowhere.new_mail")],
            "GM_MAIL_TABLE: ",
            "(error 1",
        ),
        (&limited, "GM_MAIL_TABLE: ", "(error 1143)"),
        (
            &[("MYSQL_HOST", closed.as_str())],
            "MYSQL_HOST: ",
            "refused",
        ),
    ] {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let mut all = vec![
            ("GM_STORE", "mysql"),
            ("MYSQL_HOST", address.as_str()),
            ("MYSQL_USER", USER),
            ("MYSQL_PASS", PASSWORD),
            ("MYSQL_DB", "mail"),
            ("REDIS_INTERFACE", ""),
        ];
        all.retain(|(key, _)| settings.iter().all(|(other, _)| other != key));
        all.extend_from_slice(settings);
        write_config(folder.path(), &all);
        for command in [&["list"][..], &["show", "0123456789abcdef0123456789abcdef"]] {
            let ended = run(folder.path(), &[command, &[CONFIG]].concat());
            let output = ended.stderr;
            assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{output}");
            let begins = output.starts_with(&format!("goguerrilla: {key}"));
            assert!(begins && output.contains(code), "{settings:?}: {output}");
            assert!(
                output.lines().count() == 1 && !output.contains("Error {"),
                "{output}"
            );
            assert!(!output.contains("s3cr3t"), "{output}");
        }
    }
}
