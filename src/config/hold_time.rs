//! GM_HOLD_SECONDS.

use std::time::Duration;

use super::ConfigError;
use super::raw::RawConfig;

impl RawConfig {
    /// Parses GM_HOLD_SECONDS.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`].
    pub fn parse_hold_time(&self) -> Result<Duration, ConfigError> {
        let seconds = self.parse_number(
            "GM_HOLD_SECONDS",
            "a number of seconds such as \"10\", or \"0\" for 451 at once",
            0..=MAX_HOLD_SECONDS,
        )?;
        Ok(Duration::from_secs(seconds as u64))
    }
}

/// Maximum of GM_HOLD_SECONDS: half of the ten minutes for which a client waits for the reply (RFC 5321 §4.5.3.2.6), because
/// some clients wait for less.
const MAX_HOLD_SECONDS: usize = 300;
