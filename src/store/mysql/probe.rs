//! The prober: if several hosts are configured, one thread per host checks it and marks it as up, standby or down.
//!
//! If a host does not answer its check while another host is up, the calls in progress on the host are aborted, so that their
//! batches are saved elsewhere. Without this the writers would wait 10 s (`CALL_TIMEOUT`) for a host that hangs. A COMMIT that
//! is aborted in this way is in doubt, see `unknown_commit`. Calls to the former primary of a replication group are aborted if
//! they take longer than a second after the new primary was noticed.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use mysql::Conn;
use r2d2::Pool;

use super::backoff::jittered;
use super::error_text::error_text;
use super::host_state::MySqlHostState;
use super::pool::Connector;

/// Starts the threads that check the database hosts and mark each as up, standby or down. The threads end after the pool is
/// dropped. Does nothing if only one host is configured.
///
/// # Errors
/// A thread cannot be started.
pub fn start(connector: &Connector, pool: &Arc<Pool<Connector>>) -> std::io::Result<()> {
    if connector.hosts().host_count() == 1 {
        return Ok(());
    }
    for host in 0..connector.hosts().host_count() {
        let (connector, pool) = (connector.clone(), Arc::downgrade(pool));
        let builder = thread::Builder::new().name(format!("mysql-node-{host}"));
        builder.spawn(move || run(&connector, host, &pool))?;
    }
    Ok(())
}

fn run(connector: &Connector, host: usize, pool: &Weak<Pool<Connector>>) {
    let hosts = connector.hosts();
    let mut connection = None;
    while pool.strong_count() > 0 {
        match probe_host(connector, host, &mut connection) {
            Ok(MySqlHostState::Healthy) => {
                if hosts.mark_host_up(host) {
                    connector.call_watchdog().record_promotion(host);
                }
            }
            Ok(MySqlHostState::Standby(reason)) => hosts.mark_standby(host, &reason),
            Ok(MySqlHostState::Unhealthy(reason)) => hosts.mark_down(host, &reason),
            Err(error) => {
                hosts.mark_down(host, &error_text(&error));
                // A host that refuses a check with an error of its own, such as too many connections, may still answer calls.
                let is_silent = !matches!(error, mysql::Error::MySqlError(_));
                if is_silent && hosts.is_excluded_while_another_is_up(host) {
                    connector.call_watchdog().abort_calls_to_host(host);
                }
            }
        }
        connector.copy_host_status_to_health();
        connector
            .health()
            .set_no_host_reason(hosts.all_hosts_down_reason());
        if host == 0 {
            hosts.allow_one_failback();
        }
        // The random part of the pause prevents several SMTP servers from checking the hosts and moving their connections at
        // the same moment.
        thread::sleep(jittered(PROBE_INTERVAL));
    }
}

/// Returns the state of a host. The connection is kept for the next probe. If the kept connection broke, a new one is opened
/// immediately, because a server that has closed an idle connection may be healthy.
///
/// # Errors
/// The host does not answer, or it refuses the connection or a statement.
fn probe_host(
    connector: &Connector,
    host: usize,
    idle_connection: &mut Option<Conn>,
) -> mysql::Result<MySqlHostState> {
    if let Some(reason) = connector.hanging_commits().commit_hang_reason(host) {
        return Ok(MySqlHostState::Unhealthy(reason));
    }
    if let Some(connection) = idle_connection {
        if let Ok(state) =
            MySqlHostState::read(connection, connector.table(), connector.health().metrics())
        {
            return Ok(state);
        }
        *idle_connection = None;
    }
    let mut connection = connector.connect_with_short_timeouts(host, None)?;
    let state = MySqlHostState::read(
        &mut connection,
        connector.table(),
        connector.health().metrics(),
    )?;
    *idle_connection = Some(connection);
    Ok(state)
}

/// Mean pause between two checks of a database host. A secondary that becomes the primary is to be noticed within a second.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
