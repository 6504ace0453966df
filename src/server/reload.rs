//! Changes while the server runs: a new configuration, a renewed certificate.
//!
//! Files are read and stores are opened while nothing is locked, so that a file system that does not respond delays neither the
//! shutdown nor the reading of metrics.

use std::sync::Arc;

use super::allowed_hosts::LoadedAllowedHosts;
use super::error::ReloadError;
use super::feed::NewStream;
use super::password_files::read_password_files_again;
use super::recipients::RecipientSource;
use super::running::RunningServer;
use super::settings::{log_certificate_warnings, log_config_warnings, tls_files};
use super::store_factory::{ConfiguredOrCustomStore, RunningStore};
use crate::config::Config;
#[cfg(feature = "mysql")]
use crate::config::{DatabaseTlsMode, StoreKind};
use crate::connection::{ConnectionSettings, SharedSettings};
use crate::feed::Feed;
use crate::metrics::{Metrics, ReloadOutcome, ReloadTarget};
#[cfg(feature = "mysql")]
use crate::net::authorities::load_authorities;
use crate::net::tls::{TlsCredentials, TlsFilesFingerprint};
use crate::smtp::RecipientHook;

/// The parts of the running server that a reload is prepared from.
pub struct ReloadBase {
    config: Config,
    stores: Arc<ConfiguredOrCustomStore>,
    recipients: RecipientSource,
    tls: Option<TlsCredentials>,
    metrics: Arc<Metrics>,
    feed: Arc<Feed>,
}

/// A reload whose files were read and whose store was opened; applying it cannot fail.
pub struct PreparedReload {
    /// The configuration that will be in force: the new one, but with the running values of the keys that need a restart.
    pub config: Config,
    /// The keys whose new values are ignored.
    ignored_keys: Vec<&'static str>,
    /// Certificate and key; `None` if TLS is not offered any more.
    pub tls: Option<TlsCredentials>,
    /// The accepted domains, those of files included.
    pub allowed_hosts: Arc<LoadedAllowedHosts>,
    /// The new store, if the configuration requires one.
    pub store: Option<RunningStore>,
    /// The new recipient hook or none, if the configuration requires a change.
    pub recipient_hook: Option<Option<RecipientHook>>,
    /// The stream of the feed, if the configuration requires a change.
    pub feed_stream: Option<NewStream>,
}

/// A last step that can fail, done after a new configuration was found to be valid and before the first change.
pub type BeforeReloadCallback<'a> = &'a mut dyn FnMut(&Config) -> Result<(), String>;

impl ReloadBase {
    /// Returns the base for a reload of `running`.
    pub fn of(running: &RunningServer) -> ReloadBase {
        ReloadBase {
            config: running.config.clone(),
            stores: Arc::clone(&running.stores),
            recipients: running.recipients.clone(),
            tls: running.settings.current().tls.clone(),
            metrics: Arc::clone(running.pool.metrics()),
            feed: Arc::clone(running.feed.feed()),
        }
    }

    /// Loads the certificate and opens the store of a new configuration.
    ///
    /// # Errors
    /// [`ReloadError`].
    pub fn prepare(&self, mut new_config: Config) -> Result<PreparedReload, ReloadError> {
        let ignored_keys = keep_restart_only_values(&mut new_config, &self.config);
        if self.stores.is_configured() {
            reload_passwords(&mut new_config, &self.config)?;
        }
        let tls = reload_tls(&new_config, self.tls.as_ref(), &self.metrics)?;
        let allowed_hosts = LoadedAllowedHosts::load(&new_config)
            .map_err(|error| ReloadError::Start(error.into()))?;
        let (stores, recipients) = (&self.stores, &self.recipients);
        let needs_hook = recipients.config_change_needs_new_hook(stores, &self.config, &new_config);
        let start_hook = || recipients.start_hook(stores, &new_config, &self.metrics);
        let recipient_hook = needs_hook.then(start_hook).transpose();
        let needs_store = self
            .stores
            .config_change_needs_new_store(&self.config, &new_config);
        if needs_store {
            check_mysql_authorities(&new_config)?;
        }
        let start_store = || self.stores.start(&new_config, &self.metrics, &self.feed);
        let store = needs_store.then(start_store).transpose();
        let feed_stream = NewStream::of_change(stores, &self.config, &new_config);
        Ok(PreparedReload {
            feed_stream: feed_stream.map_err(ReloadError::Start)?,
            store: store.map_err(ReloadError::Start)?,
            recipient_hook: recipient_hook.map_err(ReloadError::Start)?,
            config: new_config,
            ignored_keys,
            tls,
            allowed_hosts: Arc::new(allowed_hosts),
        })
    }
}

impl PreparedReload {
    /// Logs the warnings about the new configuration, the domains that were loaded, and each key whose new value is ignored.
    pub fn log_warnings(&self) {
        log_config_warnings(&self.config);
        self.allowed_hosts.log_loaded_files();
        for key in &self.ignored_keys {
            log::warn!(key = *key, fix = "restart the server"; "restart_required");
        }
    }
}

/// What a reload did with the certificate and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateReload {
    /// There are none, or the old ones stay in use because their files cannot be read.
    NotLoaded,
    /// They were loaded again and are the same.
    LoadedUnchanged,
    /// They were loaded and are other ones.
    Renewed,
}

/// Logs and counts a configuration that was applied.
pub fn log_applied_reload(metrics: &Metrics, certificate: CertificateReload) {
    if certificate != CertificateReload::NotLoaded {
        count_certificate_reload(metrics, ReloadOutcome::Applied);
    }
    if certificate == CertificateReload::Renewed {
        log::info!("certificate_renewed");
    }
    let reload = (ReloadTarget::Configuration, ReloadOutcome::Applied);
    metrics.reloads.count(reload);
    log::info!("reload");
}

/// Logs and counts a new configuration that was not applied.
pub fn log_refused_reload(metrics: &Metrics, reason: &str) {
    let reload = (ReloadTarget::Configuration, ReloadOutcome::Refused);
    metrics.reloads.count(reload);
    log::error!(reason = reason, kept = "the old configuration"; "reload_refused");
}

/// Reads the key and the certificate again if one of their files has changed. If the new pair is invalid, the old pair stays in
/// use, and `refused` is set to the state of the files, so that they are not read again until they change.
pub fn reload_certificate_if_changed(
    settings: &Arc<SharedSettings>,
    metrics: &Metrics,
    refused: &mut Option<TlsFilesFingerprint>,
) {
    let Some(tls) = settings.current().tls.clone() else {
        return;
    };
    let on_disk = tls.fingerprint_of_files_now();
    if on_disk == tls.fingerprint_of_loaded_files() || Some(on_disk) == *refused {
        return;
    }
    match TlsCredentials::load(tls.certificate_and_key_paths()) {
        Ok(renewed) => {
            count_certificate_reload(metrics, ReloadOutcome::Applied);
            // Files with a new time may contain the same certificates.
            if !renewed.has_same_certificates(&tls) {
                log::info!("certificate_renewed");
            }
            log_certificate_warnings(&renewed);
            settings.change_snapshot(|current| {
                // A reload may have set another pair meanwhile.
                let is_current = current.tls.as_ref().is_some_and(|one| one.ptr_eq(&tls));
                let renewed = is_current.then_some(renewed);
                ConnectionSettings {
                    tls: renewed.or_else(|| current.tls.clone()),
                    ..current.clone()
                }
            });
        }
        Err(error) => {
            *refused = Some(on_disk);
            count_certificate_reload(metrics, ReloadOutcome::Refused);
            log::error!(reason:% = error, kept = "the old key and certificate"; "certificate_refused");
        }
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
    // Keys that are meant for the new store, which is not opened before a restart. The running store keeps its table, and its
    // query for recipients, without which it would accept any address. The new store may have no Redis for the running stream,
    // or the other way round.
    let store_differs = new_config.store != running.store;
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
            "GM_MAIL_TABLE",
            store_differs && keep_running_value(&mut new_config.mail_table, &running.mail_table),
        ),
        (
            "GM_RECIPIENT_QUERY",
            store_differs
                && keep_running_value(&mut new_config.recipient_query, &running.recipient_query),
        ),
        (
            "GM_FEED",
            store_differs && keep_running_value(&mut new_config.feed_target, &running.feed_target),
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

/// Checks the file of MYSQL_CA. The store would read it for each connection only, so that a running store that saves mail would
/// be replaced by one that cannot connect.
#[cfg(feature = "mysql")]
fn check_mysql_authorities(new_config: &Config) -> Result<(), ReloadError> {
    let is_used =
        new_config.store == StoreKind::MySql && new_config.mysql_tls == DatabaseTlsMode::Verified;
    let ca_file = new_config.mysql_ca_file.as_deref().filter(|_| is_used);
    load_authorities("MYSQL_CA", ca_file)
        .map(drop)
        .map_err(|error| ReloadError::Start(error.into()))
}

#[cfg(not(feature = "mysql"))]
fn check_mysql_authorities(_: &Config) -> Result<(), ReloadError> {
    Ok(())
}

/// Reads the password files of the new configuration. A file that only root may read keeps its password.
fn reload_passwords(new_config: &mut Config, running: &Config) -> Result<(), ReloadError> {
    let kept = read_password_files_again(new_config, running)
        .map_err(|error| ReloadError::Start(error.into()))?;
    for error in kept {
        log::error!(reason:% = error, kept = "the old password"; "password_refused");
    }
    Ok(())
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
            if error.is_permission_denied() && *running.certificate_and_key_paths() == files =>
        {
            count_certificate_reload(metrics, ReloadOutcome::Refused);
            log::error!(reason:% = error, kept = "the old key and certificate"; "certificate_refused");
            Ok(Some(running.clone()))
        }
        (Err(error), _) => Err(ReloadError::Start(error.into())),
    }
}
