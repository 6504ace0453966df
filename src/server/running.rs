//! The components of a running server.

use std::io;
use std::sync::Arc;

use super::allowed_hosts::LoadedAllowedHosts;
use super::error::StartError;
use super::feed::{NewStream, RunningFeed};
use super::recipients::RecipientSource;
use super::reload::{CertificateReload, PreparedReload};
use super::settings::{accept_pool_settings, feed_clients, session_settings};
use super::store_factory::ConfiguredOrCustomStore;
use crate::config::Config;
use crate::connection::{self, ConnectionSettings, SharedSettings};
use crate::metrics::Metrics;
use crate::net::accept_pool::AcceptPool;
use crate::net::tls::TlsCredentials;
use crate::smtp::{MemoryBudget, SessionSettings};
use crate::store::WriterThreads;
use crate::store::retention::{OldRowsOpener, RetentionPlan, RetentionThread};

/// The components of a server that a reload can change or replace.
pub struct RunningServer {
    /// The configuration in force.
    pub config: Config,
    pub stores: Arc<ConfiguredOrCustomStore>,
    /// The accepted domains, those of files included.
    pub allowed_hosts: Arc<LoadedAllowedHosts>,
    pub recipients: RecipientSource,
    /// Settings of new connections; open connections keep the settings they started with.
    pub settings: Arc<SharedSettings>,
    pub pool: Arc<AcceptPool>,
    writers: Option<WriterThreads>,
    old_rows: Option<OldRowsOpener>,
    /// The entries about saved rows.
    pub feed: RunningFeed,
    /// Removes old rows; `None` without GM_KEEP_DAYS.
    retention: Option<RetentionThread>,
    /// Writers of replaced stores. They end when the last session that saves to their store has ended.
    retired: Vec<WriterThreads>,
}

impl RunningServer {
    /// Reads the files of GM_ALLOWED_HOSTS, opens the store and starts its writers. Starts no other thread.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(
        config: Config,
        stores: ConfiguredOrCustomStore,
        tls: Option<TlsCredentials>,
        recipients: RecipientSource,
        metrics: Arc<Metrics>,
        stack_octets: usize,
    ) -> Result<RunningServer, StartError> {
        let allowed_hosts = LoadedAllowedHosts::load(&config)?;
        allowed_hosts.log_loaded_files();
        let feed = RunningFeed::new(&metrics);
        let store = stores.start(&config, &metrics, feed.feed())?;
        let session = Arc::new(SessionSettings {
            recipient_hook: recipients.start_hook(&stores, &config, &metrics)?,
            allowed_hosts: allowed_hosts.domains().clone(),
            ..session_settings(&config)
        });
        let settings = SharedSettings::new(ConnectionSettings {
            session: Arc::clone(&session),
            configured_session: session,
            store_limits: store.limits,
            client_timeout: config.client_timeout,
            hold_time: config.hold_time,
            budget: MemoryBudget::new(config.max_memory_octets),
            saver: store.saver,
            proxy_protocol: config.proxy_protocol,
            tls,
            accept: Arc::new(accept_pool_settings(&config)),
            feed_clients: Arc::new(feed_clients(&config)),
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
            pool: AcceptPool::new(Box::new(limits), metrics, Box::new(serve), stack_octets),
            config,
            stores: Arc::new(stores),
            allowed_hosts: Arc::new(allowed_hosts),
            recipients,
            settings,
            writers: store.writers,
            old_rows: store.old_rows,
            feed,
            retention: None,
            retired: Vec::new(),
        })
    }

    /// Returns the writers of all stores and the feed, to shut them down.
    pub fn into_writers_and_feed(self) -> (Vec<WriterThreads>, RunningFeed) {
        let writers = self.retired.into_iter().chain(self.writers).collect();
        (writers, self.feed)
    }

    /// Turns the feed on unless GM_FEED is empty, and starts the thread that writes its stream.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start_feed(&mut self) -> Result<(), StartError> {
        let stream = NewStream::of(&self.stores, &self.config)?;
        self.feed.apply(&self.config, Some(stream))
    }

    /// Applies a prepared reload. Returns what it did with the certificate and key.
    pub fn apply(&mut self, prepared: PreparedReload) -> CertificateReload {
        let PreparedReload {
            config,
            tls,
            store,
            allowed_hosts,
            recipient_hook,
            feed_stream,
            ..
        } = prepared;
        let settings = self.settings.current();
        settings
            .budget
            .set_memory_budget_octets(config.max_memory_octets);
        let (store_limits, saver) = match store {
            None => (Arc::clone(&settings.store_limits), settings.saver.clone()),
            // Sessions that save to the old store keep the settings and limits of that store. New sessions get those of the new
            // store.
            Some(store) => {
                self.retired.extend(self.writers.take());
                self.writers = store.writers;
                self.old_rows = store.old_rows;
                (store.limits, store.saver)
            }
        };
        let configured_session = Arc::new(SessionSettings {
            recipient_hook: recipient_hook
                .unwrap_or_else(|| settings.configured_session.recipient_hook.clone()),
            allowed_hosts: allowed_hosts.domains().clone(),
            ..session_settings(&config)
        });
        self.retired.retain(|writers| !writers.are_finished());
        let certificate = match (&tls, &settings.tls) {
            (None, _) => CertificateReload::NotLoaded,
            (Some(new), Some(old)) if new.ptr_eq(old) => CertificateReload::NotLoaded,
            (Some(new), Some(old)) if new.has_same_certificates(old) => {
                CertificateReload::LoadedUnchanged
            }
            (Some(_), _) => CertificateReload::Renewed,
        };
        let changed = ConnectionSettings {
            session: Arc::clone(&configured_session),
            configured_session,
            store_limits,
            client_timeout: config.client_timeout,
            hold_time: config.hold_time,
            budget: settings.budget.clone(),
            saver,
            proxy_protocol: config.proxy_protocol,
            tls,
            accept: Arc::new(accept_pool_settings(&config)),
            feed_clients: Arc::new(feed_clients(&config)),
        };
        self.settings.change_snapshot(|_| changed);
        self.config = config;
        self.allowed_hosts = allowed_hosts;
        if let Err(error) = self.feed.apply(&self.config, feed_stream) {
            log::error!(reason = error.error_in_one_line(); "feed_failed");
        }
        if let Err(error) = self.restart_retention() {
            log::error!(reason:% = error; "retention_failed");
        }
        certificate
    }

    /// Starts the thread that removes old rows, in place of a running one, if GM_KEEP_DAYS is set.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn restart_retention(&mut self) -> io::Result<()> {
        // A running thread ends after its transaction. On MySQL it holds the named lock until then, so that the rounds of both do
        // not overlap.
        self.retention = None;
        if let (Some(keep), Some(open)) = (self.config.keep, &self.old_rows) {
            let (open, queue) = (Arc::clone(open), self.settings.current().saver.clone());
            self.retention = Some(RetentionThread::start(RetentionPlan { keep, open, queue })?);
        }
        Ok(())
    }

    /// Replaces the accepted domains of new sessions, unless a reload has replaced `old` meanwhile.
    pub fn replace_allowed_hosts(
        &mut self,
        old: &Arc<LoadedAllowedHosts>,
        renewed: &Arc<LoadedAllowedHosts>,
    ) {
        if !Arc::ptr_eq(&self.allowed_hosts, old) {
            return;
        }
        self.allowed_hosts = Arc::clone(renewed);
        self.settings.change_snapshot(|current| ConnectionSettings {
            configured_session: Arc::new(SessionSettings {
                allowed_hosts: renewed.domains().clone(),
                ..SessionSettings::clone(&current.configured_session)
            }),
            ..current.clone()
        });
    }
}
