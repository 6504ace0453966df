//! HTTP endpoints: nginx's auth_http, metrics, health checks, the feed and the status page.

pub mod auth_http;
mod feed;
mod message;
mod request_guard;
mod server;
mod slots;
pub mod status;
mod status_page;

pub use message::{HttpAnswer, HttpRequest, HttpResponse, HttpStream};
pub use server::{HttpRequestHandler, http_response_to_request_head, serve};
pub use slots::MAX_HTTP_CONNECTIONS;
