//! Derives the settings of sessions, of the thread pool and of TLS from the configuration.

use std::sync::Arc;
use std::time::SystemTime;

use super::error::StartError;
use crate::config::Config;
use crate::net::accept_pool::AcceptPoolSettings;
use crate::net::tls::{TlsCredentials, TlsFiles};
use crate::net::trusted_proxies::TrustedProxies;
use crate::smtp::SessionSettings;
use crate::smtp::reply::{self, Reply};
use crate::store::TableColumns;

/// Returns the connection limits and the replies to clients that exceed them.
pub fn accept_pool_settings(config: &Config) -> AcceptPoolSettings {
    let octets_of = |reply: &Reply| {
        let mut octets = Vec::new();
        reply.write_to(&mut octets);
        octets
    };
    AcceptPoolSettings {
        max_clients: config.max_clients,
        trusted_proxies: TrustedProxies::new(config.trusted_proxies()),
        max_clients_per_address: config.max_clients_per_address,
        busy_reply: octets_of(&reply::R421_TOO_BUSY),
        address_limit_reply: octets_of(&reply::R421_TOO_MANY_FROM_ADDRESS),
    }
}

/// Returns who may read `/feed` and the metadata of mails.
pub fn feed_clients(config: &Config) -> TrustedProxies {
    TrustedProxies::new(config.feed_clients.iter().copied())
}

/// Returns the settings of new sessions. Until the store has read the columns of its table, the maximum lengths of
/// recipients are those of the table that `schema` prints.
pub fn session_settings(config: &Config) -> SessionSettings {
    let host_name = match config.host_name.as_str() {
        "" => machine_host_name(),
        name => name.to_owned(),
    };
    SessionSettings {
        primary_mail_host: match config.primary_mail_host.as_str() {
            "" => host_name.clone(),
            name => name.to_owned(),
        },
        host_name,
        allowed_hosts: config.allowed_hosts.clone(),
        max_content_octets: config.max_content_octets,
        max_recipients: config.max_recipients,
        recipient_limits: Arc::new(TableColumns::DEFAULT.columns_limiting_recipients()),
        recipient_hook: None,
        verbose: config.verbose,
    }
}

fn machine_host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Returns the configured files of certificate and key; `None` if TLS is not configured.
pub fn tls_files(config: &Config) -> Option<TlsFiles> {
    let (chain_file, key_file) = config.tls_files.clone()?;
    Some(TlsFiles {
        chain_file,
        key_file,
    })
}

/// Loads the configured certificate and key, and logs warnings about them. Returns `None` if TLS is not configured.
///
/// # Errors
/// [`StartError::Tls`].
pub fn load_tls(config: &Config) -> Result<Option<TlsCredentials>, StartError> {
    let Some(files) = tls_files(config) else {
        return Ok(None);
    };
    let tls = TlsCredentials::load(&files)?;
    log_certificate_warnings(&tls);
    Ok(Some(tls))
}

/// Logs a warning for each fault of the certificates and for a key file that all users can read.
pub fn log_certificate_warnings(tls: &TlsCredentials) {
    for warning in tls.certificate_warnings(SystemTime::now()) {
        log::warn!(warning = warning.as_str(); "certificate");
    }
}

/// Logs the warnings about a configuration.
pub fn log_config_warnings(config: &Config) {
    for warning in config.warnings() {
        log::warn!(note = warning.as_str(); "configuration");
    }
}
