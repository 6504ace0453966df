//! The keys and values of the configuration as text, and parsers for each type of value.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::ConfigError;
use super::go_guerrilla::equivalent_of_go_guerrilla_key;

/// The pairs of key and value, from the file and from the environment.
#[derive(Default)]
pub struct RawConfig {
    /// At most one pair for each key.
    pub pairs: Vec<(String, String)>,
    /// The keys in `pairs` whose value is from the environment.
    pub keys_from_environment: Vec<&'static str>,
}

impl RawConfig {
    /// Returns whether `key` is set in the file or by the environment, even if to its default.
    pub fn is_given(&self, key: &str) -> bool {
        self.pairs.iter().any(|(name, _)| name == key)
    }

    /// Returns the given value, or the built-in default.
    pub fn configured_or_default_value(&self, key: &'static str) -> &str {
        let given = self.pairs.iter().find(|(name, _)| name == key);
        match given {
            Some((_, value)) => value,
            None => default_of_config_key(key),
        }
    }

    /// Parses the value of `key` with `parse`. If `parse` returns `None`, the error shows `expected`, a description of valid
    /// values.
    pub fn parse_config_value_with<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let value = self.configured_or_default_value(key);
        parse(value.trim()).ok_or_else(|| bad_value(key, expected, value))
    }

    /// Parses a comma-separated list; `parse` parses one item.
    pub fn parse_list<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        self.parse_config_value_with(key, expected, |text| {
            text.split(',').map(|item| parse(item.trim())).collect()
        })
    }

    /// Parses a number. If it is outside `range`, the error shows the range.
    pub fn parse_number(
        &self,
        key: &'static str,
        expected: &str,
        range: RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        let (least, most) = (*range.start(), *range.end());
        let number = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parse_config_value_with(key, expected, number)
            .map_err(|error| {
                let value = self.configured_or_default_value(key).trim();
                match value.parse::<u128>() {
                    Ok(_) => bad_value(key, &format!("{expected}, from {least} to {most}"), value),
                    Err(_) => error,
                }
            })
    }

    /// Parses one of several words; case is ignored.
    pub fn parse_choice<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        self.parse_config_value_with(key, &names.join(" or "), |text| {
            let chosen = choices
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(text));
            chosen.map(|(_, value)| *value)
        })
    }

    /// Parses `Y` or `N`; also accepts `yes`, `true`, `1`, `no`, `false` and `0`.
    pub fn parse_yes_or_no(&self, key: &'static str) -> Result<bool, ConfigError> {
        self.parse_config_value_with(key, "\"Y\" or \"N\"", yes_or_no)
    }

    /// Returns a warning for each unknown key, with the nearest known key.
    pub fn unknown_key_warnings(&self) -> Vec<String> {
        let unknown = self.pairs.iter().filter(|(key, _)| find_key(key).is_none());
        unknown
            .map(|(key, _)| {
                let name = shown_name(key);
                if let Some(equivalent) = equivalent_of_go_guerrilla_key(key) {
                    return format!(
                        "{name}: a key of Go-Guerrilla, ignored; it is called {equivalent} here"
                    );
                }
                match nearest_key(key) {
                    Some(known) => {
                        format!("{name}: unknown key, ignored; the nearest known key is {known}")
                    }
                    None => format!("{name}: unknown key, ignored"),
                }
            })
            .collect()
    }
}

/// Returns the key of the table that equals `name`.
pub fn find_key(name: &str) -> Option<&'static str> {
    let known = KEYS.iter().find(|(known, _)| *known == name);
    known.map(|(known, _)| *known)
}

/// Returns the key that is most similar to an unknown name, or `None` if the name is longer than any mistyped key.
pub fn nearest_key(name: &str) -> Option<&'static str> {
    // The comparison of a longer name would take long.
    if name.len() > MAX_KEY_OCTETS {
        return None;
    }
    let name = name.to_uppercase();
    let nearest = KEYS.iter().map(|(known, _)| *known);
    nearest.min_by_key(|known| (strsim::damerau_levenshtein(known, &name), *known))
}

/// Returns an unknown name as a warning shows it: on one line, and cut if it is long.
pub fn shown_name(name: &str) -> String {
    let beginning: String = name.chars().take(MAX_KEY_OCTETS).collect();
    let ellipsis = if name.len() > MAX_KEY_OCTETS {
        "…"
    } else {
        ""
    };
    format!("{}{ellipsis}", beginning.escape_debug())
}

/// Reads the object pair by pair and fails if a key is repeated; a map of serde_json would silently keep only the last value.
/// Numbers and booleans become text.
impl<'de> Deserialize<'de> for RawConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawConfig, D::Error> {
        struct ConfigVisitor;
        impl<'de> Visitor<'de> for ConfigVisitor {
            type Value = RawConfig;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of keys and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawConfig, A::Error> {
                use serde::de::Error;
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let text = match value {
                        serde_json::Value::String(text) => text,
                        serde_json::Value::Number(number) => number.to_string(),
                        serde_json::Value::Bool(yes) => yes.to_string(),
                        _ => {
                            return Err(A::Error::custom(format!(
                                "{}: expected a value in quotes",
                                key.escape_debug()
                            )));
                        }
                    };
                    if pairs.iter().any(|(known, _)| *known == key) {
                        let key = key.escape_debug();
                        return Err(A::Error::custom(format!("{key}: given twice")));
                    }
                    pairs.push((key, text));
                }
                Ok(RawConfig {
                    pairs,
                    ..RawConfig::default()
                })
            }
        }
        deserializer.deserialize_map(ConfigVisitor)
    }
}

/// Returns the error for a value of `key` that is not as `expected` describes.
pub fn bad_value(key: &'static str, expected: &str, found: &str) -> ConfigError {
    ConfigError::BadValue {
        key,
        expected: expected.to_owned(),
        found: format!("\"{}\"", found.escape_debug()),
    }
}

fn default_of_config_key(key: &str) -> &'static str {
    let key = if key == "GSMTP_LISTEN_INTERFACE" {
        "GSTMP_LISTEN_INTERFACE"
    } else {
        key
    };
    KEYS.iter()
        .find(|(known, _)| *known == key)
        .map_or("", |(_, default)| default)
}

/// Parses `Y`, `N` and their synonyms.
pub fn yes_or_no(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "1" => Some(true),
        "n" | "no" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// A name that is longer than this is quoted in part, and is not compared with the known keys.
const MAX_KEY_OCTETS: usize = 64;

/// Every key with its built-in default.
pub const KEYS: &[(&str, &str)] = &[
    ("GM_ALLOWED_HOSTS", "*"),
    ("GM_RECIPIENT_QUERY", ""),
    ("GM_RECIPIENT_CACHE_SECONDS", "60"),
    ("GM_PRIMARY_MAIL_HOST", ""),
    ("GSMTP_HOST_NAME", ""),
    ("GSTMP_LISTEN_INTERFACE", "127.0.0.1:2525"),
    ("GSMTP_LISTEN_INTERFACE", "127.0.0.1:2525"),
    ("GSMTPS_LISTEN_INTERFACE", ""),
    ("GSMTP_PUB_KEY", ""),
    ("GSMTP_PRV_KEY", ""),
    ("GSMTP_MAX_SIZE", "131072"),
    ("GSMTP_TIMEOUT", "100"),
    ("GSMTP_LOG_FILE", "/dev/stdout"),
    ("GSMTP_VERBOSE", "N"),
    ("GM_LOG_FORMAT", "text"),
    ("GM_MAX_CLIENTS", "500"),
    ("GM_MAX_CLIENTS_PER_IP", "0"),
    ("GM_MAX_RECIPIENTS", "100"),
    ("GM_MAX_MEMORY", "268435456"),
    ("GM_HOLD_SECONDS", "10"),
    ("GM_STORE", "sqlite"),
    ("GM_SQLITE_FILE", "goguerrilla.db"),
    ("GM_MAIL_TABLE", "new_mail"),
    ("GM_KEEP_DAYS", "0"),
    ("GM_FEED", ""),
    ("GM_FEED_LENGTH", "100000"),
    ("GM_FEED_CLIENTS", "127.0.0.1,::1"),
    ("GM_SAVE_WORKERS", "2"),
    ("MYSQL_HOST", "127.0.0.1:3306"),
    ("MYSQL_USER", ""),
    ("MYSQL_PASS", ""),
    ("MYSQL_PASS_FILE", ""),
    ("MYSQL_TLS", "N"),
    ("MYSQL_CA", ""),
    ("MYSQL_DB", ""),
    ("REDIS_INTERFACE", "127.0.0.1:6379"),
    ("REDIS_PASS_FILE", ""),
    ("REDIS_CA", ""),
    ("REDIS_EXPIRE_SECONDS", "3600"),
    ("NGINX_AUTH_ENABLED", "N"),
    ("NGINX_AUTH", "127.0.0.1:8025"),
    ("GM_TRUSTED_PROXIES", ""),
    ("GSMTP_PROXY_PROTOCOL", "N"),
    ("GM_STATUS_INTERFACE", ""),
    ("PID_FILE", ""),
    ("SGID", ""),
    ("GUID", ""),
    ("SUID", ""),
];
