//! Configurations of Go-Guerrilla 1.4 or later: exactly these are recognized, and the list of their keys is short and shows no
//! value.
#![no_main]

use std::collections::BTreeSet;

use goguerrilla::internals::config::go_guerrilla_key_notes_of_text;
use goguerrilla::{Config, ConfigError};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|text: &str| {
    let notes = go_guerrilla_key_notes_of_text(text);
    let parsed = Config::from_json(text);
    let Some(keys) = keys(text) else {
        assert!(notes.is_empty(), "{notes:?}");
        assert!(
            !matches!(parsed, Err(ConfigError::GoGuerrilla(_))),
            "{parsed:?}"
        );
        return;
    };
    let Err(ConfigError::GoGuerrilla(names)) = parsed else {
        panic!("{parsed:?}");
    };
    // Long keys are cut, and may then be equal.
    assert!(notes.len() <= keys.len().min(100));
    let are_short = keys.iter().all(|(_, key)| key.len() <= 64);
    if are_short {
        // A key whose name looks like a path may be shown as another one is.
        let paths = keys.iter().map(|(folder, key)| format!("{folder}{key}"));
        let paths: BTreeSet<String> = paths.collect();
        assert_eq!(notes.len(), paths.len().min(100), "{notes:?}");
    }
    for note in &notes {
        let (path, _) = note.split_once(": ").expect("a path and a note");
        let is_of_key = |(folder, key): &(&str, String)| {
            let shown: String = key.chars().take(64).collect();
            let rest = path.strip_prefix(folder);
            rest.is_some_and(|rest| {
                rest.starts_with(&*shown.escape_debug().to_string()) || key.contains(": ")
            })
        };
        assert!(keys.iter().any(is_of_key), "{note}");
        assert!(!note.chars().any(char::is_control) && note.chars().count() < 1_000);
    }
    assert!(!names.chars().any(char::is_control), "{names:?}");
    assert!(names.chars().count() < 100 * 1_000);
    // Each name is in a note, and no value is shown.
    let text_of_notes = notes.join("\n");
    for shown in [&names, &text_of_notes] {
        assert!(keys.iter().any(|(_, key)| key.contains(SECRET)) || !shown.contains(SECRET));
    }
    for known in ["pid_file", "mysql_host", "primary_mail_host"] {
        if keys.len() <= 100 && keys.iter().any(|(_, key)| key == known) {
            assert!(names.contains(&format!("{known} is ")), "{names}");
        }
    }
});

/// Returns each key with the path before it; `None` if the text is not a configuration of Go-Guerrilla.
fn keys(text: &str) -> Option<BTreeSet<(&'static str, String)>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        return None;
    };
    let is_list = |key: &str| object.get(key).is_some_and(Value::is_array);
    let is_recognized = is_list("servers")
        || is_list("allowed_hosts")
        || object.get("backend_config").is_some_and(Value::is_object);
    if !is_recognized {
        return None;
    }
    let mut keys = BTreeSet::new();
    let mut add = |folder, object: &Map<String, Value>, inner: &[&str]| {
        let names = object.keys().filter(|key| !inner.contains(&key.as_str()));
        keys.extend(names.map(|key| (folder, key.clone())));
    };
    let servers = object.get("servers").and_then(Value::as_array);
    let backend = object.get("backend_config").and_then(Value::as_object);
    let mut inner = Vec::new();
    inner.extend(servers.is_some().then_some("servers"));
    inner.extend(backend.is_some().then_some("backend_config"));
    add("", &object, &inner);
    if let Some(backend) = backend {
        add("backend_config.", backend, &[]);
    }
    for server in servers.into_iter().flatten().filter_map(Value::as_object) {
        let tls = server.get("tls").and_then(Value::as_object);
        let inner: &[&str] = if tls.is_some() { &["tls"] } else { &[] };
        add("servers[].", server, inner);
        if let Some(tls) = tls {
            add("servers[].tls.", tls, &[]);
        }
    }
    Some(keys)
}

const SECRET: &str = "s3cr3t";
