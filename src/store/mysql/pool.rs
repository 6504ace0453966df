//! Connections to the database: several hosts in order, made anew in the background while all are down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mysql::Conn;
use r2d2::{HandleError, ManageConnection, Pool, PooledConnection};

use super::call_timeout;
use super::connection::DbConnection;
pub use super::connector::{Connector, OnTableInfo};
pub use super::settings::{MySqlHost, MySqlSettings};
use crate::store::health::{ANSWER_EXPECTED, Health};

/// A pooled connection.
pub type PooledDbConnection = PooledConnection<Connector>;

/// Makes the pool; waits for nothing. Its health follows each try to connect.
pub fn pool(connector: &Connector) -> Pool<Connector> {
    Pool::builder()
        .max_size(connector.workers() as u32)
        .connection_timeout(MAX_RETRY_PAUSE * 2)
        .test_on_check_out(false)
        .error_handler(Box::new(HealthReporter {
            health: connector.health().clone(),
            links: connector.links(),
        }))
        .build_unchecked(connector.clone())
}

/// Looks every two seconds whether an idle connection still works, as long as the pool is in use: without mail nobody else
/// would notice that the database is gone. Meanwhile calls that take too long are ended.
///
/// # Errors
/// When a thread cannot be started.
pub fn watch_idle_connections(
    connector: &Connector,
    pool: &Arc<Pool<Connector>>,
) -> std::io::Result<()> {
    call_timeout::spawn(connector.calls())?;
    let (connector, pool) = (connector.clone(), Arc::downgrade(pool));
    let watching = move || {
        while let Some(pool) = pool.upgrade() {
            look_at_idle(&connector, &pool);
            drop(pool);
            thread::sleep(IDLE_CHECK_INTERVAL);
        }
    };
    let builder = thread::Builder::new().name("mysql-check".to_owned());
    builder.spawn(watching).map(drop)
}

fn look_at_idle(connector: &Connector, pool: &Pool<Connector>) {
    if connector.stall_reason().is_some() {
        return;
    }
    // One of several hosts has its own prober, and says nothing of the others.
    let is_alone = connector.hosts().count() == 1;
    let health = connector.health();
    let asked_at = Instant::now();
    let _request = is_alone.then(|| health.begin_request("a question to the idle database"));
    while let Some(mut link) = pool.try_get() {
        // One that broke is dropped, and the pool's try to replace it tells how the database is.
        let error = link.with_timeout(Conn::ping).err();
        link.broken = error.is_some();
        match error {
            None => {
                health.set_up();
                // The connection that replaces it reads whether there are ids again.
                link.broken = health.has_shortage();
                return;
            }
            // The pool's tries to connect may take as long again.
            Some(error) if is_alone && asked_at.elapsed() > ANSWER_EXPECTED => {
                health.record_failure(&format!("the database did not answer: {error}"));
            }
            Some(_) => {}
        }
    }
}

impl ManageConnection for Connector {
    type Connection = DbConnection;
    type Error = mysql::Error;

    fn connect(&self) -> Result<DbConnection, mysql::Error> {
        let mut link = self.connect_any()?;
        // Behind what was read of the table.
        link.enable_implicit_begin()?;
        Ok(link)
    }

    fn is_valid(&self, link: &mut DbConnection) -> Result<(), mysql::Error> {
        link.with_timeout(Conn::ping)
    }

    fn has_broken(&self, link: &mut DbConnection) -> bool {
        // One that comes back in the middle of a transaction, after a panic, must not carry it into the next batch.
        link.broken || link.in_transaction || self.hosts().take_failback(link.server.host)
    }
}

/// Hears of each try to connect that failed.
#[derive(Debug)]
struct HealthReporter {
    health: Health,
    links: Arc<AtomicUsize>,
}

impl HandleError<mysql::Error> for HealthReporter {
    fn handle_error(&self, error: mysql::Error) {
        // While another connection lives, one more that is refused is no reason to turn mail away: the server may allow
        // fewer than there are writers. A connection that is dead is dropped by whoever tries to use it.
        if self.links.load(Ordering::SeqCst) == 0 {
            self.health.set_down(&error.to_string());
        }
    }
}

/// The longest pause between two tries to reach a database that is down.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks at an idle connection.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
