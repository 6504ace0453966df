//! Each invalid setting in `tests/configs` with its expected error; the sample configuration; unknown keys.

use std::fs;

use goguerrilla::Config;
use tempfile::TempDir;

use testkit::process::run;
use testkit::{Server, test};

#[test]
fn each_invalid_setting_prints_its_expected_error() {
    let folder = testkit::root_folder().join("tests/configs");
    let mut cases = 0;
    for entry in fs::read_dir(&folder).expect("the folder of configurations") {
        let case = entry.expect("a readable folder").path();
        let name = case.file_name().unwrap_or_default().to_string_lossy();
        let expected = fs::read_to_string(case.join("expected-error")).expect("a line of text");
        // If the server starts by mistake, it must not create files in the folder of the case.
        let folder_of_run = TempDir::new().expect("a temporary folder");
        let file = folder_of_run.path().join("goguerrilla.conf");
        fs::copy(case.join("goguerrilla.conf"), file).expect("a configuration");

        let ended = run(folder_of_run.path(), &["-config=goguerrilla.conf"]);
        assert_eq!(ended.stderr, format!("goguerrilla: {expected}"), "{name}");
        assert_eq!((ended.status, ended.stdout.as_str()), (1, ""), "{name}");

        let checked = run(folder_of_run.path(), &["check", "-config=goguerrilla.conf"]);
        assert_eq!(checked.stdout, format!("error: {expected}"), "{name}");
        assert_eq!((checked.status, checked.stderr.as_str()), (1, ""), "{name}");
        cases += 1;
    }
    assert!(cases > 0, "no cases");
}

#[test]
fn sample_configuration_equals_the_defaults_and_contains_every_key() {
    let sample = testkit::root_folder().join("goguerrilla.conf.sample");
    let config = Config::load(&sample).expect("a valid configuration");
    assert_eq!(config.warnings(), [""; 0]);
    assert_eq!(config, Config::default());

    let text = fs::read_to_string(sample).expect("a text file");
    let object: serde_json::Value = serde_json::from_str(&text).expect("strict JSON");
    for key in KEYS {
        assert!(object.get(key).is_some(), "the sample lacks {key}");
    }
    let count = object.as_object().map(serde_json::Map::len);
    assert_eq!(count, Some(KEYS.len()), "the sample has a key too many");
}

#[test]
fn unknown_key_logs_a_warning_and_the_server_starts() {
    let server = Server::start(&[("GM_ALOWED_HOSTS", "ours.test")]);
    server.client().command("NOOP", "250 2.0.0 ");
    let log = server.log();
    let note = "GM_ALOWED_HOSTS: unknown key, ignored; the nearest known key is GM_ALLOWED_HOSTS";
    let line = log.lines().find(|line| line.contains(note));
    let line = line.unwrap_or_else(|| panic!("no such note in\n{log}"));
    assert!(line.contains(" warn - configuration "), "{line}");
}

#[test]
fn json_numbers_and_booleans_are_accepted_unquoted() {
    let folder = TempDir::new().expect("a temporary folder");
    let config = r#"{"GSTMP_LISTEN_INTERFACE": "127.0.0.1:0", "GSMTP_MAX_SIZE": 1000, "GSMTP_VERBOSE": true}"#;
    fs::write(folder.path().join("goguerrilla.conf"), config).expect("a file is written");
    let ended = run(folder.path(), &["check"]);
    assert_eq!((ended.status, ended.stdout.as_str()), (0, ""));
}

#[test]
fn config_byte_order_mark_is_skipped_and_utf_16_is_rejected_by_name() {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("goguerrilla.conf");
    let text = "{\"GSTMP_LISTEN_INTERFACE\": \"127.0.0.1:0\", \"GM_PRIMARY_MAIL_HOST\": \"grün.test\"}\r\n";
    let check = |octets: Vec<u8>| {
        fs::write(&file, octets).expect("a file is written");
        let ended = run(folder.path(), &["check"]);
        assert_eq!(ended.stderr, "");
        (ended.status, ended.stdout)
    };
    let with_mark = |text: &str| format!("\u{feff}{text}").into_bytes();
    assert_eq!(check(with_mark(text)), (0, String::new()));
    let not_json = "error: goguerrilla.conf: expected strict JSON without comments and trailing commas, but found: ";
    // Columns are counted in characters, as editors do.
    for (octets, found) in [
        (
            with_mark("{,}"),
            "key must be a string at line 1 column 2\n",
        ),
        (
            with_mark("\u{feff}{}"),
            "expected value at line 1 column 1\n",
        ),
        (
            with_mark(""),
            "EOF while parsing a value at line 1 column 0\n",
        ),
        (
            b"\xef\xbb\xbf{\xff}".to_vec(),
            "octets that are not UTF-8 at line 1 column 2\n",
        ),
    ] {
        assert_eq!(check(octets), (1, format!("{not_json}{found}")));
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
    let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
    for octets in [
        [b"\xff\xfe", little.as_slice()].concat(),
        [b"\xfe\xff", big.as_slice()].concat(),
        little,
        big,
    ] {
        let found = "text in UTF-16; save the file as UTF-8\n";
        assert_eq!(check(octets), (1, format!("{not_json}{found}")));
    }
}

/// The keys of the sample configuration, which leaves out aliases.
const KEYS: &[&str] = &[
    "GM_ALLOWED_HOSTS",
    "GM_RECIPIENT_QUERY",
    "GM_RECIPIENT_CACHE_SECONDS",
    "GM_PRIMARY_MAIL_HOST",
    "GSMTP_HOST_NAME",
    "GSTMP_LISTEN_INTERFACE",
    "GSMTPS_LISTEN_INTERFACE",
    "GSMTP_PUB_KEY",
    "GSMTP_PRV_KEY",
    "GSMTP_MAX_SIZE",
    "GSMTP_TIMEOUT",
    "GSMTP_LOG_FILE",
    "GSMTP_VERBOSE",
    "GM_LOG_FORMAT",
    "GM_MAX_CLIENTS",
    "GM_MAX_CLIENTS_PER_IP",
    "GM_MAX_RECIPIENTS",
    "GM_MAX_MEMORY",
    "GM_HOLD_SECONDS",
    "GM_STORE",
    "GM_SQLITE_FILE",
    "GM_MAIL_TABLE",
    "GM_KEEP_DAYS",
    "GM_FEED",
    "GM_FEED_LENGTH",
    "GM_FEED_CLIENTS",
    "GM_SAVE_WORKERS",
    "MYSQL_HOST",
    "MYSQL_USER",
    "MYSQL_PASS",
    "MYSQL_PASS_FILE",
    "MYSQL_TLS",
    "MYSQL_CA",
    "MYSQL_DB",
    "REDIS_INTERFACE",
    "REDIS_PASS_FILE",
    "REDIS_CA",
    "REDIS_EXPIRE_SECONDS",
    "NGINX_AUTH_ENABLED",
    "NGINX_AUTH",
    "GM_TRUSTED_PROXIES",
    "GSMTP_PROXY_PROTOCOL",
    "GM_STATUS_INTERFACE",
    "PID_FILE",
    "SGID",
    "GUID",
];
