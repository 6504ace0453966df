//! The same requirements for every store: an acknowledged mail is in the table, each column as documented, and its
//! content comes back octet for octet.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Stdio;

use testkit::mariadb::{EXISTING_TABLE, MariaDb};
use testkit::redis::Redis;
use testkit::{Client, Reply, Server, run_in, test, value, without_trace};

/// A row as values by column name; `None` is NULL.
type Row = BTreeMap<&'static str, Option<Vec<u8>>>;

/// A server and the store that it saves into.
struct StoreUnderTest {
    name: &'static str,
    server: Server,
    redis: Option<Redis>,
    database: Option<MariaDb>,
}

impl StoreUnderTest {
    /// Returns SQLite; default MariaDB with the table of existing installations and with the printed one; and the table of existing installations with
    /// Redis.
    fn each() -> Vec<StoreUnderTest> {
        vec![
            StoreUnderTest::sqlite(&[]),
            StoreUnderTest::mysql("mysql", MariaDb::start(), None, &[]),
            StoreUnderTest::mysql(
                "mysql, printed table",
                mariadb_with_printed_schema(),
                None,
                &[],
            ),
            StoreUnderTest::mysql(
                "mysql and redis",
                MariaDb::start(),
                Some(Redis::start()),
                &[],
            ),
        ]
    }

    fn sqlite(settings: &[(&str, &str)]) -> StoreUnderTest {
        StoreUnderTest {
            name: "sqlite",
            server: Server::start(settings),
            redis: None,
            database: None,
        }
    }

    fn mysql(
        name: &'static str,
        database: MariaDb,
        redis: Option<Redis>,
        settings: &[(&str, &str)],
    ) -> StoreUnderTest {
        let interface = redis.as_ref().map(Redis::address).unwrap_or_default();
        let mut all = vec![("REDIS_INTERFACE", interface.as_str())];
        all.extend_from_slice(settings);
        let server = database.server(&all);
        StoreUnderTest {
            name,
            server,
            redis,
            database: Some(database),
        }
    }

    /// Returns the width of the address columns; the tables with 128 are those of older versions.
    fn address_chars(&self) -> usize {
        match self.name {
            "mysql" | "mysql and redis" => 128,
            _ => 320,
        }
    }

    /// Returns every row, oldest first.
    fn rows(&self) -> Vec<Row> {
        let values: Vec<Vec<Option<Vec<u8>>>> = match &self.database {
            Some(database) => {
                let columns: String = COLUMNS.map(|name| format!("`{name}`")).join(",");
                let columns = columns.replace("`delivered`", "`delivered` + 0");
                let rows: Vec<mysql::Row> =
                    database.rows(&format!("SELECT {columns} FROM new_mail ORDER BY mail_id"));
                let octets = |value| match value {
                    mysql::Value::Bytes(octets) => Some(octets),
                    mysql::Value::NULL => None,
                    other => panic!("unexpected in the text protocol: {other:?}"),
                };
                rows.into_iter()
                    .map(|row| row.unwrap().into_iter().map(octets).collect())
                    .collect()
            }
            None => {
                let columns = COLUMNS.map(|name| match name {
                    "mail" => "`mail`".to_owned(),
                    "spam_score" => "CAST(CAST(`spam_score` AS INTEGER) AS TEXT)".to_owned(),
                    name => format!("CAST(`{name}` AS TEXT)"),
                });
                let file = rusqlite::Connection::open(self.server.path("goguerrilla.db"))
                    .expect("a database");
                let sql = format!(
                    "SELECT {} FROM new_mail ORDER BY mail_id",
                    columns.join(",")
                );
                let mut select = file.prepare(&sql).expect("a table");
                let rows = select.query_map([], |row| {
                    (0..COLUMNS.len())
                        .map(|index| {
                            Ok(match row.get_ref(index)? {
                                rusqlite::types::ValueRef::Null => None,
                                other => Some(other.as_bytes().expect("octets").to_vec()),
                            })
                        })
                        .collect()
                });
                rows.expect("rows").map(|row| row.expect("a row")).collect()
            }
        };
        values
            .into_iter()
            .map(|values| COLUMNS.into_iter().zip(values).collect())
            .collect()
    }

    /// Returns the zlib stream of a row from the table or from Redis.
    fn stream(&self, row: &Row) -> Vec<u8> {
        match text(row, "body").as_str() {
            "redis" => {
                assert_eq!(
                    octets(row, "mail"),
                    b"",
                    "the body is in Redis and in the table"
                );
                let redis = self.redis.as_ref().expect("a Redis");
                redis.command(&["GET", &text(row, "hash")])
            }
            "gzencode" => octets(row, "mail").to_vec(),
            other => panic!("column `body` contains {other}"),
        }
    }
}

const COLUMNS: [&str; 16] = [
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
    "dkim_valid",
];

fn octets<'a>(row: &'a Row, column: &str) -> &'a [u8] {
    row[column].as_deref().expect("not NULL")
}

fn text(row: &Row, column: &str) -> String {
    String::from_utf8(octets(row, column).to_vec()).expect("UTF-8")
}

fn mariadb_with_printed_schema() -> MariaDb {
    let database = MariaDb::start_with(&[]);
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    testkit::write_config(folder.path(), &[("GM_STORE", "mysql")]);
    let schema = run_in(folder.path(), &["schema"]).expect("schema succeeds");
    database.sql(&String::from_utf8(schema).expect("UTF-8"));
    database
}

/// Inflates with Python's zlib, to be independent of the server's code.
fn inflate(stream: &[u8]) -> Vec<u8> {
    let mut python = testkit::command("python3")
        .args([
            "-c",
            "import sys, zlib; sys.stdout.buffer.write(zlib.decompress(sys.stdin.buffer.read()))",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed: tests/install-tools");
    // Python reads all input before it writes, so the pipes cannot deadlock.
    python
        .stdin
        .take()
        .expect("a pipe")
        .write_all(stream)
        .expect("Python reads");
    let output = python.wait_with_output().expect("Python ends");
    assert!(output.status.success(), "not a zlib stream");
    output.stdout
}

/// Returns the hash of a reply to the final dot.
fn hash_of(reply: &Reply) -> String {
    let text = reply.text();
    let hash = text.strip_prefix("250 2.0.0 OK : queued as ");
    hash.unwrap_or_else(|| panic!("not saved: {text}"))
        .to_owned()
}

/// Delivers one mail to several recipients.
fn deliver_to_all(client: &mut Client, from: &str, to: &[&str], content: &[u8]) -> Reply {
    client.command("EHLO client.test", "250");
    client.command(&format!("MAIL FROM:<{from}> BODY=8BITMIME"), "250 2.1.0");
    for to in to {
        client.command(&format!("RCPT TO:<{to}>"), "250 2.1.5");
    }
    client.command("DATA", "354 ");
    client.send(testkit::stuffed(content));
    client.read_reply().expect("a reply to the final dot")
}

const ODD_CONTENT: &[u8] = b"From: a@client.test\r\n\
    Subject: =?UTF-8?Q?Gr=C3=BC=C3=9Fe?=\r\n =?UTF-8?Q?_aus?= Kiel\r\n\
    Content-Type: multipart/mixed; boundary=b\r\n\r\n\
    --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\n\r\n\
    .\r.\n.\0\xff\xfe \r \n\r\n..two dots\r\n\
    --b\r\nContent-Type: Image/PNG; name=\"a b.png\"\r\nContent-Disposition: attachment\r\n\r\n\
    12345\r\n--b--\r\n";

#[test]
fn every_store_writes_the_documented_value_to_each_column() {
    for place in StoreUnderTest::each() {
        let name = place.name;
        let mut client = place.server.client();
        let to = [
            "One@ours.test",
            "two@ours.test",
            "One@ours.test",
            "postmaster",
        ];
        let reply = deliver_to_all(&mut client, "sender@client.test", &to, ODD_CONTENT);
        let rows = place.rows();
        assert_eq!(rows.len(), 3, "{name}: one row for each distinct recipient");
        assert_eq!(text(&rows[0], "hash"), hash_of(&reply), "{name}");
        let hashes: BTreeSet<String> = rows.iter().map(|row| text(row, "hash")).collect();
        assert_eq!(hashes.len(), 3, "{name}: each row has its own hash");

        for (row, recipient) in rows
            .iter()
            .zip(["One@ours.test", "two@ours.test", "postmaster"])
        {
            let hash = text(row, "hash");
            let is_hex = |octet: u8| octet.is_ascii_digit() || (b'a'..=b'f').contains(&octet);
            assert!(hash.len() == 32 && hash.bytes().all(is_hex), "{hash}");
            let local_part = recipient.split('@').next().expect("a local-part");
            let to = format!("{local_part}@primary.test");
            for (column, want) in [
                ("from", "sender@client.test"),
                ("to", &to),
                ("recipient", recipient),
                ("subject", "Grüße aus Kiel"),
                (
                    "body",
                    if name == "mysql and redis" {
                        "redis"
                    } else {
                        "gzencode"
                    },
                ),
                ("charset", "iso-8859-1"),
                ("spam_score", "0"),
                ("content_type", "multipart/mixed"),
                ("has_attach", "1"),
                ("ip_addr", "127.0.0.1"),
                ("delivered", "0"),
            ] {
                assert_eq!(text(row, column), want, "{name}: column {column}");
            }
            assert_eq!(row["dkim_valid"], None, "{name}");
            let date = text(row, "date");
            let date: jiff::civil::DateTime = date.parse().expect("a date");
            let age = jiff::Timestamp::now()
                .to_zoned(jiff::tz::TimeZone::UTC)
                .datetime()
                .duration_since(date);
            // MariaDB's NOW() is in its own time zone, which differs by hours.
            assert!(age.abs().as_hours() < 15, "{name}: {date}");
            let info: serde_json::Value =
                serde_json::from_str(&text(row, "attach_info")).expect("JSON");
            assert_eq!(
                info,
                serde_json::json!([{"name": "a b.png", "type": "image/png", "size": 5}]),
                "{name}"
            );

            let mail = inflate(&place.stream(row));
            assert_eq!(mail, place.server.show(&hash), "{name}: show");
            assert_eq!(without_trace(&mail), ODD_CONTENT, "{name}: octet for octet");
            let trace = format!(
                "Return-Path: <sender@client.test>\r\nDelivered-To: {to}\r\n\
                 Received: from client.test (client.test [127.0.0.1])\r\n\
                 \tby mx.test with ESMTP id {hash}@mx.test;\r\n\t"
            );
            assert!(mail.starts_with(trace.as_bytes()), "{name}: trace fields");
        }
        // `list` shows the same mails.
        let listed = place.server.list();
        let octets = place.server.show(&hash_of(&reply)).len();
        assert_eq!(listed.len(), 3, "{name}");
        assert_eq!(listed[2]["hash"], hash_of(&reply), "{name}: newest first");
        assert_eq!(listed[2]["subject"], "Grüße aus Kiel", "{name}");
        assert_eq!(listed[2]["size"], octets, "{name}");
        // `list --to` matches columns `to` and `recipient`, ignoring case.
        for to in ["ONE@primary.test", "one@OURS.test"] {
            let arguments = ["list", "-config=goguerrilla.conf", "--json", "--to", to];
            let found = place.server.command(&arguments).expect("list succeeds");
            let found: Vec<serde_json::Value> = serde_json::from_slice(&found).expect("JSON");
            assert_eq!(found.len(), 1, "{name}: {to}");
            assert_eq!(found[0]["hash"], hash_of(&reply), "{name}: {to}");
        }
    }
}

#[test]
fn second_mail_of_a_session_contains_no_data_of_the_first_in_any_store() {
    for place in StoreUnderTest::each() {
        let name = place.name;
        let mut client = place.server.client();
        client.deliver("a@client.test", "u@ours.test", ODD_CONTENT);
        client.command("MAIL FROM:<>", "250 2.1.0");
        client.command("RCPT TO:<v@ours.test>", "250 2.1.5");
        client.command("DATA", "354 ");
        client.send(".\r\n");
        hash_of(&client.expect("250 2.0.0"));
        let rows = place.rows();
        assert_eq!(rows.len(), 2, "{name}");
        for (column, want) in [
            ("from", ""),
            ("to", "v@primary.test"),
            ("subject", ""),
            ("charset", "UTF-8"),
            ("content_type", "text/plain"),
            ("recipient", "v@ours.test"),
            ("has_attach", "0"),
            ("attach_info", ""),
        ] {
            assert_eq!(text(&rows[1], column), want, "{name}: column {column}");
        }
        assert_eq!(without_trace(&inflate(&place.stream(&rows[1]))), b"");
    }
}

#[test]
fn body_in_redis_expires_after_the_configured_time() {
    let mut place = StoreUnderTest::mysql(
        "mysql and redis",
        MariaDb::start(),
        Some(Redis::start()),
        &[("REDIS_EXPIRE_SECONDS", "77")],
    );
    let hash = hash_of(&place.server.client().deliver(
        "a@client.test",
        "u@ours.test",
        b"Subject: x\r\n\r\n",
    ));
    let redis = place.redis.as_ref().expect("a Redis");
    let seconds: i64 = redis.command(&["TTL", &hash]);
    assert!((60..=77).contains(&seconds), "{seconds}");
    assert_eq!(redis.bodies(), [hash.as_str()]);

    // After the body expired, `show` fails with that reason and `list` still has the row.
    let _: i64 = redis.command(&["DEL", &hash]);
    let shown = place
        .server
        .command(&["show", &hash, "-config=goguerrilla.conf"]);
    assert!(
        shown.as_ref().is_err_and(|told| told.contains("expired")),
        "{shown:?}"
    );
    assert_eq!(place.server.list().len(), 1);
    assert!(place.server.stop().success());
}

#[test]
fn additional_table_columns_keep_their_defaults() {
    let database = MariaDb::start();
    database.sql("ALTER TABLE new_mail ADD COLUMN folder int DEFAULT NULL FIRST");
    database.sql("ALTER TABLE new_mail ADD COLUMN seen tinyint NOT NULL DEFAULT 7 AFTER `to`");
    database.sql("ALTER TABLE new_mail ADD COLUMN at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP");
    database.sql("ALTER TABLE new_mail ADD COLUMN half int AS (`seen` / 2) VIRTUAL");
    let place = StoreUnderTest::mysql("more columns", database, None, &[]);
    let reply = place
        .server
        .client()
        .deliver("a@b.test", "u@ours.test", ODD_CONTENT);
    let database = place.database.as_ref().expect("a database");
    let own: Vec<(Option<u64>, u64)> = database.rows("SELECT folder, seen FROM new_mail");
    assert_eq!(own, [(None, 7)]);
    assert_eq!(
        without_trace(&place.server.show(&hash_of(&reply))),
        ODD_CONTENT
    );
    let checked = place
        .server
        .command(&["check", "-config=goguerrilla.conf"])
        .expect("check succeeds");
    let checked = String::from_utf8(checked).expect("UTF-8");
    assert!(!checked.contains("error"), "{checked}");
}

/// Raw subjects, and what a Unicode column stores for them.
const HARD_SUBJECTS: [(&[u8], &str); 6] = [
    (b"plain", "plain"),
    ("emoji 😀 漢字".as_bytes(), "emoji 😀 漢字"),
    (b"=?UTF-8?B?8J+YgOa8ouWtlw==?= word", "😀漢字 word"),
    (b"raw 8-bit \xe4\xf6\xfc", "raw 8-bit äöü"),
    ("Zürich €".as_bytes(), "Zürich €"),
    (b"=?ISO-2022-JP?B?GyRCNEE7ehsoQg==?=", "漢字"),
];

#[test]
fn subject_outside_the_column_charset_fails_neither_its_mail_nor_the_batch() {
    let as_utf8mb3 = |text: &str| text.replace('😀', "\u{fffd}");
    let as_latin1 = |text: &str| text.replace(['😀', '漢', '字'], "?");
    type Fit<'a> = &'a dyn Fn(&str) -> String;
    let schemas: [(&str, &[&str], Fit); 4] = [
        ("utf8", &[], &as_utf8mb3),
        ("latin1", &[], &as_latin1),
        ("utf8mb4", &[], &str::to_owned),
        ("utf8, not strict", &["--sql-mode="], &as_utf8mb3),
    ];
    for (name, options, fit) in schemas {
        let charset = name.split(',').next().expect("a name");
        let database = MariaDb::start_with(options);
        database.sql(&EXISTING_TABLE.replace("CHARSET=utf8", &format!("CHARSET={charset}")));
        let place = StoreUnderTest::mysql("schema", database, None, &[("GM_SAVE_WORKERS", "1")]);

        let content = |subject: &[u8]| {
            let head = b"Content-Type: text/plain; charset=iso-8859-1\r\nSubject: ";
            [&head[..], subject, b"\r\n\r\n\xf0\x9f\x98\x80 body\r\n"].concat()
        };
        let mut long = "漢".repeat(254).into_bytes();
        long.extend_from_slice("😀😀".as_bytes());
        let mut subjects: Vec<&[u8]> = HARD_SUBJECTS.iter().map(|(subject, _)| *subject).collect();
        subjects.push(&long);
        // A table lock makes the mails queue, so that they share a batch after the unlock.
        let mut holder = place.database.as_ref().expect("a database").connection();
        mysql::prelude::Queryable::query_drop(&mut holder, "LOCK TABLES new_mail WRITE")
            .expect("a lock");
        let mut clients: Vec<Client> = subjects
            .iter()
            .map(|subject| {
                let mut client = place.server.client();
                client.command("EHLO client.test", "250");
                client.command("MAIL FROM:<a@b.test>", "250 2.1.0");
                client.command("RCPT TO:<u@ours.test>", "250 2.1.5");
                client.command("DATA", "354 ");
                client.send(testkit::stuffed(&content(subject)));
                client
            })
            .collect();
        mysql::prelude::Queryable::query_drop(&mut holder, "UNLOCK TABLES").expect("unlocked");
        let hashes: Vec<String> = clients
            .iter_mut()
            .map(|client| hash_of(&client.expect("250 2.0.0")))
            .collect();

        let rows = place.rows();
        assert_eq!(rows.len(), subjects.len(), "{name}");
        for (index, hash) in hashes.iter().enumerate() {
            let row = rows
                .iter()
                .find(|row| text(row, "hash") == *hash)
                .expect("a row");
            let stored = text(row, "subject");
            match HARD_SUBJECTS.get(index) {
                Some((_, want)) => assert_eq!(stored, fit(want), "{name}"),
                None => {
                    let want: String = fit(&("漢".repeat(254) + "😀"));
                    assert_eq!(stored, want, "{name}: truncated between characters");
                }
            }
            assert_eq!(
                without_trace(&inflate(&place.stream(row))),
                content(subjects[index]),
                "{name}: the content was changed"
            );
        }
    }
}

/// Returns an address of `length` characters with a local-part of 64; longer only if the domain would exceed 255.
fn address_of(length: usize) -> String {
    let domain = (length - 65).min(255);
    let mut name = "d".repeat(domain - ".ours.test".len());
    for at in (25..name.len()).step_by(50) {
        name.replace_range(at..at + 1, ".");
    }
    format!("{}@{name}.ours.test", "l".repeat(length - 1 - domain))
}

#[test]
fn recipient_longer_than_its_column_is_rejected_not_truncated() {
    for place in StoreUnderTest::each() {
        let (name, width) = (place.name, place.address_chars());
        let mut client = place.server.client();
        let widest = address_of(width);
        hash_of(&client.deliver("a@b.test", &widest, b"\r\n"));
        assert_eq!(text(&place.rows()[0], "recipient"), widest, "{name}");
        let mut client = place.server.client();
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<a@b.test>", "250 2.1.0");
        let too_long = format!("RCPT TO:<{}>", address_of(width + 1));
        client.command(&too_long, "553 5.1.3");
        client.command("DATA", "503 5.5.1");
        assert_eq!(place.rows().len(), 1, "{name}");
    }
}

#[test]
fn reverse_path_longer_than_its_column_is_truncated() {
    for place in StoreUnderTest::each() {
        // The longest path of RFC 5321 has 256 octets with its brackets.
        let sender = address_of(254);
        hash_of(
            &place
                .server
                .client()
                .deliver(&sender, "u@ours.test", b"\r\n"),
        );
        let row = &place.rows()[0];
        let width = place.address_chars().min(sender.len());
        assert_eq!(text(row, "from"), sender[..width], "{}", place.name);
        let mail = inflate(&place.stream(row));
        let whole = format!("Return-Path: <{sender}>\r\n");
        assert!(mail.starts_with(whole.as_bytes()), "{}", place.name);
    }
}

#[test]
fn recipient_outside_the_column_charset_is_rejected() {
    for (place, want) in [
        (
            StoreUnderTest::mysql("latin1", MariaDb::start(), None, &[]),
            "553 5.1.3",
        ),
        (
            StoreUnderTest::mysql("utf8mb4", mariadb_with_printed_schema(), None, &[]),
            "250 2.1.5",
        ),
        (StoreUnderTest::sqlite(&[]), "250 2.1.5"),
    ] {
        // After the first mail the server knows the table's columns.
        hash_of(
            &place
                .server
                .client()
                .deliver("a@b.test", "u@ours.test", b"\r\n"),
        );
        let mut client = place.server.client();
        client.command("EHLO client.test", "250");
        client.command("MAIL FROM:<a@b.test> SMTPUTF8", "250 2.1.0");
        client.command("RCPT TO:<用户@ours.test>", want);
        client.command("RCPT TO:<müller@ours.test>", "250 2.1.5");
        client.command("DATA", "354 ");
        client.send(".\r\n");
        hash_of(&client.expect("250 2.0.0"));
        let rows = place.rows();
        let last = rows.last().expect("a row");
        assert_eq!(
            text(last, "recipient"),
            "müller@ours.test",
            "{}",
            place.name
        );
        assert_eq!(text(last, "to"), "müller@primary.test", "{}", place.name);
    }
}

#[test]
fn ipv6_client_address_is_stored_if_it_fits_and_always_in_received() {
    let listener = [("GSTMP_LISTEN_INTERFACE", "[::1]:0")];
    for (place, want) in [
        (StoreUnderTest::sqlite(&listener), "::1"),
        (
            StoreUnderTest::mysql("printed", mariadb_with_printed_schema(), None, &listener),
            "::1",
        ),
        // ::1 fits into 15 characters.
        (
            StoreUnderTest::mysql("field", MariaDb::start(), None, &listener),
            "::1",
        ),
        (
            StoreUnderTest::mysql("narrow", mariadb_with_narrow_ip_addr(), None, &listener),
            "",
        ),
    ] {
        let reply = place
            .server
            .client()
            .deliver("a@b.test", "u@ours.test", b"\r\n");
        let rows = place.rows();
        assert_eq!(text(&rows[0], "ip_addr"), want, "{}", place.name);
        let mail = place.server.show(&hash_of(&reply));
        let received = b"Received: from client.test (client.test [IPv6:::1])\r\n";
        assert!(
            mail.windows(received.len())
                .any(|window| window == received),
            "{}",
            String::from_utf8_lossy(&mail)
        );
        let log = place.server.wait_for_log(" saved ");
        let warning = log
            .lines()
            .filter(|line| line.contains(" store_check "))
            .find_map(|line| value(line, "finding").filter(|text| text.contains("ip_addr")));
        match place.name {
            "field" | "narrow" => assert!(
                warning
                    .as_ref()
                    .is_some_and(|text| text.contains("ALTER TABLE `new_mail` MODIFY `ip_addr`")),
                "{warning:?} in {log}"
            ),
            _ => assert_eq!(warning, None),
        }
    }
}

/// Returns a MariaDB whose column ip_addr is too narrow even for ::1, so that a loopback client shows what happens to a
/// long IPv6 address.
fn mariadb_with_narrow_ip_addr() -> MariaDb {
    let database = MariaDb::start_with(&[]);
    database.sql(&EXISTING_TABLE.replace("varchar(15)", "varchar(2)"));
    database
}

#[test]
fn text_columns_are_truncated_to_the_actual_column_widths() {
    let database = MariaDb::start();
    database.sql(
        "ALTER TABLE new_mail MODIFY subject varchar(5) NOT NULL, MODIFY attach_info varchar(60) NOT NULL",
    );
    let place = StoreUnderTest::mysql("narrow", database, None, &[]);
    let long = "x".repeat(300);
    let mut content = format!(
        "Subject: 漢字漢字漢字\r\nContent-Type: multipart/{long}; boundary=b; charset={long}\r\n\r\n"
    );
    for name in ["first.txt", "second-that-no-longer-fits.txt"] {
        content.push_str(&format!(
            "--b\r\nContent-Type: text/plain; charset={long}\r\n\
             Content-Disposition: attachment; filename={name}\r\n\r\nabc\r\n"
        ));
    }
    content.push_str("--b--\r\n");
    let reply = place
        .server
        .client()
        .deliver("a@b.test", "u@ours.test", content.as_bytes());
    let row = &place.rows()[0];
    assert_eq!(text(row, "subject"), "漢字漢字漢");
    assert!(text(row, "charset").len() <= 32);
    assert!(text(row, "content_type").len() <= 64);
    let info = text(row, "attach_info");
    if !info.is_empty() {
        let entries: Vec<serde_json::Value> = serde_json::from_str(&info).expect("whole entries");
        assert_eq!(entries.len(), 1, "{info}");
    }
    assert_eq!(
        without_trace(&place.server.show(&hash_of(&reply))),
        content.as_bytes()
    );
}

#[test]
fn mysql_stores_one_row_for_each_of_100_recipients() {
    let place = StoreUnderTest::mysql(
        "mysql and redis",
        MariaDb::start(),
        Some(Redis::start()),
        &[],
    );
    let recipients: Vec<String> = (0..100).map(|n| format!("u{n}@ours.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let reply = deliver_to_all(
        &mut place.server.client(),
        "a@b.test",
        &recipients,
        ODD_CONTENT,
    );
    let rows = place.rows();
    assert_eq!(text(&rows[0], "hash"), hash_of(&reply));
    let stored: Vec<String> = rows.iter().map(|row| text(row, "recipient")).collect();
    assert_eq!(stored, recipients);
    for row in &rows {
        let stream = place.stream(row);
        let mail = goguerrilla::internals::mail::inflate(&stream, 1 << 20).expect("a zlib stream");
        let delivered_to = format!("Delivered-To: {}\r\n", text(row, "to"));
        let head = String::from_utf8_lossy(&mail[..200]).into_owned();
        assert!(head.contains(&delivered_to), "{head}");
        assert_eq!(without_trace(&mail), ODD_CONTENT);
    }
}

#[test]
fn unix_sockets_and_a_table_in_another_database_work() {
    let database = MariaDb::start_with(&[]);
    database.sql("CREATE DATABASE post");
    database.sql("GRANT ALL ON post.* TO mailer@'%'");
    let redis = Redis::start();
    let socket = redis.socket();
    let settings = [
        ("GM_MAIL_TABLE", "post.box"),
        ("MYSQL_DB", ""),
        ("REDIS_INTERFACE", socket.as_str()),
    ];
    let schema_folder = tempfile::TempDir::new().expect("a temporary folder");
    let all = testkit::mariadb::with_hosts("127.0.0.1:1", &settings);
    testkit::write_config(schema_folder.path(), &all);
    let schema = run_in(schema_folder.path(), &["schema"]).expect("schema succeeds");
    database.sql(&String::from_utf8(schema).expect("UTF-8"));

    let server = database.server_at(&database.socket(), &settings);
    let reply = server
        .client()
        .deliver("a@b.test", "u@ours.test", ODD_CONTENT);
    let hash = hash_of(&reply);
    assert_eq!(redis.bodies(), [hash.as_str()]);
    assert_eq!(without_trace(&server.show(&hash)), ODD_CONTENT);
    assert_eq!(database.number("SELECT COUNT(*) FROM post.box"), 1);
    let (is_well, output_text) = server.check();
    assert!(is_well, "{output_text}");
}
