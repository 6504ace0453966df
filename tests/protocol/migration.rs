//! Configurations of Go-Guerrilla: `check` and the start recognize them, and docs/migrate-from-go-guerrilla.md lists each key.

use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use goguerrilla::Config;
use testkit::process::{ProcessResult, run};
use testkit::project_files::documented_block;
use testkit::test;

#[test]
fn configuration_of_go_guerrilla_1_4_and_later_is_recognized_and_each_key_gets_its_name() {
    for (name, keys) in [
        (
            "go-guerrilla-1.4.conf",
            &[
                (
                    "allowed_hosts",
                    "GM_ALLOWED_HOSTS; one text with commas between the domains",
                ),
                ("mysql_pass", "MYSQL_PASS"),
                (
                    "servers[].max_clients",
                    "GM_MAX_CLIENTS; the limit of all listeners together",
                ),
                (
                    "servers[].public_key_file",
                    "GSMTP_PUB_KEY; one value for all listeners",
                ),
                (
                    "servers[].start_tls_on",
                    "no key here; STARTTLS is offered if GSMTP_PUB_KEY and GSMTP_PRV_KEY are set",
                ),
            ][..],
        ),
        (
            "go-guerrilla-1.6.conf",
            &[
                (
                    "backend_config.sql_dsn",
                    "MYSQL_USER, MYSQL_PASS, MYSQL_HOST and MYSQL_DB; one key for each part; without options",
                ),
                ("backend_config.redis_interface", "REDIS_INTERFACE"),
                (
                    "servers[].xclient_on",
                    "GM_TRUSTED_PROXIES; the addresses of the proxies whose XCLIENT is trusted",
                ),
                (
                    "servers[].tls.ciphers",
                    "no key here; TLS 1.2 and 1.3 with the cipher suites and groups of rustls",
                ),
                (
                    "servers[].tls.private_key_file",
                    "GSMTP_PRV_KEY; one value for all listeners",
                ),
            ],
        ),
    ] {
        let (started, checked) = start_and_check(name);
        let beginning = "goguerrilla.conf: a configuration of Go-Guerrilla 1.4 or later, whose keys have other names here: ";
        assert_eq!((started.status, checked.status), (1, 1));
        assert!(
            started
                .stderr
                .starts_with(&format!("goguerrilla: {beginning}")),
            "{}",
            started.stderr
        );
        assert_eq!(started.stderr.lines().count(), 1, "{}", started.stderr);
        assert!(
            started
                .stderr
                .contains("allowed_hosts is GM_ALLOWED_HOSTS, ")
        );
        assert!(
            checked.stdout.starts_with(&format!("error: {beginning}")),
            "{}",
            checked.stdout
        );
        let notes: Vec<&str> = checked.stdout.lines().skip(1).collect();
        assert_eq!(notes.len(), paths_of(name).len());
        for (key, note) in keys {
            let line = format!("note: {key}: {note}");
            assert!(notes.contains(&&*line), "{line}\n{}", checked.stdout);
        }
        for output in [started.stderr, checked.stdout] {
            assert!(
                !output.contains("s3cr3t") && !output.contains("no key of Go"),
                "{output}"
            );
        }
    }
}

#[test]
fn configuration_of_go_guerrilla_of_2012_is_used_and_its_unused_key_gets_a_warning() {
    let text = sample("go-guerrilla-2012.conf");
    let config = Config::from_json(&text).expect("a valid configuration");
    assert_eq!(
        config.warnings(),
        ["MAX_SMTP_CLIENTS: a key of Go-Guerrilla, ignored; it is called GM_MAX_CLIENTS here"]
    );
    let with_comma = text.replace("\"504\"\n}", "\"504\",\n}");
    let error = Config::from_json(&with_comma).expect_err("a trailing comma");
    assert!(
        error.to_string().contains("trailing comma at line 23"),
        "{error}"
    );
    // A file with keys of 1.4 but without a list is not mistaken for a configuration of this server in silence.
    let config = Config::from_json(r#"{"mysql_host": "db:3306", "allowed_hosts": "example.com"}"#);
    let config = config.expect("a valid configuration");
    assert_eq!(
        config.warnings(),
        [
            "mysql_host: a key of Go-Guerrilla, ignored; it is called MYSQL_HOST here",
            "allowed_hosts: a key of Go-Guerrilla, ignored; it is called GM_ALLOWED_HOSTS here",
        ]
    );
}

#[test]
fn documentation_lists_each_key_of_go_guerrilla_and_shows_valid_files() {
    let page = testkit::root_folder().join("docs/migrate-from-go-guerrilla.md");
    let page = fs::read_to_string(page).expect("a page");
    for name in ["go-guerrilla-1.4.conf", "go-guerrilla-1.6.conf"] {
        for path in paths_of(name) {
            let key = path.rsplit('.').next().expect("a name");
            let is_listed = page.lines().any(|line| {
                let cell = line
                    .strip_prefix("| ")
                    .and_then(|line| line.split(" | ").next());
                cell.is_some_and(|cell| cell.contains(&format!("{key}`")))
            });
            assert!(is_listed, "{key}");
        }
    }
    let old = documented_block("migrate-from-go-guerrilla.md", "\"servers\"");
    let error = Config::from_json(&old).expect_err("a configuration of Go-Guerrilla");
    assert!(
        error
            .to_string()
            .starts_with("a configuration of Go-Guerrilla"),
        "{error}"
    );
    let new = documented_block("migrate-from-go-guerrilla.md", "GSMTPS_LISTEN_INTERFACE");
    let config = Config::from_json(&new).expect("a valid configuration");
    assert_eq!(config.warnings(), [""; 0]);
    // Each key of the old file that has a name here is in the new one.
    let new: Value = serde_json::from_str(&new).expect("JSON");
    for named in error
        .to_string()
        .split(" here: ")
        .nth(1)
        .expect("names")
        .split(';')
        .next()
        .expect("names")
        .split(", ")
    {
        if let Some((_, key)) = named.split_once(" is ") {
            assert!(new.get(key).is_some(), "{key}");
        }
    }
}

fn start_and_check(name: &str) -> (ProcessResult, ProcessResult) {
    let folder = TempDir::new().expect("a temporary folder");
    fs::write(folder.path().join("goguerrilla.conf"), sample(name)).expect("a file is written");
    (run(folder.path(), &[]), run(folder.path(), &["check"]))
}

fn sample(name: &str) -> String {
    let file = testkit::root_folder().join("tests/migration").join(name);
    fs::read_to_string(file).expect("a configuration of Go-Guerrilla")
}

/// Returns the distinct paths of the keys with a value.
fn paths_of(name: &str) -> Vec<String> {
    fn add(value: &Value, path: &str, paths: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let dot = if path.is_empty() { "" } else { "." };
                    add(value, &format!("{path}{dot}{key}"), paths);
                }
            }
            Value::Array(items) if items.iter().all(Value::is_object) => {
                for item in items {
                    add(item, &format!("{path}[]"), paths);
                }
            }
            _ => paths.push(path.to_owned()),
        }
    }
    let mut paths = Vec::new();
    let value = serde_json::from_str(&sample(name)).expect("JSON");
    add(&value, "", &mut paths);
    paths.sort();
    paths.dedup();
    paths
}
