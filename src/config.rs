//! goguerrilla.conf: a strict JSON object into typed settings.
//!
//! The historical keys are spelled here and nowhere else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// Every setting, in the units that the program works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// GM_ALLOWED_HOSTS: `*`, `*.parent` or a domain each.
    pub allowed_hosts: Vec<String>,
    /// GM_PRIMARY_MAIL_HOST; empty means GSMTP_HOST_NAME.
    pub primary_mail_host: String,
    /// GSMTP_HOST_NAME; empty means the machine's name.
    pub host_name: String,
    /// GSTMP_LISTEN_INTERFACE.
    pub listen_addresses: Vec<SocketAddr>,
    /// GSMTPS_LISTEN_INTERFACE.
    pub tls_listen_addresses: Vec<SocketAddr>,
    /// GSMTP_PUB_KEY and GSMTP_PRV_KEY; `None` when both are empty.
    pub tls_files: Option<(PathBuf, PathBuf)>,
    /// GSMTP_MAX_SIZE.
    pub max_content_octets: usize,
    /// GSMTP_TIMEOUT.
    pub client_timeout: Duration,
    /// GSMTP_LOG_FILE.
    pub log_file: PathBuf,
    /// GM_LOG_FORMAT is `json`.
    pub log_as_json: bool,
    /// NGINX_AUTH, when NGINX_AUTH_ENABLED.
    pub nginx_auth_address: Option<SocketAddr>,
    /// GM_TRUSTED_PROXIES.
    pub trusted_proxies: Vec<IpNet>,
    /// GSMTP_PROXY_PROTOCOL.
    pub proxy_protocol: bool,
    /// GSMTP_VERBOSE.
    pub verbose: bool,
    /// GM_MAX_CLIENTS.
    pub max_clients: usize,
    /// GM_MAX_CLIENTS_PER_IP; 0 for no limit.
    pub max_clients_per_address: usize,
    /// GM_STATUS_INTERFACE; `None` for no status page.
    pub status_address: Option<SocketAddr>,
    /// PID_FILE.
    pub pid_file: Option<PathBuf>,
    /// GUID (or SUID) and SGID, both or none.
    pub run_as: Option<(u32, u32)>,
    /// GM_MAX_RECIPIENTS.
    pub max_recipients: usize,
    /// GM_MAX_MEMORY.
    pub max_memory_octets: usize,
    /// GM_STORE.
    pub store: StoreKind,
    /// GM_SQLITE_FILE.
    pub sqlite_file: PathBuf,
    /// GM_MAIL_TABLE.
    pub mail_table: String,
    /// GM_SAVE_WORKERS.
    pub save_workers: usize,
    /// MYSQL_HOST, in the order they are tried.
    pub mysql_hosts: Vec<ServerAddress>,
    /// MYSQL_USER.
    pub mysql_user: String,
    /// MYSQL_PASS.
    pub mysql_password: Secret,
    /// MYSQL_DB; empty for none.
    pub mysql_database: String,
    /// REDIS_INTERFACE as a URL; `None` keeps bodies in the table.
    pub redis_url: Option<Secret>,
    /// REDIS_EXPIRE_SECONDS.
    pub redis_expire_seconds: usize,
}

/// `host:port`, or the path of a socket on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// Over TCP.
    Tcp(String, u16),
    /// Over a socket.
    Socket(String),
}

/// A text that no log, no error and no `check` ever shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for whoever has to present it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Which store saves the mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// The embedded one.
    Sqlite,
    /// Rows in MySQL, bodies in Redis.
    MySql,
    /// None: mail is thanked for and dropped.
    Discard,
}

/// What is wrong with a configuration; its text names the culprit, what was expected and what was found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: {reason}; name a configuration file that exists and that this user may read", file = .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// It is not strict JSON.
    #[error("expected strict JSON without comments and trailing commas, but found: {0}")]
    NotJson(String),
    /// One value.
    #[error("{key}: expected {expected}, but found {found}")]
    BadValue {
        /// Which key.
        key: &'static str,
        /// What it takes, with an example.
        expected: String,
        /// What it was given.
        found: String,
    },
}

/// Something an administrator should know, which stops nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigWarning(pub String);

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load(file: &Path) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
        let octets = std::fs::read(file).map_err(|error| ConfigError::Unreadable {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        let text = String::from_utf8(octets).map_err(|error| not_utf8(&error))?;
        let (config, mut warnings) = Config::parse(&text)?;
        let mode = std::fs::metadata(file).map_or(0, |metadata| metadata.mode());
        if mode & 0o004 != 0 && config.holds_a_password() {
            let file = file.display();
            warnings.push(ConfigWarning(format!(
                "{file}: everybody may read it, and it holds a password; run: chmod o-r {file}"
            )));
        }
        Ok((config, warnings))
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn parse(text: &str) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
        let given: Given =
            serde_json::from_str(text).map_err(|error| ConfigError::NotJson(error.to_string()))?;
        given.into_config()
    }
}

impl Config {
    fn holds_a_password(&self) -> bool {
        let in_url = |url: &Secret| url.reveal().contains('@');
        !self.mysql_password.reveal().is_empty() || self.redis_url.as_ref().is_some_and(in_url)
    }
}

impl Default for Config {
    /// The built-in defaults, as an empty object gives them.
    fn default() -> Config {
        let given = Given { pairs: Vec::new() };
        let (config, _) = given.into_config().expect("every default is a valid value");
        config
    }
}

/// The pairs of the file, in its order, values as text.
struct Given {
    pairs: Vec<(String, String)>,
}

impl Given {
    fn into_config(self) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
        let mut warnings = self.unknown_keys();
        warnings.extend(self.ignored_alias());
        let config = Config {
            allowed_hosts: self.list(
                "GM_ALLOWED_HOSTS",
                "domains such as \"example.com,*.example.org\"",
                host,
            )?,
            primary_mail_host: self.text(
                "GM_PRIMARY_MAIL_HOST",
                "a domain such as \"example.com\"",
                host_or_empty,
            )?,
            host_name: self.text(
                "GSMTP_HOST_NAME",
                "a host name such as \"mx.example.com\"",
                // It stands in replies, which are ASCII (RFC 5321 §4.2).
                |text| host_or_empty(text).filter(|host| host.is_ascii()),
            )?,
            listen_addresses: self.list(
                self.listen_key(),
                "addresses such as \"0.0.0.0:25\" or \"[::]:25\", comma separated",
                |text| text.parse().ok(),
            )?,
            tls_listen_addresses: self.tls_listen_addresses()?,
            tls_files: self.tls_files()?,
            max_content_octets: self.number(
                "GSMTP_MAX_SIZE",
                "a number of octets such as \"131072\"",
                1..=MAX_CONTENT,
            )?,
            client_timeout: Duration::from_secs(self.number(
                "GSMTP_TIMEOUT",
                "a number of seconds such as \"100\"",
                1..=86_400,
            )? as u64),
            log_file: PathBuf::from(self.value("GSMTP_LOG_FILE")),
            log_as_json: self.choice("GM_LOG_FORMAT", &[("text", false), ("json", true)])?,
            nginx_auth_address: self.nginx_auth_address()?,
            trusted_proxies: self.trusted_proxies()?,
            proxy_protocol: self.yes_or_no("GSMTP_PROXY_PROTOCOL")?,
            verbose: self.yes_or_no("GSMTP_VERBOSE")?,
            max_clients: self.number(
                "GM_MAX_CLIENTS",
                "a number of connections such as \"500\"",
                1..=100_000,
            )?,
            max_clients_per_address: self.number(
                "GM_MAX_CLIENTS_PER_IP",
                "a number of connections such as \"20\", or \"0\" for no limit",
                0..=100_000,
            )?,
            status_address: self.text(
                "GM_STATUS_INTERFACE",
                "one numeric address such as \"127.0.0.1:9125\", or \"\"",
                address_or_empty,
            )?,
            pid_file: Some(self.value("PID_FILE").trim())
                .filter(|text| !text.is_empty())
                .map(PathBuf::from),
            run_as: self.run_as()?,
            max_recipients: self.number(
                "GM_MAX_RECIPIENTS",
                "a number of recipients such as \"100\"",
                1..=10_000,
            )?,
            max_memory_octets: self.number(
                "GM_MAX_MEMORY",
                "a number of octets such as \"268435456\"",
                1..=usize::MAX / 4,
            )?,
            store: self.store()?,
            sqlite_file: self.text(
                "GM_SQLITE_FILE",
                "a file name such as \"goguerrilla.db\"",
                |text| (!text.is_empty()).then(|| PathBuf::from(text)),
            )?,
            mail_table: self.text(
                "GM_MAIL_TABLE",
                "a table name of letters, digits and _, such as \"new_mail\" or \"mail.new_mail\"",
                table_name,
            )?,
            save_workers: self.number(
                "GM_SAVE_WORKERS",
                "a number of writers such as \"2\"",
                1..=64,
            )?,
            mysql_hosts: self.list("MYSQL_HOST", SERVER_ADDRESS, |text| {
                server_address(text, 3306)
            })?,
            mysql_user: self.value("MYSQL_USER").to_owned(),
            mysql_password: Secret(self.value("MYSQL_PASS").to_owned()),
            mysql_database: self.value("MYSQL_DB").to_owned(),
            redis_url: self.redis_url()?,
            redis_expire_seconds: self.number(
                "REDIS_EXPIRE_SECONDS",
                "a number of seconds such as \"3600\"",
                1..=1_000_000_000,
            )?,
        };
        if config.proxy_protocol && config.trusted_proxies.is_empty() {
            warnings.push(ConfigWarning(NOBODY_TRUSTED.to_owned()));
        }
        if config.store == StoreKind::MySql
            && config.mysql_database.is_empty()
            && !config.mail_table.contains('.')
        {
            warnings.push(ConfigWarning(
                "MYSQL_DB: empty, so no table can be found; name the database here, or in GM_MAIL_TABLE as \
                 \"database.table\""
                    .to_owned(),
            ));
        }
        Ok((config, warnings))
    }

    /// The value given, or the built-in default.
    fn value(&self, key: &'static str) -> &str {
        let given = self.pairs.iter().find(|(name, _)| name == key);
        match given {
            Some((_, value)) => value,
            None => default_of(key),
        }
    }

    fn text<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let value = self.value(key);
        parse(value.trim()).ok_or_else(|| bad_value(key, expected, value))
    }

    fn list<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        self.text(key, expected, |text| {
            text.split(',').map(|item| parse(item.trim())).collect()
        })
    }

    fn number(
        &self,
        key: &'static str,
        expected: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        let (least, most) = (*range.start(), *range.end());
        let number = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.text(key, expected, number).map_err(|error| {
            let value = self.value(key).trim();
            match value.parse::<u128>() {
                Ok(_) => bad_value(key, &format!("{expected}, from {least} to {most}"), value),
                Err(_) => error,
            }
        })
    }

    fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let names: Vec<String> = choices
            .iter()
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        self.text(key, &names.join(" or "), |text| {
            let chosen = choices
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(text));
            chosen.map(|(_, value)| *value)
        })
    }

    fn tls_listen_addresses(&self) -> Result<Vec<SocketAddr>, ConfigError> {
        let key = "GSMTPS_LISTEN_INTERFACE";
        if self.value(key).trim().is_empty() {
            return Ok(Vec::new());
        }
        let expected = "addresses such as \"0.0.0.0:465\", comma separated, or \"\"";
        let addresses = self.list(key, expected, |text| text.parse().ok())?;
        if self.tls_files()?.is_none() {
            let expected = "GSMTP_PUB_KEY and GSMTP_PRV_KEY beside it";
            return Err(bad_value(key, expected, self.value(key)));
        }
        Ok(addresses)
    }

    fn tls_files(&self) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
        let missing = |key, other| bad_value(key, &format!("a PEM file, since {other} is set"), "");
        let file = |key| PathBuf::from(self.value(key).trim());
        let (chain, key) = (file("GSMTP_PUB_KEY"), file("GSMTP_PRV_KEY"));
        match (chain.as_os_str().is_empty(), key.as_os_str().is_empty()) {
            (true, true) => Ok(None),
            (true, false) => Err(missing("GSMTP_PUB_KEY", "GSMTP_PRV_KEY")),
            (false, true) => Err(missing("GSMTP_PRV_KEY", "GSMTP_PUB_KEY")),
            (false, false) => Ok(Some((chain, key))),
        }
    }

    /// The address is looked at in any case: a wrong one is not kept for the day when the answers are wanted.
    fn nginx_auth_address(&self) -> Result<Option<SocketAddr>, ConfigError> {
        let expected = "an address such as \"127.0.0.1:8025\"";
        let address = self.text("NGINX_AUTH", expected, |text| text.parse().ok())?;
        let is_enabled = self.yes_or_no("NGINX_AUTH_ENABLED")?;
        Ok(is_enabled.then_some(address))
    }

    /// Where nobody is named, an nginx that asks us who may pass is the one on this machine.
    fn trusted_proxies(&self) -> Result<Vec<IpNet>, ConfigError> {
        let key = "GM_TRUSTED_PROXIES";
        if self.value(key).trim().is_empty() {
            let nginx_is_near = self.yes_or_no("NGINX_AUTH_ENABLED")?;
            let near = [
                IpAddr::from(Ipv4Addr::LOCALHOST),
                Ipv6Addr::LOCALHOST.into(),
            ];
            return Ok(near
                .map(IpNet::from)
                .into_iter()
                .filter(|_| nginx_is_near)
                .collect());
        }
        let expected = "addresses and blocks such as \"192.0.2.1,2001:db8::/32\", or \"\"";
        self.list(key, expected, |text| {
            let address = || text.parse().map(IpAddr::into).ok();
            text.parse().ok().or_else(address)
        })
    }

    fn run_as(&self) -> Result<Option<(u32, u32)>, ConfigError> {
        let user_key = match self.value("GUID").trim() {
            "" => "SUID",
            _ => "GUID",
        };
        let id = |key| {
            let parse = |text: &str| match text {
                "" => Some(None),
                text => text.parse().ok().map(Some),
            };
            self.text(key, "a numeric id such as \"65534\"", parse)
        };
        match (id(user_key)?, id("SGID")?) {
            (Some(user), Some(group)) => Ok(Some((user, group))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(bad_value(
                "SGID",
                &format!("a group id, since {user_key} is set"),
                "",
            )),
            (None, Some(_)) => Err(bad_value("GUID", "a user id, since SGID is set", "")),
        }
    }

    /// Without GM_STORE, any MYSQL_ key means MySQL.
    fn store(&self) -> Result<StoreKind, ConfigError> {
        let is_given = |key: &str| self.pairs.iter().any(|(name, _)| name == key);
        let mysql_keys = ["MYSQL_HOST", "MYSQL_USER", "MYSQL_PASS", "MYSQL_DB"];
        if mysql_keys.into_iter().any(is_given) && !is_given("GM_STORE") {
            return Ok(StoreKind::MySql);
        }
        self.choice(
            "GM_STORE",
            &[
                ("sqlite", StoreKind::Sqlite),
                ("mysql", StoreKind::MySql),
                ("discard", StoreKind::Discard),
            ],
        )
    }

    /// What is found is not shown when it is wrong: it may hold a password.
    fn redis_url(&self) -> Result<Option<Secret>, ConfigError> {
        let text = self.value("REDIS_INTERFACE").trim();
        if text.is_empty() {
            return Ok(None);
        }
        let url = match server_address(text, 6379) {
            _ if text.starts_with("redis://") && text.len() > "redis://".len() => text.to_owned(),
            Some(ServerAddress::Tcp(host, port)) if host.contains(':') => {
                format!("redis://[{host}]:{port}/")
            }
            Some(ServerAddress::Tcp(host, port)) => format!("redis://{host}:{port}/"),
            Some(ServerAddress::Socket(path)) => format!("redis+unix://{path}"),
            None => {
                return Err(ConfigError::BadValue {
                    key: "REDIS_INTERFACE",
                    expected: "\"127.0.0.1:6379\", a socket path, \"redis://user:pass@host:port/db\" or \"\"".to_owned(),
                    found: "something else (not shown, it may hold a password)".to_owned(),
                });
            }
        };
        Ok(Some(Secret(url)))
    }

    fn yes_or_no(&self, key: &'static str) -> Result<bool, ConfigError> {
        self.text(key, "\"Y\" or \"N\"", parse_yes_or_no)
    }

    /// The alias with the letters in their right order counts where the historical key is absent.
    fn listen_key(&self) -> &'static str {
        let is_given = |key: &str| self.pairs.iter().any(|(name, _)| name == key);
        if is_given("GSTMP_LISTEN_INTERFACE") || !is_given("GSMTP_LISTEN_INTERFACE") {
            "GSTMP_LISTEN_INTERFACE"
        } else {
            "GSMTP_LISTEN_INTERFACE"
        }
    }

    /// Both spellings of one key: the historical one wins.
    fn ignored_alias(&self) -> Option<ConfigWarning> {
        let given = |key: &str| self.pairs.iter().find(|(name, _)| name == key);
        let (key, alias) = ("GSTMP_LISTEN_INTERFACE", "GSMTP_LISTEN_INTERFACE");
        let ignored = format!("{alias}: ignored beside {key}; remove one of them");
        (given(key)?.1 != given(alias)?.1).then_some(ConfigWarning(ignored))
    }

    fn unknown_keys(&self) -> Vec<ConfigWarning> {
        let is_known = |key: &str| KEYS.iter().any(|(known, _)| *known == key);
        let unknown = self.pairs.iter().filter(|(key, _)| !is_known(key));
        unknown
            .map(|(key, _)| {
                let nearest = KEYS
                    .iter()
                    .map(|(known, _)| {
                        (
                            strsim::damerau_levenshtein(known, &key.to_uppercase()),
                            known,
                        )
                    })
                    .min();
                // It may hold anything, and this is one line.
                let key = key.escape_debug();
                ConfigWarning(match nearest {
                    Some((_, known)) => {
                        format!("{key}: unknown key, ignored; the nearest known key is {known}")
                    }
                    None => format!("{key}: unknown key, ignored"),
                })
            })
            .collect()
    }
}

/// Keeps every pair, so that a key given twice is seen, and takes numbers and booleans as if quoted.
impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Given, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of keys and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
                use serde::de::Error;
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let text = match value {
                        serde_json::Value::String(text) => text,
                        serde_json::Value::Number(number) => number.to_string(),
                        serde_json::Value::Bool(yes) => yes.to_string(),
                        _ => {
                            return Err(A::Error::custom(format!(
                                "{}: expected a value in quotes",
                                key.escape_debug()
                            )));
                        }
                    };
                    if pairs.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!(
                            "{}: given twice",
                            key.escape_debug()
                        )));
                    }
                    pairs.push((key, text));
                }
                Ok(Given { pairs })
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

fn not_utf8(error: &std::string::FromUtf8Error) -> ConfigError {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = 1 + good.iter().filter(|octet| **octet == b'\n').count();
    let column = 1 + good
        .iter()
        .rev()
        .take_while(|octet| **octet != b'\n')
        .count();
    ConfigError::NotJson(format!(
        "octets that are not UTF-8 at line {line} column {column}"
    ))
}

fn bad_value(key: &'static str, expected: &str, found: &str) -> ConfigError {
    ConfigError::BadValue {
        key,
        expected: expected.to_owned(),
        found: format!("\"{}\"", found.escape_debug()),
    }
}

fn default_of(key: &str) -> &'static str {
    let key = if key == "GSMTP_LISTEN_INTERFACE" {
        "GSTMP_LISTEN_INTERFACE"
    } else {
        key
    };
    KEYS.iter()
        .find(|(known, _)| *known == key)
        .map_or("", |(_, default)| default)
}

fn host(text: &str) -> Option<String> {
    let is_host = !text.is_empty()
        && text.len() <= 255
        && text
            .chars()
            .all(|c| !c.is_whitespace() && !c.is_control() && !"@<>,\"".contains(c));
    is_host.then(|| text.to_owned())
}

fn host_or_empty(text: &str) -> Option<String> {
    if text.is_empty() {
        Some(String::new())
    } else {
        host(text)
    }
}

fn address_or_empty(text: &str) -> Option<Option<SocketAddr>> {
    match text {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

/// `host:port`, `[IPv6]:port`, a host alone with the usual port, or a path.
fn server_address(text: &str, usual_port: u16) -> Option<ServerAddress> {
    if text.starts_with('/') {
        return Some(ServerAddress::Socket(text.to_owned()));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, usual_port),
    };
    let bracketed = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let is_name = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        // An IPv6 address without brackets would lose its last group to the port.
        None => {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        }
    };
    let name = bracketed.unwrap_or(name);
    is_name.then(|| ServerAddress::Tcp(name.to_owned(), port))
}

const SERVER_ADDRESS: &str =
    "servers such as \"127.0.0.1:3306\" or \"/run/mysqld/mysqld.sock\", comma separated";

fn table_name(text: &str) -> Option<String> {
    let is_word = |word: &str| {
        (1..=64).contains(&word.len())
            && word
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || octet == b'_')
    };
    let mut words = text.split('.');
    let are_words = words.by_ref().take(2).all(is_word) && words.next().is_none();
    are_words.then(|| text.to_owned())
}

fn parse_yes_or_no(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "1" => Some(true),
        "n" | "no" | "false" | "0" => Some(false),
        _ => None,
    }
}

const NOBODY_TRUSTED: &str = "GSMTP_PROXY_PROTOCOL: is on, but GM_TRUSTED_PROXIES names nobody, so every connection is \
     closed; name the proxies there";

/// Redis holds no more in one value, and SQLite little more in one row.
const MAX_CONTENT: usize = 512 << 20;

/// Every key and its built-in default.
const KEYS: &[(&str, &str)] = &[
    ("GM_ALLOWED_HOSTS", "*"),
    ("GM_PRIMARY_MAIL_HOST", ""),
    ("GSMTP_HOST_NAME", ""),
    ("GSTMP_LISTEN_INTERFACE", "127.0.0.1:2525"),
    ("GSMTP_LISTEN_INTERFACE", "127.0.0.1:2525"),
    ("GSMTPS_LISTEN_INTERFACE", ""),
    ("GSMTP_PUB_KEY", ""),
    ("GSMTP_PRV_KEY", ""),
    ("GSMTP_MAX_SIZE", "131072"),
    ("GSMTP_TIMEOUT", "100"),
    ("GSMTP_LOG_FILE", "/dev/stdout"),
    ("GSMTP_VERBOSE", "N"),
    ("GM_LOG_FORMAT", "text"),
    ("GM_MAX_CLIENTS", "500"),
    ("GM_MAX_CLIENTS_PER_IP", "0"),
    ("GM_MAX_RECIPIENTS", "100"),
    ("GM_MAX_MEMORY", "268435456"),
    ("GM_STORE", "sqlite"),
    ("GM_SQLITE_FILE", "goguerrilla.db"),
    ("GM_MAIL_TABLE", "new_mail"),
    ("GM_SAVE_WORKERS", "2"),
    ("MYSQL_HOST", "127.0.0.1:3306"),
    ("MYSQL_USER", ""),
    ("MYSQL_PASS", ""),
    ("MYSQL_DB", ""),
    ("REDIS_INTERFACE", "127.0.0.1:6379"),
    ("REDIS_EXPIRE_SECONDS", "3600"),
    ("NGINX_AUTH_ENABLED", "N"),
    ("NGINX_AUTH", "127.0.0.1:8025"),
    ("GM_TRUSTED_PROXIES", ""),
    ("GSMTP_PROXY_PROTOCOL", "N"),
    ("GM_STATUS_INTERFACE", ""),
    ("PID_FILE", ""),
    ("SGID", ""),
    ("GUID", ""),
    ("SUID", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_gives_the_defaults() {
        let (config, warnings) = Config::parse("{}").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.max_content_octets, 131_072);
        assert_eq!(config.listen_addresses, ["127.0.0.1:2525".parse().unwrap()]);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn numbers_and_booleans_are_taken_as_if_quoted() {
        let text = r#"{"GSMTP_MAX_SIZE": 1000, "GSMTP_VERBOSE": true, "GM_STORE": "Discard",
                       "GSMTP_LISTEN_INTERFACE": "[::1]:25, 127.0.0.1:25"}"#;
        let (config, _) = Config::parse(text).unwrap();
        assert_eq!(config.max_content_octets, 1_000);
        assert!(config.verbose);
        assert_eq!(config.store, StoreKind::Discard);
        assert_eq!(config.listen_addresses.len(), 2);
    }

    #[test]
    fn an_unknown_key_is_a_warning_with_the_nearest_known_one() {
        let (_, warnings) = Config::parse(r#"{"GSMTP_MAXSIZE": "1"}"#).unwrap();
        assert_eq!(
            warnings[0].to_string(),
            "GSMTP_MAXSIZE: unknown key, ignored; the nearest known key is GSMTP_MAX_SIZE"
        );
    }

    #[test]
    fn a_key_of_any_characters_is_told_on_one_line() {
        let (_, warnings) = Config::parse(r#"{"GUID\n\u007f": ""}"#).unwrap();
        let told = r"GUID\n\u{7f}: unknown key, ignored; the nearest known key is GUID";
        assert_eq!(warnings[0].to_string(), told);
        for text in [r#"{"a\nb": "", "a\nb": ""}"#, r#"{"a\nb": []}"#] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(r"a\nb: "), "{error}");
        }
    }

    #[test]
    fn mysql_is_meant_when_its_keys_are_there() {
        let parse = |text: &str| Config::parse(text).unwrap().0;
        assert_eq!(parse(r#"{"MYSQL_USER": "u"}"#).store, StoreKind::MySql);
        let config = parse(r#"{"MYSQL_HOST": "a, b:3307,/run/my.sock", "GM_STORE": "sqlite"}"#);
        assert_eq!(config.store, StoreKind::Sqlite);
        let tcp = |name: &str, port| ServerAddress::Tcp(name.to_owned(), port);
        let socket = ServerAddress::Socket("/run/my.sock".to_owned());
        assert_eq!(config.mysql_hosts, [tcp("a", 3306), tcp("b", 3307), socket]);
        for (given, want) in [
            ("", None),
            ("127.0.0.1:6380", Some("redis://127.0.0.1:6380/")),
            ("[::1]:6380", Some("redis://[::1]:6380/")),
            ("/run/redis.sock", Some("redis+unix:///run/redis.sock")),
            ("redis://:pass@h:1/2", Some("redis://:pass@h:1/2")),
        ] {
            let config = parse(&format!(r#"{{"REDIS_INTERFACE": "{given}"}}"#));
            assert_eq!(config.redis_url.as_ref().map(Secret::reveal), want);
        }
    }

    #[test]
    fn proxies_near_us_are_trusted_when_nginx_asks_and_nobody_else_is_named() {
        let trusted = |text: &str| {
            let blocks = Config::parse(text).unwrap().0.trusted_proxies;
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
    fn no_secret_is_ever_shown() {
        let text = r#"{"MYSQL_PASS": "s3cr3t", "REDIS_INTERFACE": "redis://:s3cr3t@h:1/"}"#;
        assert!(!format!("{:?}", Config::parse(text).unwrap()).contains("s3cr3t"));
        let error = Config::parse(r#"{"REDIS_INTERFACE": "s3cr3t@:x"}"#).unwrap_err();
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }

    #[test]
    fn each_default_is_what_its_key_takes() {
        let pairs: Vec<String> = KEYS
            .iter()
            .map(|(key, default)| format!("\"{key}\": \"{default}\""))
            .collect();
        let (config, warnings) = Config::parse(&format!("{{{}}}", pairs.join(","))).unwrap();
        assert_eq!(config, Config::default());
        assert!(warnings.is_empty(), "{warnings:?}");
    }
}
