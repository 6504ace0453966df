//! Parses GM_KEEP_DAYS and the option `--days` of `prune`.

use std::time::Duration;

use super::ConfigError;
use super::raw::RawConfig;

impl RawConfig {
    /// Parses GM_KEEP_DAYS; `None` if rows are kept for ever.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`].
    pub fn parse_keep_days(&self) -> Result<Option<Duration>, ConfigError> {
        let keep = self.parse_config_value_with("GM_KEEP_DAYS", EXPECTED_DAYS, parse_days)?;
        Ok(Some(keep).filter(|keep| !keep.is_zero()))
    }
}

/// Parses a number of days, such as `30` or `0.5`; `None` for another text, or for more than `MAX_DAYS`.
pub fn parse_days(text: &str) -> Option<Duration> {
    // `parse` alone would also accept `1e3`, `inf` and a sign.
    let is_number = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let days: f64 = text.parse().ok().filter(|_| is_number)?;
    (days <= MAX_DAYS).then(|| Duration::from_secs_f64(days * SECONDS_OF_A_DAY))
}

/// The values that [`parse_days`] accepts.
pub const EXPECTED_DAYS: &str = "a number of days such as \"30\" or \"0.5\", at most 36500";

/// Maximum number of days: a hundred years. The cut-off time is then before 1970, the earliest date of a row that is removed.
const MAX_DAYS: f64 = 36_500.0;
const SECONDS_OF_A_DAY: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_a_decimal_number_without_sign_or_exponent() {
        let seconds = |text: &str| parse_days(text).map(|keep| keep.as_secs());
        assert_eq!(seconds("30"), Some(2_592_000));
        assert_eq!(seconds("0.5"), Some(43_200));
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds("36500"), Some(3_153_600_000));
        for text in [
            "", ".", "-1", "+1", "1e3", "inf", "nan", "1.2.3", "1 ", "30d", "36501",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert_eq!(parse_days("0.00001"), Some(Duration::from_millis(864)));
    }
}
