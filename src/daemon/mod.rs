//! A server as a process of its own: signals, limits, the log, the PID file, privileges, exit.
//!
//! Startup has phases: bind, open files as root, drop privileges, open the store, start threads, serve. Only `bind` and
//! `open_files_as_root` run as root. No thread starts, no database is opened and no client is accepted before privileges are
//! dropped.

mod error;
mod identity;
mod inherited;
mod preflight;
mod resources;
mod signal_loop;

use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use nix::unistd::geteuid;

pub use error::ServerProcessError;
pub use identity::become_configured_user;
pub use preflight::check_all_but_store;

use self::identity::{chown_log_and_pid_file, reject_staying_root, user_and_group_to_run_as};
use self::inherited::inherited_listeners;
use self::resources::raise_and_check_rlimits;
use self::signal_loop::Daemon;
use crate::config::Config;
use crate::logging::{LogFile, LogFormat};
use crate::metrics::Metrics;
use crate::net::accept_pool::CLIENT_STACK_OCTETS;
use crate::net::tls::TlsCredentials;
use crate::os::pid_file::PidFile;
use crate::os::privileges::{self, UserAndGroup};
use crate::os::rlimits;
use crate::os::signals::{self, SignalEvent, SignalListener};
use crate::server::listeners::{self, BoundListeners};
use crate::server::{
    Server, StartError, load_tls, log_config_warnings, read_password_files,
    readable_password_file_warnings, unreadable_password_file_warnings,
};

/// A function that reads the configuration again and applies the command line.
pub type ConfigLoader<'a> = &'a dyn Fn() -> Result<Config, String>;

/// Runs the server with the configured store until SIGTERM or SIGINT. SIGHUP calls `reload_config`.
///
/// # Errors
/// [`ServerProcessError`]: the server could not start.
pub fn run(mut config: Config, reload_config: ConfigLoader) -> Result<(), ServerProcessError> {
    let signals = signals::install_handlers().map_err(ServerProcessError::Thread)?;
    let metrics = Arc::new(Metrics::new());
    let identity = user_and_group_to_run_as(&config)?;
    let listeners = bind(&config, identity)?;
    let files = open_files_as_root(&mut config, identity, &metrics)?;
    raise_and_check_rlimits(&config);
    if let Some(identity) = identity {
        drop_privileges(identity, &config, &files, reload_config)?;
    }
    // This call must precede the start of the first thread, because threads inherit the scheduling policy.
    rlimits::set_sched_batch_policy();
    let FilesOpenedBeforePrivilegeDrop {
        log_file,
        pid_file,
        tls,
    } = files;
    let events = start_log_and_signals(&log_file, signals)?;
    let server = Server::builder(config.clone())
        .client_stack_octets(CLIENT_STACK_OCTETS)
        .open_store_and_start_writers(listeners, tls, metrics)?;
    let daemon = Daemon {
        config,
        reload_config,
        log_file,
        handle: server.handle(),
        pid_file,
    };
    daemon.run(server, &events)
}

fn bind(
    config: &Config,
    identity: Option<UserAndGroup>,
) -> Result<BoundListeners, ServerProcessError> {
    let listeners = listeners::bind_smtp_listeners(config, inherited_listeners(config)?)?;
    // `user_and_group_to_run_as` has checked the configured addresses; sockets inherited from systemd may have others.
    let addresses = listeners
        .smtp
        .iter()
        .map(|listener| listener.bound_address());
    reject_staying_root(identity, addresses)?;
    Ok(listeners)
}

/// The files that are opened before privileges are dropped.
struct FilesOpenedBeforePrivilegeDrop {
    log_file: LogFile,
    pid_file: Option<PidFile>,
    tls: Option<TlsCredentials>,
}

/// Opens the log file, logs the warnings about the configuration, writes the PID file, reads the passwords into `config` and
/// loads the TLS key and certificate.
fn open_files_as_root(
    config: &mut Config,
    identity: Option<UserAndGroup>,
    metrics: &Arc<Metrics>,
) -> Result<FilesOpenedBeforePrivilegeDrop, ServerProcessError> {
    let log_file = open_log(config, metrics)?;
    log_config_warnings(config);
    if identity.is_none() && geteuid().is_root() {
        log::warn!(fix = "set GUID and SGID to the ids of another user and group"; "runs_as_root");
    }
    let pid_file = config.pid_file.as_deref().map(write_pid_file).transpose()?;
    read_password_files(config).map_err(StartError::from)?;
    for warning in readable_password_file_warnings(config) {
        log::warn!(warning = warning.as_str(); "password_file");
    }
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
    config: &Config,
    files: &FilesOpenedBeforePrivilegeDrop,
    reload_config: ConfigLoader,
) -> Result<(), ServerProcessError> {
    chown_log_and_pid_file(identity, &files.log_file, files.pid_file.as_ref());
    privileges::drop_privileges_to(identity)?;
    log::info!(user:% = identity.user, group:% = identity.group; "privileges_dropped");
    for warning in files
        .tls
        .iter()
        .flat_map(TlsCredentials::unreadable_tls_file_warnings)
    {
        log::warn!(warning = warning.as_str(); "certificate");
    }
    for warning in unreadable_password_file_warnings(config) {
        log::warn!(warning = warning.as_str(); "password_file");
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
) -> Result<Receiver<SignalEvent>, ServerProcessError> {
    log_file
        .start_log_writer()
        .map_err(ServerProcessError::Thread)?;
    signals
        .start_signal_thread()
        .map_err(ServerProcessError::Thread)
}

fn open_log(config: &Config, metrics: &Arc<Metrics>) -> Result<LogFile, ServerProcessError> {
    LogFile::open(&config.log_file, log_format(config), metrics).map_err(|source| {
        ServerProcessError::Log {
            file: config.log_file.clone(),
            source,
        }
    })
}

fn write_pid_file(file: &Path) -> Result<PidFile, ServerProcessError> {
    PidFile::write(file).map_err(|source| ServerProcessError::Pid {
        file: file.to_owned(),
        source,
    })
}

fn log_format(config: &Config) -> LogFormat {
    if config.log_as_json {
        LogFormat::Json
    } else {
        LogFormat::Text
    }
}
