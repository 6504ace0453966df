//! The connection pool that all writers share. It replaces connections in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::Conn;
use r2d2::{HandleError, ManageConnection, Pool, PooledConnection};

use super::call_timeout;
use super::connection::MySqlConnection;
pub use super::connector::{Connector, TableInfoCallback};
use super::error_text::error_text;
pub use super::settings::{MySqlHostAddress, MySqlSettings, MySqlTls};
use crate::store::health::{SLOW_REQUEST_AFTER, StoreHealth};

/// A pooled connection.
pub type PooledDbConnection = PooledConnection<Connector>;

/// Creates the pool without waiting for a connection. The pool's threads then connect and update the store's health.
pub fn new_connection_pool(connector: &Connector) -> Pool<Connector> {
    Pool::builder()
        .max_size(connector.mysql_writer_count() as u32)
        .connection_timeout(MAX_RETRY_PAUSE * 2)
        .test_on_check_out(false)
        .error_handler(Box::new(ConnectErrorHandler {
            health: connector.health().clone(),
            open_connections: connector.open_connection_counter(),
        }))
        .build_unchecked(connector.clone())
}

/// Starts two threads. The first checks an idle connection every two seconds until the pool is dropped, because without mail
/// nothing else detects that the database is down. The second aborts overdue calls.
pub fn start_pool_watch_threads(
    connector: &Connector,
    pool: &Arc<Pool<Connector>>,
) -> std::io::Result<()> {
    call_timeout::spawn_call_watchdog(connector.call_watchdog())?;
    let (connector, pool) = (connector.clone(), Arc::downgrade(pool));
    let run = move || {
        while let Some(pool) = pool.upgrade() {
            check_idle_connections(&connector, &pool);
            drop(pool);
            thread::sleep(IDLE_CHECK_INTERVAL);
        }
    };
    let builder = thread::Builder::new().name("mysql-check".to_owned());
    builder.spawn(run).map(drop)
}

fn check_idle_connections(connector: &Connector, pool: &Pool<Connector>) {
    if connector.hang_reason_on_all_hosts().is_some() {
        return;
    }
    // With several hosts another thread checks the hosts, and a failure of one host says nothing about the others.
    let is_only_host = connector.hosts().host_count() == 1;
    let health = connector.health();
    let started_at = Instant::now();
    let _ping = is_only_host.then(|| health.begin_store_request("a ping of the idle database"));
    while let Some(mut connection) = pool.try_get() {
        // The pool drops a broken connection and tries to replace it. This attempt updates the store's health.
        let error = connection.call_driver_with_timeout(Conn::ping).err();
        connection.broken = error.is_some();
        match error {
            None => {
                health.record_store_reached();
                // If values of `mail_id` ran short, the connection is replaced, because a new connection checks whether ids are
                // free again.
                connection.broken = health.has_resource_shortage();
                return;
            }
            // The failure is recorded now, because the pool marks the store as unavailable only after its own attempt to
            // connect, and this attempt may take as long as the ping did.
            Some(error) if is_only_host && started_at.elapsed() > SLOW_REQUEST_AFTER => {
                health.record_failed_batch_in_health(&format!(
                    "the database did not answer: {error}"
                ));
            }
            Some(_) => {}
        }
    }
}

impl ManageConnection for Connector {
    type Connection = MySqlConnection;
    type Error = mysql::Error;

    fn connect(&self) -> Result<MySqlConnection, mysql::Error> {
        let mut connection = self.connect_any()?;
        // This call must follow `connect_any`, because otherwise the SELECTs of `connect_any` would begin a transaction.
        connection.enable_implicit_begin()?;
        Ok(connection)
    }

    fn is_valid(&self, connection: &mut MySqlConnection) -> Result<(), mysql::Error> {
        connection.call_driver_with_timeout(Conn::ping)
    }

    fn has_broken(&self, connection: &mut MySqlConnection) -> bool {
        // After a panic a connection may come back with an open transaction, which must not become part of the next batch.
        connection.broken
            || connection.in_transaction
            || self
                .hosts()
                .should_close_for_better_host(connection.server.host)
    }
}

/// Marks the store as unavailable if an attempt to connect fails and no connection is open.
#[derive(Debug)]
struct ConnectErrorHandler {
    health: StoreHealth,
    open_connections: Arc<AtomicUsize>,
}

impl HandleError<mysql::Error> for ConnectErrorHandler {
    fn handle_error(&self, error: mysql::Error) {
        // While other connections are open, a refused connection does not mean that the store is unavailable: the server may
        // allow fewer connections than there are writers. A dead connection is dropped at its next use.
        if self.open_connections.load(Ordering::SeqCst) == 0 {
            self.health.record_store_unreachable(&error_text(&error));
        }
    }
}

/// Maximum pause between two attempts to connect, so that a database that is back is used within about a second. r2d2 doubles
/// the pause up to half of `connection_timeout`.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Interval between two checks of an idle connection.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
