//! Parses and checks the value of each key.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::smtp::domain;

use super::database_tls::mysql_tls_warnings;
use super::feed::feed_without_rows_warning;
use super::raw::{RawConfig, bad_value, find_key};
use super::redis_interface::unused_redis_ca_warning;
use super::sqlite_file::parse_sqlite_file_path;
use super::{Config, ConfigError, DatabaseServerAddress, Secret, StoreKind};

impl RawConfig {
    /// Converts all values and collects warnings.
    ///
    /// # Errors
    /// [`ConfigError`] for the first invalid value.
    pub fn to_config(&self) -> Result<Config, ConfigError> {
        let mut warnings = self.unknown_key_warnings();
        warnings.extend(self.ignored_alias_warnings());
        let mut config = Config {
            allowed_hosts: self.parse_allowed_hosts()?,
            allowed_hosts_files: self.parse_allowed_hosts_files()?,
            recipient_query: self.parse_recipient_query()?,
            recipient_cache_time: self.parse_recipient_cache_time()?,
            primary_mail_host: self.parse_config_value_with(
                "GM_PRIMARY_MAIL_HOST",
                "a domain such as \"example.com\"",
                parse_host_or_empty_text,
            )?,
            host_name: self.parse_config_value_with(
                "GSMTP_HOST_NAME",
                "a host name such as \"mx.example.com\"",
                // The host name is part of replies, which must be ASCII (RFC 5321 §4.2).
                |text| parse_host_or_empty_text(text).filter(|host| host.is_ascii()),
            )?,
            listen_addresses: self.parse_list(
                self.listen_key_given_in_config(),
                "addresses such as \"0.0.0.0:25\" or \"[::]:25\", comma separated",
                |text| text.parse().ok(),
            )?,
            tls_listen_addresses: self.parse_tls_listen_addresses()?,
            tls_files: self.tls_files()?,
            max_content_octets: self.parse_number(
                "GSMTP_MAX_SIZE",
                "a number of octets such as \"131072\"",
                1..=MAX_CONTENT,
            )?,
            client_timeout: Duration::from_secs(self.parse_number(
                "GSMTP_TIMEOUT",
                "a number of seconds such as \"100\"",
                1..=MAX_TIMEOUT_SECONDS,
            )? as u64),
            log_file: PathBuf::from(self.configured_or_default_value("GSMTP_LOG_FILE")),
            log_as_json: self.parse_choice("GM_LOG_FORMAT", &[("text", false), ("json", true)])?,
            nginx_auth_address: self.parse_nginx_auth_address()?,
            configured_proxies: self.parse_trusted_proxies()?,
            proxy_protocol: self.parse_yes_or_no("GSMTP_PROXY_PROTOCOL")?,
            verbose: self.parse_yes_or_no("GSMTP_VERBOSE")?,
            max_clients: self.parse_number(
                "GM_MAX_CLIENTS",
                "a number of connections such as \"500\"",
                1..=MAX_CLIENTS,
            )?,
            max_clients_per_address: self.parse_number(
                "GM_MAX_CLIENTS_PER_IP",
                "a number of connections such as \"20\", or \"0\" for no limit",
                0..=MAX_CLIENTS,
            )?,
            status_address: self.parse_config_value_with(
                "GM_STATUS_INTERFACE",
                "one numeric address such as \"127.0.0.1:9125\", or \"\"",
                parse_optional_socket_address,
            )?,
            pid_file: Some(self.configured_or_default_value("PID_FILE").trim())
                .filter(|text| !text.is_empty())
                .map(PathBuf::from),
            run_as: self.run_as_ids()?,
            max_recipients: self.parse_number(
                "GM_MAX_RECIPIENTS",
                "a number of recipients such as \"100\"",
                1..=MAX_RECIPIENTS,
            )?,
            max_memory_octets: self.parse_number(
                "GM_MAX_MEMORY",
                "a number of octets such as \"268435456\"",
                1..=MAX_MEMORY,
            )?,
            hold_time: self.parse_hold_time()?,
            store: self.store_kind()?,
            sqlite_file: self.parse_config_value_with(
                "GM_SQLITE_FILE",
                "a file name such as \"goguerrilla.db\"",
                parse_sqlite_file_path,
            )?,
            mail_table: self.parse_mail_table()?,
            keep: self.parse_keep_days()?,
            feed_target: self.parse_feed_target()?,
            feed_length: self.parse_feed_length()?,
            feed_clients: self.parse_feed_clients()?,
            save_workers: self.parse_number(
                "GM_SAVE_WORKERS",
                "a number of writers such as \"2\"",
                1..=MAX_WRITERS,
            )?,
            mysql_hosts: self.parse_mysql_hosts()?,
            mysql_user: self.configured_or_default_value("MYSQL_USER").to_owned(),
            mysql_password: Secret(self.configured_or_default_value("MYSQL_PASS").to_owned()),
            mysql_pass_file: self.mysql_pass_file()?,
            mysql_tls: self.parse_mysql_tls()?,
            mysql_ca_file: self.mysql_ca_file(),
            mysql_database: self.configured_or_default_value("MYSQL_DB").to_owned(),
            redis_urls: self.parse_redis_urls()?,
            redis_password: Secret::default(),
            redis_pass_file: self.redis_pass_file()?,
            redis_ca: self.redis_ca_file(),
            redis_expire_seconds: self.parse_number(
                "REDIS_EXPIRE_SECONDS",
                "a number of seconds such as \"3600\"",
                1..=MAX_EXPIRE_SECONDS,
            )?,
            warnings: Vec::new(),
            value_sources: Vec::new(),
        };
        warnings.extend(warnings_about_values(&config));
        config.warnings = warnings;
        config.reject_shared_files()?;
        debug_assert_eq!(config.find_broken_invariant(), None);
        Ok(config)
    }

    fn parse_mail_table(&self) -> Result<String, ConfigError> {
        let key = "GM_MAIL_TABLE";
        let expected =
            "a table name of letters, digits and _, such as \"new_mail\" or \"mail.new_mail\"";
        let table = self.parse_config_value_with(key, expected, parse_table_name)?;
        let table_in_file = table.strip_prefix("main.").unwrap_or(&table);
        let fits_sqlite = !table_in_file.contains('.')
            && !table_in_file.to_ascii_lowercase().starts_with("sqlite_");
        if self.store_kind()? == StoreKind::Sqlite && !fits_sqlite {
            let expected = "a table in GM_SQLITE_FILE, such as \"new_mail\", without a database name and not beginning with sqlite_";
            return Err(bad_value(key, expected, &table));
        }
        Ok(table)
    }

    /// Returns the key that sets the user id: GUID unless it is empty, else its other spelling.
    pub(super) fn user_key_given_in_config(&self) -> &'static str {
        match self.configured_or_default_value("GUID").trim() {
            "" => "SUID",
            _ => "GUID",
        }
    }

    fn run_as_ids(&self) -> Result<Option<(u32, u32)>, ConfigError> {
        let user_key = self.user_key_given_in_config();
        let id = |key| {
            let parse = |text: &str| match text {
                "" => Some(None),
                text => text.parse().ok().map(Some),
            };
            self.parse_config_value_with(key, "a numeric id such as \"65534\"", parse)
        };
        match (id(user_key)?, id("SGID")?) {
            (Some(user), Some(group)) => Ok(Some((user, group))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(self.missing_partner("SGID", "a group id", user_key)),
            (None, Some(_)) => Err(self.missing_partner("GUID", "a user id", "SGID")),
        }
    }

    /// Returns the kind of store. If GM_STORE is not given, any key that begins with MYSQL_ selects MySQL.
    pub(super) fn store_kind(&self) -> Result<StoreKind, ConfigError> {
        let is_mysql_key = |key: &str| key.starts_with("MYSQL_") && find_key(key).is_some();
        let has_mysql_key = self.pairs.iter().any(|(key, _)| is_mysql_key(key));
        if has_mysql_key && !self.is_given("GM_STORE") {
            return Ok(StoreKind::MySql);
        }
        self.parse_choice(
            "GM_STORE",
            &[
                ("sqlite", StoreKind::Sqlite),
                ("mysql", StoreKind::MySql),
                ("discard", StoreKind::Discard),
            ],
        )
    }

    fn parse_mysql_hosts(&self) -> Result<Vec<DatabaseServerAddress>, ConfigError> {
        let key = "MYSQL_HOST";
        let hosts = self.parse_list(key, SERVER_ADDRESS, |text| {
            parse_database_address(text, 3306)
        });
        hosts.map_err(
            |error| match self.configured_or_default_value(key).contains('@') {
                // `user:password@host` is a common mistake, because URLs have this form. The error must not show the password.
                true => ConfigError::BadValue {
                    key,
                    expected: SERVER_ADDRESS.to_owned(),
                    found: REDACTED.to_owned(),
                },
                false => error,
            },
        )
    }
}

/// Returns warnings about values that are valid but do not fit each other.
fn warnings_about_values(config: &Config) -> Vec<String> {
    let redis_ca = unused_redis_ca_warning(&config.redis_urls, config.redis_ca.as_ref());
    let mut warnings = Vec::from_iter(redis_ca);
    if config.proxy_protocol && config.trusted_proxies().is_empty() {
        warnings.push(NO_TRUSTED_PROXY.to_owned());
    }
    if config.store == StoreKind::MySql
        && config.mysql_database.is_empty()
        && !config.mail_table.contains('.')
    {
        warnings.push(
            "MYSQL_DB: empty, so the table cannot be found; name the database here, or in GM_MAIL_TABLE as \
             \"database.table\""
                .to_owned(),
        );
    }
    warnings.extend(mysql_tls_warnings(config));
    warnings.extend(feed_without_rows_warning(&config.feed_target, config.store));
    if config.max_content_octets > config.max_memory_octets {
        warnings.push(format!(
            "GM_MAX_MEMORY: {} octets are less than GSMTP_MAX_SIZE, {}: a message of that size gets 452; raise GM_MAX_MEMORY",
            config.max_memory_octets, config.max_content_octets
        ));
    }
    warnings
}

fn parse_domain_or_address_literal(text: &str) -> Option<String> {
    let is_host = domain::is_domain(text) || domain::is_address_literal(text);
    is_host.then(|| domain::without_trailing_dot(text).to_owned())
}

fn parse_host_or_empty_text(text: &str) -> Option<String> {
    if text.is_empty() {
        Some(String::new())
    } else {
        parse_domain_or_address_literal(text)
    }
}

fn parse_optional_socket_address(text: &str) -> Option<Option<SocketAddr>> {
    match text {
        "" => Some(None),
        text => text.parse().ok().map(Some),
    }
}

/// Parses `host:port`, `[IPv6]:port`, a host without a port (which gets `default_port`), or the path of a Unix domain
/// socket. Returns `None` for any other text.
pub(super) fn parse_database_address(
    text: &str,
    default_port: u16,
) -> Option<DatabaseServerAddress> {
    if text.starts_with('/') {
        return Some(DatabaseServerAddress::Socket(text.to_owned()));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0)?),
        None => (text, default_port),
    };
    let bracketed = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let is_name = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        // A name without brackets must not contain a colon: the last group of an IPv6 address would be parsed as the port.
        None => {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        }
    };
    let name = bracketed.unwrap_or(name);
    is_name.then(|| DatabaseServerAddress::Tcp(name.to_owned(), port))
}

pub(super) const REDACTED: &str = "something else (not shown, it may hold a password)";

const SERVER_ADDRESS: &str =
    "servers such as \"127.0.0.1:3306\" or \"/run/mysqld/mysqld.sock\", comma separated";

fn parse_table_name(text: &str) -> Option<String> {
    let is_word = |word: &str| {
        (1..=64).contains(&word.len())
            && word
                .bytes()
                .all(|octet| octet.is_ascii_alphanumeric() || octet == b'_')
    };
    let mut words = text.split('.');
    let are_valid = words.by_ref().take(2).all(is_word) && words.next().is_none();
    are_valid.then(|| text.to_owned())
}

const NO_TRUSTED_PROXY: &str = "GSMTP_PROXY_PROTOCOL: is Y, but GM_TRUSTED_PROXIES is empty, so every connection is closed; \
     list the proxies there";

/// Upper limit of GSMTP_MAX_SIZE in octets; a larger value is a configuration error. Redis limits a value to 512 MiB; SQLite
/// limits a row to about 1 GB.
const MAX_CONTENT: usize = 512 << 20;
/// Upper limit of GSMTP_TIMEOUT: a day.
const MAX_TIMEOUT_SECONDS: usize = 86_400;
/// Upper limit of GM_MAX_CLIENTS and GM_MAX_CLIENTS_PER_IP. Each client takes a thread and four memory mappings; a server with
/// 30,000 already needs limits of the system to be raised.
const MAX_CLIENTS: usize = 100_000;
/// Upper limit of GM_MAX_RECIPIENTS. All rows of a mail are one transaction.
const MAX_RECIPIENTS: usize = 10_000;
/// Upper limit of GM_MAX_MEMORY. Sums of two limits then do not overflow.
const MAX_MEMORY: usize = usize::MAX / 4;
/// Upper limit of GM_SAVE_WORKERS. Each writer has a connection, and MySQL allows 151 unless it is configured otherwise.
const MAX_WRITERS: usize = 64;
/// Upper limit of REDIS_EXPIRE_SECONDS: 31 years.
const MAX_EXPIRE_SECONDS: usize = 1_000_000_000;
