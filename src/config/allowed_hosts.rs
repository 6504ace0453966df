//! Parses GM_ALLOWED_HOSTS, a list of domains. The error stays short even if the list is long.

use std::path::PathBuf;

use super::ConfigError;
use super::raw::{RawConfig, bad_value};
use crate::smtp::AcceptedDomains;

impl RawConfig {
    /// Returns the set of accepted domains, without those in files.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for the first invalid item.
    pub fn parse_allowed_hosts(&self) -> Result<AcceptedDomains, ConfigError> {
        let key = "GM_ALLOWED_HOSTS";
        let value = self.configured_or_default_value(key);
        let items = || value.split(',').map(str::trim);
        let domains = items().filter(|item| !item.starts_with('@'));
        AcceptedDomains::from_host_patterns(domains).map_err(|bad| {
            let item = bad.item.as_str();
            let found = if !item.is_empty() {
                let cut: String = item.chars().take(MAX_SHOWN).collect();
                let ellipsis = if cut.len() < item.len() { "…" } else { "" };
                format!("\"{}{ellipsis}\"", cut.escape_debug())
            } else if value.len() <= MAX_SHOWN {
                // The error shows the whole value, so that the position of the empty item is visible.
                format!("\"{}\"", value.escape_debug())
            } else {
                let before = items().take_while(|item| !item.is_empty()).last();
                let before = before.map(|before| format!(" after \"{}\"", before.escape_debug()));
                format!("an empty item{}", before.unwrap_or_default())
            };
            ConfigError::BadValue {
                key,
                expected: bad.expected,
                found,
            }
        })
    }

    /// Returns the files of the items `@/path`, each once.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for a path that is not absolute, or too many files.
    pub fn parse_allowed_hosts_files(&self) -> Result<Vec<PathBuf>, ConfigError> {
        let key = "GM_ALLOWED_HOSTS";
        let value = self.configured_or_default_value(key);
        let paths = value
            .split(',')
            .filter_map(|item| item.trim().strip_prefix('@'));
        let mut files = Vec::new();
        for path in paths {
            if !path.starts_with('/') || path.contains(char::is_control) {
                let expected = "\"@/path\" with the absolute path of a file that lists domains";
                let item: String = format!("@{path}").chars().take(MAX_SHOWN).collect();
                return Err(bad_value(key, expected, &item));
            }
            let file = PathBuf::from(path);
            if !files.contains(&file) {
                files.push(file);
            }
            if files.len() > MAX_FILES {
                return Err(ConfigError::BadValue {
                    key,
                    expected: format!("at most {MAX_FILES} files"),
                    found: "more".to_owned(),
                });
            }
        }
        Ok(files)
    }
}

/// Maximum number of files in GM_ALLOWED_HOSTS; more are an error. All of them are looked at every 20 seconds.
const MAX_FILES: usize = 16;
/// An error quotes at most this many characters of an invalid item, and quotes the whole list only if it has at most this
/// many octets.
const MAX_SHOWN: usize = 260;
