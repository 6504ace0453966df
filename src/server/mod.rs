//! Startup, reload and shutdown: builds every component from the configuration.

mod error;
mod http_endpoints;
mod identity;
mod listeners;
mod preflight;
mod reload;
mod resources;
mod shutdown;
mod startup;
mod store_factory;

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

pub use error::StartError;
pub use preflight::preflight;
pub use store_factory::{mysql_connector, redis_settings, table_name, trial_addresses};

use crate::config::Config;
use crate::logging::LogFormat;
use crate::net::accept_pool::AcceptPoolSettings;
use crate::net::tls::{TlsCredentials, TlsFiles};
use crate::net::trusted_proxies::TrustedProxies;
use crate::smtp::SessionSettings;
use crate::smtp::reply::{self, Reply};
use crate::store::{StoreOpener, TableColumns};
use store_factory::StoreSource;

/// A function that reads the configuration again, applies the command line, and returns the configuration and its warnings.
pub type ConfigLoader<'a> = &'a dyn Fn() -> Result<(Config, Vec<String>), String>;

/// Runs the server with the configured store until SIGTERM or SIGINT.
///
/// `warnings` are logged once the log is open. SIGHUP calls `reload_config`.
///
/// # Errors
/// [`StartError`]: the server could not start.
pub fn run(
    config: &Config,
    warnings: &[String],
    reload_config: ConfigLoader,
) -> Result<(), StartError> {
    startup::run(
        config,
        warnings,
        reload_config,
        StoreSource::Configured(OnceLock::new()),
    )
}

/// Runs the server with a custom store on one writer thread. GM_STORE is ignored.
///
/// The writer thread calls `open`, and calls it again after a panic of the store. SIGHUP reloads only the TLS key and
/// certificate.
///
/// # Errors
/// [`StartError`]: the server could not start.
pub fn run_with_store(config: &Config, open: StoreOpener) -> Result<(), StartError> {
    let reload_config = || Ok((config.clone(), Vec::new()));
    startup::run(config, &[], &reload_config, StoreSource::Custom(open))
}

fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        log::warn!(note = warning.as_str(); "configuration");
    }
}

fn pool_settings(config: &Config) -> AcceptPoolSettings {
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

fn log_certificate_warnings(tls: &TlsCredentials) {
    for warning in tls.certificate_warnings(SystemTime::now()) {
        log::warn!(warning = warning.as_str(); "certificate");
    }
}

fn tls_files(config: &Config) -> Option<TlsFiles> {
    let (chain_file, key_file) = config.tls_files.clone()?;
    Some(TlsFiles {
        chain_file,
        key_file,
    })
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
        recipient_limits: Arc::new(TableColumns::DEFAULT.recipient_limits()),
        recipient_hook: None,
        verbose: config.verbose,
    }
}

fn log_format(config: &Config) -> LogFormat {
    if config.log_as_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    }
}

fn machine_host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
