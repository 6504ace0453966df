//! The status endpoints: /metrics for Prometheus, /livez and /readyz for health checks.

use std::sync::Arc;
use std::time::SystemTime;

use crate::connection::{ConnectionSettings, SharedSettings};
use crate::http::{Request, Response};
use crate::metrics;
use crate::net::accept_pool::AcceptPool;

/// Answers requests to the status endpoints.
pub struct StatusEndpoints {
    /// Provides the number of connections and the shutdown state.
    pub pool: Arc<AcceptPool>,
    /// Settings of new connections: memory budget, store and certificate.
    pub settings: Arc<SharedSettings>,
}

impl StatusEndpoints {
    /// Returns the answer to one request for /metrics, /livez or /readyz; 404 (Not Found) for another path.
    pub fn handle(&self, request: &Request) -> Response {
        match request.path {
            "/metrics" => {
                self.set_gauges(&self.settings());
                Response::text(200, metrics::render()).with_content_type(metrics::CONTENT_TYPE)
            }
            // Any answer shows that the process is alive.
            "/livez" => Response::text(200, "ok\n"),
            "/readyz" => match self.unready_reason() {
                None => Response::text(200, format!("ok\n{}", self.host_lines())),
                Some(reason) => Response::text(503, format!("{reason}\n{}", self.host_lines())),
            },
            _ => Response::text(404, "not found; use /metrics, /livez or /readyz\n"),
        }
    }

    /// Returns in one line why no mail can be accepted now; `None` if mail can be accepted.
    fn unready_reason(&self) -> Option<String> {
        if self.pool.is_draining() {
            return Some("draining".to_owned());
        }
        let reason = self.settings().saver.health().unready_reason()?;
        Some(format!("store: {}", reason.replace(char::is_control, " ")))
    }

    /// Returns one line for each database host if several are configured, otherwise an empty text.
    fn host_lines(&self) -> String {
        let lines = self.settings().saver.health().host_status_lines();
        let lines = lines.iter();
        lines
            .map(|line| line.replace(char::is_control, " ") + "\n")
            .collect()
    }

    /// Sets the metrics that are computed at each request for /metrics.
    fn set_gauges(&self, settings: &ConnectionSettings) {
        metrics::CONNECTIONS_ACTIVE.set(self.pool.active_connections() as u64);
        metrics::CONNECTIONS_LIMIT.set(self.pool.max_connections() as u64);
        metrics::CONTENT_BYTES.set(settings.budget.in_use() as u64);
        metrics::CONTENT_LIMIT_BYTES.set(settings.budget.max_octets() as u64);
        let is_up = settings.saver.health().unready_reason().is_none();
        metrics::STORE_UP.set(u64::from(is_up));
        if let Some(tls) = &settings.tls {
            metrics::CERTIFICATE_EXPIRES_AT.set(seconds_since_1970(tls.expires_at()));
        }
    }

    fn settings(&self) -> Arc<ConnectionSettings> {
        self.settings.current()
    }
}

/// Sets the gauges of version and start time; called at startup.
pub fn set_version_and_start_gauges() {
    metrics::BUILD.set(1);
    metrics::STARTED_AT.set(seconds_since_1970(SystemTime::now()));
}

fn seconds_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
