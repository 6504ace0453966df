//! HTTP for other programs of the operator: nginx's auth_http, metrics and health.

pub mod auth_http;
mod message;
mod server;
pub mod status;

pub use message::{Request, Response};
pub use server::{Handler, MAX_CONNECTIONS, respond, serve};
