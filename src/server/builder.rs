//! Builds a server from a configuration, and optionally a store of the embedding program.

use std::fmt;
use std::sync::{Arc, OnceLock};

use super::error::StartError;
use super::handle::Server;
use super::listeners::{self, BoundListeners};
use super::password_files::read_password_files;
use super::recipients::RecipientSource;
use super::running::RunningServer;
use super::settings::{load_tls, log_config_warnings};
use super::store_factory::ConfiguredOrCustomStore;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::net::tls::TlsCredentials;
use crate::smtp::{RecipientCheck, RecipientHook};
use crate::store::{SaveError, SaveMail, StoreOpener};

/// Collects what a [`Server`] needs. [`Server::builder`] makes one.
#[must_use = "a builder does nothing until `bind` is called"]
pub struct ServerBuilder {
    config: Config,
    store: Option<StoreOpener>,
    writers: usize,
    recipient_hook: Option<RecipientHook>,
    /// Stack size of a connection's thread.
    client_stack_octets: usize,
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("config", &self.config)
            .field("writers", &self.writers)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    pub(super) fn new(config: Config) -> ServerBuilder {
        ServerBuilder {
            config,
            store: None,
            writers: 1,
            recipient_hook: None,
            client_stack_octets: EMBEDDED_CLIENT_STACK_OCTETS,
        }
    }

    /// Sets the store: `open` returns an open store, or the error why it cannot be opened now. GM_STORE is then ignored.
    /// Without a call, the server has the store of the configuration; by default that is SQLite in the file goguerrilla.db.
    ///
    /// Each writer thread calls `open` before its first batch, calls it again for the next batch if it returned an error, and
    /// again after a panic of the store. So `open` may be called several times, and from several threads. While it fails, mail
    /// waits for [`ConfigBuilder::hold_time`](crate::ConfigBuilder::hold_time); clients then get 451 and send it again later.
    pub fn store<S, F>(mut self, open: F) -> ServerBuilder
    where
        S: SaveMail + 'static,
        F: Fn() -> Result<S, SaveError> + Send + Sync + 'static,
    {
        self.store = Some(Arc::new(move || Ok(Box::new(open()?) as Box<dyn SaveMail>)));
        self
    }

    /// Sets the number of writer threads of the store that [`store`](ServerBuilder::store) sets. Each has its own store; a mail
    /// goes to one of them. The default is 1, and 0 means 1. Ignored for the stores of the configuration (see GM_SAVE_WORKERS).
    pub fn writers(mut self, writers: usize) -> ServerBuilder {
        self.writers = writers.max(1);
        self
    }

    /// Sets the function that decides which recipients exist. It is called at RCPT, for each new recipient of a message in an
    /// accepted domain (GM_ALLOWED_HOSTS), on the thread of the connection: it may block, and other clients do not wait for it.
    ///
    /// `check` gets the address without angle brackets: the local-part as the client wrote it, `@`, and the domain in lower
    /// case, in its ASCII form. `postmaster` is accepted without a call ([RFC 5321
    /// §4.5.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.1)). If `check` panics, the client gets 451.
    ///
    /// The function replaces GM_RECIPIENT_QUERY.
    pub fn recipients(
        mut self,
        check: impl Fn(&str) -> RecipientCheck + Send + Sync + 'static,
    ) -> ServerBuilder {
        self.recipient_hook = Some(RecipientHook::new(check));
        self
    }

    /// Sets the stack size of a connection's thread. The program needs less than an embedding program, whose hook and logger
    /// run on these threads.
    pub(crate) fn client_stack_octets(mut self, octets: usize) -> ServerBuilder {
        self.client_stack_octets = octets;
        self
    }

    /// Binds the addresses, loads the certificate, opens the store of the configuration and starts the writer threads.
    ///
    /// Clients can connect from now on; they are served as soon as [`Server::run`] is called. With port 0 the kernel chooses a
    /// free port, which [`Server::local_addrs`] returns. The store that [`store`](ServerBuilder::store) sets is opened later,
    /// on its writer threads.
    ///
    /// # Errors
    /// [`StartError`] for the first address, file or store that cannot be used.
    pub fn bind(mut self) -> Result<Server, StartError> {
        log_config_warnings(&self.config);
        if self.store.is_none() {
            read_password_files(&mut self.config)?;
        }
        let listeners = listeners::bind_smtp_listeners(&self.config, Vec::new())?;
        let tls = load_tls(&self.config)?;
        self.open_store_and_start_writers(listeners, tls, Arc::new(Metrics::new()))
    }

    /// Opens the store and starts the writer threads, for listeners that are bound and a certificate that is loaded already.
    ///
    /// # Errors
    /// [`StartError`] if the store cannot be used or a thread cannot be started.
    pub(crate) fn open_store_and_start_writers(
        self,
        listeners: BoundListeners,
        tls: Option<TlsCredentials>,
        metrics: Arc<Metrics>,
    ) -> Result<Server, StartError> {
        let stores = match self.store {
            Some(open) => ConfiguredOrCustomStore::Custom(open, self.writers),
            None => ConfiguredOrCustomStore::Configured(OnceLock::new()),
        };
        let running = RunningServer::new(
            self.config,
            stores,
            tls,
            self.recipient_hook
                .map_or(RecipientSource::Configuration, RecipientSource::Program),
            metrics,
            self.client_stack_octets,
        )?;
        Ok(Server::new(listeners, running))
    }
}

/// Stack size of a connection's thread in an embedding program: that of a thread of the standard library.
const EMBEDDED_CLIENT_STACK_OCTETS: usize = 2 << 20;
