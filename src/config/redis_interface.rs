//! Parses REDIS_INTERFACE and REDIS_CA.

use std::path::PathBuf;

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
        let urls = cluster_urls(text).or_else(|| {
            let url = redis_url_from_setting(text)?;
            (text.matches("://").count() <= 1).then(|| vec![url])
        });
        urls.ok_or_else(|| ConfigError::BadValue {
            key: "REDIS_INTERFACE",
            expected: "\"127.0.0.1:6379\", a socket path, \"redis://user:pass@host:port/db\", \"rediss://...\" for TLS, \
                       several \"host:port\" of a Redis Cluster, comma separated and all with the same scheme and login, or \"\""
                .to_owned(),
            found: REDACTED.to_owned(),
        })
    }

    /// Returns the file of REDIS_CA, or `None` if the key is empty.
    pub(super) fn redis_ca_file(&self) -> Option<PathBuf> {
        Some(self.configured_or_default_value("REDIS_CA").trim())
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    }
}

/// Returns a warning if REDIS_CA is set although no connection to Redis uses TLS.
pub(super) fn unused_redis_ca_warning(
    urls: &[Secret],
    ca_file: Option<&PathBuf>,
) -> Option<String> {
    let has_tls = urls.iter().any(|url| url.reveal().starts_with(TLS_SCHEME));
    (ca_file.is_some() && !has_tls).then(|| {
        "REDIS_CA: not used, because REDIS_INTERFACE has no rediss://; write rediss://host:port there, or remove REDIS_CA"
            .to_owned()
    })
}

/// Returns the URLs of a comma-separated list, or `None` if the text is not such a list. Each item after the first one is
/// `host:port`, or a URL with the scheme of the first one and with no login or the same one.
fn cluster_urls(text: &str) -> Option<Vec<Secret>> {
    let mut items = text.split(',').map(str::trim);
    let first = redis_url_from_setting(items.next()?)?;
    let mut urls = vec![first.clone()];
    for item in items {
        urls.push(cluster_node_url(first.reveal(), item)?);
    }
    Some(urls)
}

fn cluster_node_url(first: &str, item: &str) -> Option<Secret> {
    let scheme = scheme_of(first)?;
    let address = match item.strip_prefix(scheme) {
        None => item,
        Some(rest) => {
            let rest = rest.strip_suffix('/').unwrap_or(rest);
            let login = first.rfind('@').and_then(|at| first.get(scheme.len()..=at));
            login
                .and_then(|login| rest.strip_prefix(login))
                .unwrap_or(rest)
        }
    };
    let is_path = address.starts_with('/');
    redis_url_with_scheme(scheme, address).filter(|_| !is_path)
}

fn redis_url_from_setting(text: &str) -> Option<Secret> {
    match scheme_of(text) {
        Some(scheme) => (text.len() > scheme.len()).then(|| Secret(text.to_owned())),
        None => redis_url_with_scheme(PLAINTEXT_SCHEME, text),
    }
}

/// Returns the URL for `host:port` with this scheme, or for the path of a socket.
fn redis_url_with_scheme(scheme: &str, address: &str) -> Option<Secret> {
    Some(Secret(match parse_database_address(address, 6379)? {
        DatabaseServerAddress::Tcp(host, port) if host.contains(':') => {
            format!("{scheme}[{host}]:{port}/")
        }
        DatabaseServerAddress::Tcp(host, port) => format!("{scheme}{host}:{port}/"),
        DatabaseServerAddress::Socket(path) => format!("redis+unix://{path}"),
    }))
}

fn scheme_of(url: &str) -> Option<&'static str> {
    [PLAINTEXT_SCHEME, TLS_SCHEME]
        .into_iter()
        .find(|scheme| url.starts_with(scheme))
}

const PLAINTEXT_SCHEME: &str = "redis://";
const TLS_SCHEME: &str = "rediss://";

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn urls(interface: &str) -> Option<Vec<String>> {
        let config = Config::from_json(&format!(r#"{{"REDIS_INTERFACE": "{interface}"}}"#)).ok()?;
        let urls = config.redis_urls.iter().map(|url| url.reveal().to_owned());
        Some(urls.collect())
    }

    #[test]
    fn each_item_of_a_redis_cluster_with_tls_becomes_a_rediss_url() {
        let two = ["rediss://a:1/", "rediss://b:6379/"];
        for text in [
            "rediss://a:1/,b",
            "rediss://a:1/, rediss://b:6379/",
            "rediss://a:1/,rediss://b",
        ] {
            assert_eq!(
                urls(text).as_deref(),
                Some(&two.map(str::to_owned)[..]),
                "{text}"
            );
        }
        let with_login = ["rediss://u:p@a:1", "rediss://[::1]:2/"];
        for text in [
            "rediss://u:p@a:1,[::1]:2",
            "rediss://u:p@a:1,rediss://[::1]:2/",
            "rediss://u:p@a:1,rediss://u:p@[::1]:2/",
        ] {
            assert_eq!(
                urls(text).as_deref(),
                Some(&with_login.map(str::to_owned)[..]),
                "{text}"
            );
        }
        assert_eq!(
            urls("redis://a:1,redis://b:2").map(|urls| urls.len()),
            Some(2)
        );
        assert_eq!(
            urls("rediss://:a,b:c@h:1/2"),
            Some(vec!["rediss://:a,b:c@h:1/2".to_owned()]),
            "a comma in a password"
        );
    }

    #[test]
    fn nodes_with_different_schemes_or_logins_are_an_error() {
        for text in [
            "rediss://",
            "rediss://a:1,redis://b:2",
            "redis://a:1,rediss://b:2",
            "a:1,rediss://b:2",
            "rediss://u:p@a:1,rediss://u:q@b:2",
            "rediss://a:1,rediss://u:p@b:2",
        ] {
            assert_eq!(urls(text), None, "{text}");
        }
    }

    #[test]
    fn redis_ca_without_tls_is_a_warning() {
        for (interface, count) in [("h:1", 1), ("rediss://h:1", 0), ("", 1)] {
            let text = format!(r#"{{"REDIS_INTERFACE": "{interface}", "REDIS_CA": "/ca.pem"}}"#);
            let config = Config::from_json(&text).unwrap();
            assert_eq!(config.warnings().len(), count, "{interface}");
        }
    }
}
