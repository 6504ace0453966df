//! Parses GM_ALLOWED_HOSTS, a list of domains. The error stays short even if the list is long.

use super::ConfigError;
use super::raw::RawConfig;
use crate::smtp::AllowedHosts;

impl RawConfig {
    /// Returns the set of accepted domains.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for the first invalid item.
    pub fn parse_allowed_hosts(&self) -> Result<AllowedHosts, ConfigError> {
        let key = "GM_ALLOWED_HOSTS";
        let value = self.configured_or_default_value(key);
        let items = || value.split(',').map(str::trim);
        AllowedHosts::from_host_patterns(items()).map_err(|bad| {
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
}

/// An error quotes at most this many characters of an invalid item, and quotes the whole list only if it has at most this
/// many octets.
const MAX_SHOWN: usize = 260;
