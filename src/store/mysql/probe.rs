//! One thread that looks after the hosts, where there are several: who is left, who is taken again.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use mysql::Conn;
use r2d2::Pool;

use super::backoff::jittered;
use super::host_state::HostState;
use super::pool::Connector;

/// Starts it; it ends with the pool. With one host there is nothing to look after.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(connector: &Connector, pool: &Arc<Pool<Connector>>) -> std::io::Result<()> {
    if connector.hosts().count() == 1 {
        return Ok(());
    }
    let (connector, pool) = (connector.clone(), Arc::downgrade(pool));
    let builder = thread::Builder::new().name("mysql-nodes".to_owned());
    builder.spawn(move || run(&connector, &pool))?;
    Ok(())
}

fn run(connector: &Connector, pool: &Weak<Pool<Connector>>) {
    let nodes = connector.hosts();
    let mut connections: Vec<Option<Conn>> = (0..nodes.count()).map(|_| None).collect();
    while pool.strong_count() > 0 {
        for (node, connection) in connections.iter_mut().enumerate() {
            match probe_host(connector, node, connection) {
                HostState::Healthy => nodes.mark_up(node),
                HostState::Standby(reason) => nodes.mark_standby(node, &reason),
                HostState::Unhealthy(reason) => nodes.mark_down(node, &reason),
            }
        }
        connector.publish_host_status();
        connector.health().set_no_host(nodes.all_down_reason());
        nodes.allow_failback();
        // Not all receivers shall look, and go back, in the same moment.
        thread::sleep(jittered(PROBE_INTERVAL));
    }
}

/// Returns the state of a host. A connection is kept from look to look; one that broke is replaced at once, because a
/// server that closes an idle connection says nothing about itself.
fn probe_host(connector: &Connector, node: usize, kept: &mut Option<Conn>) -> HostState {
    if let Some(reason) = connector.hanging().reason_at(node) {
        return HostState::Unhealthy(reason);
    }
    if let Some(connection) = kept {
        if let Ok(state) = HostState::read(connection, connector.table()) {
            return state;
        }
        *kept = None;
    }
    let looked = connector
        .connect_for_probe(node, None)
        .and_then(|mut connection| {
            let state = HostState::read(&mut connection, connector.table())?;
            *kept = Some(connection);
            Ok(state)
        });
    looked.unwrap_or_else(|error| HostState::Unhealthy(error.to_string()))
}

/// Between two looks.
const PROBE_INTERVAL: Duration = Duration::from_millis(800);
