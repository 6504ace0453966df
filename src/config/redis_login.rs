//! Adds the password of REDIS_PASS_FILE to the URLs of REDIS_INTERFACE.

use std::fmt::Write;

use super::{Config, Secret};

impl Config {
    /// Returns the URLs of Redis. If REDIS_PASS_FILE is set, each contains its password.
    pub(crate) fn redis_urls_with_password(&self) -> Vec<Secret> {
        let password = self.redis_password.reveal();
        if password.is_empty() {
            return self.redis_urls.clone();
        }
        let urls = self.redis_urls.iter();
        urls.map(|url| Secret(url_with_password(url.reveal(), password)))
            .collect()
    }
}

/// Inserts a password into a URL that has none.
fn url_with_password(url: &str, password: &str) -> String {
    let password = percent_encoded(password);
    if url.starts_with("redis+unix:") {
        let separator = if url.contains('?') { '&' } else { '?' };
        return format!("{url}{separator}pass={password}");
    }
    let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
    let (user, address) = rest.rsplit_once('@').unwrap_or(("", rest));
    let user = user.trim_end_matches(':');
    format!("{scheme}://{user}:{password}@{address}")
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(3 * text.len());
    for octet in text.bytes() {
        // Writing to a String cannot fail.
        let _ = match octet.is_ascii_alphanumeric() {
            true => write!(encoded, "{}", char::from(octet)),
            false => write!(encoded, "%{octet:02X}"),
        };
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_of_the_file_is_added_to_each_redis_url() {
        for (interface, want) in [
            ("h:1", &["redis://:a%3A%40%2F%C3%BC@h:1/"][..]),
            (
                "redis://user@h:1/2",
                &["redis://user:a%3A%40%2F%C3%BC@h:1/2"],
            ),
            (
                "redis://user:@h:1/",
                &["redis://user:a%3A%40%2F%C3%BC@h:1/"],
            ),
            (
                "/run/r.sock",
                &["redis+unix:///run/r.sock?pass=a%3A%40%2F%C3%BC"],
            ),
            (
                "a:1,b:2",
                &[
                    "redis://:a%3A%40%2F%C3%BC@a:1/",
                    "redis://:a%3A%40%2F%C3%BC@b:2/",
                ],
            ),
        ] {
            let text = format!(r#"{{"REDIS_INTERFACE": "{interface}", "REDIS_PASS_FILE": "/f"}}"#);
            let mut config = Config::from_json(&text).unwrap();
            assert_eq!(config.redis_urls_with_password(), config.redis_urls);
            config.redis_password = Secret("a:@/ü".to_owned());
            let urls = config.redis_urls_with_password();
            let urls: Vec<&str> = urls.iter().map(Secret::reveal).collect();
            assert_eq!(urls, want, "{interface}");
        }
    }
}
