//! Recognizes a configuration of Go-Guerrilla 1.4 or later, and says what each of its keys is called here.
//!
//! Go-Guerrilla of 2012 has the keys of this server, in capitals. Version 1.4 replaced them by keys in small letters, some of
//! them in objects and lists. docs/migrate-from-go-guerrilla.md describes the migration.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value};

use super::MAX_FILE_OCTETS;
use super::raw::shown_name;
use crate::os::regular_file::read_regular_file;

/// Returns the names of the keys in the configuration and their names here, as one text; `None` if `text`, which is without its
/// byte order mark, is no configuration of Go-Guerrilla 1.4 or later.
pub fn names_of_go_guerrilla_keys(text: &str) -> Option<String> {
    let keys = keys_of_go_guerrilla(text)?;
    let names = keys
        .iter()
        .filter_map(|path| Some(format!("{path} is {}", known_key(path)?.equivalent?)));
    Some(names.collect::<Vec<_>>().join(", "))
}

/// Returns a line for each key of a file of Go-Guerrilla 1.4 or later: its name here, or why there is none. Returns no line for
/// any other file, and for one that cannot be read.
pub fn go_guerrilla_key_notes(file: &Path) -> Vec<String> {
    let octets = read_regular_file(file, MAX_FILE_OCTETS).map(|(octets, _)| octets);
    let text = String::from_utf8(octets.unwrap_or_default());
    go_guerrilla_key_notes_of_text(&text.unwrap_or_default())
}

/// Returns the lines that [`go_guerrilla_key_notes`] returns for a file with this text. Needs no file, so that fuzzing can pass
/// any text.
pub fn go_guerrilla_key_notes_of_text(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let keys = keys_of_go_guerrilla(text).unwrap_or_default();
    keys.iter().map(|path| note_about_key(path)).collect()
}

/// Returns the key of this server that corresponds to a key of Go-Guerrilla in lower case; `None` if Go-Guerrilla has no such
/// key, or this server has none for it.
pub fn equivalent_of_go_guerrilla_key(name: &str) -> Option<&'static str> {
    known_key(name).and_then(|known| known.equivalent)
}

fn note_about_key(path: &str) -> String {
    let Some(KnownKey {
        equivalent, hint, ..
    }) = known_key(path)
    else {
        return format!("{path}: no key of Go-Guerrilla 1.6");
    };
    match (equivalent, *hint) {
        (Some(key), "") => format!("{path}: {key}"),
        (Some(key), hint) => format!("{path}: {key}; {hint}"),
        (None, hint) => format!("{path}: no key here; {hint}"),
    }
}

/// Returns the path of each key, at most [`MAX_KEYS`]; `None` if `text` is no configuration of Go-Guerrilla 1.4 or later.
fn keys_of_go_guerrilla(text: &str) -> Option<BTreeSet<String>> {
    let object: Map<String, Value> = serde_json::from_str(text).ok()?;
    let is_list = |key: &str| object.get(key).is_some_and(Value::is_array);
    let is_recognized = is_list("servers")
        || is_list("allowed_hosts")
        || object.get("backend_config").is_some_and(Value::is_object);
    if !is_recognized {
        return None;
    }
    let mut keys = BTreeSet::new();
    for (key, value) in &object {
        match (key.as_str(), value) {
            ("servers", Value::Array(servers)) => {
                for server in servers.iter().filter_map(Value::as_object) {
                    add_keys_of_server(server, &mut keys);
                }
            }
            ("backend_config", Value::Object(backend)) => {
                keys.extend(
                    backend
                        .keys()
                        .map(|key| path_of_key("backend_config.", key)),
                );
            }
            _ => keys.extend([path_of_key("", key)]),
        }
    }
    Some(keys.into_iter().take(MAX_KEYS).collect())
}

fn add_keys_of_server(server: &Map<String, Value>, keys: &mut BTreeSet<String>) {
    for (key, value) in server {
        match (key.as_str(), value) {
            ("tls", Value::Object(tls)) => {
                keys.extend(tls.keys().map(|key| path_of_key("servers[].tls.", key)));
            }
            _ => keys.extend([path_of_key("servers[].", key)]),
        }
    }
}

fn path_of_key(prefix: &str, key: &str) -> String {
    format!("{prefix}{}", shown_name(key))
}

fn known_key(path: &str) -> Option<&'static KnownKey> {
    let name = path.rsplit('.').next().unwrap_or(path);
    KNOWN_KEYS.iter().find(|known| known.name == name)
}

/// A key of Go-Guerrilla. A name means the same wherever it is in the file.
struct KnownKey {
    name: &'static str,
    /// The corresponding key of this server.
    equivalent: Option<&'static str>,
    /// What else is different, or why there is no key here.
    hint: &'static str,
}

const fn same(name: &'static str, equivalent: &'static str) -> KnownKey {
    with_hint(name, equivalent, "")
}

const fn with_hint(name: &'static str, equivalent: &'static str, hint: &'static str) -> KnownKey {
    KnownKey {
        name,
        equivalent: Some(equivalent),
        hint,
    }
}

const fn none(name: &'static str, hint: &'static str) -> KnownKey {
    KnownKey {
        name,
        equivalent: None,
        hint,
    }
}

/// Maximum number of keys that are listed. Go-Guerrilla has about fifty.
const MAX_KEYS: usize = 100;
/// The cipher suites, curves and versions cannot be chosen.
const TLS_CHOICES: &str = "TLS 1.2 and 1.3 with the cipher suites and groups of rustls";
const ONE_FOR_ALL: &str = "one value for all listeners";
const POOL: &str = "each writer (GM_SAVE_WORKERS) has one connection";

/// Every key of Go-Guerrilla 1.4 to 1.6, and the one of 2012 that has another name here.
#[rustfmt::skip]
const KNOWN_KEYS: &[KnownKey] = &[
    with_hint("MAX_SMTP_CLIENTS", "GM_MAX_CLIENTS", "Go-Guerrilla never used it"),
    with_hint("allowed_hosts", "GM_ALLOWED_HOSTS", "one text with commas between the domains"),
    same("pid_file", "PID_FILE"),
    with_hint("log_file", "GSMTP_LOG_FILE", "stderr is /dev/stderr here, stdout is /dev/stdout, off is /dev/null"),
    with_hint("log_level", "GSMTP_VERBOSE", "Y instead of debug, else N"),
    with_hint("verbose", "GSMTP_VERBOSE", "Y or N"),
    same("primary_mail_host", "GM_PRIMARY_MAIL_HOST"),
    with_hint("backend_name", "GM_STORE", "mysql or sqlite, or discard instead of dummy"),
    with_hint("save_process", "GM_STORE", "mysql instead of Sql and Redis, sqlite without a server, discard instead of Debugger"),
    with_hint("validate_process", "GM_RECIPIENT_QUERY", "a SELECT that returns a row if the recipient exists"),
    same("mail_table", "GM_MAIL_TABLE"),
    same("mysql_db", "MYSQL_DB"),
    same("mysql_host", "MYSQL_HOST"),
    same("mysql_pass", "MYSQL_PASS"),
    same("mysql_user", "MYSQL_USER"),
    with_hint("sql_driver", "GM_STORE", "mysql; another database needs a program with its own store, see docs/library.md"),
    with_hint("sql_dsn", "MYSQL_USER, MYSQL_PASS, MYSQL_HOST and MYSQL_DB", "one key for each part; without options"),
    none("sql_insert", "the INSERT fills the columns that goguerrilla schema prints"),
    none("sql_values", "the INSERT fills the columns that goguerrilla schema prints"),
    none("sql_max_open_conns", POOL),
    none("sql_max_idle_conns", POOL),
    none("sql_max_conn_lifetime", POOL),
    same("redis_interface", "REDIS_INTERFACE"),
    same("redis_expire_seconds", "REDIS_EXPIRE_SECONDS"),
    none("redis_sql_batch_timeout", "batches form without a delay, and the 250 follows the COMMIT"),
    none("redis_mysql_batch_timeout", "batches form without a delay, and the 250 follows the COMMIT"),
    with_hint("save_workers_size", "GM_SAVE_WORKERS", "the default, 2, is usually best"),
    none("log_received_mails", "each saved mail is a line of the log"),
    with_hint("gw_save_timeout", "GM_HOLD_SECONDS", "how long a mail waits for a store that is unavailable, in seconds"),
    none("gw_val_rcpt_timeout", "a recipient query may take 2 seconds"),
    none("sleep_seconds", "it was for tests of Go-Guerrilla"),
    none("is_enabled", "leave listeners out that are not enabled"),
    with_hint("host_name", "GSMTP_HOST_NAME", ONE_FOR_ALL),
    with_hint("max_size", "GSMTP_MAX_SIZE", ONE_FOR_ALL),
    with_hint("timeout", "GSMTP_TIMEOUT", ONE_FOR_ALL),
    with_hint("listen_interface", "GSTMP_LISTEN_INTERFACE", "or GSMTPS_LISTEN_INTERFACE if tls_always_on is true"),
    with_hint("max_clients", "GM_MAX_CLIENTS", "the limit of all listeners together"),
    with_hint("xclient_on", "GM_TRUSTED_PROXIES", "the addresses of the proxies whose XCLIENT is trusted"),
    with_hint("private_key_file", "GSMTP_PRV_KEY", ONE_FOR_ALL),
    with_hint("public_key_file", "GSMTP_PUB_KEY", ONE_FOR_ALL),
    none("start_tls_on", "STARTTLS is offered if GSMTP_PUB_KEY and GSMTP_PRV_KEY are set"),
    none("tls_always_on", "put the address of the listener into GSMTPS_LISTEN_INTERFACE"),
    none("protocols", TLS_CHOICES),
    none("ciphers", TLS_CHOICES),
    none("curves", TLS_CHOICES),
    none("prefer_server_cipher_suites", TLS_CHOICES),
    none("root_cas_file", "clients are not asked for a certificate"),
    none("client_auth_type", "clients are not asked for a certificate"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::find_key;
    use crate::config::{Config, ConfigError};

    #[test]
    fn every_name_that_is_given_is_a_key_of_this_server() {
        for known in KNOWN_KEYS {
            let names = known.equivalent.unwrap_or_default();
            for name in names.split([',', ' ']).filter(|name| name.len() > 3) {
                assert_eq!(find_key(name), Some(name), "{}", known.name);
            }
            assert!(known.equivalent.is_some() || !known.hint.is_empty());
            let same_name = KNOWN_KEYS.iter().filter(|other| other.name == known.name);
            assert_eq!(same_name.count(), 1, "{}", known.name);
        }
    }

    #[test]
    fn only_configurations_of_go_guerrilla_are_recognized() {
        for text in [
            r#"{"servers": []}"#,
            r#"{"allowed_hosts": ["a.test"]}"#,
            r#"{"backend_config": {"mail_table": "a"}}"#,
        ] {
            assert!(names_of_go_guerrilla_keys(text).is_some(), "{text}");
            let with_mark = format!("\u{feff}{text}");
            let notes = go_guerrilla_key_notes_of_text(&with_mark);
            assert_eq!(notes, go_guerrilla_key_notes_of_text(text));
            let is_recognized = |text: &str| {
                let error = Config::from_json(text).unwrap_err();
                matches!(error, ConfigError::GoGuerrilla(_))
            };
            // Only the first of two byte order marks is skipped.
            assert!(is_recognized(&with_mark));
            assert!(!is_recognized(&format!("\u{feff}{with_mark}")));
        }
        for text in [
            "",
            "[]",
            r#"{"servers": "a"}"#,
            r#"{"GM_ALLOWED_HOSTS": ["a.test"]}"#,
            r#"{"servers": [],}"#,
        ] {
            assert_eq!(names_of_go_guerrilla_keys(text), None, "{text}");
        }
    }

    #[test]
    fn many_and_hostile_keys_make_a_short_line() {
        let server: Map<String, Value> = (0..10_000)
            .map(|number| (format!("{number}\n{}", "x".repeat(1_000)), Value::Null))
            .collect();
        let text = serde_json::json!({ "servers": [server, 1, [], {"max_size": {}, "tls": 1}] });
        let keys = keys_of_go_guerrilla(&text.to_string()).unwrap();
        assert_eq!(keys.len(), MAX_KEYS);
        assert!(
            keys.iter()
                .all(|key| key.len() < 100 && !key.contains('\n'))
        );
    }
}
