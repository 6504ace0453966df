//! The components of a running server, and how a new configuration or certificate changes them.

use std::sync::Arc;

use super::error::{ReloadError, StartError};
use super::settings::{
    log_certificate_warnings, log_config_warnings, pool_settings, session_settings, tls_files,
};
use super::store_factory::{RunningStore, StoreSource};
use crate::config::Config;
use crate::connection::{self, ConnectionSettings, SharedSettings};
use crate::metrics::{Metrics, ReloadOutcome, ReloadTarget};
use crate::net::accept_pool::AcceptPool;
use crate::net::tls::{TlsCredentials, TlsFilesFingerprint};
use crate::smtp::{MemoryBudget, RecipientHook, SessionSettings};
use crate::store::WriterThreads;

/// The components of a server that a reload can change or replace.
pub struct RunningServer {
    /// The configuration in force.
    config: Config,
    stores: StoreSource,
    /// Settings of new connections; open connections keep the settings they started with.
    pub settings: Arc<SharedSettings>,
    pub pool: Arc<AcceptPool>,
    writers: Option<WriterThreads>,
    /// Writers of replaced stores. They end when the last session that saves to their store has ended.
    retired: Vec<WriterThreads>,
    /// The state of the key and certificate files that were refused last, so that they are not read again until they change.
    refused_tls_files: Option<TlsFilesFingerprint>,
}

/// A last step that can fail, done after a new configuration was found to be valid and before the first change.
pub type BeforeReload<'a> = &'a mut dyn FnMut(&Config) -> Result<(), String>;

impl RunningServer {
    /// Loads the certificate, opens the store and starts its writers. Starts no other thread.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(
        config: Config,
        stores: StoreSource,
        tls: Option<TlsCredentials>,
        recipient_hook: Option<RecipientHook>,
        metrics: Arc<Metrics>,
    ) -> Result<RunningServer, StartError> {
        let store = stores.start(&config, &metrics)?;
        let session = Arc::new(SessionSettings {
            recipient_hook,
            ..session_settings(&config)
        });
        let settings = SharedSettings::new(ConnectionSettings {
            session: Arc::clone(&session),
            configured_session: session,
            store_limits: store.limits,
            client_timeout: config.client_timeout,
            budget: MemoryBudget::new(config.max_memory_octets),
            saver: store.saver,
            proxy_protocol: config.proxy_protocol,
            tls,
            accept: Arc::new(pool_settings(&config)),
        });
        let limits = {
            let settings = Arc::clone(&settings);
            move || Arc::clone(&settings.current().accept)
        };
        let serve = {
            let settings = Arc::clone(&settings);
            move |client: &_| connection::serve(client, &settings.current())
        };
        Ok(RunningServer {
            pool: AcceptPool::new(Box::new(limits), metrics, Box::new(serve)),
            config,
            stores,
            settings,
            writers: store.writers,
            retired: Vec::new(),
            refused_tls_files: None,
        })
    }

    /// Applies a new configuration, logs the outcome and counts it. Returns the configuration in force: `new_config`, but with
    /// the running values of the keys that need a restart.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed.
    pub fn reload(
        &mut self,
        new_config: Config,
        before_change: BeforeReload,
    ) -> Result<&Config, ReloadError> {
        match self.try_reload(new_config, before_change) {
            Ok(()) => {
                let reload = (ReloadTarget::Configuration, ReloadOutcome::Applied);
                self.pool.metrics().reloads.count(reload);
                log::info!("reload");
                Ok(&self.config)
            }
            Err(error) => {
                self.log_refused_reload(&error.report());
                Err(error)
            }
        }
    }

    /// Logs and counts a new configuration that was not applied.
    pub fn log_refused_reload(&self, reason: &str) {
        let reload = (ReloadTarget::Configuration, ReloadOutcome::Refused);
        self.pool.metrics().reloads.count(reload);
        log::error!(reason = reason, kept = "the old configuration"; "reload_refused");
    }

    /// Reads the key and the certificate again if one of their files has changed. If the new pair is invalid, the old pair
    /// stays in use.
    pub fn reload_certificate_if_changed(&mut self) {
        let settings = self.settings.current();
        let Some(tls) = &settings.tls else {
            return;
        };
        let on_disk = tls.current_fingerprint();
        if on_disk == tls.fingerprint() || Some(on_disk) == self.refused_tls_files {
            return;
        }
        match TlsCredentials::load(tls.certificate_and_key_files()) {
            Ok(renewed) => {
                count_certificate_reload(self.pool.metrics(), ReloadOutcome::Applied);
                log::info!("certificate_renewed");
                log_certificate_warnings(&renewed);
                self.settings.change(|current| ConnectionSettings {
                    tls: Some(renewed),
                    ..current.clone()
                });
            }
            Err(error) => {
                self.refused_tls_files = Some(on_disk);
                count_certificate_reload(self.pool.metrics(), ReloadOutcome::Refused);
                log::error!(reason:% = error, kept = "the old key and certificate"; "certificate_refused");
            }
        }
    }

    /// Returns the writers of all stores, to shut them down.
    pub fn into_writers_of_all_stores(self) -> Vec<WriterThreads> {
        self.retired.into_iter().chain(self.writers).collect()
    }

    /// Applies a new configuration. Every step that can fail comes before the first change.
    fn try_reload(
        &mut self,
        mut new_config: Config,
        before_change: BeforeReload,
    ) -> Result<(), ReloadError> {
        let running = &self.config;
        let ignored_keys = keep_restart_only_values(&mut new_config, running);
        let settings = self.settings.current();
        let tls = reload_tls(&new_config, settings.tls.as_ref(), self.pool.metrics())?;
        let store = self.start_new_store_if_required(&new_config)?;
        before_change(&new_config).map_err(ReloadError::Log)?;

        log_config_warnings(&new_config);
        for key in ignored_keys {
            log::warn!(key = key, fix = "restart the server"; "restart_required");
        }
        settings.budget.set_max_octets(new_config.max_memory_octets);
        let (store_limits, saver) = match store {
            None => (Arc::clone(&settings.store_limits), settings.saver.clone()),
            // Sessions that save to the old store keep the settings and limits of that store. New sessions get those of the new
            // store.
            Some(store) => {
                self.retired.extend(self.writers.take());
                self.writers = store.writers;
                (store.limits, store.saver)
            }
        };
        // The hook comes from the embedding program, not from the configuration.
        let configured_session = Arc::new(SessionSettings {
            recipient_hook: settings.configured_session.recipient_hook.clone(),
            ..session_settings(&new_config)
        });
        self.retired.retain(|writers| !writers.are_finished());
        let is_unchanged =
            |tls: &TlsCredentials| settings.tls.as_ref().is_some_and(|old| tls.ptr_eq(old));
        let renewed = tls.as_ref().is_some_and(|tls| !is_unchanged(tls));
        let changed = ConnectionSettings {
            session: Arc::clone(&configured_session),
            configured_session,
            store_limits,
            client_timeout: new_config.client_timeout,
            budget: settings.budget.clone(),
            saver,
            proxy_protocol: new_config.proxy_protocol,
            tls,
            accept: Arc::new(pool_settings(&new_config)),
        };
        self.settings.change(|_| changed);
        self.config = new_config;
        if renewed {
            count_certificate_reload(self.pool.metrics(), ReloadOutcome::Applied);
            log::info!("certificate_renewed");
        }
        Ok(())
    }

    /// Starts a new store if the new configuration requires one.
    fn start_new_store_if_required(
        &self,
        new_config: &Config,
    ) -> Result<Option<RunningStore>, ReloadError> {
        if !self
            .stores
            .config_change_needs_new_store(&self.config, new_config)
        {
            return Ok(None);
        }
        let started = self.stores.start(new_config, self.pool.metrics());
        started.map(Some).map_err(ReloadError::Start)
    }
}

fn count_certificate_reload(metrics: &Metrics, outcome: ReloadOutcome) {
    metrics.reloads.count((ReloadTarget::Certificate, outcome));
}

/// Copies the running values of the keys that need a restart into `new_config`. Returns the keys whose new values are
/// ignored.
fn keep_restart_only_values(new_config: &mut Config, running: &Config) -> Vec<&'static str> {
    fn keep_running_value<T: Clone + PartialEq>(new_config: &mut T, running: &T) -> bool {
        let differs = new_config != running;
        if differs {
            new_config.clone_from(running);
        }
        differs
    }
    if new_config.store != running.store {
        // The new table name is meant for the new store, which is not opened before a restart. The running store keeps its
        // table.
        new_config.mail_table.clone_from(&running.mail_table);
    }
    let restored = [
        (
            "GSTMP_LISTEN_INTERFACE",
            keep_running_value(&mut new_config.listen_addresses, &running.listen_addresses),
        ),
        (
            "GSMTPS_LISTEN_INTERFACE",
            keep_running_value(
                &mut new_config.tls_listen_addresses,
                &running.tls_listen_addresses,
            ),
        ),
        (
            "NGINX_AUTH_ENABLED, NGINX_AUTH",
            keep_running_value(
                &mut new_config.nginx_auth_address,
                &running.nginx_auth_address,
            ),
        ),
        (
            "GUID, SGID",
            keep_running_value(&mut new_config.run_as, &running.run_as),
        ),
        (
            "GM_STORE",
            keep_running_value(&mut new_config.store, &running.store),
        ),
        (
            "GM_SQLITE_FILE",
            keep_running_value(&mut new_config.sqlite_file, &running.sqlite_file),
        ),
        (
            "GM_STATUS_INTERFACE",
            keep_running_value(&mut new_config.status_address, &running.status_address),
        ),
        (
            "PID_FILE",
            keep_running_value(&mut new_config.pid_file, &running.pid_file),
        ),
    ];
    let differ = restored.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(key, _)| key).collect()
}

/// Loads the key and certificate of the new configuration. If the paths have not changed and permission is denied (for
/// example because only root may read the key), the old pair stays in use.
fn reload_tls(
    new_config: &Config,
    running: Option<&TlsCredentials>,
    metrics: &Metrics,
) -> Result<Option<TlsCredentials>, ReloadError> {
    let Some(files) = tls_files(new_config) else {
        return match new_config.tls_listen_addresses.first() {
            None => Ok(None),
            Some(address) => Err(ReloadError::NoCertificate { address: *address }),
        };
    };
    match (TlsCredentials::load(&files), running) {
        (Ok(tls), _) => {
            log_certificate_warnings(&tls);
            Ok(Some(tls))
        }
        (Err(error), Some(running))
            if error.is_permission_denied() && *running.certificate_and_key_files() == files =>
        {
            count_certificate_reload(metrics, ReloadOutcome::Refused);
            log::error!(reason:% = error, kept = "the old key and certificate"; "certificate_refused");
            Ok(Some(running.clone()))
        }
        (Err(error), _) => Err(ReloadError::Start(error.into())),
    }
}
