//! Builds a configuration in code, for programs that embed a server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::RawConfig;
use super::{Config, ConfigError};

/// Sets the settings that a program with its own store needs. [`Config::from_json`] has all of them.
///
/// Each method stands for a key of the configuration file, and [`build`](ConfigBuilder::build) checks the values as a file is
/// checked.
///
/// ```
/// use goguerrilla::Config;
///
/// let config = Config::builder()
///     .listen("127.0.0.1:0".parse()?)
///     .allowed_hosts(["example.com", "*.example.org"])
///     .max_message_octets(1_000_000)
///     .build()?;
/// # let _ = config;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ConfigBuilder {
    pairs: Vec<(String, String)>,
    /// The first path that is not UTF-8, with its key.
    bad_path: Option<(&'static str, PathBuf)>,
    /// The first item of a list that contains a comma, with its key.
    bad_item: Option<(&'static str, String)>,
}

impl ConfigBuilder {
    /// Adds an address to listen on, with STARTTLS if there is a certificate (GSTMP_LISTEN_INTERFACE). Without a call the
    /// server listens on 127.0.0.1:2525. Port 0 means a free port, which [`Server::local_addrs`](crate::Server::local_addrs)
    /// returns.
    pub fn listen(self, address: SocketAddr) -> ConfigBuilder {
        self.append_to_list_value("GSTMP_LISTEN_INTERFACE", address.to_string())
    }

    /// Adds an address to listen on with implicit TLS (GSMTPS_LISTEN_INTERFACE); needs [`tls_files`](ConfigBuilder::tls_files).
    /// Without [`listen`](ConfigBuilder::listen) the server then has no listener without implicit TLS.
    pub fn listen_with_implicit_tls(self, address: SocketAddr) -> ConfigBuilder {
        self.append_to_list_value("GSMTPS_LISTEN_INTERFACE", address.to_string())
    }

    /// Sets the PEM files of the certificate chain and of its key (GSMTP_PUB_KEY, GSMTP_PRV_KEY). Without them there is no TLS.
    pub fn tls_files(self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> ConfigBuilder {
        self.set_path("GSMTP_PUB_KEY", chain.as_ref())
            .set_path("GSMTP_PRV_KEY", key.as_ref())
    }

    /// Sets the recipient domains that are accepted (GM_ALLOWED_HOSTS): `example.com`, `*.example.com` for all domains below
    /// it, or `*` for every domain, which is the default. Recipients in other domains are rejected with 550 5.7.1.
    ///
    /// `@/path` reads a file with one such item per line and `#` comments when the server is bound, and again within a minute
    /// after the file has changed. An unusable file is an error of [`ServerBuilder::bind`](crate::ServerBuilder::bind); later
    /// the old list stays in force.
    pub fn allowed_hosts<T: AsRef<str>>(
        self,
        domains: impl IntoIterator<Item = T>,
    ) -> ConfigBuilder {
        self.set_list("GM_ALLOWED_HOSTS", domains)
    }

    /// Sets the name in the greeting and in `Received` (GSMTP_HOST_NAME); the default is the host name of the machine.
    pub fn host_name(self, name: impl Into<String>) -> ConfigBuilder {
        self.set("GSMTP_HOST_NAME", name.into())
    }

    /// Sets the domain of [`Recipient::to`](crate::Recipient::to) (GM_PRIMARY_MAIL_HOST); the default is the host name.
    pub fn primary_mail_host(self, domain: impl Into<String>) -> ConfigBuilder {
        self.set("GM_PRIMARY_MAIL_HOST", domain.into())
    }

    /// Sets the maximum size of the content of a message, in octets (GSMTP_MAX_SIZE): 1 to 536,870,912, by default 131,072. A
    /// larger message is rejected with 552 5.3.4.
    pub fn max_message_octets(self, octets: usize) -> ConfigBuilder {
        self.set("GSMTP_MAX_SIZE", octets.to_string())
    }

    /// Sets how long the server waits for a client (GSMTP_TIMEOUT): 1 second to 1 day, by default 100 seconds. Fractions of a
    /// second are rounded up.
    pub fn client_timeout(self, timeout: Duration) -> ConfigBuilder {
        self.set("GSMTP_TIMEOUT", whole_seconds(timeout).to_string())
    }

    /// Sets the maximum number of simultaneous connections, each with one thread (GM_MAX_CLIENTS); by default 500. Further
    /// clients get 421 4.3.2.
    pub fn max_clients(self, clients: usize) -> ConfigBuilder {
        self.set("GM_MAX_CLIENTS", clients.to_string())
    }

    /// Sets the maximum number of simultaneous connections from one IPv4 address or IPv6 /64 (GM_MAX_CLIENTS_PER_IP); 0, the
    /// default, means no limit.
    pub fn max_clients_per_address(self, clients: usize) -> ConfigBuilder {
        self.set("GM_MAX_CLIENTS_PER_IP", clients.to_string())
    }

    /// Sets the maximum number of recipients of a message (GM_MAX_RECIPIENTS); by default 100. Further ones get 452 4.5.3.
    pub fn max_recipients(self, recipients: usize) -> ConfigBuilder {
        self.set("GM_MAX_RECIPIENTS", recipients.to_string())
    }

    /// Sets the maximum size of the message content that all connections together hold, in octets (GM_MAX_MEMORY); by default
    /// 268,435,456. Beyond it messages get 452 4.3.1.
    pub fn max_memory_octets(self, octets: usize) -> ConfigBuilder {
        self.set("GM_MAX_MEMORY", octets.to_string())
    }

    /// Sets how long a mail waits, with its client, for a store that is unavailable (GM_HOLD_SECONDS), rounded up to whole
    /// seconds; by default 10 seconds. The time is less while more than half of the connection slots are taken. With 0 the
    /// client gets 451 at once.
    pub fn hold_time(self, time: Duration) -> ConfigBuilder {
        self.set("GM_HOLD_SECONDS", whole_seconds(time).to_string())
    }

    /// Sets the address of the status page `/` and of /metrics, /livez and /readyz (GM_STATUS_INTERFACE); by default there is
    /// none.
    pub fn status_address(self, address: SocketAddr) -> ConfigBuilder {
        self.set("GM_STATUS_INTERFACE", address.to_string())
    }

    /// Sets the proxies whose XCLIENT commands and PROXY headers are trusted (GM_TRUSTED_PROXIES): addresses and blocks such as
    /// `192.0.2.0/24`. By default there are none.
    pub fn trusted_proxies<T: AsRef<str>>(
        self,
        proxies: impl IntoIterator<Item = T>,
    ) -> ConfigBuilder {
        self.set_list("GM_TRUSTED_PROXIES", proxies)
    }

    /// Sets whether each connection begins with a PROXY header (GSMTP_PROXY_PROTOCOL); connections that are not from trusted
    /// proxies are then closed.
    pub fn proxy_protocol(self, required: bool) -> ConfigBuilder {
        self.set("GSMTP_PROXY_PROTOCOL", yes_or_no_text(required))
    }

    /// Sets whether each line of the SMTP dialogue is logged (GSMTP_VERBOSE).
    pub fn verbose(self, verbose: bool) -> ConfigBuilder {
        self.set("GSMTP_VERBOSE", yes_or_no_text(verbose))
    }

    /// Selects the embedded SQLite store with this database file (GM_STORE, GM_SQLITE_FILE), for a server without its own
    /// store.
    pub fn sqlite_file(self, file: impl AsRef<Path>) -> ConfigBuilder {
        self.set("GM_STORE", "sqlite".to_owned())
            .set_path("GM_SQLITE_FILE", file.as_ref())
    }

    /// Checks all values.
    ///
    /// # Errors
    /// [`ConfigError::BadValue`] for the first invalid value; it names the key of the configuration file.
    pub fn build(self) -> Result<Config, ConfigError> {
        if let Some((key, path)) = self.bad_path {
            return Err(ConfigError::BadValue {
                key,
                expected:
                    "a path in UTF-8, without control characters and without spaces at its ends"
                        .to_owned(),
                found: format!("{path:?}"),
            });
        }
        if let Some((key, item)) = self.bad_item {
            return Err(ConfigError::BadValue {
                key,
                expected: "items without a comma".to_owned(),
                found: format!("{item:?}"),
            });
        }
        let is_set = |key| self.pairs.iter().any(|(name, _)| name == key);
        let has_only_tls = is_set("GSMTPS_LISTEN_INTERFACE") && !is_set("GSTMP_LISTEN_INTERFACE");
        let raw = RawConfig {
            pairs: self.pairs,
            ..RawConfig::default()
        };
        let mut config = raw.to_config()?;
        if has_only_tls {
            config.listen_addresses.clear();
        }
        Ok(config)
    }

    fn set(mut self, key: &str, value: String) -> ConfigBuilder {
        self.pairs.retain(|(name, _)| name != key);
        self.pairs.push((key.to_owned(), value));
        self
    }

    fn set_path(mut self, key: &'static str, path: &Path) -> ConfigBuilder {
        let is_plain = |text: &&str| {
            !text.is_empty() && text.trim() == *text && !text.contains(char::is_control)
        };
        match path.to_str().filter(is_plain) {
            Some(text) => self.set(key, text.to_owned()),
            None => {
                self.bad_path.get_or_insert((key, path.to_owned()));
                self
            }
        }
    }

    fn set_list<T: AsRef<str>>(
        mut self,
        key: &'static str,
        items: impl IntoIterator<Item = T>,
    ) -> ConfigBuilder {
        let mut list = Vec::new();
        for item in items {
            let item = item.as_ref().to_owned();
            if item.contains(',') {
                self.bad_item.get_or_insert((key, item.clone()));
            }
            list.push(item);
        }
        self.set(key, list.join(","))
    }

    /// Appends an item to the list of a key.
    fn append_to_list_value(mut self, key: &str, item: String) -> ConfigBuilder {
        match self.pairs.iter_mut().find(|(name, _)| name == key) {
            Some((_, list)) => {
                list.push(',');
                list.push_str(&item);
                self
            }
            None => self.set(key, item),
        }
    }
}

fn yes_or_no_text(value: bool) -> String {
    if value { "Y" } else { "N" }.to_owned()
}

/// Returns the time in seconds, rounded up.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs()
        .saturating_add(u64::from(time.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn builder_gives_the_same_configuration_as_a_file() {
        let built = Config::builder()
            .listen("127.0.0.1:0".parse().unwrap())
            .listen("[::1]:0".parse().unwrap())
            .listen_with_implicit_tls("127.0.0.1:1".parse().unwrap())
            .tls_files("chain.pem", "key.pem")
            .allowed_hosts(["a.test"])
            .allowed_hosts(["a.test", "*.b.test"])
            .host_name("mx.test")
            .primary_mail_host("ours.test")
            .max_message_octets(1_000)
            .client_timeout(Duration::from_millis(1_500))
            .max_clients(7)
            .max_clients_per_address(2)
            .max_recipients(3)
            .max_memory_octets(2_000)
            .hold_time(Duration::from_millis(2_001))
            .status_address("127.0.0.1:2".parse().unwrap())
            .trusted_proxies(["192.0.2.0/24", "::1"])
            .proxy_protocol(true)
            .verbose(true)
            .sqlite_file("m.db")
            .build()
            .unwrap();
        let read = Config::from_json(
            r#"{"GSTMP_LISTEN_INTERFACE": "127.0.0.1:0,[::1]:0", "GSMTPS_LISTEN_INTERFACE": "127.0.0.1:1",
                "GSMTP_PUB_KEY": "chain.pem", "GSMTP_PRV_KEY": "key.pem", "GM_ALLOWED_HOSTS": "a.test,*.b.test",
                "GSMTP_HOST_NAME": "mx.test", "GM_PRIMARY_MAIL_HOST": "ours.test", "GSMTP_MAX_SIZE": 1000,
                "GSMTP_TIMEOUT": 2, "GM_MAX_CLIENTS": 7, "GM_MAX_CLIENTS_PER_IP": 2, "GM_MAX_RECIPIENTS": 3,
                "GM_MAX_MEMORY": 2000, "GM_HOLD_SECONDS": 3, "GM_STATUS_INTERFACE": "127.0.0.1:2", "GM_TRUSTED_PROXIES": "192.0.2.0/24,::1",
                "GSMTP_PROXY_PROTOCOL": "Y", "GSMTP_VERBOSE": true, "GM_STORE": "sqlite", "GM_SQLITE_FILE": "m.db"}"#,
        );
        assert_eq!(built, read.unwrap());
        assert_eq!(Config::builder().build().unwrap(), Config::default());
        let only_tls = Config::builder()
            .listen_with_implicit_tls("127.0.0.1:0".parse().unwrap())
            .tls_files("chain.pem", "key.pem");
        assert!(only_tls.build().unwrap().listen_addresses.is_empty());
    }

    #[test]
    fn builder_error_names_the_key_of_the_setting() {
        let error = Config::builder().max_clients(0).build().unwrap_err();
        assert!(error.to_string().starts_with("GM_MAX_CLIENTS: "), "{error}");
        let path = OsStr::from_bytes(b"\xff.pem");
        let error = Config::builder().tls_files(path, "key.pem").build();
        let want = "GSMTP_PUB_KEY: expected a path in UTF-8, without control characters and without spaces at its ends, but found \"\\xFF.pem\"";
        assert_eq!(error.unwrap_err().to_string(), want);
        for path in ["", " m.db", "m\0.db"] {
            let error = Config::builder().sqlite_file(path).build().unwrap_err();
            assert!(error.to_string().starts_with("GM_SQLITE_FILE: "), "{error}");
        }
        let error = Config::builder().trusted_proxies(["::1,0.0.0.0/0"]).build();
        let want =
            "GM_TRUSTED_PROXIES: expected items without a comma, but found \"::1,0.0.0.0/0\"";
        assert_eq!(error.unwrap_err().to_string(), want);
        let error = Config::builder().client_timeout(Duration::MAX).build();
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("GSMTP_TIMEOUT: ")
        );
        let error = Config::builder().allowed_hosts(["a b"]).build();
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("GM_ALLOWED_HOSTS: ")
        );
    }
}
