//! The status endpoints: /metrics for Prometheus, /livez and /readyz for health checks, /feed for programs that show new mail,
//! and the status page for browsers.

use std::io;
use std::sync::Arc;

use super::status_page::StatusPage;
use crate::connection::{self, ConnectionSettings, SharedSettings};
use crate::feed::Feed;
use crate::http::feed::answer_feed_request;
use crate::http::{HttpRequest, HttpResponse};
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::net::accept_pool::AcceptPool;

/// Answers requests to the status endpoints.
pub struct StatusRequestHandler {
    /// Provides the number of connections and the shutdown state.
    pool: Arc<AcceptPool>,
    /// Settings of new connections: memory budget, store and certificate.
    settings: Arc<SharedSettings>,
    /// The entries about saved rows.
    feed: Arc<Feed>,
    page: StatusPage,
}

impl StatusRequestHandler {
    /// Starts the thread that the status page needs, which ends when the returned value is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        pool: Arc<AcceptPool>,
        settings: Arc<SharedSettings>,
        feed: Arc<Feed>,
    ) -> io::Result<StatusRequestHandler> {
        let page = StatusPage::start(Arc::clone(&pool), Arc::clone(&settings), Arc::clone(&feed))?;
        Ok(StatusRequestHandler {
            pool,
            settings,
            feed,
            page,
        })
    }

    /// Returns the metrics of the server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.pool.metrics()
    }

    /// Returns the answer to one request; 404 (Not Found) for an unknown path.
    pub fn handle(&self, request: &HttpRequest) -> HttpResponse {
        match request.path {
            "/metrics" => {
                let page = connection::metrics_text(&self.pool, &self.settings());
                HttpResponse::plain_text_response(200, page).with_content_type(CONTENT_TYPE)
            }
            // Any answer shows that the process is alive.
            "/livez" => HttpResponse::plain_text_response(200, "ok\n"),
            "/readyz" => match unready_reason(&self.pool, &self.settings()) {
                None => HttpResponse::plain_text_response(
                    200,
                    format!("ok\n{}", self.host_status_text()),
                ),
                Some(reason) => HttpResponse::plain_text_response(
                    503,
                    format!("{reason}\n{}", self.host_status_text()),
                ),
            },
            "/feed" => answer_feed_request(request, &self.feed, &self.settings),
            _ => {
                let page = self
                    .page
                    .handle(request, &self.settings().session.host_name);
                page.unwrap_or_else(|| HttpResponse::plain_text_response(404, NOT_FOUND))
            }
        }
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

/// Returns in one line why no mail can be accepted now; `None` if mail can be accepted.
pub fn unready_reason(pool: &AcceptPool, settings: &ConnectionSettings) -> Option<String> {
    if pool.is_draining() {
        return Some("draining".to_owned());
    }
    let reason = settings.saver.health().store_unready_reason()?;
    Some(format!("store: {}", reason.replace(char::is_control, " ")))
}

const NOT_FOUND: &str = "not found; use /, /metrics, /livez, /readyz or /feed\n";
