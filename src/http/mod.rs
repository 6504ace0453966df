//! HTTP endpoints: nginx's auth_http, metrics, health checks and the feed.

pub mod auth_http;
mod feed;
mod message;
mod request_guard;
mod server;
pub mod status;

pub use message::{HttpAnswer, HttpRequest, HttpResponse, HttpStream};
pub use server::{HttpRequestHandler, MAX_HTTP_CONNECTIONS, http_response_to_request_head, serve};
