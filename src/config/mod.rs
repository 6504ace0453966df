//! Parses goguerrilla.conf, a strict JSON object, into typed and checked settings.
//!
//! Only this module reads the keys.

mod allowed_hosts;
mod builder;
mod database_tls;
mod document;
mod environment;
mod error;
mod feed;
mod go_guerrilla;
mod hold_time;
mod invariants;
mod keep_days;
mod listeners;
mod passwords;
mod raw;
mod recipient_query;
mod redis_interface;
#[cfg(feature = "mysql")]
mod redis_login;
mod settings;
mod shared_files;
mod sqlite_file;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::os::regular_file::{PIPE_TIMEOUT, read_file_or_pipe};
use crate::smtp::AcceptedDomains;
use raw::RawConfig;

pub use builder::ConfigBuilder;
pub use database_tls::DatabaseTlsMode;
pub use environment::EnvironmentSettings;
pub use error::ConfigError;
pub use feed::FeedTarget;
pub use go_guerrilla::{go_guerrilla_key_notes, go_guerrilla_key_notes_of_text};
pub use keep_days::{EXPECTED_DAYS, parse_days};

/// The configuration of a server: every key of goguerrilla.conf, checked and typed.
///
/// [`Config::load`] reads a file, [`Config::from_json`] a text, and [`Config::builder`] has a method for each setting that a
/// program with its own store needs. `Config::default()` is the configuration of an empty file. docs/configuration.md describes
/// the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// GM_ALLOWED_HOSTS: recipient domains that are accepted, without those in its files.
    pub(crate) allowed_hosts: AcceptedDomains,
    /// GM_ALLOWED_HOSTS: files with further domains, which the server reads.
    pub(crate) allowed_hosts_files: Vec<PathBuf>,
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
    /// GM_HOLD_SECONDS: how long a mail waits for a store that is unavailable; zero means not at all.
    pub(crate) hold_time: Duration,
    /// GM_STORE: where mail is saved.
    pub(crate) store: StoreKind,
    /// GM_SQLITE_FILE: database file of the SQLite store.
    pub(crate) sqlite_file: PathBuf,
    /// GM_MAIL_TABLE: table name, optionally with its database.
    pub(crate) mail_table: String,
    /// GM_KEEP_DAYS: how long rows are kept; `None` if for ever.
    pub(crate) keep: Option<Duration>,
    /// GM_FEED: where the feed goes.
    pub(crate) feed_target: FeedTarget,
    /// GM_FEED_LENGTH: about how many entries the Redis stream keeps.
    pub(crate) feed_length: usize,
    /// GM_FEED_CLIENTS: who may read `/feed` and the metadata of mails.
    pub(crate) feed_clients: Vec<IpNet>,
    /// GM_SAVE_WORKERS: writer threads of the MySQL store.
    pub(crate) save_workers: usize,
    /// MYSQL_HOST: database hosts in order of preference.
    pub(crate) mysql_hosts: Vec<DatabaseServerAddress>,
    /// MYSQL_USER: user name for the database.
    pub(crate) mysql_user: String,
    /// MYSQL_PASS, or the content of MYSQL_PASS_FILE after the server has read it: password of `mysql_user`.
    pub(crate) mysql_password: Secret,
    /// MYSQL_PASS_FILE: file that contains `mysql_password`.
    pub(crate) mysql_pass_file: Option<PathBuf>,
    /// MYSQL_TLS: how connections to the database are protected.
    pub(crate) mysql_tls: DatabaseTlsMode,
    /// MYSQL_CA: PEM file of authorities for `mysql_tls`, in addition to Mozilla's; `None` if the key is empty.
    pub(crate) mysql_ca_file: Option<PathBuf>,
    /// MYSQL_DB: default database; may be empty.
    pub(crate) mysql_database: String,
    /// URLs from REDIS_INTERFACE: none (bodies go into the table), one server, or the nodes of a Redis Cluster.
    pub(crate) redis_urls: Vec<Secret>,
    /// REDIS_CA: PEM file of further authorities for `rediss://`; `None` if the key is empty.
    pub(crate) redis_ca: Option<PathBuf>,
    /// The content of REDIS_PASS_FILE after the server has read it; `redis_login` adds it to the URLs.
    pub(crate) redis_password: Secret,
    /// REDIS_PASS_FILE: file that contains `redis_password`.
    pub(crate) redis_pass_file: Option<PathBuf>,
    /// REDIS_EXPIRE_SECONDS: lifetime of a body in Redis.
    pub(crate) redis_expire_seconds: usize,
    /// Problems that do not prevent the server from starting, one line each.
    pub(crate) warnings: Vec<String>,
    /// The keys whose value is neither from the file nor the default, and where it is from; `check` prints them.
    pub(crate) value_sources: Vec<(&'static str, String)>,
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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` secret.
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

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
        Config::load_with_environment(Some(file.as_ref()), &EnvironmentSettings::default())
    }

    /// Reads the configuration file, if there is one, and replaces its values by those of the environment.
    ///
    /// # Errors
    /// [`ConfigError`] for the first problem found; it names the file or the environment variable.
    pub(crate) fn load_with_environment(
        file: Option<&Path>,
        environment: &EnvironmentSettings,
    ) -> Result<Config, ConfigError> {
        let raw = file.map_or_else(|| Ok(RawConfig::default()), read_file)?;
        let warning = file.and_then(|file| raw.readable_password_warning(file));
        let config = environment.apply_to(raw);
        let mut config = config.map_err(|error| match (error, file) {
            (error @ ConfigError::InEnvironment { .. }, _) | (error, None) => error,
            (error, Some(file)) => error.in_file(file),
        })?;
        config.warnings.extend(warning);
        file.map_or(Ok(()), |file| config.reject_log_in_configuration(file))?;
        Ok(config)
    }

    /// Parses the text of a configuration file: a JSON object whose values are text, numbers or booleans. A UTF-8 byte order
    /// mark is skipped.
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
        RawConfig::from_json(text)?.to_config()
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

    /// Records that the value of `key` is from `source`.
    pub(crate) fn set_value_source(&mut self, key: &'static str, source: String) {
        self.value_sources.retain(|(known, _)| *known != key);
        self.value_sources.push((key, source));
    }
}

impl Default for Config {
    /// Returns the configuration of an empty JSON object.
    #[expect(clippy::expect_used, reason = "tests read every default")]
    fn default() -> Config {
        let raw = RawConfig::default();
        raw.to_config().expect("every default is a valid value")
    }
}

fn read_file(file: &Path) -> Result<RawConfig, ConfigError> {
    let octets = read_file_or_pipe(file, MAX_FILE_OCTETS, PIPE_TIMEOUT);
    let octets = octets.map_err(|source| ConfigError::Unreadable {
        file: file.to_owned(),
        source,
    })?;
    RawConfig::from_octets(octets).map_err(|error| error.in_file(file))
}

/// Maximum length of a configuration file in octets. GM_ALLOWED_HOSTS may be a long list; a longer one belongs in a file of its
/// own.
const MAX_FILE_OCTETS: u64 = 16 << 20;

#[cfg(test)]
mod tests;
