//! The server as it runs, and what may change while it does.

use std::sync::{Arc, RwLock};

use super::resources::check_limits;
use super::store_factory::{RunningStore, StoreSource};
use super::{
    ConfigSource, StartError, log_certificate_warnings, log_format, log_warnings, pool_settings,
    session_settings, tls_files,
};
use crate::config::Config;
use crate::connection::ConnectionSettings;
use crate::logging::LogFile;
use crate::metrics::{self, ReloadOutcome, ReloadTarget};
use crate::net::accept_pool::AcceptPool;
use crate::net::tls::TlsCredentials;
use crate::os::systemd;
use crate::store::Writers;
use crate::sync;

/// Everything that a new configuration can change.
pub struct RunningServer<'a> {
    /// By which it runs.
    pub config: Config,
    pub reload_config: ConfigSource<'a>,
    pub stores: StoreSource,
    pub log_file: LogFile,
    /// For connections to come; open ones keep what they began with.
    pub settings: Arc<RwLock<Arc<ConnectionSettings>>>,
    pub pool: Arc<AcceptPool>,
    pub writers: Option<Writers>,
    /// Of stores that only sessions of their time still save to, and no longer than those last.
    pub retired: Vec<Writers>,
}

impl RunningServer<'_> {
    /// Reads the configuration again and runs by it, all or nothing.
    pub fn reload(&mut self) {
        systemd::notify_reloading();
        match self.try_reload() {
            Ok(()) => {
                metrics::RELOADS.count((ReloadTarget::Configuration, ReloadOutcome::Applied));
                log::info!("reload");
            }
            Err(reason) => {
                metrics::RELOADS.count((ReloadTarget::Configuration, ReloadOutcome::Refused));
                log::error!(reason = reason.as_str(), kept = "everything as it was"; "reload_refused");
            }
        }
        systemd::notify_ready();
    }

    /// Opens the log file anew; where that fails, the old one goes on.
    pub fn reopen_log(&self) {
        let format = log_format(&self.config);
        match self.log_file.reopen(&self.config.log_file, format) {
            Ok(()) => log::info!("log_reopened"),
            Err(error) => {
                log::error!(reason:% = error, kept = "the old log"; "log_reopen_failed");
            }
        }
    }

    /// Takes up a pair that was renewed on disk.
    pub fn reload_certificate_if_changed(&self) {
        let settings = self.settings();
        let Some(tls) = settings.tls.as_ref().filter(|tls| tls.files_have_changed()) else {
            return;
        };
        match tls.reload() {
            Ok(()) => {
                count_certificate(ReloadOutcome::Applied);
                log::info!("certificate_renewed");
                log_certificate_warnings(tls);
            }
            Err(error) => {
                count_certificate(ReloadOutcome::Refused);
                log::error!(reason:% = error, kept = "the pair in service"; "certificate_refused");
            }
        }
    }

    /// All writers there are, for the end; connections to come find none.
    pub fn into_writers(self) -> Vec<Writers> {
        self.retired.into_iter().chain(self.writers).collect()
    }

    /// First whatever can fail, then whatever cannot.
    fn try_reload(&mut self) -> Result<(), String> {
        let (mut wanted, notes) = (self.reload_config)()?;
        let running = &self.config;
        let need_restart = keep_what_needs_a_restart(&mut wanted, running);
        let settings = self.settings();
        let tls = load_tls_again(&wanted, settings.tls.as_ref())?;
        let store = self.start_store(&wanted)?;
        let log_moves =
            (&wanted.log_file, wanted.log_as_json) != (&running.log_file, running.log_as_json);
        if log_moves {
            let reopened = self.log_file.reopen(&wanted.log_file, log_format(&wanted));
            reopened.map_err(|source| {
                let file = wanted.log_file.clone();
                StartError::Log { file, source }.to_string()
            })?;
        }

        log_warnings(&notes);
        for key in need_restart {
            log::warn!(key = key, fix = "restart the server"; "restart_required");
        }
        settings.budget.set_max_octets(wanted.max_memory_octets);
        let (session, saver) = match store {
            None => {
                settings.session.configure(session_settings(&wanted));
                (Arc::clone(&settings.session), settings.saver.clone())
            }
            // What is known of the old store holds for sessions that save there.
            Some(store) => {
                self.retired.extend(self.writers.take());
                self.writers = store.writers;
                (store.session, store.saver)
            }
        };
        self.retired.retain(|writers| !writers.are_finished());
        let is_kept =
            |tls: &TlsCredentials| settings.tls.as_ref().is_some_and(|old| tls.ptr_eq(old));
        let renewed = tls.as_ref().is_some_and(|tls| !is_kept(tls));
        let changed = ConnectionSettings {
            session,
            client_timeout: wanted.client_timeout,
            budget: settings.budget.clone(),
            saver,
            proxy_protocol: wanted.proxy_protocol,
            tls,
        };
        *sync::write(&self.settings) = Arc::new(changed);
        check_limits(&wanted);
        self.pool.update_settings(pool_settings(&wanted));
        self.config = wanted;
        if renewed {
            count_certificate(ReloadOutcome::Applied);
            log::info!("certificate_renewed");
        }
        Ok(())
    }

    /// Another store, if the configuration asks for one.
    fn start_store(&self, wanted: &Config) -> Result<Option<RunningStore>, String> {
        if !self.stores.differ(&self.config, wanted) {
            return Ok(None);
        }
        let started = self.stores.start(wanted, session_settings(wanted));
        started.map(Some).map_err(|error| error.to_string())
    }

    fn settings(&self) -> Arc<ConnectionSettings> {
        Arc::clone(&sync::read(&self.settings))
    }
}

fn count_certificate(outcome: ReloadOutcome) {
    metrics::RELOADS.count((ReloadTarget::Certificate, outcome));
}

/// Puts back what only a restart can change, and answers the keys whose new value is not in force.
fn keep_what_needs_a_restart(wanted: &mut Config, running: &Config) -> Vec<&'static str> {
    fn keep<T: Clone + PartialEq>(wanted: &mut T, running: &T) -> bool {
        let differs = wanted != running;
        if differs {
            wanted.clone_from(running);
        }
        differs
    }
    if wanted.store != running.store {
        // It was meant for the other one.
        wanted.mail_table.clone_from(&running.mail_table);
    }
    let kept = [
        (
            "GSTMP_LISTEN_INTERFACE",
            keep(&mut wanted.listen_addresses, &running.listen_addresses),
        ),
        (
            "GSMTPS_LISTEN_INTERFACE",
            keep(
                &mut wanted.tls_listen_addresses,
                &running.tls_listen_addresses,
            ),
        ),
        (
            "NGINX_AUTH_ENABLED, NGINX_AUTH",
            keep(&mut wanted.nginx_auth_address, &running.nginx_auth_address),
        ),
        ("GUID, SGID", keep(&mut wanted.run_as, &running.run_as)),
        ("GM_STORE", keep(&mut wanted.store, &running.store)),
        (
            "GM_SQLITE_FILE",
            keep(&mut wanted.sqlite_file, &running.sqlite_file),
        ),
        (
            "GM_STATUS_INTERFACE",
            keep(&mut wanted.status_address, &running.status_address),
        ),
        ("PID_FILE", keep(&mut wanted.pid_file, &running.pid_file)),
    ];
    let differ = kept.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(key, _)| key).collect()
}

/// The pair that the configuration names, read anew. A key that only root could read stays in service as it is.
fn load_tls_again(
    wanted: &Config,
    running: Option<&TlsCredentials>,
) -> Result<Option<TlsCredentials>, String> {
    let Some(files) = tls_files(wanted) else {
        return match wanted.tls_listen_addresses.first() {
            None => Ok(None),
            Some(address) => Err(format!(
                "GSMTP_PUB_KEY: {address} speaks TLS and needs a certificate until the server is restarted without \
                 GSMTPS_LISTEN_INTERFACE"
            )),
        };
    };
    match (TlsCredentials::load(&files), running) {
        (Ok(tls), _) => {
            log_certificate_warnings(&tls);
            Ok(Some(tls))
        }
        (Err(error), Some(running))
            if error.is_permission_denied() && *running.files() == files =>
        {
            count_certificate(ReloadOutcome::Refused);
            log::error!(reason:% = error, kept = "the pair in service"; "certificate_refused");
            Ok(Some(running.clone()))
        }
        (Err(error), _) => Err(error.to_string()),
    }
}
