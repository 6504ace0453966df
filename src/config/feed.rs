//! GM_FEED, GM_FEED_LENGTH and GM_FEED_CLIENTS.

use ipnet::IpNet;

use super::raw::{RawConfig, bad_value};
use super::{ConfigError, StoreKind};

/// Where the feed goes (GM_FEED).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FeedTarget {
    /// There is no feed.
    #[default]
    Off,
    /// `/feed` of the status endpoints.
    Http,
    /// The Redis stream of this name, and `/feed` if GM_STATUS_INTERFACE is set.
    Stream(String),
}

impl FeedTarget {
    /// Returns the name of the Redis stream, if there is one.
    pub fn stream(&self) -> Option<&str> {
        match self {
            FeedTarget::Stream(name) => Some(name),
            FeedTarget::Off | FeedTarget::Http => None,
        }
    }
}

impl RawConfig {
    /// Parses GM_FEED.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for a name that no stream may have, and for a feed that nobody could read.
    pub fn parse_feed_target(&self) -> Result<FeedTarget, ConfigError> {
        let key = "GM_FEED";
        let expected = "\"\", \"http\", or the name of a Redis stream: at most 128 letters, digits and . : _ - { }, other than 32 \
                        hex digits, which are a mail id";
        let target = self.parse_config_value_with(key, expected, parse_target)?;
        let unusable = |expected| {
            Err(bad_value(
                key,
                expected,
                self.configured_or_default_value(key),
            ))
        };
        match &target {
            FeedTarget::Http if self.is_empty("GM_STATUS_INTERFACE") => {
                unusable("\"\", or an address in GM_STATUS_INTERFACE, where the feed is read")
            }
            FeedTarget::Stream(_) if self.store_kind()? != StoreKind::MySql => unusable(
                "\"http\", because GM_STORE is not \"mysql\", the only store with a Redis for a stream",
            ),
            FeedTarget::Stream(_) if self.is_empty("REDIS_INTERFACE") => unusable(
                "\"http\", because REDIS_INTERFACE is empty, so there is no Redis for a stream",
            ),
            _ => Ok(target),
        }
    }

    /// Parses GM_FEED_LENGTH.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`].
    pub fn parse_feed_length(&self) -> Result<usize, ConfigError> {
        self.parse_number(
            "GM_FEED_LENGTH",
            "a number of entries such as \"100000\"",
            1..=MAX_FEED_LENGTH,
        )
    }

    /// Parses GM_FEED_CLIENTS.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`].
    pub fn parse_feed_clients(&self) -> Result<Vec<IpNet>, ConfigError> {
        self.parse_address_blocks("GM_FEED_CLIENTS")
    }

    fn is_empty(&self, key: &'static str) -> bool {
        self.configured_or_default_value(key).trim().is_empty()
    }
}

/// Returns a warning if the store keeps no rows, so that the feed has no entries.
pub fn feed_without_rows_warning(target: &FeedTarget, store: StoreKind) -> Option<String> {
    (*target != FeedTarget::Off && store == StoreKind::Discard).then(|| {
        "GM_FEED: the store discard keeps no mail, so the feed stays empty; set GM_FEED to \"\" or GM_STORE to another store"
            .to_owned()
    })
}

fn parse_target(text: &str) -> Option<FeedTarget> {
    if text.is_empty() {
        return Some(FeedTarget::Off);
    }
    if text.eq_ignore_ascii_case("http") {
        return Some(FeedTarget::Http);
    }
    let is_valid = |octet: u8| octet.is_ascii_alphanumeric() || b".:_-{}".contains(&octet);
    let is_mail_id = text.len() == 32 && text.bytes().all(|octet| octet.is_ascii_hexdigit());
    (text.len() <= MAX_NAME_OCTETS && text.bytes().all(is_valid) && !is_mail_id)
        .then(|| FeedTarget::Stream(text.to_owned()))
}

/// Maximum length of the name of a stream. Redis allows 512 MB; a longer name than this is a mistake.
const MAX_NAME_OCTETS: usize = 128;
/// Maximum of GM_FEED_LENGTH. A million entries take about 200 MB of the memory of Redis, so this number takes 200 GB.
const MAX_FEED_LENGTH: usize = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn target(settings: serde_json::Value) -> Result<FeedTarget, String> {
        let config = Config::from_json(&settings.to_string());
        config
            .map(|config| config.feed_target)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn feed_target_is_off_http_or_a_stream_whose_name_is_not_a_mail_id() {
        let parse = |feed: &str| {
            target(serde_json::json!({
                "GM_STORE": "mysql", "MYSQL_DB": "m", "GM_STATUS_INTERFACE": "127.0.0.1:1", "GM_FEED": feed
            }))
        };
        assert_eq!(parse(""), Ok(FeedTarget::Off));
        assert_eq!(parse("http"), Ok(FeedTarget::Http));
        assert_eq!(parse(" HTTP "), Ok(FeedTarget::Http));
        for name in [
            "feed",
            "mail:new",
            "{mail}.feed_1-a",
            "https",
            &"x".repeat(128),
        ] {
            assert_eq!(parse(name), Ok(FeedTarget::Stream(name.to_owned())));
        }
        let mail_id = "0123456789abcdef0123456789abcdef";
        for name in ["a b", "a\r\nb", "ä", "a*", "a/b", mail_id, &"x".repeat(129)] {
            let error = parse(name).unwrap_err();
            assert!(
                error.contains("the name of a Redis stream"),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn feed_that_nobody_could_read_is_an_error_and_one_without_rows_a_warning() {
        for (settings, want) in [
            (
                serde_json::json!({"GM_FEED": "http"}),
                "GM_STATUS_INTERFACE",
            ),
            (
                serde_json::json!({"GM_FEED": "f"}),
                "\"http\", because GM_STORE",
            ),
            (
                serde_json::json!({"GM_FEED": "f", "MYSQL_DB": "m", "REDIS_INTERFACE": ""}),
                "\"http\", because REDIS_INTERFACE",
            ),
        ] {
            let error = target(settings).unwrap_err();
            assert!(
                error.starts_with("GM_FEED: expected ") && error.contains(want),
                "{error}"
            );
        }
        let text =
            r#"{"GM_FEED": "http", "GM_STORE": "discard", "GM_STATUS_INTERFACE": "127.0.0.1:1"}"#;
        let config = Config::from_json(text).unwrap();
        assert!(config.warnings()[0].starts_with("GM_FEED: the store discard"));
    }

    #[test]
    fn feed_clients_are_loopback_by_default_and_nobody_if_empty() {
        let clients = |text: &str| Config::from_json(text).unwrap().feed_clients;
        let loopback = ["127.0.0.1/32", "::1/128"].map(|block| block.parse().unwrap());
        assert_eq!(clients("{}"), loopback);
        assert_eq!(clients(r#"{"GM_FEED_CLIENTS": ""}"#), []);
        assert_eq!(clients(r#"{"GM_FEED_CLIENTS": "192.0.2.0/24"}"#).len(), 1);
    }
}
