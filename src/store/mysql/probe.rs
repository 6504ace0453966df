//! The prober: if several hosts are configured, one thread checks each of them and marks it as up, standby or down.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use mysql::Conn;
use r2d2::Pool;

use super::backoff::jittered;
use super::host_state::MySqlHostState;
use super::pool::Connector;

/// Starts the thread that checks each database host and marks it as up, standby or down. The thread ends after the pool is
/// dropped. Does nothing if only one host is configured.
///
/// # Errors
/// The thread cannot be started.
pub fn start(connector: &Connector, pool: &Arc<Pool<Connector>>) -> std::io::Result<()> {
    if connector.hosts().host_count() == 1 {
        return Ok(());
    }
    let (connector, pool) = (connector.clone(), Arc::downgrade(pool));
    let builder = thread::Builder::new().name("mysql-nodes".to_owned());
    builder.spawn(move || run(&connector, &pool))?;
    Ok(())
}

fn run(connector: &Connector, pool: &Weak<Pool<Connector>>) {
    let hosts = connector.hosts();
    let mut connections: Vec<Option<Conn>> = (0..hosts.host_count()).map(|_| None).collect();
    while pool.strong_count() > 0 {
        for (host, connection) in connections.iter_mut().enumerate() {
            match probe_host(connector, host, connection) {
                MySqlHostState::Healthy => hosts.mark_host_up(host),
                MySqlHostState::Standby(reason) => hosts.mark_standby(host, &reason),
                MySqlHostState::Unhealthy(reason) => hosts.mark_down(host, &reason),
            }
        }
        connector.copy_host_status_to_health();
        connector
            .health()
            .set_no_host_reason(hosts.all_hosts_down_reason());
        hosts.allow_one_failback();
        // The random part of the pause prevents several SMTP servers from checking the hosts and moving their connections at
        // the same moment.
        thread::sleep(jittered(PROBE_INTERVAL));
    }
}

/// Returns the state of a host. The connection is kept for the next probe. If the kept connection broke, a new one is opened
/// immediately, because a server that has closed an idle connection may be healthy.
fn probe_host(
    connector: &Connector,
    host: usize,
    idle_connection: &mut Option<Conn>,
) -> MySqlHostState {
    if let Some(reason) = connector.hanging_commits().commit_hang_reason(host) {
        return MySqlHostState::Unhealthy(reason);
    }
    if let Some(connection) = idle_connection {
        if let Ok(state) =
            MySqlHostState::read(connection, connector.table(), connector.health().metrics())
        {
            return state;
        }
        *idle_connection = None;
    }
    let state = connector
        .connect_with_short_timeouts(host, None)
        .and_then(|mut connection| {
            let state = MySqlHostState::read(
                &mut connection,
                connector.table(),
                connector.health().metrics(),
            )?;
            *idle_connection = Some(connection);
            Ok(state)
        });
    state.unwrap_or_else(|error| MySqlHostState::Unhealthy(error.to_string()))
}

/// Mean pause between two checks of all database hosts.
const PROBE_INTERVAL: Duration = Duration::from_millis(800);
