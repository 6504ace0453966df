//! The metrics of a server, after the gauges whose values are in the pool, the settings and the store were set.

use super::ConnectionSettings;
use crate::metrics::{Metrics, MetricsSnapshot};
use crate::net::accept_pool::AcceptPool;

/// Returns the current values of the most important metrics of the server.
pub fn metrics_snapshot(pool: &AcceptPool, settings: &ConnectionSettings) -> MetricsSnapshot {
    update_gauges(pool, settings);
    pool.metrics().snapshot()
}

/// Returns all metrics of the server in the text format of Prometheus; the last line ends in LF.
pub fn metrics_text(pool: &AcceptPool, settings: &ConnectionSettings) -> String {
    update_gauges(pool, settings);
    pool.metrics().render()
}

/// Returns the metrics of the server, with the current values of these gauges.
pub fn up_to_date_metrics<'a>(pool: &'a AcceptPool, settings: &ConnectionSettings) -> &'a Metrics {
    update_gauges(pool, settings);
    pool.metrics()
}

/// Sets the gauges that are computed each time the metrics are read. `settings` are those of new connections.
fn update_gauges(pool: &AcceptPool, settings: &ConnectionSettings) {
    let metrics = pool.metrics();
    metrics
        .connections_active
        .set(pool.taken_connection_slots() as u64);
    metrics
        .connections_limit
        .set(pool.connection_slot_count() as u64);
    metrics
        .allowed_hosts
        .set(settings.session.allowed_hosts.item_count() as u64);
    metrics
        .content_bytes
        .set(settings.budget.reserved_octets() as u64);
    metrics
        .content_limit_bytes
        .set(settings.budget.max_budget_octets() as u64);
    let is_up = settings.saver.health().store_unready_reason().is_none();
    metrics.store_up.set(u64::from(is_up));
    match &settings.tls {
        Some(tls) => metrics
            .certificate_expires_at
            .set_to_unix_seconds(tls.certificate_expiry_time()),
        None => metrics.certificate_expires_at.hide_until_set(),
    }
}
