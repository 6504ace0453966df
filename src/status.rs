//! The inside view: /metrics for Prometheus, /livez and /readyz for whoever decides where mail is sent.

use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use crate::connection::ConnectionSettings;
use crate::http::{Request, Response};
use crate::locks;
use crate::metrics;
use crate::net::pool::Pool;

/// What is looked at whenever somebody asks.
pub struct Status {
    /// Who is served.
    pub pool: Arc<Pool>,
    /// By what connections to come are served: memory, store and certificate.
    pub settings: Arc<RwLock<Arc<ConnectionSettings>>>,
}

impl Status {
    /// Answers one request.
    pub fn answer(&self, request: &Request) -> Response {
        match request.path {
            "/metrics" => {
                self.set_gauges(&self.settings());
                Response::text(200, metrics::page()).content_type(metrics::PAGE_TYPE)
            }
            // That it is answered is the answer.
            "/livez" => Response::text(200, "ok\n"),
            "/readyz" => match self.why_not_ready() {
                None => Response::text(200, format!("ok\n{}", self.parts())),
                Some(reason) => Response::text(503, format!("{reason}\n{}", self.parts())),
            },
            _ => Response::text(404, "here are /metrics, /livez and /readyz\n"),
        }
    }

    /// One line; `None` when mail is welcome.
    fn why_not_ready(&self) -> Option<String> {
        if self.pool.is_draining() {
            return Some("draining".to_owned());
        }
        let reason = self.settings().saver.health().why_not_ready()?;
        Some(format!("store: {}", reason.replace(char::is_control, " ")))
    }

    /// A line for each server of a store that has several.
    fn parts(&self) -> String {
        let lines = self.settings().saver.health().parts();
        let lines = lines.iter();
        lines
            .map(|line| line.replace(char::is_control, " ") + "\n")
            .collect()
    }

    /// What is not counted as it happens.
    fn set_gauges(&self, settings: &ConnectionSettings) {
        metrics::PLACES_TAKEN.set(self.pool.places_taken() as u64);
        metrics::PLACES.set(self.pool.places() as u64);
        metrics::CONTENT.set(settings.budget.in_use() as u64);
        metrics::CONTENT_LIMIT.set(settings.budget.max_octets() as u64);
        let is_up = settings.saver.health().why_not_ready().is_none();
        metrics::STORE_UP.set(u64::from(is_up));
        if let Some(tls) = &settings.tls {
            metrics::CERTIFICATE_EXPIRES_AT.set(seconds_since_1970(tls.expires_at()));
        }
    }

    fn settings(&self) -> Arc<ConnectionSettings> {
        Arc::clone(&locks::read(&self.settings))
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
