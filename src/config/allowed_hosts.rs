//! GM_ALLOWED_HOSTS: from its text to the set that is looked up, or to an error that stays one short line.

use super::ConfigError;
use super::raw::RawConfig;
use crate::smtp::AllowedHosts;

impl RawConfig {
    /// Returns the set of accepted domains, or what is wrong with the first bad item.
    pub fn allowed_hosts(&self) -> Result<AllowedHosts, ConfigError> {
        let key = "GM_ALLOWED_HOSTS";
        let value = self.value(key);
        let items = || value.split(',').map(str::trim);
        AllowedHosts::from_items(items()).map_err(|bad| {
            let item = bad.item.as_str();
            let found = if !item.is_empty() {
                let cut: String = item.chars().take(MAX_SHOWN).collect();
                let more = if cut.len() < item.len() { "…" } else { "" };
                format!("\"{}{more}\"", cut.escape_debug())
            } else if value.len() <= MAX_SHOWN {
                // The whole list shows where the empty item is.
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

/// Characters of an item, and octets of a list, that an error shows.
const MAX_SHOWN: usize = 260;
