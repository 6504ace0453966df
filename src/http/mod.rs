//! HTTP endpoints: nginx's auth_http, metrics and health checks.

pub mod auth_http;
mod message;
mod server;
pub mod status;

pub use message::{Request, Response};
pub use server::{Handler, MAX_HTTP_CONNECTIONS, respond, serve};
