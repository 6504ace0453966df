//! The one room that wires the house: from a configuration to a running server and back to rest.

mod error;
mod http_endpoints;
mod listeners;
mod preflight;
mod reload;
mod resources;
mod shutdown;
mod store_factory;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::unistd::{Gid, Uid, geteuid};
use sd_notify::NotifyState;

pub use error::StartError;
pub use preflight::preflight;
pub use store_factory::{mysql_connector, redis_settings, table_name, trial_addresses};

use crate::config::Config;
use crate::connection::{self, ConnectionSettings};
use crate::http::status::Status;
use crate::logging::{LogFile, LogFormat};
use crate::net::accept_pool::{AcceptPool, AcceptPoolSettings};
use crate::net::tls::{TlsCredentials, TlsError, TlsFiles};
use crate::net::trusted_proxies::TrustedProxies;
use crate::os::pid_file::PidFile;
use crate::os::privileges::{self, Identity};
use crate::os::rlimits;
use crate::os::secure_open;
use crate::os::signals::{self, Event};
use crate::smtp::reply::{self, Reply};
use crate::smtp::{MemoryBudget, SessionSettings};
use crate::store::{OpenStore, TableColumns};
use crate::sync;
use listeners::listen_addresses;
use reload::RunningServer;
use resources::check_limits;
use store_factory::StoreSource;

/// Reads the configuration again, command line included; what is to be said in the log comes with it.
pub type ConfigSource<'a> = &'a dyn Fn() -> Result<(Config, Vec<String>), String>;

/// Runs the server until it is told to stop. `notes` are said in the log once it is open; SIGHUP has the configuration
/// read again.
///
/// # Errors
/// [`StartError`] when it could not start.
pub fn run(config: &Config, notes: &[String], read_again: ConfigSource) -> Result<(), StartError> {
    run_on(
        config,
        notes,
        read_again,
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
    let read_again = || Ok((config.clone(), Vec::new()));
    run_on(config, &[], &read_again, StoreSource::Own(open))
}

fn run_on(
    config: &Config,
    notes: &[String],
    read_again: ConfigSource,
    stores: StoreSource,
) -> Result<(), StartError> {
    let signals = signals::install_handlers().map_err(StartError::Kernel)?;
    let identity = identity(config)?;
    let mut listeners = listeners::listen(config)?;
    reject_root(
        identity,
        listeners.iter().map(|listener| listener.address()),
    )?;
    let status_listener =
        http_endpoints::listen(config.status_address, http_endpoints::STATUS_BIND_FIX)?;
    let nginx_listener =
        http_endpoints::listen(config.nginx_auth_address, http_endpoints::NGINX_BIND_FIX)?;
    let log_file = open_log(config)?;
    log_warnings(notes);
    if identity.is_none() && geteuid().is_root() {
        log::warn!(fix = "set GUID and SGID to the ids of another user and group"; "runs_as_root");
    }
    let pid_file = config.pid_file.as_deref().map(write_pid_file).transpose()?;
    let tls = load_tls(config)?;
    check_limits(config);
    if let Some(identity) = identity {
        chown_files(identity, &log_file, pid_file.as_ref());
        privileges::drop_to(identity)?;
        log::info!(user:% = identity.user, group:% = identity.group; "privileges_dropped");
        for warning in tls.iter().flat_map(TlsCredentials::unreadable_files) {
            log::warn!(warning = warning.as_str(); "certificate");
        }
        if let Err(reason) = read_again() {
            log::warn!(reason = reason.as_str(), note = "SIGHUP will change nothing"; "configuration");
        }
    }
    rlimits::use_batch_scheduling();
    // Threads from here on.
    log_file.start_writing().map_err(StartError::Kernel)?;
    let requests = signals.listen().map_err(StartError::Kernel)?;
    let store = stores.start(config, session_settings(config))?;
    let settings = Arc::new(RwLock::new(Arc::new(ConnectionSettings {
        session: store.session,
        client_timeout: config.client_timeout,
        budget: MemoryBudget::new(config.max_memory_octets),
        saver: store.saver,
        proxy_protocol: config.proxy_protocol,
        tls,
    })));
    let serve = {
        let settings = Arc::clone(&settings);
        move |client: &_| {
            let settings = Arc::clone(&sync::read(&settings));
            connection::serve(client, &settings);
        }
    };
    let pool = AcceptPool::new(pool_settings(config), Box::new(serve));
    pool.watch_deadlines().map_err(StartError::Kernel)?;
    if let Some(listener) = &status_listener {
        let (pool, settings) = (Arc::clone(&pool), Arc::clone(&settings));
        http_endpoints::start_status(listener, Status { pool, settings })?;
    }
    pool.open(&listeners).map_err(StartError::Kernel)?;
    for listener in &listeners {
        log::info!(address:% = listener.address(), tls = listener.implicit_tls(), version = env!("CARGO_PKG_VERSION"); "listening");
    }
    if let Some(listener) = nginx_listener {
        http_endpoints::start_auth_http(&listener, &listeners, &settings, &pool)?;
        // Closed with the others.
        listeners.push(listener);
    }
    notify_systemd(&[NotifyState::Ready]);
    let mut house = RunningServer {
        config: config.clone(),
        read_again,
        stores,
        log_file,
        settings,
        pool: Arc::clone(&pool),
        writers: store.writers,
        retired: Vec::new(),
    };
    signal_loop(&mut house, &requests);
    notify_systemd(&[NotifyState::Stopping]);
    let stopped = shutdown::stop(&pool, &listeners, house.into_writers(), &requests);
    // The status page is there to the end.
    if let Some(listener) = status_listener {
        listener.close();
    }
    drop(pid_file);
    if stopped.is_err() {
        log::warn!("forced_exit");
        log::logger().flush();
        std::process::exit(0);
    }
    log::info!("stopped");
    Ok(())
}

/// Says to the service manager, if there is one, how we are (sd_notify(3)).
fn notify_systemd(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        log::warn!(reason:% = error; "sd_notify_failed");
    }
}

fn log_warnings(notes: &[String]) {
    for note in notes {
        log::warn!(note = note.as_str(); "configuration");
    }
}

/// Whom to become. `None` leaves us who we are: not root, or root on loopback only.
fn identity(config: &Config) -> Result<Option<Identity>, StartError> {
    if let Some((user, group)) = config
        .run_as
        .filter(|(user, group)| *user != 0 && *group != 0)
    {
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        return Ok(Some(Identity { user, group }));
    }
    reject_root(None, listen_addresses(config).chain(http_addresses(config)))?;
    Ok(None)
}

fn reject_root(
    identity: Option<Identity>,
    mut addresses: impl Iterator<Item = SocketAddr>,
) -> Result<(), StartError> {
    let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
    match addresses.find(|address| !is_loopback(address)) {
        Some(address) if identity.is_none() && geteuid().is_root() => {
            Err(StartError::StaysRoot(address))
        }
        _ => Ok(()),
    }
}

fn open_log(config: &Config) -> Result<LogFile, StartError> {
    LogFile::open(&config.log_file, log_format(config)).map_err(|source| StartError::Log {
        file: config.log_file.clone(),
        source,
    })
}

fn write_pid_file(file: &Path) -> Result<PidFile, StartError> {
    PidFile::write(file).map_err(|source| StartError::Pid {
        file: file.to_owned(),
        source,
    })
}

/// What was made as root has to be there for whom we become, at the next start too.
fn chown_files(identity: Identity, log_file: &LogFile, pid_file: Option<&PidFile>) {
    let log = log_file.chown_to(identity.user, identity.group);
    let pid = pid_file.map_or(Ok(()), |pid_file| {
        secure_open::chown_to(pid_file.file(), identity.user, identity.group)
    });
    for (what, outcome) in [("log file", log), ("PID file", pid)] {
        if let Err(error) = outcome {
            log::warn!(file = what, reason:% = error; "chown_failed");
        }
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

/// Does what administrators ask for and looks after the certificate, until it is time to stop.
fn signal_loop(house: &mut RunningServer, requests: &Receiver<Event>) {
    loop {
        match requests.recv_timeout(CERTIFICATE_CHECK_INTERVAL) {
            Ok(Event::Reload) => house.reload(),
            Ok(Event::ReopenLog) => house.reopen_log(),
            Err(RecvTimeoutError::Timeout) => house.reload_certificate_if_changed(),
            // A lost channel counts as a wish to stop.
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn load_tls(config: &Config) -> Result<Option<TlsCredentials>, TlsError> {
    let Some(files) = tls_files(config) else {
        return Ok(None);
    };
    let tls = TlsCredentials::load(&files)?;
    log_certificate_warnings(&tls);
    Ok(Some(tls))
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

/// How often the files of key and certificate are looked at; a renewed pair is served within a minute.
const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(20);
