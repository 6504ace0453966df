//! Parses REDIS_INTERFACE.

use super::raw::RawConfig;
use super::settings::{REDACTED, parse_database_address};
use super::{ConfigError, DatabaseServerAddress, Secret};

impl RawConfig {
    /// Parses REDIS_INTERFACE: one server, or several nodes of a cluster. The error does not show the value, because it may
    /// contain a password.
    pub(super) fn parse_redis_urls(&self) -> Result<Vec<Secret>, ConfigError> {
        let text = self.configured_or_default_value("REDIS_INTERFACE").trim();
        if text.is_empty() {
            return Ok(Vec::new());
        }
        // A comma may be part of a password. If the text after a comma is not an address, the whole value is one URL.
        let mut pieces = text.split(',').map(str::trim);
        let first = pieces.next().and_then(redis_url_from_setting);
        let nodes: Option<Vec<Secret>> = pieces
            .map(|piece| redis_url_from_setting(piece).filter(|_| !piece.contains('/')))
            .collect();
        let first_is_node = |url: &Secret| url.reveal().starts_with("redis://");
        match (first, nodes) {
            (Some(first), Some(nodes)) if nodes.is_empty() || first_is_node(&first) => {
                Ok([vec![first], nodes].concat())
            }
            _ => redis_url_from_setting(text).map(|url| vec![url]).ok_or_else(|| ConfigError::BadValue {
                key: "REDIS_INTERFACE",
                expected: "\"127.0.0.1:6379\", a socket path, \"redis://user:pass@host:port/db\", several \"host:port\" of a \
                           Redis Cluster, comma separated, or \"\""
                    .to_owned(),
                found: REDACTED.to_owned(),
            }),
        }
    }
}

fn redis_url_from_setting(text: &str) -> Option<Secret> {
    let url = match parse_database_address(text, 6379) {
        _ if text.starts_with("redis://") && text.len() > "redis://".len() => text.to_owned(),
        Some(DatabaseServerAddress::Tcp(host, port)) if host.contains(':') => {
            format!("redis://[{host}]:{port}/")
        }
        Some(DatabaseServerAddress::Tcp(host, port)) => format!("redis://{host}:{port}/"),
        Some(DatabaseServerAddress::Socket(path)) => format!("redis+unix://{path}"),
        None => return None,
    };
    Some(Secret(url))
}
