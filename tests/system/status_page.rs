//! The status page in a real browser: its numbers, a store that goes down, hostile senders, its policy, its look.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use testkit::ports::free_ports;
use testkit::process::run_command;
use testkit::status::{STATUS, address, figures};
use testkit::steps::rename_files;
use testkit::tls::TlsServer;
use testkit::web::{Browser, Screen};
use testkit::{Server, assert_took, let_time_pass, short_mail, test, wait_for, write_config};

#[test]
fn numbers_of_the_page_are_those_of_the_metrics() {
    let tls = TlsServer::start(&[STATUS, ("GSMTP_MAX_SIZE", "10000")]);
    let server = &tls.server;
    let browser = browser_with(server);
    let mut client = server.client();
    for number in 0..1_200 {
        client.deliver(
            "a@client.test",
            "u@ours.test",
            &short_mail(&format!("{number}")),
        );
    }
    client.command("MAIL FROM:<a@client.test> SIZE=20000", "552 5.3.4");
    let metrics = figures(server);
    assert_eq!(
        metrics["goguerrilla_mails_total{outcome=\"saved\"}"],
        1_200.0
    );
    let shown = wait_for("the numbers of the metrics on the page", || {
        let shown = shown_metrics(&browser);
        let are_equal = shown
            .iter()
            .all(|(name, (value, _))| metrics.get(name) == Some(value));
        (are_equal && !shown.is_empty()).then_some(shown)
    });
    // No outcome is missing, and the texts say what the values are.
    let outcomes = metrics
        .keys()
        .filter(|name| name.starts_with("goguerrilla_mails_total"));
    for name in outcomes.map(String::as_str).chain([
        "goguerrilla_connections_active",
        "goguerrilla_connections_limit",
        "goguerrilla_content_bytes",
        "goguerrilla_content_limit_bytes",
        "goguerrilla_mails_held",
        "goguerrilla_batch_mails_count",
    ]) {
        assert!(shown.contains_key(name), "{name}");
    }
    assert_eq!(
        shown["goguerrilla_mails_total{outcome=\"saved\"}"].1,
        "1,200"
    );
    assert_eq!(shown["goguerrilla_content_limit_bytes"].1, "268 MB");
    let text = browser.text_of("body");
    for part in [
        "mx.test",
        concat!("goguerrilla ", env!("CARGO_PKG_VERSION"), ", up for "),
        "in 89 d",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn store_that_goes_down_is_shown_within_five_seconds_with_its_time() {
    let mut server = Server::start(&[STATUS]);
    let browser = browser_with(&server);
    browser.wait_until("a server that is ready", &headline_is("Ready for mail"));

    rename_files(&server, &["goguerrilla.db"], "", "moved-");
    let moved_at = Instant::now();
    browser.wait_until(
        "a store that is down",
        &headline_is("The server takes no mail"),
    );
    // Half of the interval between two requests, which is the mean. Ten times as long are the five seconds.
    assert_took(moved_at.elapsed(), Duration::from_millis(500));
    let problem = browser.text_of("#problems li");
    assert!(
        problem.starts_with("error store: goguerrilla.db: moved") && problem.contains(" since "),
        "{problem}"
    );
    assert_eq!(browser.run_script("return document.title[0]"), "!");

    // A page that is opened later shows the same time.
    let since = problem
        .split(" since ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let since = since.expect("a time").to_owned();
    browser.open(&page_url(&server));
    browser.wait_until(
        "the same time",
        &format!(
            "return document.querySelector('#problems')?.innerText.includes({}) ?? false",
            json!(format!("since {since}"))
        ),
    );

    rename_files(&server, &["goguerrilla.db"], "moved-", "");
    browser.wait_until("a server that is ready", &headline_is("Ready for mail"));
    let past = browser.text_of("#past li");
    assert!(
        past.contains("goguerrilla.db: moved") && past.contains(&format!("{since} to ")),
        "{past}"
    );
    assert_eq!(browser.console(), [""; 0]);

    server.kill();
    browser.wait_until("lost contact", &headline_is("No contact with the server"));
    assert!(
        browser
            .text_of("#detail")
            .starts_with("The last answer is from ")
    );
}

#[test]
fn hostile_texts_of_senders_execute_nothing_and_change_no_other_text() {
    let server = Server::start(&[STATUS, ("GM_FEED", "http")]);
    let browser = browser_with(&server);
    let long = "W".repeat(3_000);
    let subjects = [
        "<script>window.executed = 1</script>",
        "<img src=x onerror='window.executed = 1'>",
        "</li></ul><h1>taken over</h1><svg onload=window.executed=1>",
        "{{constructor.constructor('window.executed = 1')()}} ${window.executed = 1}",
        "javascript:window.executed=1",
        "\u{202e}gpj.exe \u{2066}\u{2067}\u{200f}\u{61c} right to left",
        "\u{5e9}\u{5dc}\u{5d5}\u{5dd} <b>bold</b> &amp; &lt;",
        &long,
    ];
    let mut client = server.client();
    for subject in subjects {
        let from = "\"<img src=x onerror=window.executed=1>\"@client.test";
        let reply = client.deliver(from, "u@ours.test", &short_mail(subject));
        assert_eq!(reply.code, 250);
    }
    let count = subjects.len();
    browser.wait_until(
        "all mails",
        &format!("return document.querySelectorAll('#mails li').length === {count}"),
    );
    let texts = browser.run_script(
        "return [...document.querySelectorAll('#mails .subject')].map(one => one.textContent)",
    );
    let shown = |subject: &str| -> String {
        let is_direction = |c: char| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        subject
            .replace(is_direction, "\u{fffd}")
            .chars()
            .take(300)
            .collect()
    };
    // The list has the newest mail first, and a subject that is longer than its column is stored without its end.
    for (subject, text) in subjects
        .iter()
        .rev()
        .zip(texts.as_array().expect("an array"))
    {
        let text = text.as_str().expect("a text");
        assert!(
            shown(subject).starts_with(text) && text.chars().count() >= 10,
            "{subject}: {text}"
        );
    }
    let unsafe_elements = "return [window.executed ?? null, document.querySelectorAll(
        '#mails script, #mails img, #mails svg, #mails h1, #mails b, #mails a').length, document.querySelectorAll('h1').length]";
    assert_eq!(browser.run_script(unsafe_elements), json!([null, 0, 1]));
    for width in [320, 1_280] {
        browser.set_screen(Screen {
            width,
            height: 800,
            is_phone: width < 500,
            is_dark: false,
        });
        let overflow = "return document.documentElement.scrollWidth - window.innerWidth";
        assert_eq!(browser.run_script(overflow), 0, "{width}");
    }
    assert_eq!(browser.console(), [""; 0]);
}

#[test]
fn policy_of_the_page_blocks_scripts_styles_and_requests_to_other_servers() {
    let server = Server::start(&[STATUS]);
    let browser = browser_with(&server);
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    other.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}/", other.local_addr().expect("an address"));
    let script = r#"
        const other = OTHER, violations = [];
        document.addEventListener("securitypolicyviolation", event => violations.push(event.effectiveDirective));
        const add = (name, attributes, text) => {
            const made = document.createElement(name);
            for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
            if (text) made.append(text);
            document.body.append(made);
        };
        const attempt = action => { try { action(); } catch (error) { violations.push(error.constructor.name); } };
        const attemptAll = () => {
        attempt(() => add("script", {}, "window.executed = 1"));
        attempt(() => add("script", { src: other }));
        attempt(() => add("style", {}, "body { color: rgb(1, 2, 3) }"));
        attempt(() => add("link", { rel: "stylesheet", href: other }));
        attempt(() => add("img", { src: other }));
        attempt(() => add("iframe", { src: other }));
        attempt(() => add("object", { data: other }));
        attempt(() => add("video", { src: other }));
        attempt(() => add("a", { href: "javascript:window.executed = 1", id: "trap" }, "trap"));
        attempt(() => { document.body.innerHTML = "<b>replaced</b>"; });
        attempt(() => eval("window.executed = 1"));
        attempt(() => new WebSocket(other.replace("http", "ws")));
        document.getElementById("trap").click();
        return fetch(other, { mode: "no-cors" }).then(() => violations.push("fetched"), () => {});
        };
        // ChromeDriver may call eval, but not what runs later.
        return new Promise(done => setTimeout(() => attemptAll().then(() => setTimeout(done, 300))))
            .then(() => [window.executed ?? null, getComputedStyle(document.body).color, violations.sort()]);
    "#;
    let result = browser.run_script(&script.replace("OTHER", &json!(url).to_string()));
    assert_eq!(result[0], Value::Null, "{result}");
    assert_ne!(result[1], "rgb(1, 2, 3)");
    let violations: Vec<&str> = result[2]
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for directive in [
        "script-src-elem",
        "style-src-elem",
        "img-src",
        "frame-src",
        "media-src",
        "connect-src",
        "require-trusted-types-for",
        "TypeError",
        "EvalError",
    ] {
        assert!(
            violations.contains(&directive),
            "{directive}: {violations:?}"
        );
    }
    assert!(!violations.contains(&"fetched"), "{violations:?}");
    // The browser may connect in advance, before it asks the policy, but it sends nothing.
    while let Ok((mut socket, _)) = other.accept() {
        socket.set_nonblocking(true).expect("a socket");
        let sent = socket.read(&mut [0; 1]).unwrap_or(0);
        assert_eq!(sent, 0, "the browser sent a request to another server");
    }
    // The page itself still works.
    assert!(browser.text_of("body").contains("Ready for mail"));
}

#[test]
fn page_fits_every_width_and_is_readable_in_dark_and_light() {
    let tls = TlsServer::start(&[STATUS]);
    let server = &tls.server;
    let browser = browser_with(server);
    server
        .client()
        .deliver("a@client.test", "u@ours.test", &short_mail("one"));
    rename_files(server, &["goguerrilla.db"], "", "moved-");
    browser.wait_until("a long text", &headline_is("The server takes no mail"));
    let mut backgrounds = Vec::new();
    for is_dark in [false, true] {
        for width in [320, 390, 768, 1_280, 2_560] {
            browser.set_screen(Screen {
                width,
                height: 800,
                is_phone: width < 500,
                is_dark,
            });
            let overflow = "return document.documentElement.scrollWidth - window.innerWidth";
            assert_eq!(browser.run_script(overflow), 0, "{width}");
            let cut = browser.run_script(CUT_TEXTS);
            assert_eq!(cut, json!([]), "{width}");
        }
        let faint = browser.run_script(FAINT_TEXTS);
        assert_eq!(faint, json!([]), "dark: {is_dark}");
        backgrounds
            .push(browser.run_script("return getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    assert_eq!(browser.console(), [""; 0]);
}

/// Makes the pictures of docs/monitoring.md if GOGUERRILLA_SCREENSHOTS is their folder, after five minutes of mail. Without the
/// variable, makes them after a few seconds and checks only their size.
#[test]
fn screenshots_of_the_page_are_small() {
    let tls = TlsServer::start(&[STATUS]);
    let server = &tls.server;
    let browser = browser_with(server);
    let wanted_folder = std::env::var_os("GOGUERRILLA_SCREENSHOTS").map(PathBuf::from);
    let seconds = if wanted_folder.is_some() { 300 } else { 3 };
    let temporary = TempDir::new().expect("a temporary folder");
    let folder = wanted_folder.unwrap_or_else(|| temporary.path().to_owned());
    deliver_for(server, Duration::from_secs(seconds));
    for (name, width, height, is_dark) in [
        ("light", 1_000, 800, false),
        ("dark", 1_000, 800, true),
        ("phone", 390, 844, false),
    ] {
        browser.set_screen(Screen {
            width,
            height,
            is_phone: name == "phone",
            is_dark,
        });
        browser.wait_until("mail", &headline_is("Mail is flowing"));
        let image = browser.screenshot();
        assert!(
            image.starts_with(b"\x89PNG") && image.len() < 100_000,
            "{name}: {}",
            image.len()
        );
        fs::write(folder.join(format!("status-page-{name}.png")), image).expect("a picture");
    }
}

#[test]
fn make_run_prints_the_address_of_the_page_and_takes_the_next_free_port() {
    testkit::needs_program("curl");
    let folder = TempDir::new().expect("a temporary folder");
    let root = testkit::root_folder();
    for name in ["Makefile", "goguerrilla.conf.sample"] {
        fs::copy(root.join(name), folder.path().join(name)).expect("a copy");
    }
    let first = free_ports(3);
    let made = run_command(
        Command::new("make")
            .args(["-s", &format!("STATUS_PORT={first}"), "goguerrilla.conf"])
            .current_dir(folder.path()),
    );
    assert_eq!((made.status, made.stderr.as_str()), (0, ""));
    let config = fs::read_to_string(folder.path().join("goguerrilla.conf")).expect("a file");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["GM_STATUS_INTERFACE"], format!("127.0.0.1:{first}"));
    assert_eq!(config["GM_FEED"], "http");
    let _taken = TcpListener::bind(("127.0.0.1", first)).expect("a free port");

    for (interface, port) in [
        (format!("127.0.0.1:{first}"), first + 1),
        (String::new(), first + 1),
        (format!("127.0.0.1:{}", first + 2), first + 2),
    ] {
        write_config(
            folder.path(),
            &[
                ("GM_STATUS_INTERFACE", &interface),
                ("GSMTP_LOG_FILE", "/dev/stdout"),
            ],
        );
        let output = folder.path().join("output");
        let mut child = Command::new(root.join("dist/run"))
            .arg(testkit::binary())
            .args(["0", &first.to_string()])
            .current_dir(folder.path())
            .stdout(File::create(&output).expect("a file"))
            .spawn()
            .expect("the script starts");
        let text = wait_for("the status page", || {
            let text = fs::read_to_string(&output).ok()?;
            text.contains(" listening ").then_some(text)
        });
        child.kill().expect("the server runs");
        child.wait().expect("a child process");
        assert!(
            text.contains(&format!("Status page: http://127.0.0.1:{port}/\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!(" status_page address=127.0.0.1:{port}\n")),
            "{text}"
        );
        let is_moved = port == first + 1;
        assert_eq!(
            text.contains(&format!("Port {first} is taken by another program.\n")),
            is_moved,
            "{text}"
        );
    }
}

fn browser_with(server: &Server) -> Browser {
    let browser = Browser::start();
    browser.set_screen(Screen {
        width: 1_280,
        height: 800,
        is_phone: false,
        is_dark: false,
    });
    browser.open(&page_url(server));
    browser.wait_until(
        "the first numbers",
        "return document.querySelector('[data-value]') !== null",
    );
    browser
}

fn page_url(server: &Server) -> String {
    format!("http://{}/", address(server))
}

fn headline_is(text: &str) -> String {
    format!(
        "return document.getElementById('headline').textContent === {}",
        json!(text)
    )
}

/// Returns the value and the text of each metric on the page.
fn shown_metrics(browser: &Browser) -> HashMap<String, (f64, String)> {
    let script = "return [...document.querySelectorAll('[data-metric]')]
        .map(one => [one.dataset.metric, Number(one.dataset.value), one.textContent])";
    let shown = browser.run_script(script);
    let shown = shown.as_array().expect("an array").iter();
    let entry = |one: &Value| {
        let text = |at: usize| one[at].as_str().expect("a text").to_owned();
        (text(0), (one[1].as_f64().expect("a number"), text(2)))
    };
    shown.map(entry).collect()
}

/// Delivers mails of several sizes at a rate that rises and falls, and announces a few that are too large.
fn deliver_for(server: &Server, time: Duration) {
    let started_at = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..10_u32 {
            scope.spawn(move || {
                let mut client = server.client();
                let mut sent = number;
                while started_at.elapsed() < time {
                    let wave = 1.0 + (started_at.elapsed().as_secs_f64() / 19.0).sin();
                    let pause =
                        Duration::from_secs_f64(0.02 + 0.05 * wave * f64::from(sent * 7 % 5));
                    let_time_pass(pause, "the rate of the mails in a picture");
                    sent += 1;
                    if sent % 97 == 0 {
                        client.command("MAIL FROM:<a@client.test> SIZE=20000000", "552 5.3.4");
                    }
                    let line = "A line of an ordinary mail, which is repeated.\r\n"
                        .repeat(1 + sent as usize * 13 % 900);
                    let mail = format!("Subject: number {sent}\r\n\r\n{line}");
                    client.deliver("a@client.test", "u@ours.test", mail.as_bytes());
                }
            });
        }
    });
}

/// Returns the texts that do not fit into their element.
const CUT_TEXTS: &str = "
    return [...document.querySelectorAll('main *, header *')]
        .filter(one => one.clientWidth > 0 && getComputedStyle(one).overflowX !== 'hidden' && !one.closest('svg')
            && one.getBoundingClientRect().right > window.innerWidth + 0.5)
        .map(one => one.textContent);
";

/// Returns the texts whose contrast with their background is below 4.5, the minimum of WCAG 2.2 (1.4.3).
const FAINT_TEXTS: &str = "
    const channels = color => color.match(/[\\d.]+/g).map(Number);
    const linear = value => value <= 0.04045 * 255 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
    const luminance = color => {
        const [red, green, blue] = channels(color).map(linear);
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const background = one => {
        for (let at = one; at; at = at.parentElement) {
            const color = getComputedStyle(at).backgroundColor;
            if (channels(color)[3] !== 0) return color;
        }
        return 'rgb(255, 255, 255)';
    };
    return [...document.querySelectorAll('main *, header *, footer, footer *')]
        .filter(one => one.getClientRects().length > 0 && !one.closest('svg')
            && [...one.childNodes].some(child => child.nodeType === 3 && child.data.trim() !== ''))
        .map(one => {
            const values = [luminance(getComputedStyle(one).color), luminance(background(one))].sort((a, b) => b - a);
            return [(values[0] + 0.05) / (values[1] + 0.05), one.textContent];
        })
        .filter(([contrast]) => contrast < 4.5);
";
