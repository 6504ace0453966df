//! The status page `/`: one HTML page without external resources, and the JSON that its script asks for each second.
//!
//! /status.json is the current state, /samples.json the numbers of the last five minutes, with which a page begins its charts.

mod history;
mod monitor;
mod problem;
mod sample;

use std::io;
use std::sync::Arc;

use crossbeam_channel::Sender;
use serde_json::{Value, json};

use self::monitor::StatusMonitor;
use super::{HttpRequest, HttpResponse};
use crate::connection::SharedSettings;
use crate::feed::{Feed, FeedEntry};
use crate::net::accept_pool::AcceptPool;

/// Answers the requests of browsers.
pub struct StatusPage {
    monitor: Arc<StatusMonitor>,
    /// Settings of new connections: GM_FEED_CLIENTS.
    settings: Arc<SharedSettings>,
    feed: Arc<Feed>,
    /// Ends the thread of the monitor when it is dropped.
    _running: Sender<()>,
}

impl StatusPage {
    /// Starts to record the state of the server once a second, until the returned value is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        pool: Arc<AcceptPool>,
        settings: Arc<SharedSettings>,
        feed: Arc<Feed>,
    ) -> io::Result<StatusPage> {
        let (monitor, running) = StatusMonitor::start(pool, Arc::clone(&settings))?;
        Ok(StatusPage {
            monitor,
            settings,
            feed,
            _running: running,
        })
    }

    /// Returns the answer to a request for the page or its data; `None` for any other path. `host_name` is GSMTP_HOST_NAME.
    pub fn handle(&self, request: &HttpRequest, host_name: &str) -> Option<HttpResponse> {
        let respond: fn(&StatusPage, &HttpRequest) -> HttpResponse = match request.path {
            "/" => |_, _| page_response(),
            "/status.json" => |page, request| json_response(&page.status_as_json(request)),
            "/samples.json" => |page, _| json_response(&page.monitor.samples_as_json()),
            _ => return None,
        };
        let refusal = request.refusal_if_from_a_foreign_page(host_name);
        Some(refusal.unwrap_or_else(|| with_security_headers(respond(self, request))))
    }

    fn status_as_json(&self, request: &HttpRequest) -> Value {
        let newest = self.newest_mails_as_json(request);
        self.monitor.record_and_return_state_as_json(newest)
    }

    /// Returns the metadata of the newest mails as a JSON array, or why it is not shown as a text.
    fn newest_mails_as_json(&self, request: &HttpRequest) -> Value {
        if !self.feed.is_on() {
            return "off".into();
        }
        if !(self.settings.current().feed_clients).contains(request.peer.ip()) {
            return "refused".into();
        }
        let newest = self.feed.newest();
        let mail = |entry: &Arc<FeedEntry>| {
            json!({
                "date": &*entry.date,
                "from": &*entry.from,
                "recipient": entry.recipient,
                "size": entry.size,
                "subject": &*entry.subject,
            })
        };
        newest.iter().map(mail).collect()
    }
}

fn page_response() -> HttpResponse {
    HttpResponse::plain_text_response(200, PAGE)
        .with_content_type("text/html; charset=utf-8")
        .with_http_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        .with_http_header("X-Frame-Options", "DENY")
}

fn json_response(value: &Value) -> HttpResponse {
    HttpResponse::plain_text_response(200, value.to_string()).with_content_type("application/json")
}

fn with_security_headers(response: HttpResponse) -> HttpResponse {
    response
        .with_http_header("Cache-Control", "no-store")
        .with_http_header("Cross-Origin-Resource-Policy", "same-origin")
        .with_http_header("Referrer-Policy", "no-referrer")
        .with_http_header("X-Content-Type-Options", "nosniff")
}

const PAGE: &str = include_str!("page.html");
/// Allows the script and the style of the page by their hashes, requests to this server, and the icon as a data URL. The script
/// cannot turn text into markup or code, because trusted types are required and none can be made. A test compares the hashes.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; \
    script-src 'sha256-3mfoKetsXyWjaP2cF1W4rEAPIVFOqaJNJQQvrtStDms='; \
    style-src 'sha256-mE3+W7tpvr7IEkYlaDGKCkiYPkiH7S/oCpArnpErfrw='; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

#[cfg(test)]
mod tests {
    use testkit::web::sha256_base64;

    use super::*;

    #[test]
    fn content_security_policy_has_the_hashes_of_script_and_style() {
        for element in ["script", "style"] {
            let (start, end) = (format!("<{element}>"), format!("</{element}>"));
            let parts: Vec<&str> = PAGE.split(&start).collect();
            assert_eq!(parts.len(), 2, "one {element}");
            let (text, _) = parts[1].split_once(&end).unwrap();
            let source = format!(
                "{element}-src 'sha256-{}'; ",
                sha256_base64(text.as_bytes())
            );
            assert!(
                CONTENT_SECURITY_POLICY.contains(&source),
                "CONTENT_SECURITY_POLICY needs {source}"
            );
        }
    }

    #[test]
    fn page_names_no_other_server_and_has_no_attribute_that_the_policy_blocks() {
        // The name of a namespace is not requested.
        let page = PAGE.replace("http://www.w3.org/2000/svg", "");
        for text in [
            "http:", "https:", "//", "style=", " src=", " onload", " onclick", "@import", "url(",
        ] {
            assert!(!page.contains(text), "{text}");
        }
        assert!(PAGE.is_ascii());
    }
}
