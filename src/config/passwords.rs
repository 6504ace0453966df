//! Parses MYSQL_PASS_FILE and REDIS_PASS_FILE, and finds passwords in other values.

use std::path::PathBuf;

use super::ConfigError;
use super::raw::RawConfig;

impl RawConfig {
    /// Parses MYSQL_PASS_FILE.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] if MYSQL_PASS is set too.
    pub fn mysql_pass_file(&self) -> Result<Option<PathBuf>, ConfigError> {
        self.parse_password_file("MYSQL_PASS_FILE", "MYSQL_PASS", "is set")
    }

    /// Parses REDIS_PASS_FILE.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] if REDIS_INTERFACE contains a password.
    pub fn redis_pass_file(&self) -> Result<Option<PathBuf>, ConfigError> {
        self.parse_password_file("REDIS_PASS_FILE", "REDIS_INTERFACE", "contains a password")
    }

    fn parse_password_file(
        &self,
        key: &'static str,
        rival: &'static str,
        rival_state: &str,
    ) -> Result<Option<PathBuf>, ConfigError> {
        let is_path = |text: &&str| !text.contains(char::is_control);
        let expected = "the path of a file that contains only a password, or \"\"";
        let file = self.parse_config_value_with(key, expected, |text| {
            Some(text).filter(is_path).map(PathBuf::from)
        })?;
        if file.as_os_str().is_empty() {
            return Ok(None);
        }
        if self.contains_password(rival) {
            return Err(ConfigError::BadValue {
                key,
                expected: format!(
                    "\"\", since {} {rival_state}; remove one of the two passwords",
                    self.name_of_source(rival)
                ),
                found: format!("{file:?}"),
            });
        }
        Ok(Some(file))
    }

    /// Returns whether the value of `key` is a password or a URL that contains one.
    pub fn contains_password(&self, key: &'static str) -> bool {
        let value = self.configured_or_default_value(key);
        match key {
            "MYSQL_PASS" => !value.is_empty(),
            "REDIS_INTERFACE" => redis_interface_contains_password(value),
            _ => false,
        }
    }
}

/// Returns whether one of the URLs has a password: `redis://user:pass@host`, or `/socket?pass=…`.
fn redis_interface_contains_password(text: &str) -> bool {
    // The password may contain an @.
    let login = text.rsplit_once('@').map_or("", |(login, _)| login);
    let login = login.split_once("://").map_or(login, |(_, login)| login);
    let in_login = login
        .split_once(':')
        .is_some_and(|(_, password)| !password.is_empty());
    in_login || text.contains("?pass=") || text.contains("&pass=")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn password_in_redis_interface_is_recognized() {
        for (text, want) in [
            ("", false),
            ("127.0.0.1:6379", false),
            ("[::1]:6379, b:1", false),
            ("/run/redis.sock", false),
            ("redis://h:1/2", false),
            ("redis://user@h:1/", false),
            ("redis://user:@h:1/", false),
            ("redis://:p@h:1/", true),
            ("rediss://user:p@h:1/", true),
            ("redis://:p@q/r:s@h:1,b:2", true),
            ("/run/redis.sock?pass=p", true),
            ("/run/redis.sock?db=1&pass=p", true),
        ] {
            assert_eq!(redis_interface_contains_password(text), want, "{text}");
        }
    }

    #[test]
    fn password_and_password_file_together_are_an_error_without_the_password() {
        for (text, key, rival) in [
            (
                r#"{"MYSQL_PASS": "s3cr3t", "MYSQL_PASS_FILE": "/f"}"#,
                "MYSQL_PASS_FILE",
                "MYSQL_PASS is set",
            ),
            (
                r#"{"REDIS_INTERFACE": "redis://:s3cr3t@h/", "REDIS_PASS_FILE": "/f"}"#,
                "REDIS_PASS_FILE",
                "REDIS_INTERFACE contains a password",
            ),
        ] {
            let error = Config::from_json(text).unwrap_err().to_string();
            let want = format!(
                "{key}: expected \"\", since {rival}; remove one of the two passwords, but found \"/f\""
            );
            assert_eq!(error, want);
        }
        let text = r#"{"MYSQL_PASS": "", "MYSQL_PASS_FILE": "/f", "REDIS_PASS_FILE": " "}"#;
        let config = Config::from_json(text).unwrap();
        assert_eq!(config.mysql_pass_file, Some(PathBuf::from("/f")));
        assert_eq!(config.redis_pass_file, None);
    }
}
