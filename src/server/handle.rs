//! A bound server, and the handle that controls it from other threads.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::allowed_hosts_watch::AllowedHostsWatch;
use super::builder::ServerBuilder;
use super::error::{ReloadError, StartError};
use super::http_endpoints;
use super::listeners::BoundListeners;
use super::reload::{
    BeforeReloadCallback, CertificateReload, ReloadBase, log_applied_reload, log_refused_reload,
    reload_certificate_if_changed,
};
use super::running::RunningServer;
use super::shutdown::shut_down;
use crate::config::Config;
use crate::connection::{SharedSettings, metrics_snapshot, metrics_text};
use crate::http::status::StatusRequestHandler;
use crate::metrics::{Metrics, MetricsSnapshot};
use crate::net::accept_pool::AcceptPool;
use crate::sync;

/// An SMTP server whose addresses are bound. [`run`](Server::run) serves clients until a [`ServerHandle`] shuts it down.
///
/// A program may run several servers. A server changes nothing of the process: it installs no signal handler and no logger (its
/// log events go to the [`log`](https://docs.rs/log) crate), and it ignores the keys GSMTP_LOG_FILE, GM_LOG_FORMAT, PID_FILE,
/// GUID and SGID. Dropping a server that does not run closes its addresses.
///
/// When `run` returns, no client is served any more and the store is closed. Helper threads end up to a second later; a thread
/// that a store or a recipient hook blocks ends when that returns. The idle connections of a pool to MySQL or Redis that was
/// not reachable end within a minute.
#[must_use = "a server serves nobody until `run` is called"]
pub struct Server {
    listeners: BoundListeners,
    shared: Arc<SharedServerState>,
    stop_requests: Receiver<()>,
}

/// Controls a [`Server`], from any thread, also before it runs and after it has stopped. Clones control the same server.
#[derive(Clone)]
pub struct ServerHandle {
    shared: Arc<SharedServerState>,
}

struct SharedServerState {
    /// `None` after the shutdown. Locked only for short steps, never while a file is read or a line is logged.
    running: Mutex<Option<RunningServer>>,
    /// Held during a reload, so that reloads follow each other.
    reloading: Mutex<()>,
    stop: Sender<()>,
    metrics: Arc<Metrics>,
    /// The pool and the settings, for the metrics; both end with `running`.
    pool: Weak<AcceptPool>,
    settings: Weak<SharedSettings>,
}

impl Server {
    /// Returns a builder of a server with this configuration.
    pub fn builder(config: Config) -> ServerBuilder {
        ServerBuilder::new(config)
    }

    pub(super) fn new(listeners: BoundListeners, running: RunningServer) -> Server {
        let (stop, stop_requests) = bounded(MAX_STOP_REQUESTS);
        let shared = SharedServerState {
            metrics: Arc::clone(running.pool.metrics()),
            pool: Arc::downgrade(&running.pool),
            settings: Arc::downgrade(&running.settings),
            running: Mutex::new(Some(running)),
            reloading: Mutex::new(()),
            stop,
        };
        Server {
            listeners,
            shared: Arc::new(shared),
            stop_requests,
        }
    }

    /// Returns the addresses of the SMTP listeners: first those without, then those with implicit TLS, each in the order of the
    /// configuration. A port that was configured as 0 is the port that the kernel chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let smtp = self.listeners.smtp.iter();
        smtp.map(|listener| listener.bound_address()).collect()
    }

    /// Returns the address of the status endpoints (GM_STATUS_INTERFACE), or `None` if they are turned off.
    pub fn status_addr(&self) -> Option<SocketAddr> {
        let status = self.listeners.status.as_ref();
        status.map(|listener| listener.bound_address())
    }

    /// Returns a handle that controls this server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Serves clients on this thread and others until [`ServerHandle::shutdown`] is called; returns when the shutdown has
    /// ended.
    ///
    /// The shutdown closes idle connections with 421, waits up to 30 seconds for messages in progress, closes the connections
    /// that remain, and gives the store until 3 seconds later to save what is queued. So it takes at most about 34 seconds.
    ///
    /// # Errors
    /// [`StartError::Thread`]: the threads cannot be started. Connections that were accepted already are closed.
    pub fn run(self) -> Result<(), StartError> {
        self.run_and_report_start(|| ())
    }

    /// Does what [`run`](Server::run) does, and calls `started` once clients are accepted.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    pub(crate) fn run_and_report_start(self, started: impl FnOnce()) -> Result<(), StartError> {
        self.start_threads()?;
        started();
        self.serve();
        Ok(())
    }

    /// Starts the threads that serve clients and the HTTP endpoints.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    fn start_threads(&self) -> Result<(), StartError> {
        let (pool, settings, feed) = match &mut *sync::lock(&self.shared.running) {
            Some(running) => {
                running.restart_retention().map_err(StartError::Thread)?;
                running.start_feed()?;
                let (pool, settings) = (&running.pool, &running.settings);
                let feed = Arc::clone(running.feed.feed());
                (Arc::clone(pool), Arc::clone(settings), feed)
            }
            None => return Ok(()),
        };
        let listeners = &self.listeners;
        pool.start_deadlines_thread().map_err(StartError::Thread)?;
        if let Some(listener) = &listeners.status {
            let (pool, settings) = (Arc::clone(&pool), Arc::clone(&settings));
            let status = StatusRequestHandler::start(pool, settings, feed);
            let status = status.map_err(StartError::Thread)?;
            http_endpoints::start_status_endpoints(listener, status)?;
        }
        let auth_http = match &listeners.nginx {
            Some(listener) => http_endpoints::start_nginx_auth_server(
                listener,
                &listeners.smtp,
                &settings,
                &pool,
            )?,
            None => None,
        };
        // Last, so that no client is disconnected because another thread cannot be started.
        pool.start_accepting(&listeners.smtp)
            .map_err(StartError::Thread)?;
        for listener in &listeners.smtp {
            log::info!(address:% = listener.bound_address(), tls = listener.implicit_tls(), version = env!("CARGO_PKG_VERSION"); "listening");
        }
        if let Some(address) = auth_http {
            log::info!(address:%, role = "auth_http"; "listening");
        }
        Ok(())
    }

    /// Waits for a stop request, then shuts down. Meanwhile checks the files of the certificate and of GM_ALLOWED_HOSTS every
    /// [`FILE_CHECK_INTERVAL`].
    fn serve(self) {
        let mut refused_certificate = None;
        let mut allowed_hosts_watch = AllowedHostsWatch::default();
        while self.stop_requests.recv_timeout(FILE_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout)
        {
            if let Some(settings) = self.shared.settings.upgrade() {
                reload_certificate_if_changed(
                    &settings,
                    &self.shared.metrics,
                    &mut refused_certificate,
                );
            }
            allowed_hosts_watch.load_changed_files(&self.shared.running, &self.shared.metrics);
        }
        let running = sync::lock(&self.shared.running).take();
        let Some(running) = running else {
            return;
        };
        let listeners = &self.listeners;
        let closed_first: Vec<_> = listeners
            .smtp
            .iter()
            .chain(&listeners.nginx)
            .cloned()
            .collect();
        let pool = Arc::clone(&running.pool);
        let (writers, feed) = running.into_writers_and_feed();
        feed.end_readers();
        shut_down(&pool, &closed_first, writers, &self.stop_requests);
        feed.finish();
        // `drop` closes the status endpoints last, so that they stay available during the shutdown.
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addrs", &self.local_addrs())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle").finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let listeners = &self.listeners;
        let all = listeners
            .smtp
            .iter()
            .chain(&listeners.nginx)
            .chain(&listeners.status);
        all.for_each(|listener| listener.close());
        // If the server did not run, this ends its writers.
        let running = sync::lock(&self.shared.running).take();
        if let Some(running) = running {
            running.pool.drain();
        }
    }
}

impl ServerHandle {
    /// Starts the shutdown and returns at once; [`Server::run`] returns when the shutdown is complete. The first call lets
    /// messages in progress finish; a second call closes their connections. Does nothing after the server has stopped.
    pub fn shutdown(&self) {
        // The channel is full only if two requests are waiting already.
        let _ = self.shared.stop.try_send(());
    }

    /// Applies a new configuration to new connections, and opens another store if the configuration requires it; returns when
    /// that is done. Changes of addresses, of GM_STORE and of GM_SQLITE_FILE are ignored and logged, because they need a new
    /// server.
    ///
    /// # Errors
    /// [`ReloadError`]; the previous configuration stays in force.
    pub fn reload(&self, config: Config) -> Result<(), ReloadError> {
        self.reload_with(config, &mut |_| Ok(())).map(drop)
    }

    /// Returns the current values of the most important metrics. After the server has stopped, returns the last values.
    pub fn metrics(&self) -> MetricsSnapshot {
        match self.pool_and_settings() {
            Some((pool, settings)) => metrics_snapshot(&pool, &settings.current()),
            None => self.shared.metrics.snapshot(),
        }
    }

    /// Returns all metrics in the text format of Prometheus, as /metrics of the status endpoints does.
    pub fn metrics_text(&self) -> String {
        match self.pool_and_settings() {
            Some((pool, settings)) => metrics_text(&pool, &settings.current()),
            None => self.shared.metrics.render(),
        }
    }

    fn pool_and_settings(&self) -> Option<(Arc<AcceptPool>, Arc<SharedSettings>)> {
        let pool = self.shared.pool.upgrade()?;
        Some((pool, self.shared.settings.upgrade()?))
    }

    /// Applies a new configuration as [`reload`](ServerHandle::reload) does, and calls `before_change` after the last check.
    /// Returns the configuration in force.
    ///
    /// # Errors
    /// [`ReloadError`]; the previous configuration stays in force.
    pub(crate) fn reload_with(
        &self,
        config: Config,
        before_change: BeforeReloadCallback,
    ) -> Result<Config, ReloadError> {
        let _reloading = sync::lock(&self.shared.reloading);
        match self.try_reload(config, before_change) {
            Ok((config, certificate)) => {
                log_applied_reload(&self.shared.metrics, certificate);
                Ok(config)
            }
            Err(error) => {
                self.refuse_reload(&error.error_in_one_line());
                Err(error)
            }
        }
    }

    /// Applies a new configuration. Returns the configuration in force, and what happened to the certificate and key.
    fn try_reload(
        &self,
        config: Config,
        before_change: BeforeReloadCallback,
    ) -> Result<(Config, CertificateReload), ReloadError> {
        let base = sync::lock(&self.shared.running)
            .as_ref()
            .map(ReloadBase::of);
        let prepared = base.ok_or(ReloadError::Stopped)?.prepare(config)?;
        before_change(&prepared.config).map_err(ReloadError::Log)?;
        prepared.log_warnings();
        match &mut *sync::lock(&self.shared.running) {
            Some(running) => {
                let certificate = running.apply(prepared);
                Ok((running.config.clone(), certificate))
            }
            None => Err(ReloadError::Stopped),
        }
    }

    /// Logs and counts a new configuration that could not be read or applied.
    pub(crate) fn refuse_reload(&self, reason: &str) {
        log_refused_reload(&self.shared.metrics, reason);
    }
}

/// Interval at which the files of the certificate and of GM_ALLOWED_HOSTS are checked for changes.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(20);
/// Number of stop requests that are kept: the first drains the connections, the second aborts them.
const MAX_STOP_REQUESTS: usize = 2;
