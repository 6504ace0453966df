//! Connecting to the database: to the first available host or to a given host.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use mysql::Conn;

use super::auto_increment::{self, MailIdRangeUsage};
use super::call_timeout::{DatabaseCallWatchdog, spawn_call_watchdog};
use super::connect_error::is_immediate_connect_failure;
use super::connect_options::{PROBE_TIMEOUT, add_keepalive};
use super::connection::{CALL_TIMEOUT, ConnectedServer, MySqlConnection};
use super::driver_connection::open_mysql_driver_connection;
use super::driver_panic::catch_panic;
use super::error_text::error_text;
use super::galera::GaleraNodeView;
use super::group_replication::GroupMember;
use super::hanging::HangingCommits;
use super::hosts::DatabaseHosts;
use super::settings::{MySqlHostAddress, MySqlSettings, MySqlTls};
use super::table_info::TableInfo;
use crate::store::TableName;
use crate::store::health::StoreHealth;
use crate::sync::lock;

/// Callback that receives the table's properties each time a connection has read them.
pub type TableInfoCallback = Arc<dyn Fn(&TableInfo) + Send + Sync>;

/// Makes connections to the first usable host: for the pool, for the thread that checks the hosts, for the look-up after an
/// unanswered COMMIT, for the removal of old rows, and for commands such as `check`. Clones share their state.
#[derive(Clone)]
pub struct Connector {
    shared: Arc<SharedConnectorState>,
}

/// The state that the clones of a [`Connector`] share.
pub struct SharedConnectorState {
    settings: MySqlSettings,
    on_table_info: TableInfoCallback,
    health: StoreHealth,
    hosts: DatabaseHosts,
    hanging: HangingCommits,
    /// `None` if the most recent attempt to connect reached a host, or if a host timed out. Otherwise the error of the host
    /// that was tried last.
    refused: Mutex<Option<String>>,
    /// Number of open connections, including idle ones.
    open_connections: Arc<AtomicUsize>,
    watchdog: Arc<DatabaseCallWatchdog>,
    /// Time limit for each read of a connection's socket.
    read_timeout: Duration,
}

impl Connector {
    /// Creates a connector that prefers the hosts in the order of the settings.
    pub fn new(
        settings: MySqlSettings,
        on_table_info: TableInfoCallback,
        health: &StoreHealth,
    ) -> Connector {
        Connector::with_read_timeout(
            settings,
            on_table_info,
            health,
            Arc::default(),
            CALL_TIMEOUT,
        )
    }

    /// Creates a connector for `list`, `show` and `prune`, and for the thread that removes old rows. A query of theirs may read a
    /// large table for minutes before the first row is sent. Their connections limit no SMTP session to the widths of the
    /// columns, and nothing reads their metrics.
    pub fn for_long_queries(settings: MySqlSettings) -> Connector {
        let watchdog = Arc::default();
        // Other calls are then limited by the watchdog only. If its thread cannot be started, long queries fail as well.
        let read_timeout = match spawn_call_watchdog(&watchdog) {
            Ok(()) => LONG_READ_TIMEOUT,
            Err(_) => CALL_TIMEOUT,
        };
        let health = StoreHealth::new(Arc::default());
        Connector::with_read_timeout(settings, Arc::new(|_| ()), &health, watchdog, read_timeout)
    }

    fn with_read_timeout(
        settings: MySqlSettings,
        on_table_info: TableInfoCallback,
        health: &StoreHealth,
        watchdog: Arc<DatabaseCallWatchdog>,
        read_timeout: Duration,
    ) -> Connector {
        let names = settings
            .hosts
            .iter()
            .map(MySqlHostAddress::to_string)
            .collect();
        let shared = SharedConnectorState {
            settings,
            on_table_info,
            health: health.clone(),
            hosts: DatabaseHosts::new(names),
            hanging: HangingCommits::default(),
            refused: Mutex::default(),
            open_connections: Arc::default(),
            watchdog,
            read_timeout,
        };
        Connector {
            shared: Arc::new(shared),
        }
    }

    /// Returns a connector over the given shared state.
    pub fn connector_from_shared_state(shared: Arc<SharedConnectorState>) -> Connector {
        Connector { shared }
    }

    /// Returns a weak reference to the shared state.
    pub fn downgrade(&self) -> Weak<SharedConnectorState> {
        Arc::downgrade(&self.shared)
    }

    /// Connects to the first host that answers, in the order of [`DatabaseHosts::host_indexes_in_try_order`]. Hosts on which a
    /// COMMIT hangs are skipped.
    ///
    /// # Errors
    /// No host accepts a connection. The error is that of the host tried last.
    pub fn connect_any(&self) -> mysql::Result<MySqlConnection> {
        let SharedConnectorState { hosts, hanging, .. } = &*self.shared;
        let mut outcome = Err(mysql::DriverError::ConnectTimeout.into());
        let mut all_refused = true;
        for host in hosts.host_indexes_in_try_order() {
            if let Some(reason) = hanging.commit_hang_reason(host) {
                outcome = Err(io::Error::other(reason).into());
                all_refused = false;
                continue;
            }
            // With several hosts a connection with the shorter `PROBE_TIMEOUT` is made first, because it detects a hanging host
            // earlier.
            let probed = match hosts.host_count() {
                1 => Ok(()),
                _ => self.connect_with_short_timeouts(host, None).map(drop),
            };
            outcome = probed.and_then(|()| self.connect_to_mysql_host(host, None));
            match &outcome {
                Ok(_) => break,
                Err(error) => {
                    all_refused &= is_immediate_connect_failure(error);
                    hosts.mark_down(host, &error_text(error));
                }
            }
        }
        let error = outcome.as_ref().err().filter(|_| all_refused);
        *lock(&self.shared.refused) = error.map(ToString::to_string);
        outcome
    }

    /// Connects to one host, or to only one of its addresses, sets the session variables and reads the table's properties.
    ///
    /// Only the system's resolver limits the time for resolving the host name. Normally only the pool's threads wait for the
    /// resolver; a writer waits for the resolver only after an unanswered COMMIT.
    ///
    /// # Errors
    /// The host cannot be reached, or the server returns an error.
    pub fn connect_to_mysql_host(
        &self,
        host: usize,
        only_address: Option<SocketAddr>,
    ) -> mysql::Result<MySqlConnection> {
        let (settings, metrics) = (&self.shared.settings, self.shared.health.metrics());
        let open = |address, read_timeout| {
            open_mysql_driver_connection(settings, metrics, host, address, |options| {
                add_keepalive(options)
                    .read_timeout(Some(read_timeout))
                    .write_timeout(Some(CALL_TIMEOUT))
                    .stmt_cache_size(STATEMENT_CACHE_SIZE)
                    .init(SESSION_SETTINGS.to_vec())
            })
        };
        let mut only_address = only_address;
        if self.shared.read_timeout > CALL_TIMEOUT {
            // The watchdog does not limit the login. An address that does not answer logins is detected here.
            only_address = open(only_address, CALL_TIMEOUT)?.1;
        }
        let (mut connection, address) = open(only_address, self.shared.read_timeout)?;
        let socket = connection.as_raw_fd();
        let watchdog = &self.shared.watchdog;
        watchdog.add_call_deadline(socket, host, PROPERTIES_TIMEOUT);
        let properties = catch_panic(metrics, || {
            let table_info = TableInfo::read(&mut connection, &settings.table)?;
            let galera = GaleraNodeView::read(&mut connection)?;
            Ok((table_info, galera, GroupMember::read(&mut connection)?))
        });
        watchdog.remove_call_deadline(socket);
        let (table_info, galera, group) = properties?;
        self.apply_table_info(&table_info);
        self.shared.health.record_store_reached();
        let server = ConnectedServer {
            host,
            address,
            connection_id: connection.connection_id(),
            galera,
            group,
        };
        Ok(MySqlConnection::new(
            connection,
            table_info,
            server,
            watchdog,
            &self.shared.open_connections,
            metrics,
        ))
    }

    /// Connects to one host, or to only one of its addresses, with short timeouts, to check the host.
    ///
    /// # Errors
    /// The host cannot be reached within `PROBE_TIMEOUT`, or the server returns an error.
    pub fn connect_with_short_timeouts(
        &self,
        host: usize,
        only_address: Option<SocketAddr>,
    ) -> mysql::Result<Conn> {
        let (settings, metrics) = (&self.shared.settings, self.shared.health.metrics());
        let opened =
            open_mysql_driver_connection(settings, metrics, host, only_address, |options| {
                options
                    .read_timeout(Some(PROBE_TIMEOUT))
                    .write_timeout(Some(PROBE_TIMEOUT))
            });
        opened.map(|(connection, _)| connection)
    }

    /// Copies the state of each host to the store's health, which the status interface shows.
    pub fn copy_host_status_to_health(&self) {
        self.shared
            .health
            .set_host_status(self.shared.hosts.status_of_all_hosts());
    }

    /// Reads the table's properties again after an error that shows that they have changed. The findings are then logged before
    /// the next connection is made. Errors of this reading are ignored, because the next connection also reads the properties.
    pub fn refresh_table_info(&self, connection: &mut Conn) {
        if let Ok(table_info) = TableInfo::read(connection, &self.shared.settings.table) {
            self.apply_table_info(&table_info);
        }
    }

    fn apply_table_info(&self, table_info: &TableInfo) {
        (self.shared.on_table_info)(table_info);
        let ids = table_info.auto_increment.as_ref();
        let metrics = self.shared.health.metrics();
        match ids {
            Some(ids) => ids.update_metric(metrics),
            None => metrics.mail_id_used.hide_until_set(),
        }
        let shortage = ids.and_then(|ids| ids.no_mail_ids_left_reason(self.table()));
        // A shortage found by an INSERT is cleared only if at least two ids are free.
        if shortage.is_some() || ids.is_none_or(MailIdRangeUsage::has_two_free_ids) {
            self.shared.health.set_store_resource_shortage(shortage);
        }
    }

    /// Marks the store as unavailable because column `mail_id` has no values left, until a new connection finds free values.
    /// Returns the text of `error` and how to fix it.
    pub fn mark_store_out_of_mail_ids(
        &self,
        error: &mysql::Error,
        table_info: &TableInfo,
    ) -> String {
        let reason = auto_increment::auto_increment_error_text(
            error,
            self.table(),
            table_info.auto_increment.as_ref(),
        );
        self.shared
            .health
            .set_store_resource_shortage(Some(reason.clone()));
        reason
    }

    /// Returns why the store is down; `None` while it is not known to be down.
    pub fn reason_if_store_is_down(&self) -> Option<String> {
        self.shared.health.store_down_reason()
    }

    /// Returns the error of the host tried last, if every host failed without a timeout in the most recent attempt to connect;
    /// otherwise `None`.
    pub fn last_error_if_all_hosts_failed(&self) -> Option<String> {
        lock(&self.shared.refused).clone()
    }

    /// Returns the reason if a COMMIT hangs on every host; `None` if at least one host has no hanging COMMIT.
    pub fn hang_reason_on_all_hosts(&self) -> Option<String> {
        self.shared
            .hanging
            .reason_if_commit_hangs_on_all_hosts(self.shared.hosts.host_count())
    }

    /// Returns whether a retry of a batch would fail: a COMMIT hangs on every host, or `is_lost` (the batch's connection broke)
    /// and every host refuses a new connection.
    pub fn is_retry_futile(&self, is_lost: bool) -> bool {
        self.hang_reason_on_all_hosts().is_some()
            || (is_lost && self.last_error_if_all_hosts_failed().is_some())
    }

    /// Returns whether connections to a host may be used: no COMMIT hangs there, and the host is up or no other host is up.
    pub fn is_host_usable(&self, host: usize) -> bool {
        !self.shared.hosts.is_excluded_while_another_is_up(host)
            && self.shared.hanging.commit_hang_reason(host).is_none()
    }

    /// Returns the table that mail is stored in.
    pub fn table(&self) -> &TableName {
        &self.shared.settings.table
    }

    /// Returns the hosts and their states.
    pub fn hosts(&self) -> &DatabaseHosts {
        &self.shared.hosts
    }

    /// Returns the COMMITs that hang.
    pub fn hanging_commits(&self) -> &HangingCommits {
        &self.shared.hanging
    }

    /// Returns the health of the store.
    pub fn health(&self) -> &StoreHealth {
        &self.shared.health
    }

    /// Returns how connections over TCP are protected.
    pub fn tls(&self) -> &MySqlTls {
        &self.shared.settings.tls
    }

    /// Returns the number of writers, which is the size of the pool.
    pub fn mysql_writer_count(&self) -> usize {
        self.shared.settings.workers
    }

    /// Returns the counter of open connections.
    pub fn open_connection_counter(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.shared.open_connections)
    }

    /// Returns the watchdog of calls in progress.
    pub fn call_watchdog(&self) -> &Arc<DatabaseCallWatchdog> {
        &self.shared.watchdog
    }

    /// Returns the name of the database account.
    pub fn mysql_user_name(&self) -> &str {
        &self.shared.settings.user
    }
}

/// Statements that set the session variables that safe storage depends on. The variables are set explicitly, because the
/// server's configuration may differ. With these variables a value that does not fit is an error; a statement waits at most
/// one second for a lock of a row or of the table, and the batch is then retried.
const SESSION_SETTINGS: &[&str] = &[
    "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
     SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1, SESSION autocommit = 1",
    "SET NAMES utf8mb4",
];
/// Maximum number of prepared statements in the driver's cache: one INSERT for each possible number of rows (65), and a few
/// others. With a smaller cache the driver would close INSERTs that [`MySqlConnection::inserts`] still holds.
const STATEMENT_CACHE_SIZE: usize = 80;
/// Time limit for reading the properties of server and table with about ten queries, each of which must also end within the
/// read timeout.
const PROPERTIES_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit for each read of the socket in a query of [`Connector::for_long_queries`]: more than reading all rows of a table
/// should take.
const LONG_READ_TIMEOUT: Duration = Duration::from_secs(3_600);
