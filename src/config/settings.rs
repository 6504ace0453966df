//! Each key's meaning: from the text that was given to a [`Config`].

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::smtp::domain;

use super::raw::{RawConfig, bad_value};
use super::sqlite_file::sqlite_file;
use super::{Config, ConfigError, ConfigWarning, Secret, ServerAddress, StoreKind};

impl RawConfig {
    /// All of it, or the first thing that is wrong.
    pub fn into_config(self) -> Result<(Config, Vec<ConfigWarning>), ConfigError> {
        let mut warnings = self.unknown_keys();
        warnings.extend(self.ignored_alias());
        let config = Config {
            allowed_hosts: self.allowed_hosts()?,
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
            named_proxies: self.named_proxies()?,
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
                sqlite_file,
            )?,
            mail_table: self.mail_table()?,
            save_workers: self.number(
                "GM_SAVE_WORKERS",
                "a number of writers such as \"2\"",
                1..=64,
            )?,
            mysql_hosts: self.mysql_hosts()?,
            mysql_user: self.value("MYSQL_USER").to_owned(),
            mysql_password: Secret(self.value("MYSQL_PASS").to_owned()),
            mysql_database: self.value("MYSQL_DB").to_owned(),
            redis_urls: self.redis_urls()?,
            redis_expire_seconds: self.number(
                "REDIS_EXPIRE_SECONDS",
                "a number of seconds such as \"3600\"",
                1..=1_000_000_000,
            )?,
        };
        if config.proxy_protocol && config.trusted_proxies().is_empty() {
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
        if config.max_content_octets > config.max_memory_octets {
            warnings.push(ConfigWarning(format!(
                "GM_MAX_MEMORY: {} octets hold no message of GSMTP_MAX_SIZE, {}, which is told 452; raise GM_MAX_MEMORY",
                config.max_memory_octets, config.max_content_octets
            )));
        }
        Ok((config, warnings))
    }

    fn mail_table(&self) -> Result<String, ConfigError> {
        let key = "GM_MAIL_TABLE";
        let expected =
            "a table name of letters, digits and _, such as \"new_mail\" or \"mail.new_mail\"";
        let table = self.text(key, expected, table_name)?;
        let in_file = table.strip_prefix("main.").unwrap_or(&table);
        let fits_sqlite =
            !in_file.contains('.') && !in_file.to_ascii_lowercase().starts_with("sqlite_");
        if self.store()? == StoreKind::Sqlite && !fits_sqlite {
            let expected = "a table in GM_SQLITE_FILE, such as \"new_mail\", of no other database and not beginning with sqlite_";
            return Err(bad_value(key, expected, &table));
        }
        Ok(table)
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

    fn named_proxies(&self) -> Result<Vec<IpNet>, ConfigError> {
        let key = "GM_TRUSTED_PROXIES";
        if self.value(key).trim().is_empty() {
            return Ok(Vec::new());
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

    fn mysql_hosts(&self) -> Result<Vec<ServerAddress>, ConfigError> {
        let key = "MYSQL_HOST";
        let hosts = self.list(key, SERVER_ADDRESS, |text| server_address(text, 3306));
        hosts.map_err(|error| match self.value(key).contains('@') {
            // As in a URL; user and password have keys of their own.
            true => ConfigError::BadValue {
                key,
                expected: SERVER_ADDRESS.to_owned(),
                found: NOT_SHOWN.to_owned(),
            },
            false => error,
        })
    }

    /// One Redis, or several nodes of a cluster. What is found is not shown when it is wrong: it may hold a password.
    fn redis_urls(&self) -> Result<Vec<Secret>, ConfigError> {
        let text = self.value("REDIS_INTERFACE").trim();
        if text.is_empty() {
            return Ok(Vec::new());
        }
        // A comma may stand in a password, but then no host follows it.
        let mut pieces = text.split(',').map(str::trim);
        let first = pieces.next().and_then(redis_url);
        let nodes: Option<Vec<Secret>> = pieces
            .map(|piece| redis_url(piece).filter(|_| !piece.contains('/')))
            .collect();
        let first_is_node = |url: &Secret| url.reveal().starts_with("redis://");
        match (first, nodes) {
            (Some(first), Some(nodes)) if nodes.is_empty() || first_is_node(&first) => {
                Ok([vec![first], nodes].concat())
            }
            _ => redis_url(text).map(|url| vec![url]).ok_or_else(|| ConfigError::BadValue {
                key: "REDIS_INTERFACE",
                expected: "\"127.0.0.1:6379\", a socket path, \"redis://user:pass@host:port/db\", several \"host:port\" of a \
                           Redis Cluster, comma separated, or \"\""
                    .to_owned(),
                found: NOT_SHOWN.to_owned(),
            }),
        }
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
}

fn redis_url(text: &str) -> Option<Secret> {
    let url = match server_address(text, 6379) {
        _ if text.starts_with("redis://") && text.len() > "redis://".len() => text.to_owned(),
        Some(ServerAddress::Tcp(host, port)) if host.contains(':') => {
            format!("redis://[{host}]:{port}/")
        }
        Some(ServerAddress::Tcp(host, port)) => format!("redis://{host}:{port}/"),
        Some(ServerAddress::Socket(path)) => format!("redis+unix://{path}"),
        None => return None,
    };
    Some(Secret(url))
}

fn host(text: &str) -> Option<String> {
    let is_host = domain::is_domain(text) || domain::is_address_literal(text);
    is_host.then(|| domain::without_trailing_dot(text).to_owned())
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

const NOT_SHOWN: &str = "something else (not shown, it may hold a password)";

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

const NOBODY_TRUSTED: &str = "GSMTP_PROXY_PROTOCOL: is on, but GM_TRUSTED_PROXIES names nobody, so every connection is \
     closed; name the proxies there";

/// Redis holds no more in one value, and SQLite little more in one row.
const MAX_CONTENT: usize = 512 << 20;
