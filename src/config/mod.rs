//! Parses goguerrilla.conf, a strict JSON object, into typed and checked settings.
//!
//! Only this module reads the keys.

mod allowed_hosts;
mod builder;
mod database_tls;
mod error;
mod invariants;
mod raw;
mod recipient_query;
mod settings;
mod sqlite_file;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::smtp::AcceptedDomains;
use raw::RawConfig;

pub use builder::ConfigBuilder;
pub use database_tls::DatabaseTlsMode;
pub use error::ConfigError;

/// The configuration of a server: every key of goguerrilla.conf, checked and typed.
///
/// [`Config::load`] reads a file, [`Config::from_json`] a text, and [`Config::builder`] has a method for each setting that a
/// program with its own store needs. `Config::default()` is the configuration of an empty file. docs/configuration.md describes the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// GM_ALLOWED_HOSTS: recipient domains that are accepted.
    pub(crate) allowed_hosts: AcceptedDomains,
    /// GM_RECIPIENT_QUERY: a SELECT with one placeholder that returns a row if a recipient exists; empty means none.
    pub(crate) recipient_query: String,
    /// GM_RECIPIENT_CACHE_SECONDS: how long answers of `recipient_query` are kept; zero means not at all.
    pub(crate) recipient_cache_time: Duration,
    /// GM_PRIMARY_MAIL_HOST: domain that column `to` gets instead of the recipient's; empty means GSMTP_HOST_NAME.
    pub(crate) primary_mail_host: String,
    /// GSMTP_HOST_NAME: name in the greeting; empty means the host name of the machine.
    pub(crate) host_name: String,
    /// GSTMP_LISTEN_INTERFACE: SMTP listeners without implicit TLS.
    pub(crate) listen_addresses: Vec<SocketAddr>,
    /// GSMTPS_LISTEN_INTERFACE: SMTP listeners with implicit TLS.
    pub(crate) tls_listen_addresses: Vec<SocketAddr>,
    /// GSMTP_PUB_KEY and GSMTP_PRV_KEY: certificate chain and key; `None` if both are empty.
    pub(crate) tls_files: Option<(PathBuf, PathBuf)>,
    /// GSMTP_MAX_SIZE: maximum size of the content of a message, in octets.
    pub(crate) max_content_octets: usize,
    /// GSMTP_TIMEOUT: how long the server waits for a client.
    pub(crate) client_timeout: Duration,
    /// GSMTP_LOG_FILE: path of the log file, or `/dev/stdout` or `/dev/stderr`; empty means stderr.
    pub(crate) log_file: PathBuf,
    /// GM_LOG_FORMAT: `json` instead of `text`.
    pub(crate) log_as_json: bool,
    /// NGINX_AUTH: address that the auth_http server listens on; `None` if NGINX_AUTH_ENABLED is `N`.
    pub(crate) nginx_auth_address: Option<SocketAddr>,
    /// GM_TRUSTED_PROXIES, without the default that [`trusted_proxies`](Config::trusted_proxies) adds.
    pub(crate) configured_proxies: Vec<IpNet>,
    /// GSMTP_PROXY_PROTOCOL: connections from trusted proxies begin with a PROXY header.
    pub(crate) proxy_protocol: bool,
    /// GSMTP_VERBOSE: log each line of the SMTP dialogue.
    pub(crate) verbose: bool,
    /// GM_MAX_CLIENTS: maximum number of simultaneous SMTP connections.
    pub(crate) max_clients: usize,
    /// GM_MAX_CLIENTS_PER_IP: maximum number of simultaneous connections from one address; 0 means no limit.
    pub(crate) max_clients_per_address: usize,
    /// GM_STATUS_INTERFACE: address of the status endpoints; `None` turns them off.
    pub(crate) status_address: Option<SocketAddr>,
    /// PID_FILE: file for the process id of the server; `None` if the key is empty.
    pub(crate) pid_file: Option<PathBuf>,
    /// Keys GUID (another spelling is SUID) and SGID: ids of the user and group that the server runs as; `None` if both are
    /// empty.
    pub(crate) run_as: Option<(u32, u32)>,
    /// GM_MAX_RECIPIENTS: maximum number of accepted recipients in one transaction.
    pub(crate) max_recipients: usize,
    /// GM_MAX_MEMORY: maximum size of the message content that all connections together may hold, in octets.
    pub(crate) max_memory_octets: usize,
    /// GM_STORE: where mail is saved.
    pub(crate) store: StoreKind,
    /// GM_SQLITE_FILE: database file of the SQLite store.
    pub(crate) sqlite_file: PathBuf,
    /// GM_MAIL_TABLE: table name, optionally with its database.
    pub(crate) mail_table: String,
    /// GM_SAVE_WORKERS: writer threads of the MySQL store.
    pub(crate) save_workers: usize,
    /// MYSQL_HOST: database hosts in order of preference.
    pub(crate) mysql_hosts: Vec<DatabaseServerAddress>,
    /// MYSQL_USER: user name for the database.
    pub(crate) mysql_user: String,
    /// MYSQL_PASS: password of `mysql_user`.
    pub(crate) mysql_password: Secret,
    /// MYSQL_TLS: how connections to the database are protected.
    pub(crate) mysql_tls: DatabaseTlsMode,
    /// MYSQL_CA: PEM file of authorities for `mysql_tls`, in addition to Mozilla's; `None` if the key is empty.
    pub(crate) mysql_ca_file: Option<PathBuf>,
    /// MYSQL_DB: default database; may be empty.
    pub(crate) mysql_database: String,
    /// URLs from REDIS_INTERFACE: none (bodies go into the table), one server, or the nodes of a Redis Cluster.
    pub(crate) redis_urls: Vec<Secret>,
    /// REDIS_EXPIRE_SECONDS: lifetime of a body in Redis.
    pub(crate) redis_expire_seconds: usize,
    /// Problems that do not prevent the server from starting, one line each.
    pub(crate) warnings: Vec<String>,
}

/// The address of a database or Redis server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseServerAddress {
    /// Host name or IP address, and port.
    Tcp(String, u16),
    /// Path of a Unix domain socket.
    Socket(String),
}

/// A password, or a URL that may contain a password. The text is never written to a log, an error or the output of `check`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the secret text. Use it only to authenticate.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The kind of store that GM_STORE selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// The embedded SQLite database.
    Sqlite,
    /// MySQL or MariaDB, with bodies in Redis if it is configured.
    MySql,
    /// Accepts every mail and stores none.
    Discard,
}

impl Config {
    /// Reads and parses a configuration file: strict JSON in UTF-8.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`], or [`ConfigError::InFile`] for the first problem in the text.
    pub fn load(file: impl AsRef<Path>) -> Result<Config, ConfigError> {
        let file = file.as_ref();
        let octets = std::fs::read(file).map_err(|source| ConfigError::Unreadable {
            file: file.to_owned(),
            source,
        })?;
        let mut config = Config::from_octets(octets).map_err(|error| ConfigError::InFile {
            file: file.to_owned(),
            source: Box::new(error),
        })?;
        let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.mode());
        if mode & 0o004 != 0 && config.config_contains_password() {
            let file = file.display();
            config.warnings.push(format!(
                "{file}: every user may read it, and it contains a password; run: chmod o-r {file}"
            ));
        }
        Ok(config)
    }

    fn from_octets(octets: Vec<u8>) -> Result<Config, ConfigError> {
        // Windows PowerShell 5 saves text as UTF-16, which this server does not read. UTF-16 begins with a byte order mark
        // (FF FE or FE FF); without the mark, one of the first two octets is NUL, because JSON begins with an ASCII character.
        if matches!(
            octets.as_slice(),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, ..] | [_, 0, ..]
        ) {
            return Err(ConfigError::NotJson(
                "text in UTF-16; save the file as UTF-8".to_owned(),
            ));
        }
        let text = String::from_utf8(octets).map_err(|error| ConfigError::not_utf8(&error))?;
        Config::from_json(&text)
    }

    /// Parses the text of a configuration file: a JSON object whose values are text, numbers or booleans. A UTF-8 byte order mark
    /// is skipped.
    ///
    /// # Errors
    /// [`ConfigError`] for the first problem found.
    ///
    /// ```
    /// use goguerrilla::Config;
    ///
    /// let config = Config::from_json(r#"{"GSTMP_LISTEN_INTERFACE": "127.0.0.1:0", "GM_MAX_CLIENTS": 50}"#)?;
    /// assert!(config.warnings().is_empty());
    /// # Ok::<(), goguerrilla::ConfigError>(())
    /// ```
    pub fn from_json(text: &str) -> Result<Config, ConfigError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let raw: RawConfig =
            serde_json::from_str(text).map_err(|error| ConfigError::NotJson(error.to_string()))?;
        raw.into_config()
    }

    /// Returns a builder whose settings are the defaults.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }

    /// Returns the problems that do not prevent a server from starting, such as unknown keys, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Config {
    /// Returns the proxies whose XCLIENT commands and PROXY headers are trusted. If GM_TRUSTED_PROXIES is empty and auth_http
    /// is enabled, returns the loopback addresses, because nginx usually runs on this machine.
    pub(crate) fn trusted_proxies(&self) -> Vec<IpNet> {
        if self.configured_proxies.is_empty() && self.nginx_auth_address.is_some() {
            let loopback = [
                IpAddr::from(Ipv4Addr::LOCALHOST),
                Ipv6Addr::LOCALHOST.into(),
            ];
            return loopback.map(IpNet::from).to_vec();
        }
        self.configured_proxies.clone()
    }

    fn config_contains_password(&self) -> bool {
        let in_url = |url: &Secret| url.reveal().contains('@');
        !self.mysql_password.reveal().is_empty() || self.redis_urls.iter().any(in_url)
    }
}

impl Default for Config {
    /// Returns the configuration of an empty JSON object.
    #[expect(clippy::expect_used, reason = "tests read every default")]
    fn default() -> Config {
        let raw = RawConfig { pairs: Vec::new() };
        raw.into_config().expect("every default is a valid value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_json_object_gives_the_default_configuration() {
        let config = Config::from_json("{}").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.max_content_octets, 131_072);
        assert_eq!(config.listen_addresses, ["127.0.0.1:2525".parse().unwrap()]);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn numbers_and_booleans_are_parsed_as_if_quoted() {
        let text = r#"{"GSMTP_MAX_SIZE": 1000, "GSMTP_VERBOSE": true, "GM_STORE": "Discard",
                       "GSMTP_LISTEN_INTERFACE": "[::1]:25, 127.0.0.1:25"}"#;
        let config = Config::from_json(text).unwrap();
        assert_eq!(config.max_content_octets, 1_000);
        assert!(config.verbose);
        assert_eq!(config.store, StoreKind::Discard);
        assert_eq!(config.listen_addresses.len(), 2);
    }

    #[test]
    fn unknown_key_warning_names_the_nearest_known_key() {
        let config = Config::from_json(r#"{"GSMTP_MAXSIZE": "1"}"#).unwrap();
        assert_eq!(
            config.warnings[0],
            "GSMTP_MAXSIZE: unknown key, ignored; the nearest known key is GSMTP_MAX_SIZE"
        );
    }

    #[test]
    fn control_characters_in_a_key_are_escaped_in_warnings_and_errors() {
        let config = Config::from_json(r#"{"GUID\n\u007f": ""}"#).unwrap();
        let want = r"GUID\n\u{7f}: unknown key, ignored; the nearest known key is GUID";
        assert_eq!(config.warnings[0], want);
        for text in [r#"{"a\nb": "", "a\nb": ""}"#, r#"{"a\nb": []}"#] {
            let error = Config::from_json(text).unwrap_err().to_string();
            assert!(error.contains(r"a\nb: "), "{error}");
        }
    }

    #[test]
    fn mysql_keys_select_the_mysql_store_and_addresses_are_parsed() {
        let parse = |text: &str| Config::from_json(text).unwrap();
        assert_eq!(parse(r#"{"MYSQL_USER": "u"}"#).store, StoreKind::MySql);
        let config = parse(r#"{"MYSQL_HOST": "a, b:3307,/run/my.sock", "GM_STORE": "sqlite"}"#);
        assert_eq!(config.store, StoreKind::Sqlite);
        let tcp = |name: &str, port| DatabaseServerAddress::Tcp(name.to_owned(), port);
        let socket = DatabaseServerAddress::Socket("/run/my.sock".to_owned());
        assert_eq!(config.mysql_hosts, [tcp("a", 3306), tcp("b", 3307), socket]);
        for (given, want) in [
            ("", &[][..]),
            ("127.0.0.1:6380", &["redis://127.0.0.1:6380/"]),
            ("[::1]:6380", &["redis://[::1]:6380/"]),
            ("/run/redis.sock", &["redis+unix:///run/redis.sock"]),
            ("redis://:pass@h:1/2", &["redis://:pass@h:1/2"]),
            ("redis://:a,b:c@h:1/", &["redis://:a,b:c@h:1/"]),
            ("a:1, b", &["redis://a:1/", "redis://b:6379/"]),
            (
                "redis://:pass@a:1,b:2",
                &["redis://:pass@a:1", "redis://b:2/"],
            ),
        ] {
            let config = parse(&format!(r#"{{"REDIS_INTERFACE": "{given}"}}"#));
            let urls: Vec<&str> = config.redis_urls.iter().map(Secret::reveal).collect();
            assert_eq!(urls, want);
        }
    }

    #[test]
    fn loopback_is_trusted_when_nginx_auth_is_on_and_no_proxy_is_configured() {
        let trusted = |text: &str| {
            let blocks = Config::from_json(text).unwrap().trusted_proxies();
            let blocks: Vec<String> = blocks.iter().map(IpNet::to_string).collect();
            blocks.join(" ")
        };
        for (text, want) in [
            ("{}", ""),
            (r#"{"NGINX_AUTH_ENABLED": "Y"}"#, "127.0.0.1/32 ::1/128"),
            (
                r#"{"NGINX_AUTH_ENABLED": "Y", "GM_TRUSTED_PROXIES": ""}"#,
                "127.0.0.1/32 ::1/128",
            ),
            (
                r#"{"NGINX_AUTH_ENABLED": "Y", "GM_TRUSTED_PROXIES": "192.0.2.1, 2001:db8::/32"}"#,
                "192.0.2.1/32 2001:db8::/32",
            ),
        ] {
            assert_eq!(trusted(text), want, "{text}");
        }
    }

    #[test]
    fn error_in_a_long_allowed_hosts_list_is_reported_in_a_short_line() {
        let names = "ours.test,".repeat(10_000);
        let long = "x".repeat(100_000);
        for (list, found) in [
            (format!("{names}*.*"), "\"*.*\"".to_owned()),
            (
                names.clone(),
                "an empty item after \"ours.test\"".to_owned(),
            ),
            (
                format!("{names}{long}"),
                format!("\"{}…\"", "x".repeat(260)),
            ),
            ("a,,b".to_owned(), "\"a,,b\"".to_owned()),
            (",".to_owned(), "\",\"".to_owned()),
        ] {
            let text = format!(r#"{{"GM_ALLOWED_HOSTS": "{list}"}}"#);
            let error = Config::from_json(&text).unwrap_err().to_string();
            assert!(error.ends_with(&format!(", but found {found}")), "{error}");
            assert!(error.len() < 600, "{error}");
        }
    }

    #[test]
    fn secrets_never_appear_in_debug_output_or_errors() {
        let text = r#"{"MYSQL_PASS": "s3cr3t", "REDIS_INTERFACE": "redis://:s3cr3t@h:1/"}"#;
        assert!(!format!("{:?}", Config::from_json(text).unwrap()).contains("s3cr3t"));
        let error = Config::from_json(r#"{"REDIS_INTERFACE": "s3cr3t@:x"}"#).unwrap_err();
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }

    #[test]
    fn default_of_each_key_parses_to_the_default_configuration() {
        let pairs: Vec<String> = raw::KEYS
            .iter()
            .map(|(key, default)| format!("\"{key}\": \"{default}\""))
            .collect();
        let config = Config::from_json(&format!("{{{}}}", pairs.join(","))).unwrap();
        assert_eq!(config, Config::default());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}
