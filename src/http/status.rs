//! The inside view: /metrics for Prometheus, /livez and /readyz for whoever decides where mail is sent.

use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use crate::connection::ConnectionSettings;
use crate::http::{Request, Response};
use crate::metrics;
use crate::net::accept_pool::AcceptPool;
use crate::sync;

/// What is looked at whenever somebody asks.
pub struct Status {
    /// Who is served.
    pub pool: Arc<AcceptPool>,
    /// By what connections to come are served: memory, store and certificate.
    pub settings: Arc<RwLock<Arc<ConnectionSettings>>>,
}

impl Status {
    /// Answers one request.
    pub fn handle(&self, request: &Request) -> Response {
        match request.path {
            "/metrics" => {
                self.set_gauges(&self.settings());
                Response::text(200, metrics::render()).content_type(metrics::CONTENT_TYPE)
            }
            // That it is answered is the answer.
            "/livez" => Response::text(200, "ok\n"),
            "/readyz" => match self.unready_reason() {
                None => Response::text(200, format!("ok\n{}", self.host_lines())),
                Some(reason) => Response::text(503, format!("{reason}\n{}", self.host_lines())),
            },
            _ => Response::text(404, "here are /metrics, /livez and /readyz\n"),
        }
    }

    /// One line; `None` when mail is welcome.
    fn unready_reason(&self) -> Option<String> {
        if self.pool.is_draining() {
            return Some("draining".to_owned());
        }
        let reason = self.settings().saver.health().unready_reason()?;
        Some(format!("store: {}", reason.replace(char::is_control, " ")))
    }

    /// A line for each server of a store that has several.
    fn host_lines(&self) -> String {
        let lines = self.settings().saver.health().hosts();
        let lines = lines.iter();
        lines
            .map(|line| line.replace(char::is_control, " ") + "\n")
            .collect()
    }

    /// What is not counted as it happens.
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
        Arc::clone(&sync::read(&self.settings))
    }
}

/// Says which version began, and when: now.
pub fn set_start() {
    metrics::BUILD.set(1);
    metrics::STARTED_AT.set(seconds_since_1970(SystemTime::now()));
}

fn seconds_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
