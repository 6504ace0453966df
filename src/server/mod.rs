//! The one room that wires the house: from a configuration to a running server and back to rest.

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

use std::net::SocketAddr;
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
use crate::store::{OpenStore, TableColumns};
use store_factory::StoreSource;

/// Reads the configuration again, command line included; what is to be said in the log comes with it.
pub type ConfigSource<'a> = &'a dyn Fn() -> Result<(Config, Vec<String>), String>;

/// Runs the server until it is told to stop. `notes` are said in the log once it is open; SIGHUP has the configuration
/// read again.
///
/// # Errors
/// [`StartError`] when it could not start.
pub fn run(
    config: &Config,
    notes: &[String],
    reload_config: ConfigSource,
) -> Result<(), StartError> {
    startup::run(
        config,
        notes,
        reload_config,
        StoreSource::Configured(OnceLock::new()),
    )
}

/// Runs the server with a store of your own instead of GM_STORE's, on one writer's thread.
///
/// `open` is called there, and again should the store ever panic. SIGHUP has the keys read again, and nothing else.
///
/// # Errors
/// [`StartError`] when it could not start.
pub fn run_with_store(config: &Config, open: OpenStore) -> Result<(), StartError> {
    let reload_config = || Ok((config.clone(), Vec::new()));
    startup::run(config, &[], &reload_config, StoreSource::Own(open))
}

fn log_warnings(notes: &[String]) {
    for note in notes {
        log::warn!(note = note.as_str(); "configuration");
    }
}

fn pool_settings(config: &Config) -> AcceptPoolSettings {
    let said = |reply: &Reply| {
        let mut octets = Vec::new();
        reply.write_to(&mut octets);
        octets
    };
    AcceptPoolSettings {
        max_clients: config.max_clients,
        trusted_proxies: TrustedProxies::new(config.trusted_proxies()),
        max_clients_per_address: config.max_clients_per_address,
        busy_reply: said(&reply::R421_TOO_BUSY),
        address_limit_reply: said(&reply::R421_TOO_MANY_FROM_ADDRESS),
    }
}

/// Where questions from inside are answered.
fn http_addresses(config: &Config) -> impl Iterator<Item = SocketAddr> {
    config
        .status_address
        .into_iter()
        .chain(config.nginx_auth_address)
}

fn log_certificate_warnings(tls: &TlsCredentials) {
    for warning in tls.warnings(SystemTime::now()) {
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

/// The table as far as it is known.
pub fn session_settings(config: &Config) -> SessionSettings {
    let host_name = match config.host_name.as_str() {
        "" => machine_name(),
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
        recipient_limits: Arc::new(TableColumns::DEFAULT.recipient_columns()),
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

fn machine_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
