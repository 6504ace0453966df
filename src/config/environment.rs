//! Values of the configuration from environment variables, which the program passes here. A library must not read them.

use std::ffi::OsString;

use super::raw::{RawConfig, bad_value, find_key, nearest_key, shown_name};
use super::{Config, ConfigError};

/// The values of the variables `GOGUERRILLA_<KEY>`. They take precedence over the values of the file.
// There is no Debug, because a value may be a password.
#[derive(Clone, Default)]
pub struct EnvironmentSettings {
    /// Keys and their values, which are not empty.
    values: Vec<(&'static str, String)>,
    /// A warning for each variable with an unknown key.
    unknown: Vec<String>,
}

impl EnvironmentSettings {
    /// Selects the variables whose names begin with `GOGUERRILLA_`. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`ConfigError::InEnvironment`] for a value that is not UTF-8.
    pub fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<EnvironmentSettings, ConfigError> {
        let mut settings = EnvironmentSettings::default();
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let Some(name_of_key) = name.strip_prefix(ENVIRONMENT_PREFIX) else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            let Some(key) = find_key(name_of_key) else {
                let is_from_platform = PLATFORM_NAMES.iter().any(|part| name.contains(part));
                if !is_from_platform {
                    settings.unknown.push(unknown_variable_warning(name_of_key));
                }
                continue;
            };
            let value = value.into_string().map_err(|_| not_utf8(key))?;
            // getenv(3) returns the first of two variables with the same name.
            if settings.values.iter().all(|(known, _)| *known != key) {
                settings.values.push((key, value));
            }
        }
        Ok(settings)
    }

    /// Returns whether no variable sets a key.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Parses the text of a configuration file and replaces its values by those of the environment.
    ///
    /// # Errors
    /// [`ConfigError`] for the first problem found.
    pub fn config_from_json(&self, text: &str) -> Result<Config, ConfigError> {
        self.apply_to(RawConfig::from_json(text)?)
    }

    /// Returns the configuration that consists of `raw` and of the values of the environment, which replace those of `raw`.
    ///
    /// # Errors
    /// [`ConfigError::InEnvironment`] for a bad value of the environment, else [`ConfigError`] for the first problem of `raw`.
    pub(super) fn apply_to(&self, mut raw: RawConfig) -> Result<Config, ConfigError> {
        let value_sources = self.replace_values_of(&mut raw);
        let mut config = raw.to_config().map_err(|error| match error {
            ConfigError::BadValue { key, .. } if raw.keys_from_environment.contains(&key) => {
                error.in_environment()
            }
            error => error,
        })?;
        config.warnings.extend(self.warnings(&raw));
        config.value_sources = value_sources;
        Ok(config)
    }

    /// Replaces the values of `raw` by those of the environment. Returns the replaced keys, each with a text that says where
    /// the value is from.
    fn replace_values_of(&self, raw: &mut RawConfig) -> Vec<(&'static str, String)> {
        let mut sources = Vec::new();
        for &(key, _) in &self.values {
            let usual = usual_spelling(key);
            let is_same_key = |name: &str| usual_spelling(name) == usual;
            let number = raw.pairs.len();
            raw.pairs.retain(|(name, _)| !is_same_key(name));
            let replaced = match number == raw.pairs.len() {
                true => "",
                false => ", which replaces the value of the file",
            };
            let source = format!("environment variable {ENVIRONMENT_PREFIX}{key}{replaced}");
            sources.push((usual, source));
        }
        for (key, value) in &self.values {
            raw.pairs.push(((*key).to_owned(), value.clone()));
            raw.keys_from_environment.push(key);
        }
        sources
    }

    /// Returns the warnings about unknown variables, and about passwords in the environment. `raw` already contains the
    /// values of the environment.
    fn warnings(&self, raw: &RawConfig) -> Vec<String> {
        let mut warnings = self.unknown.clone();
        for (key, fix) in PASSWORD_FIXES {
            if raw.keys_from_environment.contains(key) && raw.contains_password(key) {
                warnings.push(format!(
                    "{ENVIRONMENT_PREFIX}{key}: contains a password, and /proc shows the environment of a process to its user \
                     and to root; {fix}"
                ));
            }
        }
        warnings
    }
}

impl RawConfig {
    /// Returns the error for `key`, which is empty although `partner` is set.
    pub fn missing_partner(&self, key: &'static str, expected: &str, partner: &str) -> ConfigError {
        let partner = self.name_of_source(partner);
        bad_value(key, &format!("{expected}, since {partner} is set"), "")
    }

    /// Returns the name of the environment variable if the value of `key` is from it, else the key.
    pub fn name_of_source(&self, key: &str) -> String {
        match self.keys_from_environment.contains(&key) {
            true => format!("{ENVIRONMENT_PREFIX}{key}"),
            false => key.to_owned(),
        }
    }
}

/// Returns the usual spelling of a key that has two.
fn usual_spelling(key: &str) -> &str {
    match key {
        "GSMTP_LISTEN_INTERFACE" => "GSTMP_LISTEN_INTERFACE",
        "SUID" => "GUID",
        key => key,
    }
}

fn unknown_variable_warning(name_of_key: &str) -> String {
    let name = shown_name(name_of_key);
    let nearest = nearest_key(name_of_key);
    let hint = nearest.map(|key| format!("; the nearest known name is {ENVIRONMENT_PREFIX}{key}"));
    format!(
        "{ENVIRONMENT_PREFIX}{name}: unknown key in the environment, ignored{}",
        hint.unwrap_or_default()
    )
}

fn not_utf8(key: &'static str) -> ConfigError {
    let source = ConfigError::BadValue {
        key,
        expected: "text in UTF-8".to_owned(),
        found: "other octets".to_owned(),
    };
    ConfigError::InEnvironment {
        source: Box::new(source),
    }
}

/// The beginning of the names of the environment variables; the name of the key follows.
pub const ENVIRONMENT_PREFIX: &str = "GOGUERRILLA_";

/// Parts of the names of the variables that Kubernetes sets in each container for a service called goguerrilla; Docker's links
/// have similar names.
const PLATFORM_NAMES: [&str; 2] = ["_PORT", "_SERVICE_"];

/// The keys that may contain a password, each with a better place for it.
const PASSWORD_FIXES: &[(&str, &str)] = &[
    (
        "MYSQL_PASS",
        "put it into a file and name that in MYSQL_PASS_FILE",
    ),
    (
        "REDIS_INTERFACE",
        "put it into a file and name that in REDIS_PASS_FILE",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::KEYS;

    fn settings(variables: &[(&str, &str)]) -> EnvironmentSettings {
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        EnvironmentSettings::from_variables(variables).unwrap()
    }

    #[test]
    fn each_key_has_an_environment_variable() {
        for (key, _) in KEYS {
            let name = format!("GOGUERRILLA_{key}");
            let settings = settings(&[(&name, "x"), (&name, "y"), (key, "z")]);
            assert_eq!(settings.values, [(*key, "x".to_owned())]);
            assert_eq!(settings.unknown, [""; 0]);
        }
    }

    #[test]
    fn environment_replaces_both_spellings_of_a_key() {
        for (in_file, in_environment) in [
            ("GSTMP_LISTEN_INTERFACE", "GSMTP_LISTEN_INTERFACE"),
            ("GSMTP_LISTEN_INTERFACE", "GSTMP_LISTEN_INTERFACE"),
            ("GUID", "SUID"),
            ("SUID", "GUID"),
        ] {
            let mut raw = RawConfig {
                pairs: vec![(in_file.to_owned(), "1".to_owned())],
                ..RawConfig::default()
            };
            let name = format!("GOGUERRILLA_{in_environment}");
            let sources = settings(&[(&name, "2")]).replace_values_of(&mut raw);
            assert_eq!(raw.pairs, [(in_environment.to_owned(), "2".to_owned())]);
            let source =
                format!("environment variable {name}, which replaces the value of the file");
            assert_eq!(sources, [(usual_spelling(in_environment), source)]);
        }
    }

    #[test]
    fn unknown_variable_warning_names_the_nearest_key_except_for_platform_names() {
        let unknown = settings(&[
            ("GOGUERRILLA_GM_STOR", "sqlite"),
            ("GOGUERRILLA_gm_store", "sqlite"),
            ("GOGUERRILLA_GM_STRE", ""),
            ("GOGUERRILLA_", "x"),
            ("GOGUERRILLA", "x"),
            ("GOGUERRILLA_PORT", "tcp://10.0.0.1:25"),
            ("GOGUERRILLA_PORT_25_TCP_ADDR", "10.0.0.1"),
            ("GOGUERRILLA_SERVICE_HOST", "10.0.0.1"),
            ("GOGUERRILLA_MX_SERVICE_PORT", "25"),
        ]);
        let ignored = "unknown key in the environment, ignored; the nearest known name is";
        let want = [
            format!("GOGUERRILLA_GM_STOR: {ignored} GOGUERRILLA_GM_STORE"),
            format!("GOGUERRILLA_gm_store: {ignored} GOGUERRILLA_GM_STORE"),
            format!("GOGUERRILLA_: {ignored} GOGUERRILLA_GUID"),
        ];
        assert_eq!(unknown.unknown, want);
    }
}
