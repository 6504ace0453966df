//! The status endpoints: /metrics for Prometheus, /livez and /readyz for health checks.

use std::sync::Arc;

use crate::connection::{self, ConnectionSettings, SharedSettings};
use crate::http::{HttpRequest, HttpResponse};
use crate::metrics::CONTENT_TYPE;
use crate::net::accept_pool::AcceptPool;

/// Answers requests to the status endpoints.
pub struct StatusRequestHandler {
    /// Provides the number of connections and the shutdown state.
    pub pool: Arc<AcceptPool>,
    /// Settings of new connections: memory budget, store and certificate.
    pub settings: Arc<SharedSettings>,
}

impl StatusRequestHandler {
    /// Returns the answer to one request for /metrics, /livez or /readyz; 404 (Not Found) for another path.
    pub fn handle(&self, request: &HttpRequest) -> HttpResponse {
        match request.path {
            "/metrics" => {
                let page = connection::metrics_text(&self.pool, &self.settings());
                HttpResponse::plain_text_response(200, page).with_content_type(CONTENT_TYPE)
            }
            // Any answer shows that the process is alive.
            "/livez" => HttpResponse::plain_text_response(200, "ok\n"),
            "/readyz" => match self.unready_reason() {
                None => HttpResponse::plain_text_response(
                    200,
                    format!("ok\n{}", self.host_status_text()),
                ),
                Some(reason) => HttpResponse::plain_text_response(
                    503,
                    format!("{reason}\n{}", self.host_status_text()),
                ),
            },
            _ => HttpResponse::plain_text_response(
                404,
                "not found; use /metrics, /livez or /readyz\n",
            ),
        }
    }

    /// Returns in one line why no mail can be accepted now; `None` if mail can be accepted.
    fn unready_reason(&self) -> Option<String> {
        if self.pool.is_draining() {
            return Some("draining".to_owned());
        }
        let reason = self.settings().saver.health().store_unready_reason()?;
        Some(format!("store: {}", reason.replace(char::is_control, " ")))
    }

    /// Returns one line for each database host if several are configured, otherwise an empty text.
    fn host_status_text(&self) -> String {
        let hosts = self.settings().saver.health().host_status();
        let hosts = hosts.iter();
        hosts
            .map(|host| host.to_string().replace(char::is_control, " ") + "\n")
            .collect()
    }

    fn settings(&self) -> Arc<ConnectionSettings> {
        self.settings.current()
    }
}
