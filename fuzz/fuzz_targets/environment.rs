//! Values from environment variables have the effect of the same values in the file, and errors and warnings name the variable
//! but no secret. The input is lines `NAME=VALUE`, an empty line, and the text of the file.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use goguerrilla::internals::config::EnvironmentSettings;
use goguerrilla::{Config, ConfigError};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

fuzz_target!(|input: &[u8]| {
    let mut variables: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut rest = input;
    while let Some(end) = rest.iter().position(|octet| *octet == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        let mut parts = line.splitn(2, |octet| *octet == b'=');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next());
        variables.push((name.to_vec(), value.unwrap_or_default().to_vec()));
    }
    let Ok(file) = std::str::from_utf8(rest) else {
        return;
    };
    let os = |octets: &Vec<u8>| OsString::from_vec(octets.clone());
    let pairs = variables.iter().map(|(name, value)| (os(name), os(value)));
    let settings = EnvironmentSettings::from_variables(pairs);
    let is_ours =
        |(name, value): &&(Vec<u8>, Vec<u8>)| name.starts_with(PREFIX) && !value.is_empty();
    let ours: Vec<_> = variables.iter().filter(is_ours).collect();
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            let is_invalid = |value: &[u8]| std::str::from_utf8(value).is_err();
            assert!(ours.iter().any(|(_, value)| is_invalid(value)), "{error}");
            check_lines(&[error_text(&error)], &[], file);
            return;
        }
    };
    let parsed = settings.config_from_json(file);
    let mut output = vec![format!("{parsed:?}")];
    match &parsed {
        Ok(config) => {
            assert_eq!(config.find_broken_invariant(), None);
            check_lines(config.warnings(), &ours, file);
            output.extend(config.warnings().iter().cloned());
        }
        Err(error) => {
            check_source(error, &ours);
            check_lines(&[error_text(error)], &ours, file);
            output.push(error_text(error));
        }
    }
    check_secrets(&output, &ours, file);
    if ours.is_empty() {
        assert!(settings.is_empty());
        match (Config::from_json(file), &parsed) {
            (Ok(alone), Ok(parsed)) => {
                assert_eq!(
                    words_without_warnings(&alone),
                    words_without_warnings(parsed)
                );
            }
            (alone, _) => assert_eq!(format!("{alone:?}"), format!("{parsed:?}")),
        }
    }
    check_precedence(&parsed, &ours, file);
});

/// Returns the whole text of an error.
fn error_text(error: &ConfigError) -> String {
    match error {
        ConfigError::InEnvironment { source } => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

fn check_lines(lines: &[String], ours: &[&(Vec<u8>, Vec<u8>)], file: &str) {
    // Unknown names are cut to 64 characters, but a value is shown as a whole, and may be escaped.
    let octets: usize = ours
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    for line in lines {
        assert!(
            !line.is_empty() && !line.chars().any(char::is_control),
            "{line:?}"
        );
        assert!(line.len() < 1_000 + 10 * (octets + file.len()));
    }
}

/// Asserts that an error names the environment if and only if the value is from there.
fn check_source(error: &ConfigError, ours: &[&(Vec<u8>, Vec<u8>)]) {
    let is_ours = |key: &str| {
        let mut names = ours.iter().map(|(name, _)| &name[PREFIX.len()..]);
        names.any(|name| name == key.as_bytes())
    };
    match error {
        ConfigError::InEnvironment { source } => match &**source {
            ConfigError::BadValue { key, .. } => assert!(is_ours(key), "{source}"),
            other => panic!("{other:?}"),
        },
        ConfigError::BadValue { key, .. } => assert!(!is_ours(key), "{error}"),
        _ => {}
    }
}

/// Asserts that the file with the values of the environment has the same settings.
fn check_precedence(
    parsed: &Result<Config, ConfigError>,
    ours: &[&(Vec<u8>, Vec<u8>)],
    file: &str,
) {
    // Without a file that is an object with different keys, there is nothing to compare.
    if Config::from_json(file).is_err_and(|error| !matches!(error, ConfigError::BadValue { .. })) {
        return;
    }
    let text = file.strip_prefix('\u{feff}').unwrap_or(file);
    let mut values: Map<String, Value> = serde_json::from_str(text).expect("it was parsed");
    let mut set: Vec<&str> = Vec::new();
    for (name, value) in ours {
        let name = std::str::from_utf8(&name[PREFIX.len()..]).unwrap_or_default();
        let Ok(value) = std::str::from_utf8(value) else {
            return;
        };
        // The first of two variables with the same name counts.
        if set.contains(&name) || name.is_empty() {
            continue;
        }
        set.push(name);
        for &spelling in spellings(name) {
            if !set.contains(&spelling) {
                values.remove(spelling);
            }
        }
        values.insert(name.to_owned(), value.into());
    }
    let merged = Config::from_json(&Value::from(values).to_string());
    match (parsed, &merged) {
        (Ok(parsed), Ok(merged)) => {
            assert_eq!(
                words_without_warnings(parsed),
                words_without_warnings(merged)
            );
        }
        (Err(_), Err(_)) => {}
        different => panic!("{different:?}"),
    }
}

/// Returns the other spellings of a key.
fn spellings(key: &str) -> &'static [&'static str] {
    match key {
        "GSTMP_LISTEN_INTERFACE" => &["GSMTP_LISTEN_INTERFACE"],
        "GSMTP_LISTEN_INTERFACE" => &["GSTMP_LISTEN_INTERFACE"],
        "GUID" => &["SUID"],
        "SUID" => &["GUID"],
        _ => &[],
    }
}

/// Returns the words of the settings in alphabetical order, because a set of hosts has no order. The warnings, which name the
/// source of a value and are among the last fields, are left out.
fn words_without_warnings(config: &Config) -> Vec<String> {
    let text = format!("{config:?}");
    let end = text.find(", warnings: [").expect("a field");
    let words = text[..end].split([' ', ',', '{', '}']);
    let mut words: Vec<String> = words.map(str::to_owned).collect();
    words.sort();
    words
}

/// Asserts that a password is not shown. Only a secret that occurs once counts, because the rest may legitimately be shown.
fn check_secrets(output: &[String], ours: &[&(Vec<u8>, Vec<u8>)], file: &str) {
    for (name, value) in ours {
        let Ok(secret) = std::str::from_utf8(value) else {
            continue;
        };
        let is_secret = SECRETS.contains(&name.as_slice()) && secret.contains("s3cr3t");
        let mut others = ours.iter().filter(|(other, _)| other != name);
        let is_elsewhere = file.contains(secret)
            || others.any(|(name, value)| {
                let contains = |octets: &[u8]| {
                    octets
                        .windows(secret.len())
                        .any(|part| part == secret.as_bytes())
                };
                contains(name) || contains(value)
            });
        if is_secret && !is_elsewhere {
            assert!(
                !output.iter().any(|line| line.contains(secret)),
                "{output:?}"
            );
        }
    }
}

const PREFIX: &[u8] = b"GOGUERRILLA_";
const SECRETS: [&[u8]; 2] = [b"GOGUERRILLA_MYSQL_PASS", b"GOGUERRILLA_REDIS_INTERFACE"];
