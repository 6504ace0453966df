//! Startup in phases: bind, open files as root, drop privileges, open the store, start threads, serve.
//!
//! Only `bind` and `open_files_as_root` run as root. No thread starts, no database is opened and no client is accepted
//! before privileges are dropped.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use nix::unistd::geteuid;

use super::identity::{chown_files, reject_staying_root, target_identity};
use super::listeners;
use super::reload::RunningServer;
use super::resources::raise_and_check_rlimits;
use super::shutdown;
use super::store_factory::StoreSource;
use super::{
    ConfigLoader, StartError, http_endpoints, log_certificate_warnings, log_format, log_warnings,
    pool_settings, session_settings, tls_files,
};
use crate::config::Config;
use crate::connection::{self, ConnectionSettings, SharedSettings};
use crate::http::status::StatusEndpoints;
use crate::logging::LogFile;
use crate::metrics::Metrics;
use crate::net::accept_pool::AcceptPool;
use crate::net::listener::Listener;
use crate::net::tls::{TlsCredentials, TlsFilesError};
use crate::os::pid_file::PidFile;
use crate::os::privileges::{self, UserAndGroup};
use crate::os::rlimits;
use crate::os::signals::{self, SignalEvent, SignalListener};
use crate::os::systemd;
use crate::smtp::MemoryBudget;
use crate::store::Writers;

/// Runs the server until SIGTERM or SIGINT.
///
/// # Errors
/// [`StartError`]: a phase before `serve` failed.
pub fn run(
    config: &Config,
    warnings: &[String],
    reload_config: ConfigLoader,
    stores: StoreSource,
) -> Result<(), StartError> {
    let signals = signals::install_handlers().map_err(StartError::Kernel)?;
    let metrics = Arc::new(Metrics::new());
    let identity = target_identity(config)?;
    let sockets = bind(config, identity)?;
    let files = open_files_as_root(config, warnings, identity, &metrics)?;
    raise_and_check_rlimits(config);
    if let Some(identity) = identity {
        drop_privileges(identity, &files, reload_config)?;
    }
    // This call must precede the start of the first thread, because threads inherit the scheduling policy.
    rlimits::use_batch_scheduling();
    let FilesOpenedBeforePrivilegeDrop {
        log_file,
        pid_file,
        tls,
    } = files;
    let events = start_log_and_signals(&log_file, signals)?;
    let (settings, writers) = open_store(config, &stores, tls, &metrics)?;
    let pool = start_threads(&sockets, &settings, metrics)?;
    let server = RunningServer {
        config: config.clone(),
        reload_config,
        stores,
        log_file,
        settings,
        pool,
        writers,
        retired: Vec::new(),
        refused_tls_files: None,
    };
    serve(server, sockets, pid_file, &events);
    Ok(())
}

/// The bound listeners, by service.
struct Sockets {
    smtp: Vec<Arc<Listener>>,
    status: Option<Arc<Listener>>,
    nginx: Option<Arc<Listener>>,
}

fn bind(config: &Config, identity: Option<UserAndGroup>) -> Result<Sockets, StartError> {
    let smtp = listeners::bind_all(config)?;
    // `target_identity` has checked the configured addresses; sockets inherited from systemd may have others.
    reject_staying_root(identity, smtp.iter().map(|listener| listener.address()))?;
    let status = http_endpoints::bind(config.status_address, http_endpoints::STATUS_BIND_FIX)?;
    let nginx = http_endpoints::bind(config.nginx_auth_address, http_endpoints::NGINX_BIND_FIX)?;
    Ok(Sockets {
        smtp,
        status,
        nginx,
    })
}

/// The files that are opened before privileges are dropped.
struct FilesOpenedBeforePrivilegeDrop {
    log_file: LogFile,
    pid_file: Option<PidFile>,
    tls: Option<TlsCredentials>,
}

/// Opens the log file, logs `warnings`, writes the PID file and loads the TLS key and certificate.
fn open_files_as_root(
    config: &Config,
    warnings: &[String],
    identity: Option<UserAndGroup>,
    metrics: &Arc<Metrics>,
) -> Result<FilesOpenedBeforePrivilegeDrop, StartError> {
    let log_file = open_log(config, metrics)?;
    log_warnings(warnings);
    if identity.is_none() && geteuid().is_root() {
        log::warn!(fix = "set GUID and SGID to the ids of another user and group"; "runs_as_root");
    }
    let pid_file = config.pid_file.as_deref().map(write_pid_file).transpose()?;
    let tls = load_tls(config)?;
    Ok(FilesOpenedBeforePrivilegeDrop {
        log_file,
        pid_file,
        tls,
    })
}

/// Changes to `identity` permanently, and warns if that user cannot read the files that a reload needs.
fn drop_privileges(
    identity: UserAndGroup,
    files: &FilesOpenedBeforePrivilegeDrop,
    reload_config: ConfigLoader,
) -> Result<(), StartError> {
    chown_files(identity, &files.log_file, files.pid_file.as_ref());
    privileges::drop_to(identity)?;
    log::info!(user:% = identity.user, group:% = identity.group; "privileges_dropped");
    for warning in files.tls.iter().flat_map(TlsCredentials::unreadable_files) {
        log::warn!(warning = warning.as_str(); "certificate");
    }
    if let Err(reason) = reload_config() {
        log::warn!(reason = reason.as_str(), note = "until this is fixed, SIGHUP changes nothing"; "configuration");
    }
    Ok(())
}

/// Starts the log writer thread and the signal thread.
fn start_log_and_signals(
    log_file: &LogFile,
    signals: SignalListener,
) -> Result<Receiver<SignalEvent>, StartError> {
    log_file.start_log_writer().map_err(StartError::Kernel)?;
    signals.start_signal_thread().map_err(StartError::Kernel)
}

/// Opens the store and starts its writers. Returns the settings for connections that save to this store, and the
/// writers (`None` for `discard`).
fn open_store(
    config: &Config,
    stores: &StoreSource,
    tls: Option<TlsCredentials>,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<SharedSettings>, Option<Writers>), StartError> {
    let store = stores.start(config, metrics)?;
    let session = Arc::new(session_settings(config));
    let settings = ConnectionSettings {
        session: Arc::clone(&session),
        configured_session: session,
        store_limits: store.limits,
        client_timeout: config.client_timeout,
        budget: MemoryBudget::new(config.max_memory_octets),
        saver: store.saver,
        proxy_protocol: config.proxy_protocol,
        tls,
        accept: Arc::new(pool_settings(config)),
    };
    Ok((SharedSettings::new(settings), store.writers))
}

/// Starts the threads of the SMTP listeners, the status endpoints and auth_http.
fn start_threads(
    sockets: &Sockets,
    settings: &Arc<SharedSettings>,
    metrics: Arc<Metrics>,
) -> Result<Arc<AcceptPool>, StartError> {
    let serve = {
        let settings = Arc::clone(settings);
        move |client: &_| {
            connection::serve(client, &settings.current());
        }
    };
    let limits = {
        let settings = Arc::clone(settings);
        move || Arc::clone(&settings.current().accept)
    };
    let pool = AcceptPool::new(Box::new(limits), metrics, Box::new(serve));
    pool.watch_deadlines().map_err(StartError::Kernel)?;
    if let Some(listener) = &sockets.status {
        let (pool, settings) = (Arc::clone(&pool), Arc::clone(settings));
        http_endpoints::start_status_endpoints(listener, StatusEndpoints { pool, settings })?;
    }
    pool.open(&sockets.smtp).map_err(StartError::Kernel)?;
    for listener in &sockets.smtp {
        log::info!(address:% = listener.address(), tls = listener.implicit_tls(), version = env!("CARGO_PKG_VERSION"); "listening");
    }
    if let Some(listener) = &sockets.nginx {
        http_endpoints::start_auth_http(listener, &sockets.smtp, settings, &pool)?;
    }
    Ok(pool)
}

/// Handles signals until a stop request, then shuts down.
fn serve(
    mut server: RunningServer,
    sockets: Sockets,
    pid_file: Option<PidFile>,
    events: &Receiver<SignalEvent>,
) {
    systemd::notify_ready();
    handle_events(&mut server, events);
    systemd::notify_stopping();
    let pool = Arc::clone(&server.pool);
    let listeners: Vec<_> = sockets.smtp.into_iter().chain(sockets.nginx).collect();
    let stopped = shutdown::shut_down(&pool, &listeners, server.into_store_writers(), events);
    // The status endpoints are closed last, so that they stay available during the shutdown.
    if let Some(listener) = sockets.status {
        listener.close();
    }
    drop(pid_file);
    if stopped.is_err() {
        log::warn!("forced_exit");
        log::logger().flush();
        std::process::exit(0);
    }
    log::info!("stopped");
}

/// Handles reload and log reopen requests until a stop request. Checks the certificate files each time that no event
/// arrives for [`CERTIFICATE_CHECK_INTERVAL`].
fn handle_events(server: &mut RunningServer, events: &Receiver<SignalEvent>) {
    loop {
        match events.recv_timeout(CERTIFICATE_CHECK_INTERVAL) {
            Ok(SignalEvent::Reload) => server.reload(),
            Ok(SignalEvent::ReopenLog) => server.reopen_log(),
            Err(RecvTimeoutError::Timeout) => server.reload_certificate_if_changed(),
            // If the signal thread has ended, no stop request can arrive any more.
            Ok(SignalEvent::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn open_log(config: &Config, metrics: &Arc<Metrics>) -> Result<LogFile, StartError> {
    LogFile::open(&config.log_file, log_format(config), metrics).map_err(|source| StartError::Log {
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

fn load_tls(config: &Config) -> Result<Option<TlsCredentials>, TlsFilesError> {
    let Some(files) = tls_files(config) else {
        return Ok(None);
    };
    let tls = TlsCredentials::load(&files)?;
    log_certificate_warnings(&tls);
    Ok(Some(tls))
}

/// Interval at which the key and certificate files are checked for changes.
const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(20);
