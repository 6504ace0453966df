//! `goguerrilla check` with MySQL: it finds everything that prevents saving mail, suggests a fix that works, and changes
//! nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use testkit::mariadb::{EXISTING_TABLE, MariaDb, PASSWORD, with_hosts};
use testkit::process::run;
use testkit::redis::{FakeBehavior, FakeRedis, Redis};
use testkit::server_programs::is_mysql;
use testkit::{test, write_config};

/// An account that may only insert into the table and look up rows.
const RIGHTS: &str = "CREATE USER narrow@'%' IDENTIFIED BY 's3cr3t-of-narrow'; GRANT SELECT, INSERT, UPDATE ON mail.* TO narrow@'%'";

/// Returns the first value if the database is MariaDB, and the second one if it is MySQL.
fn of_product(mariadb: &'static str, mysql: &'static str) -> &'static str {
    if is_mysql() { mysql } else { mariadb }
}

#[test]
fn check_reports_a_table_that_rejects_mail_in_one_line_with_a_working_fix() {
    let database = MariaDb::start();
    for (change, found) in [
        ("MODIFY hash char(20) NOT NULL", "column `hash`"),
        ("MODIFY body varchar(4) NOT NULL", "column `body`"),
        (
            "MODIFY mail longtext CHARACTER SET utf8mb4 NOT NULL",
            "ERROR 1366 ",
        ),
        (
            "MODIFY has_attach bit(1) NOT NULL, MODIFY attach_info tinytext NOT NULL, MODIFY date date NOT NULL",
            "",
        ),
        ("MODIFY dkim_valid tinyint NOT NULL", "ERROR 1048 "),
        (
            "DROP COLUMN spam_score, ADD COLUMN spam_score float AS (1.5) STORED",
            of_product("ERROR 1906 ", "ERROR 3105 "),
        ),
        ("ADD COLUMN own int NOT NULL", "column `own`"),
        ("ADD COLUMN own datetime(3) NOT NULL", "column `own`"),
        ("ADD COLUMN own time NOT NULL", "column `own`"),
        ("ADD COLUMN own date NOT NULL", "column `own`"),
        ("ADD COLUMN own bit(3) NOT NULL", "column `own`"),
        ("ADD COLUMN own decimal(10,3) NOT NULL", "column `own`"),
        ("ADD COLUMN own year NOT NULL", "column `own`"),
        ("ADD COLUMN own blob NOT NULL", "column `own`"),
        ("ADD COLUMN own json NOT NULL", "column `own`"),
        (
            "ADD COLUMN own text CHARACTER SET latin1 NOT NULL",
            "column `own`",
        ),
        ("ADD COLUMN own varchar(9) NOT NULL", "column `own`"),
        ("ADD COLUMN own uuid NOT NULL", "column `own`"),
        ("ADD COLUMN own inet6 NOT NULL", "column `own`"),
        ("ADD COLUMN own point NOT NULL", "column `own`"),
        ("ADD COLUMN own enum('it''s','b') NOT NULL", "column `own`"),
        ("ADD COLUMN own set('a','b') NOT NULL", "column `own`"),
        ("ADD COLUMN `o``w\nn` int NOT NULL", "column `o`w\\nn`"),
    ] {
        // MySQL does not have these types.
        if is_mysql() && (change.contains(" uuid ") || change.contains(" inet6 ")) {
            continue;
        }
        database.sql("DROP TABLE IF EXISTS new_mail");
        database.sql(EXISTING_TABLE);
        database.sql(&format!("ALTER TABLE new_mail {change}"));
        let (status, output) = checked(&database, &[]);
        if found.is_empty() {
            assert_eq!(status, 0, "{change}: {output}");
            continue;
        }
        let error = only_error(&output);
        assert_eq!(status, 1, "{change}: {output}");
        assert!(error.contains(found), "{change}: {output}");
        if change.contains('\n') {
            continue;
        }
        let (_, fix) = error.rsplit_once("run: ").expect("a fix");
        database.sql(fix.trim_end_matches("; if a trigger sets it to NULL, correct the trigger"));
        let (status, output) = checked(&database, &[]);
        assert_eq!(status, 0, "{change}: after {fix}: {output}");
        assert_eq!(database.count(), 0);
    }
}

#[test]
fn check_names_the_trigger_or_constraint_that_rejects_every_row() {
    let database = MariaDb::start_with(&[]);
    database.sql("CREATE TABLE mailboxes (name varchar(128) CHARACTER SET latin1 PRIMARY KEY)");
    for (change, error, fix) in [
        (
            "CREATE TRIGGER refuses BEFORE INSERT ON new_mail FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'a\nb'",
            "ERROR 1644 (45000): a\\nb",
            "a trigger refuses the row",
        ),
        (
            "CREATE TRIGGER lost BEFORE INSERT ON new_mail FOR EACH ROW INSERT INTO mail.gone VALUES (1)",
            "writes into `gone`, which MYSQL_USER has no right to see",
            "",
        ),
        (
            "ALTER TABLE new_mail ADD CONSTRAINT short CHECK (length(hash) < 9)",
            of_product("ERROR 4025 ", "ERROR 3819 "),
            "DROP CONSTRAINT",
        ),
        (
            "ALTER TABLE new_mail ADD FOREIGN KEY (recipient) REFERENCES mailboxes (name)",
            "ERROR 1452 ",
            "DROP FOREIGN KEY",
        ),
        (
            "ALTER TABLE new_mail DROP PRIMARY KEY, ADD PRIMARY KEY (mail_id, date) \
             PARTITION BY RANGE (TO_DAYS(date)) (PARTITION old VALUES LESS THAN (TO_DAYS('2020-01-01')))",
            "ERROR 1526 ",
            "ADD PARTITION",
        ),
        (
            "ALTER TABLE new_mail DROP PRIMARY KEY, MODIFY mail_id tinyint NOT NULL AUTO_INCREMENT PRIMARY KEY, AUTO_INCREMENT = 127",
            // `check` finds this before it inserts a row.
            "column `mail_id` of `new_mail` has no ids left",
            "bigint unsigned",
        ),
        (
            "ALTER TABLE new_mail ADD UNIQUE (delivered)",
            "ERROR 1062 ",
            "DROP INDEX",
        ),
    ] {
        database.sql("DROP TABLE IF EXISTS new_mail");
        database.sql(EXISTING_TABLE);
        database.sql(change);
        if change.contains("UNIQUE") || change.contains("127") {
            insert_one(&database);
        }
        let (status, output) = checked(&database, &[]);
        if fix.is_empty() {
            assert!(output.contains(error), "{change}: {output}");
            continue;
        }
        assert_eq!(status, 1, "{change}: {output}");
        let line = only_error(&output);
        assert!(
            line.contains(error) && line.contains(fix),
            "{change}: {output}"
        );
    }
}

#[test]
fn check_warns_about_a_unique_key_that_a_second_mail_would_violate() {
    let database = MariaDb::start();
    for (columns, is_warned) in [
        ("`to`", true),
        ("`from`, subject", true),
        ("date", true),
        ("hash", false),
        ("recipient, hash", false),
        ("`to`, dkim_valid", false),
    ] {
        database.sql(&format!(
            "ALTER TABLE new_mail ADD UNIQUE only_one ({columns})"
        ));
        let (status, output) = checked(&database, &[]);
        let warning = output
            .lines()
            .find(|line| line.contains("unique key `only_one`"));
        assert_eq!(
            (status, warning.is_some()),
            (0, is_warned),
            "{columns}: {output}"
        );
        let fix = warning.and_then(|warning| warning.rsplit_once("run: "));
        database.sql(fix.map_or("ALTER TABLE new_mail DROP INDEX only_one", |(_, fix)| fix));
    }
}

#[test]
fn check_trial_row_passes_realistic_triggers_and_is_rolled_back() {
    let database = MariaDb::start();
    database.sql("CREATE TABLE audit (hash char(32)) ENGINE=InnoDB");
    for condition in [
        "NEW.recipient = '' OR NEW.`to` = '' OR NEW.`from` = ''",
        "NEW.recipient NOT LIKE '%@ours.test'",
        "NEW.hash NOT REGEXP '^[0-9a-f]{32}$'",
        "NEW.subject = '' OR NEW.subject = CONVERT(NEW.subject USING ascii)",
        "NEW.body <> 'gzencode' OR length(NEW.mail) < 100 OR left(hex(NEW.mail), 2) <> '78'",
        "NEW.content_type = '' OR NEW.has_attach = 0 OR NEW.ip_addr = '' OR NEW.attach_info NOT LIKE '[{%'",
    ] {
        database.sql("DROP TRIGGER IF EXISTS picky");
        database.sql(&format!(
            "CREATE TRIGGER picky BEFORE INSERT ON new_mail FOR EACH ROW BEGIN
                INSERT INTO audit VALUES (NEW.hash);
                IF {condition} THEN SIGNAL SQLSTATE '45000'; END IF;
            END"
        ));
        let (status, output) =
            checked(&database, &[("GM_ALLOWED_HOSTS", "*.other.test,ours.test")]);
        assert_eq!(status, 0, "{condition}: {output}");
    }
    assert_eq!(database.count(), 0);
    assert_eq!(database.number("SELECT COUNT(*) FROM audit"), 0);
}

#[test]
fn check_inserts_no_trial_row_into_nontransactional_tables() {
    let database = MariaDb::start();
    database.sql("CREATE TABLE audit (hash char(32)) ENGINE=MyISAM");
    database.sql(
        "CREATE TRIGGER notes AFTER INSERT ON new_mail FOR EACH ROW INSERT INTO audit VALUES (NEW.hash)",
    );
    let (status, output) = checked(&database, &[]);
    let warning = "trigger `notes` writes into `audit`, which has no transactions";
    assert!(status == 0 && output.contains(warning), "{output}");
    assert_eq!(database.number("SELECT COUNT(*) FROM audit"), 0);
    // The trigger writes to MyISAM through another table.
    database.sql("DROP TRIGGER notes");
    database.sql("CREATE TABLE kept (hash char(32)) ENGINE=InnoDB");
    for (table, into) in [("new_mail", "kept"), ("kept", "audit")] {
        database.sql(&format!(
            "CREATE TRIGGER of_{table} AFTER INSERT ON {table} FOR EACH ROW INSERT INTO {into} VALUES (NEW.hash)"
        ));
    }
    let (status, output) = checked(&database, &[]);
    let warning = "trigger `of_kept` writes into `audit`, which has no transactions";
    assert!(status == 0 && output.contains(warning), "{output}");
    assert_eq!(database.number("SELECT COUNT(*) FROM audit"), 0);
    database.sql("DROP TRIGGER of_kept");
    // MySQL does not have Aria.
    for engine in ["MyISAM", of_product("Aria", "MyISAM"), "MEMORY"] {
        database.sql("DROP TABLE new_mail");
        let table = EXISTING_TABLE.replace("InnoDB", engine);
        let table = match engine {
            "MEMORY" => table
                .replace("text", "varchar(255)")
                .replace("longblob", "varbinary(5000)"),
            _ => table,
        };
        database.sql(&table);
        let (status, output) = checked(&database, &[]);
        assert!(
            status == 0 && output.contains("has no transactions"),
            "{engine}: {output}"
        );
        assert_eq!(database.count(), 0, "{engine}");
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM audit"), 0);
}

#[test]
fn check_inserts_no_trial_row_if_triggers_may_be_hidden() {
    let database = MariaDb::start();
    RIGHTS
        .split("; ")
        .for_each(|statement| database.sql(statement));
    database.sql("CREATE TABLE audit (hash char(32)) ENGINE=MyISAM");
    let trigger = "CREATE TRIGGER notes AFTER INSERT ON new_mail FOR EACH ROW INSERT INTO audit VALUES (NEW.hash)";
    database.sql(trigger);
    let settings = [("MYSQL_USER", "narrow"), ("MYSQL_PASS", "s3cr3t-of-narrow")];
    let (status, output) = checked(&database, &settings);
    let warning = "trigger `notes` is hidden from MYSQL_USER";
    assert!(status == 0 && output.contains(warning), "{output}");
    assert_eq!(database.number("SELECT COUNT(*) FROM audit"), 0);
    database.sql("DROP TRIGGER notes");
    let (status, output) = checked(&database, &settings);
    assert!(status == 0 && !output.contains("trigger"), "{output}");
    // A trigger that changes the hash makes a row impossible to look up.
    database.sql("GRANT TRIGGER ON mail.* TO narrow@'%'");
    database.sql("CREATE TRIGGER notes BEFORE INSERT ON new_mail FOR EACH ROW SET NEW.hash = REVERSE(NEW.hash)");
    let (status, output) = checked(&database, &settings);
    assert!(
        status == 0 && output.contains("is not found under the hash"),
        "{output}"
    );
    // The writes of a hidden function are visible only after the trial row was inserted.
    database.sql("DROP TRIGGER notes");
    database.sql(
        "CREATE FUNCTION note(hash char(32)) RETURNS int BEGIN INSERT INTO audit VALUES (hash); RETURN 1; END",
    );
    database
        .sql("CREATE TRIGGER notes BEFORE INSERT ON new_mail FOR EACH ROW SET @x = note(NEW.hash)");
    let (status, output) = checked(&database, &settings);
    let warning = "a trigger of `new_mail` writes into a table without transactions, where a row of this check remains";
    assert!(status == 0 && output.contains(warning), "{output}");
}

#[test]
fn check_tests_views_and_nontransactional_tables_without_a_trial_row() {
    let database = MariaDb::start();
    database.sql(
        &EXISTING_TABLE
            .replace("`new_mail`", "`isam`")
            .replace("InnoDB", "MyISAM"),
    );
    database.sql(
        &EXISTING_TABLE
            .replace("`new_mail`", "`narrow`")
            .replace("InnoDB", "MyISAM"),
    );
    database.sql(
        &EXISTING_TABLE
            .replace("`new_mail`", "`textual`")
            .replace("InnoDB", "MyISAM")
            .replace("longblob", "longtext"),
    );
    database.sql("ALTER TABLE narrow MODIFY hash char(20) NOT NULL");
    database.sql("CREATE VIEW plain AS SELECT * FROM new_mail");
    database.sql("CREATE VIEW counted AS SELECT DISTINCT * FROM new_mail");
    database.sql(&EXISTING_TABLE.replace("`new_mail`", "`wide`"));
    database.sql("ALTER TABLE wide ADD COLUMN own datetime NOT NULL");
    let columns = "mail_id, date, `from`, `to`, subject, body, charset, mail, spam_score, hash, content_type, recipient, \
                   has_attach, ip_addr, delivered, attach_info, dkim_valid";
    database.sql(&format!("CREATE VIEW hiding AS SELECT {columns} FROM wide"));
    let joined_columns: Vec<String> = columns
        .split(", ")
        .map(|column| format!("{}.{column}", if column == "mail" { "i" } else { "n" }))
        .collect();
    database.sql(&format!(
        "CREATE VIEW joined AS SELECT {} FROM new_mail n JOIN isam i ON n.hash = i.hash",
        joined_columns.join(", ")
    ));
    let rights = RIGHTS.replace("narrow@", "entire@");
    rights
        .split("; ")
        .for_each(|statement| database.sql(statement));
    database.sql("GRANT SHOW VIEW ON mail.* TO entire@'%'");
    database.sql("CREATE USER reader@'%' IDENTIFIED BY 's3cr3t-of-narrow'");
    database.sql("GRANT SELECT, UPDATE ON mail.* TO reader@'%'");
    database.sql("CREATE USER half@'%' IDENTIFIED BY 's3cr3t-of-narrow'");
    for table in ["isam", "plain", "new_mail"] {
        database.sql(&format!(
            "GRANT SELECT, UPDATE, INSERT (hash, mail) ON mail.{table} TO half@'%'"
        ));
    }
    database.sql("CREATE ROLE mailers");
    database.sql("GRANT SELECT, INSERT, UPDATE ON mail.* TO mailers");
    database.sql("CREATE USER role@'%' IDENTIFIED BY 's3cr3t-of-narrow'");
    database.sql("GRANT mailers TO role@'%'");
    database.sql(if is_mysql() {
        "SET DEFAULT ROLE mailers TO role@'%'"
    } else {
        "SET DEFAULT ROLE mailers FOR role@'%'"
    });
    for (user, table, error) in [
        ("entire", "plain", ""),
        ("entire", "isam", ""),
        ("role", "plain", ""),
        ("role", "isam", ""),
        ("role", "new_mail", ""),
        ("reader", "plain", "ERROR 1142 "),
        ("reader", "isam", "ERROR 1142 "),
        ("reader", "new_mail", "ERROR 1142 "),
        ("half", "plain", "ERROR 1143 "),
        ("half", "isam", "ERROR 1143 "),
        ("half", "new_mail", "ERROR 1143 "),
        (
            "entire",
            "textual",
            "column `mail` of `textual` is longtext",
        ),
        ("entire", "joined", "ERROR 139"),
        ("entire", "counted", "ERROR 1471 "),
        (
            "entire",
            "hiding",
            "column `own` of `mail`.`wide` is NOT NULL",
        ),
        (
            "entire",
            "narrow",
            "column `hash` of `narrow` holds 20 characters",
        ),
    ] {
        let settings = [
            ("GM_MAIL_TABLE", table),
            ("MYSQL_USER", user),
            ("MYSQL_PASS", "s3cr3t-of-narrow"),
        ];
        let (status, output) = checked(&database, &settings);
        match error {
            "" => assert_eq!(status, 0, "{user} {table}: {output}"),
            error => {
                assert_eq!(status, 1, "{user} {table}: {output}");
                assert!(
                    only_error(&output).contains(error),
                    "{user} {table}: {output}"
                );
            }
        }
        assert!(!output.contains("s3cr3t"), "{output}");
    }
    for table in ["new_mail", "isam", "narrow", "wide"] {
        assert_eq!(
            database.number(&format!("SELECT COUNT(*) FROM {table}")),
            0,
            "{table}"
        );
    }
    // A read-only server accepts no row from an account without special privileges.
    database.sql("SET GLOBAL read_only = 1");
    let settings = [
        ("GM_MAIL_TABLE", "isam"),
        ("MYSQL_USER", "entire"),
        ("MYSQL_PASS", "s3cr3t-of-narrow"),
    ];
    let (status, output) = checked(&database, &settings);
    assert!(
        status == 1 && only_error(&output).contains("read-only"),
        "{output}"
    );
}

#[test]
fn check_reports_mysql_login_errors_with_their_fix() {
    let database = MariaDb::start();
    for statement in [
        "CREATE USER locked@'%' IDENTIFIED BY 's3cr3t-x' ACCOUNT LOCK",
        "CREATE USER tls@'%' IDENTIFIED BY 's3cr3t-x' REQUIRE SSL",
        "CREATE USER poor@'%' IDENTIFIED BY 's3cr3t-x'",
        "CREATE USER few@'%' IDENTIFIED BY 's3cr3t-x' WITH MAX_QUERIES_PER_HOUR 1",
    ] {
        database.sql(statement);
    }
    database.sql("GRANT ALL ON mail.* TO few@'%'");
    for (settings, key, error, fix) in [
        (
            &[("MYSQL_PASS", "s3cr3t-wrong")][..],
            "MYSQL_USER",
            "ERROR 1045 ",
            "MYSQL_PASS",
        ),
        (
            &[("MYSQL_USER", "nobody")],
            "MYSQL_USER",
            // MySQL asks for any of its plugins if there is no such account.
            of_product("ERROR 1045 ", ""),
            of_product("correct MYSQL_USER", "correct"),
        ),
        (
            &[("MYSQL_USER", "tls"), ("MYSQL_PASS", "s3cr3t-x")],
            "MYSQL_USER",
            "ERROR 1045 ",
            "requires TLS",
        ),
        (
            &[("MYSQL_USER", "locked"), ("MYSQL_PASS", "s3cr3t-x")],
            "MYSQL_USER",
            of_product("ERROR 4151 ", "ERROR 3118 "),
            "ACCOUNT UNLOCK",
        ),
        (
            &[("MYSQL_DB", "nowhere")],
            "MYSQL_DB",
            "ERROR 104",
            "MYSQL_DB",
        ),
        (
            &[("MYSQL_USER", "poor"), ("MYSQL_PASS", "s3cr3t-x")],
            "MYSQL_DB",
            "ERROR 1044 ",
            "grant INSERT",
        ),
        (
            &[("MYSQL_USER", "few"), ("MYSQL_PASS", "s3cr3t-x")],
            "MYSQL_USER",
            "ERROR 1226 ",
            "limit of the account",
        ),
        (
            &[("MYSQL_HOST", "127.0.0.1:1")],
            "MYSQL_HOST",
            "Connection refused",
            "start the database",
        ),
        (
            &[("MYSQL_HOST", "/nowhere/mysqld.sock")],
            "MYSQL_HOST",
            "No such file",
            "path of its socket",
        ),
    ] {
        let (status, output) = checked(&database, settings);
        let line = only_error(&output);
        assert_eq!(
            (status, output.lines().count()),
            (1, 1),
            "{settings:?}: {output}"
        );
        assert!(
            line.starts_with(&format!("error: {key}: ")),
            "{settings:?}: {output}"
        );
        assert!(
            line.contains(error) && line.contains(fix),
            "{settings:?}: {output}"
        );
        assert!(!output.contains("s3cr3t"), "{output}");
    }
    // Without MYSQL_DB a table name without a database has no meaning.
    let (status, output) = checked(&database, &[("MYSQL_DB", "")]);
    assert_eq!(status, 1, "{output}");
}

#[test]
fn check_names_the_protocol_of_a_server_that_is_not_mysql() {
    let database = MariaDb::start();
    let redis = Redis::start();
    let ssh = FakeRedis::start(FakeBehavior::Greets(
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"",
    ));
    let http = FakeRedis::start(FakeBehavior::RepliesAndCloses(
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ));
    let smtp = FakeRedis::start(FakeBehavior::Greets(
        b"220 mx.test ESMTP\r\n",
        b"500 5.5.2 What?\r\n",
    ));
    for (place, peer) in [
        (ssh.address(), "SSH"),
        (http.address(), "HTTP"),
        (smtp.address(), "SMTP or FTP"),
        (redis.address(), "Redis"),
    ] {
        let (status, output) = checked(&database, &[("MYSQL_HOST", &place)]);
        let want = format!(
            "error: MYSQL_HOST: the database at {place} cannot be reached: it answers like {peer}; MYSQL_HOST must be the \
             address of a MySQL or MariaDB server, such as 127.0.0.1:3306\n"
        );
        assert_eq!((status, output), (1, want));
    }
    // A finding is one line whatever the answer contains. The packet: length, number, error, code 1130.
    let hostile = FakeRedis::start(FakeBehavior::Greets(
        b"\x1a\0\0\0\xff\x6a\x04no\r\nerror: another\x1b[2J!",
        b"",
    ));
    let (status, output) = checked(&database, &[("MYSQL_HOST", &hostile.address())]);
    assert_eq!((status, output.lines().count()), (1, 1), "{output:?}");
    assert!(
        output.contains("no\\r\\nerror: another\\u{1b}[2J"),
        "{output:?}"
    );
    assert!(output.contains("CREATE USER"), "{output}");
    // MySQL 9 answers so to an unknown user: its greeting, then a plugin that the driver does not have.
    let unknown = FakeRedis::start(FakeBehavior::Greets(GREETING_OF_MYSQL_9, ASKS_FOR_SHA256));
    let (status, output) = checked(&database, &[("MYSQL_HOST", &unknown.address())]);
    assert_eq!((status, output.lines().count()), (1, 1), "{output:?}");
    let both = [
        "error: MYSQL_USER: ",
        "sha256_password",
        "does not exist",
        "IDENTIFIED WITH caching_sha2_password",
    ];
    assert!(both.iter().all(|part| output.contains(part)), "{output}");
}

#[test]
fn unsynced_binary_log_causes_a_warning() {
    let database = MariaDb::start_with(&["--log-bin=log", "--sync-binlog=0"]);
    database.sql(EXISTING_TABLE);
    let server = database.server(&[]);
    let fix = "sync_binlog is 0 and the server recovers its commits from the binary log, so acknowledged mail is lost \
                when the database's machine loses power; run: SET GLOBAL sync_binlog = 1, and set it in the server's \
                configuration file";
    server.wait_for_log("sync_binlog");
    let (is_ok, output) = server.check();
    assert!(
        is_ok && output.contains(&format!("warning: MYSQL_HOST: {fix}\n")),
        "{output}"
    );
    for (setting, is_warned) in [
        ("sync_binlog = 100", true),
        ("sync_binlog = 1", false),
        // MySQL has no value 3, and recovers its commits from the binary log with each of its values.
        (
            of_product(
                "sync_binlog = 0, GLOBAL innodb_flush_log_at_trx_commit = 3",
                "sync_binlog = 0",
            ),
            is_mysql(),
        ),
        ("innodb_flush_log_at_trx_commit = 2", true),
    ] {
        database.sql(&format!("SET GLOBAL {setting}"));
        let (_, output) = server.check();
        assert_eq!(
            output.contains("sync_binlog"),
            is_warned,
            "{setting}: {output}"
        );
    }
    // Without a binary log sync_binlog has no effect.
    let database = MariaDb::start();
    database.sql("SET GLOBAL sync_binlog = 0");
    let (status, output) = checked(&database, &[]);
    assert!(status == 0 && !output.contains("sync_binlog"), "{output}");
}

#[test]
fn check_reports_a_read_only_host_only_if_no_host_is_writable() {
    let primary = MariaDb::start();
    let secondary = MariaDb::start();
    secondary.sql("SET GLOBAL read_only = 1");
    for hosts in [
        format!("{},{}", primary.address(), secondary.address()),
        format!("{},{}", secondary.address(), primary.address()),
    ] {
        let (status, output) = checked(&primary, &[("MYSQL_HOST", &hosts)]);
        assert!(status == 0 && !output.contains("MYSQL_HOST"), "{output}");
    }
    let hosts = format!("{},{},127.0.0.1:1", primary.address(), secondary.address());
    let (status, output) = checked(&primary, &[("MYSQL_HOST", &hosts)]);
    let host_lines: Vec<&str> = output
        .lines()
        .filter(|line| line.contains("MYSQL_HOST"))
        .collect();
    assert_eq!((status, host_lines.len()), (0, 1), "{output}");
    assert!(
        host_lines[0].starts_with("warning: MYSQL_HOST: node 127.0.0.1:1 cannot be reached: "),
        "{output}"
    );
    primary.sql("SET GLOBAL read_only = 1");
    let (status, output) = checked(&primary, &[("MYSQL_HOST", &hosts)]);
    assert_eq!((status, output.lines().count()), (1, 3), "{output}");
    assert!(
        output
            .lines()
            .all(|line| line.starts_with("error: MYSQL_HOST: node ")),
        "{output}"
    );
    assert!(
        output.contains("is read-only, and no other node is healthy"),
        "{output}"
    );
}

/// Returns the status and all lines of `check`, run with this database and these additional keys.
fn checked(database: &MariaDb, settings: &[(&str, &str)]) -> (i32, String) {
    let folder = TempDir::new().expect("a temporary folder");
    let address = database.address().to_string();
    let mut all = with_hosts(&address, &[]);
    all.retain(|(key, _)| !settings.iter().any(|(own, _)| own == key));
    all.extend_from_slice(settings);
    write_config(folder.path(), &all);
    let file = folder.path().join("goguerrilla.conf");
    fs::set_permissions(file, Permissions::from_mode(0o640)).expect("permissions are set");
    let ended = run(folder.path(), &["check", "-config=goguerrilla.conf"]);
    assert_eq!(ended.stderr, "");
    assert!(!ended.stdout.contains(PASSWORD), "{}", ended.stdout);
    (ended.status, ended.stdout)
}

fn only_error(output: &str) -> &str {
    let errors: Vec<&str> = output
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{output}");
    errors[0]
}

fn insert_one(database: &MariaDb) {
    let columns = "`from`, `to`, subject, body, charset, mail, spam_score, hash, content_type, recipient, has_attach, ip_addr, \
                   attach_info, date";
    database.sql(&format!(
        "INSERT INTO new_mail ({columns}) VALUES ('', '', '', '', '', '', 0, '', '', '', 0, '', '', NOW())"
    ));
}

const GREETING_OF_MYSQL_9: &[u8] = b"\x49\0\0\0\x0a9.7.0\0\x08\0\0\0\x3a\x23\x3d\x4b\x43\x4a\x2e\x43\0\xff\xff\xff\x02\0\xff\xdf\
    \x15\0\0\0\0\0\0\0\0\0\0\x32\x5b\x2a\x1f\x3f\x5e\x6c\x6b\x2a\x1d\x4c\x3b\0caching_sha2_password\0";
const ASKS_FOR_SHA256: &[u8] =
    b"\x26\0\0\x02\xfesha256_password\0\x32\x5b\x2a\x1f\x3f\x5e\x6c\x6b\x2a\x1d\x4c\x3b\x32\x5b\x2a\x1f\x3f\x5e\x6c\x6b\0";
