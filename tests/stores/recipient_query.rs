//! GM_RECIPIENT_QUERY: which recipients exist is asked of MariaDB or MySQL, and answers are cached.

use std::thread;
use std::time::Duration;

use testkit::auth_http::{ask, header};
use testkit::mariadb::{MariaDb, with_hosts};
use testkit::project_files::documented_block;
use testkit::status::{STATUS, figures};
use testkit::steps::reload;
use testkit::{Client, Server, short_mail, stuffed, test, wait_for};

/// The table of the documentation.
pub const MAILBOX_TABLE: &str = "CREATE TABLE mailbox (address varchar(320) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL \
    PRIMARY KEY) ENGINE=InnoDB";
pub const QUERY: &str = "SELECT 1 FROM mailbox WHERE address = ?";
/// The reply to an unknown recipient, as Postfix words it.
pub const UNKNOWN: &str = "550 5.1.1 Recipient address rejected: User unknown";

/// Starts a database with the table of existing installations and these mailboxes.
pub fn database_with(mailboxes: &[&str]) -> MariaDb {
    let database = MariaDb::start();
    database.sql(MAILBOX_TABLE);
    mailboxes.iter().for_each(|address| add(&database, address));
    database
}

pub fn add(database: &MariaDb, address: &str) {
    database.sql(&format!("INSERT INTO mailbox VALUES ('{address}')"));
}

pub fn remove(database: &MariaDb, address: &str) {
    database.sql(&format!("DELETE FROM mailbox WHERE address = '{address}'"));
}

/// Starts a server that asks with [`QUERY`] and accepts two domains.
pub fn server_of(database: &MariaDb, settings: &[(&str, &str)]) -> Server {
    database.server(&with_query(settings))
}

pub fn with_query<'a>(settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut all = vec![
        ("GM_RECIPIENT_QUERY", QUERY),
        ("GM_ALLOWED_HOSTS", "ours.test,m\u{fc}nchen.test"),
        STATUS,
    ];
    all.extend_from_slice(settings);
    all
}

/// Connects a client that has begun a transaction.
pub fn client_in_transaction(server: &Server) -> Client {
    let mut client = server.client();
    client.command("EHLO client.test", "250");
    client.command("MAIL FROM:<a@client.test> SMTPUTF8", "250");
    client
}

pub fn rcpt(client: &mut Client, address: &str, want: &str) {
    client.command(&format!("RCPT TO:<{address}>"), want);
}

/// Returns the number of recipient look-ups with this answer.
pub fn lookups(server: &Server, answer: &str) -> f64 {
    figures(server)[&format!("goguerrilla_recipient_lookups_total{{answer=\"{answer}\"}}")]
}

/// Returns the number of questions about recipients that the database has answered, and makes it count them from now on.
fn questions(database: &MariaDb) -> u64 {
    database.sql("SET GLOBAL log_output = 'TABLE'");
    database.sql("SET GLOBAL general_log = 1");
    database.number(
        "SELECT COUNT(*) FROM mysql.general_log WHERE command_type = 'Execute' AND argument LIKE '%FROM mailbox%'",
    )
}

#[test]
fn query_decides_which_recipients_get_a_mail() {
    let database = database_with(&["known@ours.test", "\"a b\"@ours.test"]);
    let server = server_of(&database, &[]);
    let mut client = client_in_transaction(&server);
    for (address, want) in [
        ("known@ours.test", "250 2.1.5 OK"),
        ("nobody@ours.test", UNKNOWN),
        ("Known@ours.test", UNKNOWN),
        ("@route.test:known@OURS.Test.", "250 2.1.5 OK"),
        ("\"a b\"@ours.test", "250 2.1.5 OK"),
        ("known@foreign.test", "550 5.7.1 "),
        ("known%foreign.test@ours.test", "550 5.7.1 "),
        ("' OR '1'='1@ours.test", "501 5.1.3 "),
        ("\"' OR 1=1 -- \"@ours.test", UNKNOWN),
        ("postmaster", "250 2.1.5 OK"),
        ("PostMaster@ours.test", "250 2.1.5 OK"),
        ("postmaster@foreign.test", "550 5.7.1 "),
    ] {
        rcpt(&mut client, address, want);
    }
    client.command("DATA", "354");
    client.send(stuffed(&short_mail("known")));
    client.expect("250 ");
    let mut stored: Vec<String> = database.rows("SELECT recipient FROM new_mail");
    stored.sort();
    assert_eq!(
        stored,
        [
            "\"a b\"@ours.test",
            "PostMaster@ours.test",
            "known@ours.test",
            "postmaster"
        ]
    );
    for (answer, want) in [
        ("yes", 2.0),
        ("no", 3.0),
        ("cached_yes", 0.0),
        ("unavailable", 0.0),
    ] {
        assert_eq!(lookups(&server, answer), want, "{answer}");
    }
}

#[test]
fn documented_queries_accept_the_addresses_that_they_should() {
    let page = "domains-and-recipients.md";
    let database = MariaDb::start();
    let statements = documented_block(page, "CREATE TABLE mailbox");
    let statements = statements.trim_end().trim_end_matches(';');
    statements.split(";\n").for_each(|one| database.sql(one));
    let query_of = |block: &str| {
        let json = format!("{{{}}}", documented_block(page, block));
        let keys: serde_json::Value = serde_json::from_str(&json).expect("a pair");
        keys["GM_RECIPIENT_QUERY"]
            .as_str()
            .expect("a query")
            .to_owned()
    };
    for (block, [anna, tagged, catch_all]) in [
        ("SELECT 1 FROM mailbox WHERE", ["250 ", UNKNOWN, UNKNOWN]),
        ("'*@'", ["250 ", "250 ", "250 "]),
    ] {
        let query = query_of(block);
        let server = database.server(&[("GM_RECIPIENT_QUERY", &query)]);
        let mut client = client_in_transaction(&server);
        for (address, want) in [
            ("anna@EXAMPLE.com", anna),
            ("anna+news@example.com", tagged),
            ("any@example.org", catch_all),
            ("Anna@example.com", UNKNOWN),
            ("bert+anna@example.com", UNKNOWN),
            ("any@sub.example.org", UNKNOWN),
        ] {
            rcpt(&mut client, address, want);
        }
        let (is_ok, output) = server.check();
        assert!(is_ok && !output.contains("GM_RECIPIENT_QUERY"), "{output}");
    }
}

#[test]
fn domain_is_passed_in_lower_case_a_labels_and_the_local_part_as_given() {
    let database = database_with(&["u@xn--mnchen-3ya.test", "j\u{f6}rg\u{1f600}@ours.test"]);
    database.sql(
        "ALTER TABLE new_mail MODIFY `to` varchar(320) CHARACTER SET utf8mb4 NOT NULL, \
         MODIFY recipient varchar(320) CHARACTER SET utf8mb4 NOT NULL",
    );
    let server = server_of(&database, &[]);
    let mut client = client_in_transaction(&server);
    for (address, want) in [
        ("u@m\u{fc}nchen.test", "250 "),
        ("u@MU\u{308}NCHEN.test", "250 "),
        ("u@XN--MNCHEN-3YA.TEST", "250 "),
        ("U@m\u{fc}nchen.test", UNKNOWN),
        ("j\u{f6}rg\u{1f600}@ours.test", "250 "),
        ("jorg\u{1f600}@ours.test", UNKNOWN),
    ] {
        rcpt(&mut client, address, want);
    }
}

#[test]
fn answers_are_cached_for_their_time_and_both_kinds_expire() {
    let database = database_with(&["leaves@ours.test"]);
    let server = server_of(&database, &[("GM_RECIPIENT_CACHE_SECONDS", "8")]);
    let ask = |address: &str, want: &str| {
        rcpt(&mut client_in_transaction(&server), address, want);
    };
    ask("leaves@ours.test", "250 ");
    ask("comes@ours.test", UNKNOWN);
    remove(&database, "leaves@ours.test");
    add(&database, "comes@ours.test");
    let before = questions(&database);
    ask("leaves@ours.test", "250 ");
    ask("comes@ours.test", UNKNOWN);
    assert_eq!(questions(&database), before, "no answer was cached");
    assert_eq!(
        (
            lookups(&server, "cached_yes"),
            lookups(&server, "cached_no")
        ),
        (1.0, 1.0)
    );
    let answers = |address: &str, beginning: &str| {
        wait_for("an answer to expire", || {
            let mut client = client_in_transaction(&server);
            client.send(format!("RCPT TO:<{address}>\r\n"));
            let reply = client.read_reply().expect("a reply").text();
            reply.starts_with(beginning).then_some(())
        });
    };
    answers("leaves@ours.test", "550 5.1.1 ");
    answers("comes@ours.test", "250 ");
}

#[test]
fn no_answer_is_kept_for_zero_seconds() {
    let database = database_with(&["u@ours.test"]);
    let server = server_of(&database, &[("GM_RECIPIENT_CACHE_SECONDS", "0")]);
    let mut client = client_in_transaction(&server);
    rcpt(&mut client, "u@ours.test", "250 ");
    let before = questions(&database);
    // The transaction already has the first one.
    rcpt(&mut client, "u@ours.test", "250 ");
    rcpt(&mut client, "nobody@ours.test", UNKNOWN);
    rcpt(&mut client, "nobody@ours.test", UNKNOWN);
    assert_eq!(questions(&database) - before, 2);
    remove(&database, "u@ours.test");
    rcpt(&mut client_in_transaction(&server), "u@ours.test", UNKNOWN);
}

#[test]
fn many_clients_that_ask_for_one_recipient_cause_few_questions() {
    let database = database_with(&["u@ours.test"]);
    let slow = "SELECT SLEEP(0.2) FROM mailbox WHERE address = ?";
    let server = server_of(&database, &[("GM_RECIPIENT_QUERY", slow)]);
    let mut clients: Vec<Client> = (0..40).map(|_| client_in_transaction(&server)).collect();
    let before = questions(&database);
    for client in &mut clients {
        client.send("RCPT TO:<u@ours.test>\r\n");
    }
    for client in &mut clients {
        client.expect("250 ");
    }
    let asked = questions(&database) - before;
    assert!((1..=4).contains(&asked), "{asked} questions");
}

#[test]
fn pipelined_recipients_are_answered_in_one_write() {
    let database = database_with(&["u@ours.test", "v@ours.test"]);
    let server = server_of(&database, &[]);
    let mut client = client_in_transaction(&server);
    client.send(
        "RCPT TO:<u@ours.test>\r\nRCPT TO:<x@ours.test>\r\nRCPT TO:<v@ours.test>\r\nDATA\r\n",
    );
    for reply in ["250 2.1.5 ", UNKNOWN, "250 2.1.5 ", "354 "] {
        client.expect(reply);
    }
    client.send(stuffed(&short_mail("pipelined")));
    client.expect("250 ");
    assert_eq!(database.count(), 2);
}

#[test]
fn wait_for_an_answer_does_not_count_against_the_client() {
    let database = database_with(&["u@ours.test"]);
    let slow = "SELECT SLEEP(1.2) FROM mailbox WHERE address = ?";
    let server = server_of(
        &database,
        &[("GM_RECIPIENT_QUERY", slow), ("GSMTP_TIMEOUT", "1")],
    );
    let mut client = client_in_transaction(&server);
    wait_for("an answer in time", || {
        client.send("RCPT TO:<u@ours.test>\r\n");
        let code = client.read_reply().expect("a reply").code;
        (code == 250).then_some(())
    });
    client.command("DATA", "354");
    client.send(stuffed(&short_mail("slow")));
    client.expect("250 ");
}

#[test]
fn query_that_writes_is_refused_by_the_database() {
    let database = database_with(&["u@ours.test"]);
    database.sql(
        "CREATE FUNCTION spy() RETURNS int DETERMINISTIC MODIFIES SQL DATA \
         BEGIN INSERT INTO mailbox VALUES ('written@ours.test'); RETURN 1; END",
    );
    for query in [
        "SELECT spy() FROM mailbox WHERE address = ?",
        "SELECT 1 FROM mailbox WHERE address = ? INTO @found",
    ] {
        let server = server_of(&database, &[("GM_RECIPIENT_QUERY", query)]);
        rcpt(
            &mut client_in_transaction(&server),
            "u@ours.test",
            "451 4.3.0 ",
        );
        let (is_ok, output) = server.check();
        assert!(
            !is_ok && output.contains("error: GM_RECIPIENT_QUERY: the query fails, "),
            "{output}"
        );
    }
    assert_eq!(database.number("SELECT COUNT(*) FROM mailbox"), 1);
}

#[test]
fn reload_applies_another_query_and_cache_time_to_new_sessions() {
    let database = database_with(&["u@ours.test"]);
    database.sql("CREATE TABLE other (address varchar(320) PRIMARY KEY)");
    let server = server_of(&database, &[("GM_RECIPIENT_CACHE_SECONDS", "3600")]);
    let mut before = client_in_transaction(&server);
    rcpt(&mut before, "u@ours.test", "250 ");
    rcpt(&mut before, "v@ours.test", UNKNOWN);
    let address = database.address().to_string();
    let settings = |query, seconds| {
        let changed = [
            ("GM_RECIPIENT_QUERY", query),
            ("GM_RECIPIENT_CACHE_SECONDS", seconds),
        ];
        with_hosts(&address, &with_query(&changed))
    };
    database.sql("INSERT INTO other VALUES ('v@ours.test')");
    reload(
        &server,
        &settings("SELECT 1 FROM other WHERE address = ?", "3600"),
    );
    let mut after = client_in_transaction(&server);
    rcpt(&mut after, "u@ours.test", UNKNOWN);
    rcpt(&mut after, "v@ours.test", "250 ");
    rcpt(&mut before, "w@ours.test", UNKNOWN);
    rcpt(&mut before, "v@ours.test", UNKNOWN);
    drop((before, after));
    wait_for("the threads of the first query to end", || {
        (server.threads_named("mysql-rcpt") == 4).then_some(())
    });
    // The same query with another time begins with empty caches.
    database.sql("DELETE FROM other");
    reload(
        &server,
        &settings("SELECT 1 FROM other WHERE address = ?", "60"),
    );
    rcpt(&mut client_in_transaction(&server), "v@ours.test", UNKNOWN);
    reload(&server, &settings("", "60"));
    rcpt(&mut client_in_transaction(&server), "any@ours.test", "250 ");
    wait_for("the threads of the last query to end", || {
        (server.threads_named("mysql-rcpt") == 0).then_some(())
    });
}

#[test]
fn reload_with_an_invalid_query_keeps_the_old_one() {
    let database = database_with(&["u@ours.test"]);
    let server = server_of(&database, &[]);
    let address = database.address().to_string();
    let broken = with_query(&[("GM_RECIPIENT_QUERY", "SELECT 1 FROM mailbox")]);
    testkit::write_config(server.folder.path(), &with_hosts(&address, &broken));
    server.signal(nix::sys::signal::Signal::SIGHUP);
    let log = server.wait_for_log(" reload_refused ");
    assert!(
        log.contains("GM_RECIPIENT_QUERY: expected a SELECT"),
        "{log}"
    );
    // Without a restart the store does not change, so the query stays too.
    let other_store = with_hosts(&address, &[("GM_STORE", "sqlite")]);
    reload(&server, &other_store);
    rcpt(
        &mut client_in_transaction(&server),
        "nobody@ours.test",
        UNKNOWN,
    );
}

#[test]
fn auth_http_gives_the_same_answers() {
    let mut database = database_with(&["known@ours.test"]);
    let settings = [("NGINX_AUTH_ENABLED", "Y"), ("NGINX_AUTH", "127.0.0.1:0")];
    let server = server_of(&database, &settings);
    wait_for("the store to be ready", || {
        (testkit::status::get(&server, "/readyz").0 == 200).then_some(())
    });
    let answer = |recipient: &str, attempt: u32| {
        let request = format!(
            "GET / HTTP/1.0\r\nAuth-Method: none\r\nAuth-Login-Attempt: {attempt}\r\n\
             Auth-SMTP-To: RCPT TO:<{recipient}>\r\n\r\n"
        );
        let answer = ask(&server, &request);
        ["Status", "Error-Code", "Wait"]
            .map(|name| header(&answer, &format!("Auth-{name}")))
            .join("|")
    };
    let unknown = "Recipient address rejected: User unknown|550 5.1.1|1";
    for (recipient, want) in [
        ("known@ours.test", "OK||"),
        ("nobody@ours.test", unknown),
        ("postmaster@ours.test", "OK||"),
        ("known@foreign.test", "Relay access denied|550 5.7.1|1"),
        ("@", "OK||"),
    ] {
        assert_eq!(answer(recipient, 1), want, "{recipient}");
    }
    assert_eq!(
        answer("nobody@ours.test", 10),
        unknown.trim_end_matches('1')
    );
    database.kill();
    assert_eq!(
        answer("other@ours.test", 1),
        "Recipient address: temporary lookup failure|451 4.3.0|1"
    );
    let page = figures(&server);
    for (label, want) in [
        ("user_unknown", 2.0),
        ("lookup_failed", 1.0),
        ("relay_denied", 1.0),
    ] {
        let name = format!("goguerrilla_auth_http_total{{answer=\"{label}\"}}");
        assert_eq!(page[&name], want, "{label}");
    }
}

#[test]
fn check_runs_and_explains_the_query() {
    let database = database_with(&["u@ours.test"]);
    for statement in [
        "CREATE TABLE plain (address varchar(320) NOT NULL)",
        "INSERT INTO plain VALUES ('a'), ('b')",
        "CREATE VIEW seen AS SELECT * FROM mailbox",
        "CREATE TABLE keyed (domain varchar(255), name varchar(64), KEY (domain, name))",
    ] {
        database.sql(statement);
    }
    for (query, found) in [
        (QUERY, ""),
        ("SELECT 1 FROM seen WHERE address = ?;", ""),
        (
            "SELECT 1 FROM keyed WHERE domain = SUBSTRING_INDEX(? , '@', -1) AND name = 'x'",
            "",
        ),
        (
            "SELECT 1 FROM plain WHERE address = ?",
            "warning: GM_RECIPIENT_QUERY: it uses no index of plain ",
        ),
        (
            "SELECT 1 FROM mailbox WHERE LOWER(address) = ?",
            "warning: GM_RECIPIENT_QUERY: it uses no index of mailbox ",
        ),
        (
            "SELECT COUNT(*) FROM mailbox WHERE address = ?",
            "warning: GM_RECIPIENT_QUERY: it returns a row for goguerrilla-check@",
        ),
        (
            "SELECT EXISTS(SELECT 1 FROM mailbox WHERE address = ?)",
            "warning: GM_RECIPIENT_QUERY: it returns a row for goguerrilla-check@",
        ),
        (
            "SELECT 1 FROM absent WHERE address = ?",
            "error: GM_RECIPIENT_QUERY: the query fails, so every recipient gets 451: ERROR 1146 ",
        ),
        (
            "SELECT 1 FROM mailbox WHERE adress = ?",
            "error: GM_RECIPIENT_QUERY: the query fails, so every recipient gets 451: ERROR 1054 ",
        ),
        (
            "SELECT SLEEP(5) FROM (SELECT ?) AS address",
            "error: GM_RECIPIENT_QUERY: the query fails, so every recipient gets 451: ",
        ),
    ] {
        let server = server_of(&database, &[("GM_RECIPIENT_QUERY", query)]);
        let (is_ok, output) = server.check();
        assert_eq!(is_ok, !found.starts_with("error"), "{query}: {output}");
        let findings: Vec<&str> = output
            .lines()
            .filter(|line| line.contains("GM_RECIPIENT_QUERY"))
            .collect();
        match found {
            "" => assert!(findings.is_empty(), "{query}: {output}"),
            found => assert!(
                findings.len() == 1 && findings[0].starts_with(found),
                "{query}: {output}"
            ),
        }
    }
}

#[test]
fn lookups_do_not_wait_for_a_commit() {
    let database = database_with(&[]);
    (0..50).for_each(|number| add(&database, &format!("u{number}@ours.test")));
    let server = server_of(&database, &[("GM_SAVE_WORKERS", "1")]);
    assert_eq!(
        server
            .client()
            .deliver("a@client.test", "u0@ours.test", &short_mail("first"))
            .code,
        250
    );
    let mut blocker = database.connection();
    mysql::prelude::Queryable::query_drop(&mut blocker, "FLUSH TABLES WITH READ LOCK")
        .expect("root may lock");
    thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            let mut client = server.client();
            client.set_reply_timeout(Duration::from_secs(60));
            client
                .deliver("a@client.test", "u1@ours.test", &short_mail("blocked"))
                .code
        });
        wait_for("a mail to wait in the database", || {
            (database.running_inserts("Waiting for ") > 0).then_some(())
        });
        let mut client = client_in_transaction(&server);
        for number in 2..50 {
            rcpt(&mut client, &format!("u{number}@ours.test"), "250 ");
        }
        assert!(!blocked.is_finished(), "nothing was blocked");
        drop(blocker);
        assert_eq!(blocked.join().expect("a reply"), 250);
    });
    assert_eq!(lookups(&server, "unavailable"), 0.0);
}
