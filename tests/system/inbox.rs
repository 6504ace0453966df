//! The pages of examples/php and examples/python next to a server: the list, hostile mails, and mails as they arrive.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use testkit::mariadb::MariaDb;
use testkit::ports::free_port;
use testkit::process::run_command;
use testkit::project_files::with;
use testkit::redis::Redis;
use testkit::web::Browser;
use testkit::{Server, needs, tail, test, wait_for};

#[test]
fn php_inbox_shows_hostile_mails_of_sqlite_safely_and_new_ones_as_they_arrive() {
    let server = Server::start(SETTINGS);
    check_inbox(Language::Php, &server);
}

#[test]
fn python_inbox_shows_hostile_mails_of_sqlite_safely_and_new_ones_as_they_arrive() {
    let server = Server::start(SETTINGS);
    check_inbox(Language::Python, &server);
}

#[test]
fn php_inbox_reads_mariadb_and_redis_and_follows_the_feed() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    check_inbox(Language::Php, &server_with_feed(&database, &redis));
    assert_feed_was_read(&redis);
}

#[test]
fn python_inbox_reads_mariadb_and_redis_and_follows_the_feed() {
    let (database, redis) = (MariaDb::start(), Redis::start());
    check_inbox(Language::Python, &server_with_feed(&database, &redis));
    assert_feed_was_read(&redis);
}

#[test]
fn documented_pool_and_site_serve_the_page_and_its_events_through_nginx_and_php_fpm() {
    testkit::needs_root();
    testkit::needs_program("nginx");
    let fpm = ["php-fpm8.2", "php-fpm8.4"];
    let fpm = fpm.into_iter().find(|name| testkit::has_program(name));
    needs("php-fpm", fpm.is_some());
    let server = Server::start(SETTINGS);
    let folder = TempDir::new().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let example = |name: &str| {
        let file = testkit::root_folder().join("examples/php").join(name);
        fs::read_to_string(file).expect("an example")
    };
    let (config, database) = (
        server.path("goguerrilla.conf"),
        server.path("goguerrilla.db"),
    );
    let environment = format!(
        "env[GOGUERRILLA_CONFIG] = {}\nenv[GOGUERRILLA_GM_SQLITE_FILE] = {}",
        config.display(),
        database.display()
    );
    // The user of an installation does not exist here.
    let pool = with(
        &example("php-fpm-pool.conf"),
        &[
            ("= goguerrilla\n", "= root\n"),
            ("= www-data\n", "= root\n"),
            ("/run/php/inbox.sock", &path("socket")),
            (
                "; env[GOGUERRILLA_CONFIG] = /etc/goguerrilla/goguerrilla.conf",
                &environment,
            ),
        ],
    );
    let pool = format!(
        "[global]\nerror_log = {}\ndaemonize = no\n{pool}",
        path("fpm-log")
    );
    let port = free_port();
    let site = with(
        &example("nginx-site.conf"),
        &[
            ("listen 80;", &format!("listen 127.0.0.1:{port};")),
            ("listen [::]:80;", ""),
            ("/run/php/inbox.sock", &path("socket")),
            ("fastcgi_params;", "/etc/nginx/fastcgi_params;"),
            (
                "/usr/local/share/goguerrilla/inbox.php",
                &testkit::root_folder()
                    .join("examples/php/inbox.php")
                    .display()
                    .to_string(),
            ),
        ],
    );
    let site = format!(
        "daemon off; user root; pid {}; error_log {};\nevents {{}}\nhttp {{ access_log off;\n{site} }}\n",
        path("pid"),
        path("nginx-log")
    );
    fs::write(path("pool"), pool).expect("a file is written");
    fs::write(path("site"), site).expect("a file is written");
    let start = |command: &mut Command| {
        let log = File::create(path("log")).expect("a log file");
        let command = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"));
        let child = command.stderr(log).process_group(0).spawn();
        child.expect("the program starts")
    };
    let mut fpm = Command::new(format!("/usr/sbin/{}", fpm.expect("php-fpm")));
    let _fpm = KilledGroup(start(fpm.args(["-R", "-y", &path("pool")])));
    wait_for("the socket of php-fpm", || {
        fs::metadata(path("socket")).ok().map(drop)
    });
    let child = start(Command::new("/usr/sbin/nginx").args(["-c", &path("site")]));
    wait_for("nginx to listen", || {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .ok()
            .map(drop)
    });
    let inbox = Inbox {
        child,
        port,
        folder: TempDir::new().expect("a temporary folder"),
        path: "/",
    };
    inbox.get("to=live@ours.test").assert_is_safe_page();
    check_events(&inbox, &server);
}

/// A process that is killed with its group when it is dropped.
struct KilledGroup(Child);

impl Drop for KilledGroup {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

#[test]
fn browser_executes_and_loads_nothing_of_a_hostile_mail_and_shows_new_mails() {
    for language in [Language::Php, Language::Python] {
        let server = Server::start(SETTINGS);
        let inbox = Inbox::start(language, &server);
        let browser = Browser::start();
        let foreign_host = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = foreign_host.local_addr().expect("an address").to_string();
        browser.open(&inbox.url("to=u@ours.test"));
        // Each attempt would connect to the other host, or change the page or its title.
        let html = HOSTILE_HTML.replace("OUTSIDE", &host);
        let mail = format!(
            "Subject: </title><img src=//{host}/subject onerror=\"document.title='executed'\">\r\nContent-Type: text/html\r\n\r\n{html}\r\n"
        );
        let reply = server
            .client()
            .deliver("\"<b>\"@client.test", "u@ours.test", mail.as_bytes());
        assert_eq!(reply.code, 250);
        // The mail appears without a reload, as text.
        browser.wait_until(
            "the mail in the list",
            "return document.querySelectorAll('#mails tr').length === 1",
        );
        assert!(browser.text_of("#mails").contains("</title><img src=//"));
        assert_eq!(
            browser.run_script("return document.querySelectorAll('#mails img, #mails b').length"),
            0
        );
        assert_eq!(browser.console(), [""; 0]);

        let link = browser.run_script("return document.querySelector('#mails a').href");
        browser.open(link.as_str().expect("a link"));
        let frame = browser.run_script("return document.querySelector('iframe').src");
        // `open` returns after the frames are loaded.
        assert_eq!(
            browser.run_script("return document.querySelector('iframe').contentDocument"),
            Value::Null
        );
        assert_eq!(
            browser.run_script("return document.querySelectorAll('img, b').length"),
            0
        );
        // The HTML alone, outside of the frame: its marks are there, and nothing has changed them.
        browser.open(frame.as_str().expect("a link"));
        assert_eq!(browser.text_of("#mark"), "untouched");
        assert_eq!(browser.run_script("return document.title"), "");
        assert_eq!(browser.run_script("return location.href"), frame);
        foreign_host.set_nonblocking(true).expect("an open socket");
        let asked = foreign_host.accept().map(|(_, peer)| peer);
        assert!(asked.is_err(), "the browser has asked {host}: {asked:?}");
    }
}

#[test]
fn php_inbox_reads_contents_of_a_redis_with_a_password_in_a_file_and_survives_its_loss() {
    check_redis_with_password(Language::Php);
}

#[test]
fn python_inbox_reads_contents_of_a_redis_with_a_password_in_a_file_and_survives_its_loss() {
    check_redis_with_password(Language::Python);
}

const SETTINGS: &[(&str, &str)] = &[("GM_ALLOWED_HOSTS", "ours.test")];

fn server_with_feed(database: &MariaDb, redis: &Redis) -> Server {
    let address = redis.address().to_string();
    let keys = [("REDIS_INTERFACE", &*address), ("GM_FEED", "mails")];
    database.server(&[SETTINGS, &keys].concat())
}

/// Asserts that the page waited for entries of the feed instead of asking the database again and again.
fn assert_feed_was_read(redis: &Redis) {
    let address = redis.address();
    let port = address.rsplit(':').next().expect("a port");
    let mut info = testkit::command("redis-cli");
    let ended = run_command(info.args(["-p", port, "info", "commandstats"]));
    assert!(ended.stdout.contains("cmdstat_xread:"), "{}", ended.stdout);
    assert!(ended.stdout.contains("cmdstat_xadd:"), "{}", ended.stdout);
}

fn check_inbox(language: Language, server: &Server) {
    let inbox = Inbox::start(language, server);
    let start = inbox.get("");
    assert_eq!(start.status, 200);
    assert!(start.body.contains("@ours.test' size=40"), "{}", start.body);
    for (from, mail) in HOSTILE_MAILS {
        let reply = server
            .client()
            .deliver(from, "u@ours.test", mail.as_bytes());
        assert_eq!(reply.code, 250, "{mail}");
    }
    server.client().deliver(
        "a@client.test",
        "other@ours.test",
        b"Subject: private\r\n\r\n",
    );

    let list = inbox.get("to=U@ours.test");
    list.assert_is_safe_page();
    assert_eq!(list.body.matches("<tr id='m").count(), HOSTILE_MAILS.len());
    assert!(
        list.body.contains("&lt;hostile&gt;subject"),
        "{}",
        list.body
    );
    assert!(!list.body.contains("private"));
    inbox.get("to=%3Chostile%3E%22'").assert_is_safe_page();

    let mut frames = 0;
    for mail in server.list() {
        let hash = mail["hash"].as_str().expect("a hash");
        let shown = inbox.get(&format!("to=u@ours.test&hash={hash}"));
        if mail["subject"] == "private" {
            assert_eq!(shown.status, 404);
            assert_eq!(
                inbox
                    .get(&format!("to=u@ours.test&hash={hash}&part=0"))
                    .status,
                404
            );
            continue;
        }
        assert_eq!(shown.status, 200);
        shown.assert_is_safe_page();
        let mut is_visible = shown.body.contains("visible");
        for frame in shown.body.split("<iframe ").skip(1) {
            assert!(
                frame.starts_with("sandbox referrerpolicy=no-referrer src='?"),
                "{frame}"
            );
            frames += 1;
        }
        for number in 0.. {
            let part = inbox.get(&format!("to=u@ours.test&hash={hash}&part={number}"));
            if part.status == 404 {
                assert!(number > 0, "{}", mail["subject"]);
                break;
            }
            part.assert_is_safe_part();
            is_visible |= part.body.contains("visible");
        }
        assert!(is_visible, "{}\n{}", mail["subject"], shown.body);
    }
    assert!(frames >= 3, "{frames}");
    for query in [
        "to=u@ours.test&hash=../../x",
        "to=u@ours.test&hash=%27%20OR%201=1",
        "to=u@ours.test&hash[]=x",
    ] {
        let answer = inbox.get(query);
        assert!([200, 404].contains(&answer.status), "{query}");
        answer.assert_is_safe_page();
    }
    check_events(&inbox, server);
}

/// Reads the server-sent events of an address while mails arrive.
fn check_events(inbox: &Inbox, server: &Server) {
    let events = inbox.folder.path().join("events");
    let mut reader = testkit::command("curl")
        .args([
            "-sN",
            "--max-time",
            "60",
            &inbox.url("to=live@ours.test&live=1"),
        ])
        .stdout(File::create(&events).expect("a file"))
        .spawn()
        .expect("curl is installed");
    let received = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&events).expect("UTF-8");
        let complete = text.rsplit_once("\n\n").map_or("", |(events, _)| events);
        let data = complete
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        data.map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    };
    wait_for("the beginning of the events", || {
        fs::read_to_string(&events)
            .expect("UTF-8")
            .contains(":\n\n")
            .then_some(())
    });
    for number in 1..=3 {
        let subject = format!("Subject: <hostile>{number}\r\n\r\n");
        for to in ["other@ours.test", "Live@ours.test"] {
            let reply = server
                .client()
                .deliver("a@client.test", to, subject.as_bytes());
            assert_eq!(reply.code, 250);
        }
        wait_for("the event of a mail", || {
            (received().len() == number).then_some(())
        });
    }
    let subjects: Vec<String> = received()
        .iter()
        .map(|mail| mail["subject"].as_str().expect("a subject").to_owned())
        .collect();
    assert_eq!(subjects, ["<hostile>1", "<hostile>2", "<hostile>3"]);
    let _ = reader.kill();
    let _ = reader.wait();
}

fn check_redis_with_password(language: Language) {
    let database = MariaDb::start();
    let mut redis = Redis::start_with(&["--requirepass", "r3dis-s3cr3t"]);
    let secrets = TempDir::new().expect("a temporary folder");
    let file = secrets.path().join("password").display().to_string();
    fs::write(&file, "r3dis-s3cr3t\n").expect("a file is written");
    let address = redis.address().to_string();
    let server = database.server(&[("REDIS_INTERFACE", &address), ("REDIS_PASS_FILE", &file)]);
    let mail = b"Subject: stored\r\n\r\nvisible\r\n";
    assert_eq!(
        server
            .client()
            .deliver("a@client.test", "u@ours.test", mail)
            .code,
        250
    );
    assert_eq!(
        database.number("SELECT COUNT(*) FROM new_mail WHERE body = 'redis'"),
        1
    );
    let inbox = Inbox::start(language, &server);
    let list = server.list();
    let query = format!(
        "to=u@ours.test&hash={}",
        list[0]["hash"].as_str().expect("a hash")
    );
    assert!(inbox.get(&query).body.contains("<pre>visible"));
    redis.kill();
    let answer = inbox.get(&query);
    assert_eq!(
        (answer.status, &*answer.body),
        (500, "The mail cannot be read now.")
    );
    assert!(inbox.get("to=u@ours.test").body.contains("stored"));
}

/// Senders and contents with markup in every value that a page shows, and HTML that tries to load and to execute something.
const HOSTILE_MAILS: &[(&str, &str)] = &[
    (
        "\"<hostile>'\"@client.test",
        "Subject: <hostile>subject\r\n\r\nvisible <hostile>text</pre><script>hostile()</script>\r\n",
    ),
    (
        "a@client.test",
        "Subject: =?utf-8?q?=22=3E=3Chostile_onload=3D1=3E?=\r\nContent-Type: text/html\r\n\r\n<p title=visible>visible \
        <script>hostile()</script><img src=http://client.test/x.png onerror=hostile()><LINK rel=preconnect href=//client.test>\
        <li<link<meta http-equiv=refresh content='0;url=http://client.test'><base href=//client.test><iframe src=//client.test></iframe>\r\n",
    ),
    (
        "a@client.test",
        "Subject: charset\r\nContent-Type: text/html; charset=\"utf-7'><hostile>\"\r\n\r\nvisible +ADw-script+AD4-hostile()\r\n",
    ),
    (
        "a@client.test",
        "Subject: utf-7\r\nContent-Type: text/html; charset=utf-7\r\n\r\nvisible +ADw-link rel=preconnect href=//client.test+AD4-\r\n",
    ),
    (
        "a@client.test",
        "Subject: unknown\r\nContent-Type: text/plain; charset=x-unknown\r\n\r\nvisible \u{fc}\r\n",
    ),
    (
        "a@client.test",
        "Subject: parts\r\nContent-Type: multipart/mixed; boundary=\"x\"\r\n\r\npreamble\r\n--x\r\n\r\nvisible\r\n--x\r\n\
        Content-Type: text/html; name=\"<hostile>.html\"\r\n\r\n<script>hostile()</script>\r\n--x\r\nContent-Type: image/svg+xml\r\n\
        Content-Disposition: attachment; filename=\"'\\\"><hostile>/../x\r\n y.svg\"\r\nContent-Transfer-Encoding: base64\r\n\r\n\
        PHN2ZyBvbmxvYWQ9Imhvc3RpbGUoKSI+\r\n--x\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
        <b>visible</b><=6Cink rel=3Dpreconnect href=3D//client.test>\r\n",
    ),
    (
        "a@client.test",
        "Subject: odd fields\r\n: no name\r\nno colon\r\nContent-Type: multipart/alternative\r\n\r\n--\r\nvisible\r\n",
    ),
    (
        "a@client.test",
        "Subject: nested\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n\
        --a\r\n\r\nvisible\r\n--a--\r\n",
    ),
];

/// HTML that tries to run a script and to reach another host in many ways.
const HOSTILE_HTML: &str = "<p id=mark>untouched</p><script>document.getElementById('mark').textContent = 'executed'</script>\r\n\
    <img src=http://OUTSIDE/image onerror=\"document.getElementById('mark').textContent = 'executed'\">\r\n\
    <svg onload=\"document.getElementById('mark').textContent = 'executed'\"><image href=http://OUTSIDE/svg></svg>\r\n\
    <link rel=stylesheet href=http://OUTSIDE/style><link rel=preconnect href=http://OUTSIDE><link rel=prefetch href=http://OUTSIDE/p>\r\n\
    <style>@import 'http://OUTSIDE/import'; body { background: url(http://OUTSIDE/background) }\r\n\
    @font-face { font-family: x; src: url(http://OUTSIDE/font) } p { font-family: x }</style>\r\n\
    <iframe src=http://OUTSIDE/frame></iframe><object data=http://OUTSIDE/object></object><embed src=http://OUTSIDE/embed>\r\n\
    <video src=http://OUTSIDE/video poster=http://OUTSIDE/poster autoplay></video><audio src=http://OUTSIDE/audio autoplay></audio>\r\n\
    <meta http-equiv=refresh content='0;url=http://OUTSIDE/refresh'><base href=http://OUTSIDE/>\r\n\
    <form action=http://OUTSIDE/form><input autofocus onfocus=\"this.form.submit()\"></form>\r\n\
    <script src=http://OUTSIDE/script></script><body onload=\"location = 'http://OUTSIDE/location'\">";

#[derive(Clone, Copy)]
enum Language {
    Php,
    Python,
}

/// A running page; dropping it kills its processes.
struct Inbox {
    child: Child,
    port: u16,
    folder: TempDir,
    path: &'static str,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Inbox {
    fn start(language: Language, server: &Server) -> Inbox {
        let folder = TempDir::new().expect("a temporary folder");
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let log = File::create(folder.path().join("log")).expect("a log file");
        let examples = testkit::root_folder().join("examples");
        let mut command = match language {
            Language::Php => {
                let modules = testkit::command("php")
                    .arg("-m")
                    .output()
                    .expect("php is installed");
                let modules = String::from_utf8_lossy(&modules.stdout).into_owned();
                for module in ["pdo_mysql", "pdo_sqlite", "redis"] {
                    needs(module, modules.lines().any(|line| line == module));
                }
                let mut php = Command::new("php");
                php.args(["-S", &address])
                    .arg(examples.join("php/inbox.php"));
                // A reader of events takes a worker.
                php.env("PHP_CLI_SERVER_WORKERS", "4");
                php
            }
            Language::Python => {
                let mut modules = testkit::command("/usr/bin/python3");
                let ended = run_command(modules.args(["-c", "import pymysql, redis"]));
                needs("python3-pymysql and python3-redis", ended.status == 0);
                let mut python = Command::new("/usr/bin/python3");
                python
                    .arg("-B")
                    .arg(examples.join("python/inbox.py"))
                    .arg(&address);
                python
            }
        };
        let child = command
            .env("GOGUERRILLA_CONFIG", server.path("goguerrilla.conf"))
            .env("GOGUERRILLA_GM_SQLITE_FILE", server.path("goguerrilla.db"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("the program starts");
        let inbox = Inbox {
            child,
            port,
            folder,
            path: "/inbox",
        };
        wait_for("the page to answer", || {
            std::net::TcpStream::connect(("127.0.0.1", port))
                .ok()
                .map(drop)
        });
        inbox
    }

    fn url(&self, query: &str) -> String {
        format!("http://127.0.0.1:{}{}?{query}", self.port, self.path)
    }

    fn get(&self, query: &str) -> Answer {
        let mut curl = testkit::command("curl");
        let curl = curl
            .args(["-sSig", "--max-time", "60"])
            .arg(self.url(query));
        let output = curl.output().expect("curl is installed");
        assert!(output.status.success(), "{query}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").expect("an empty line");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            status: status.expect("a status"),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // The PHP server has further processes.
        let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            testkit::note!("---- log of the page\n{}", tail(&log));
        }
    }
}

impl Answer {
    /// Asserts that the page has no markup of a mail and executes only its own script.
    fn assert_is_safe_page(&self) {
        assert!(
            self.head
                .contains("content-security-policy: default-src 'none'; style-src 'nonce-"),
            "{}",
            self.head
        );
        assert!(self.head.contains("script-src 'nonce-"), "{}", self.head);
        for part in [
            "nosniff",
            "referrer-policy: no-referrer",
            "content-type: text/html; charset=utf-8",
        ] {
            assert!(self.head.contains(part), "{part}: {}", self.head);
        }
        let body = self.body.to_ascii_lowercase();
        for markup in ["<hostile", "<script>", "<img", "<b>", "<link"] {
            assert!(!body.contains(markup), "{markup}\n{body}");
        }
        assert_eq!(body.matches("<script ").count(), 1, "{body}");
        // No value of a mail leaves its attribute.
        assert!(!body.contains("'><hostile") && !body.contains("\"><hostile"));
    }

    /// Asserts that a part is a download, or HTML that a browser neither executes nor loads anything for.
    fn assert_is_safe_part(&self) {
        assert!(self.head.contains("sandbox"), "{}", self.head);
        assert!(self.head.contains("default-src 'none'"), "{}", self.head);
        assert!(self.head.contains("nosniff"), "{}", self.head);
        if self.head.contains("content-type: text/html; charset=utf-8") {
            assert!(
                !self.head.contains("script-src") && !self.head.contains("allow-"),
                "{}",
                self.head
            );
            let body = self.body.to_ascii_lowercase();
            for element in ["<link", "<meta", "<base", "<iframe"] {
                assert!(!body.contains(element), "{element}\n{body}");
            }
        } else {
            assert!(
                self.head.contains("content-type: application/octet-stream"),
                "{}",
                self.head
            );
            let line = self
                .head
                .lines()
                .find(|line| line.starts_with("content-disposition: "));
            let line = line.expect("a disposition").trim_end();
            let name = line.strip_prefix("content-disposition: attachment; filename=\"");
            let name = name
                .and_then(|name| name.strip_suffix('"'))
                .expect("a name");
            assert!(
                name.bytes()
                    .all(|octet| octet.is_ascii_alphanumeric() || b"._-".contains(&octet)),
                "{line}"
            );
        }
    }
}
