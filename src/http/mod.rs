//! HTTP for other programs of the operator: nginx's auth_http, metrics and health.

pub mod auth_http;
mod server;
pub mod status;

pub use server::*;
