//! The programs in docs/feed.md, each run against a real server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use mysql::prelude::Queryable;
use tempfile::TempDir;

use testkit::feed::FeedReader;
use testkit::mariadb::MariaDb;
use testkit::ports::free_port;
use testkit::redis::Redis;
use testkit::status::{STATUS, address};
use testkit::{Server, command, needs, short_mail, test, wait_for};

/// A program that is killed at the end of its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the program in docs/feed.md in this language.
fn example(language: &str) -> String {
    let page = fs::read_to_string(testkit::root_folder().join("docs/feed.md")).expect("a page");
    let start = format!("```{language}\n");
    let rest = page.split_once(&start).expect("an example").1;
    rest.split_once("```").expect("its end").0.to_owned()
}

/// Starts a server with a stream, and delivers one mail, which the examples do not show.
fn server_with_stream(database: &MariaDb, redis: &Redis) -> Server {
    let settings = [
        ("REDIS_INTERFACE", &*redis.tcp_address()),
        ("GM_FEED", "new_mail"),
        STATUS,
    ];
    let server = database.server(&settings);
    deliver(&server, "u@ours.test", "old");
    wait_for("the first entry", || {
        (!redis.stream_entries("new_mail").is_empty()).then_some(())
    });
    server
}

fn deliver(server: &Server, to: &str, subject: &str) {
    let mut client = server.client();
    let reply = client.deliver("a@client.test", to, &short_mail(subject));
    assert_eq!(reply.code, 250);
}

fn start(mut program: Command) -> (Running, BufReader<ChildStdout>) {
    let started = program
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.expect("the program starts");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    (Running(child), output)
}

/// Waits until Redis has a client that blocks in XREAD.
fn wait_for_reader(redis: &Redis) {
    wait_for("a reader of the stream", || {
        let info: String = redis.command(&["INFO", "clients"]);
        info.contains("blocked_clients:1").then_some(())
    });
}

#[test]
fn python_example_prints_each_new_mail() {
    let python = "/usr/bin/python3";
    let has_library = Command::new(python).args(["-c", "import redis"]).output();
    needs(
        "python3-redis",
        has_library.is_ok_and(|output| output.status.success()),
    );
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = server_with_stream(&database, &redis);
    let mut program = Command::new(python);
    let text = example("python").replace("127.0.0.1:6379", &redis.tcp_address());
    program.arg("-c").arg(text);
    let (_running, output) = start(program);
    wait_for_reader(&redis);
    deliver(&server, "u@ours.test", "one");
    deliver(&server, "v@ours.test", "two");
    let lines: Vec<String> = output
        .lines()
        .take(2)
        .map(|line| line.expect("a line"))
        .collect();
    assert!(lines[0].ends_with(" u@ours.test one"), "{lines:?}");
    assert!(lines[1].ends_with(" v@ours.test two"), "{lines:?}");
}

#[test]
fn php_example_sends_the_mail_of_one_address_and_resumes_after_the_last_event() {
    let modules = command("php").arg("-m").output().expect("php");
    needs(
        "php-redis",
        String::from_utf8_lossy(&modules.stdout)
            .lines()
            .any(|line| line == "redis"),
    );
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = server_with_stream(&database, &redis);
    let folder = TempDir::new().expect("a temporary folder");
    let (host, port) = redis
        .tcp_address()
        .split_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .expect("host:port");
    let page = example("php").replace("'127.0.0.1', 6379", &format!("'{host}', {port}"));
    fs::write(folder.path().join("inbox-events.php"), page).expect("a file");
    let login = "<?php function logged_in_address() { return 'U@ours.test'; }";
    fs::write(folder.path().join("login.php"), login).expect("a file");
    let listen = format!("127.0.0.1:{}", free_port());
    let mut php = command("php");
    php.current_dir(folder.path())
        .args(["-d", "auto_prepend_file=login.php", "-S", &listen]);
    // Two requests at the same time.
    php.env("PHP_CLI_SERVER_WORKERS", "2");
    let (_running, _output) = start(php);
    let connect = || wait_for("php", || TcpStream::connect(&listen).ok());
    let request =
        |fields: &str| format!("GET /inbox-events.php HTTP/1.0\r\nHost: {listen}\r\n{fields}\r\n");

    let mut events = FeedReader::over(connect(), &request(""));
    assert_eq!(events.code, 200);
    assert!(events.head.contains("text/event-stream"), "{}", events.head);
    wait_for_reader(&redis);
    deliver(&server, "v@ours.test", "of somebody else");
    deliver(&server, "u@ours.test", "</li>&\u{2028}");
    let next = |events: &mut FeedReader, beginning: &str| loop {
        let line = events.next_line().expect("a line");
        if let Some(rest) = line.strip_prefix(beginning) {
            break rest.to_owned();
        }
        assert!(line.is_empty() || line == ":", "{line}");
    };
    let id = next(&mut events, "id: ");
    let mail: serde_json::Value = serde_json::from_str(&next(&mut events, "data: ")).expect("JSON");
    assert_eq!(mail["recipient"], "u@ours.test");
    drop(events);

    deliver(&server, "u@ours.test", "while away");
    let mut events = FeedReader::over(connect(), &request(&format!("Last-Event-ID: {id}\r\n")));
    assert_ne!(next(&mut events, "id: "), id);
    assert!(next(&mut events, "data: ").contains("while away"));
}

#[test]
fn curl_example_prints_the_entries_of_one_recipient() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = server_with_stream(&database, &redis);
    let page = fs::read_to_string(testkit::root_folder().join("docs/feed.md")).expect("a page");
    let line = page
        .lines()
        .find(|line| line.starts_with("curl -N "))
        .expect("an example");
    let url = line.trim_start_matches("curl -N ").trim_matches('\'');
    let url = url.replace("127.0.0.1:9125", &address(&server).to_string());
    let mut curl = command("curl");
    curl.args(["-sN", &url]);
    let (_running, output) = start(curl);
    let mut lines = output.lines().map(|line| line.expect("a line"));
    // The first comment shows that the reader is there.
    assert!(lines.next().expect("a comment").starts_with(':'));
    deliver(&server, "other@example.com", "not wanted");
    deliver(&server, "user@example.com", "wanted");
    let line = lines
        .find(|line| line.starts_with("data: "))
        .expect("an entry");
    assert!(line.contains("\"subject\":\"wanted\""), "{line}");
}

#[test]
fn reader_that_was_away_finds_rows_that_appear_late() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    let server = server_with_stream(&database, &redis);
    let select = example("sql").replace('?', "0");
    let read = || -> Vec<(u64, String, String, String, bool)> { database.rows(&select) };
    // An open transaction whose row already has its `mail_id`.
    let mut late = database.connection();
    late.query_drop("BEGIN").expect("a transaction");
    late.query_drop(
        "INSERT INTO new_mail (`date`, `from`, `to`, subject, body, charset, mail, spam_score, hash, content_type, recipient, \
         has_attach, ip_addr, delivered, attach_info) SELECT `date`, `from`, `to`, 'late', body, charset, mail, spam_score, \
         REVERSE(hash), content_type, recipient, has_attach, ip_addr, delivered, attach_info FROM new_mail LIMIT 1",
    )
    .expect("a row");
    deliver(&server, "u@ours.test", "with a larger number");
    let before: Vec<String> = read().into_iter().map(|row| row.3).collect();
    assert_eq!(before, ["old", "with a larger number"]);
    late.query_drop("COMMIT").expect("a commit");
    let after: Vec<String> = read().into_iter().map(|row| row.3).collect();
    assert_eq!(after, ["old", "late", "with a larger number"]);
    assert!(read().iter().all(|row| !row.4), "no row is a minute old");
    database.sql("UPDATE new_mail SET date = NOW() - INTERVAL 2 MINUTE WHERE subject = 'old'");
    assert!(read()[0].4);
}
