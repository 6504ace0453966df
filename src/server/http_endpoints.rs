//! The HTTP endpoints: auth_http for nginx, and the status endpoints.

use std::net::SocketAddr;
use std::sync::Arc;

use super::StartError;
use crate::config::Config;
use crate::connection::SharedSettings;
use crate::http;
use crate::http::auth_http::NginxAuthEndpoint;
use crate::http::status::StatusRequestHandler;
use crate::net::accept_pool::AcceptPool;
use crate::net::listener::Listener;

/// Binds an HTTP listener if `address` is set. `fix` is the advice that the error contains.
///
/// # Errors
/// [`StartError::Bind`].
pub fn bind(
    address: Option<SocketAddr>,
    fix: &'static str,
) -> Result<Option<Arc<Listener>>, StartError> {
    let bind_address = |address| {
        let listener = Listener::bind(address, false, false);
        listener.map(Arc::new).map_err(|source| StartError::Bind {
            address,
            source,
            fix,
        })
    };
    address.map(bind_address).transpose()
}

/// Returns the configured addresses of the HTTP endpoints, each with the advice to give if the address cannot be bound.
pub fn http_endpoint_addresses(
    config: &Config,
) -> impl Iterator<Item = (SocketAddr, &'static str)> {
    let status = config.status_address.map(|one| (one, STATUS_BIND_FIX));
    let nginx = config.nginx_auth_address.map(|one| (one, NGINX_BIND_FIX));
    status.into_iter().chain(nginx)
}

/// Starts auth_http, which directs nginx to the first plaintext SMTP listener, and returns its address. If there is no
/// plaintext listener, closes `listener`, logs a warning and returns `None`.
///
/// # Errors
/// [`StartError::Thread`].
pub fn start_nginx_auth_server(
    listener: &Arc<Listener>,
    smtp_listeners: &[Arc<Listener>],
    settings: &Arc<SharedSettings>,
    pool: &Arc<AcceptPool>,
) -> Result<Option<SocketAddr>, StartError> {
    let plain = smtp_listeners.iter().find(|smtp| !smtp.implicit_tls());
    let Some(smtp_address) = plain.map(|smtp| smtp.bound_address()) else {
        log::warn!(address:% = listener.bound_address(), reason = "no SMTP listener without implicit TLS"; "auth_http_disabled");
        listener.close();
        return Ok(None);
    };
    let auth_http = NginxAuthEndpoint {
        pool: Arc::clone(pool),
        settings: Arc::clone(settings),
        smtp_address,
    };
    http::serve(
        listener,
        pool.metrics(),
        Arc::new(move |request| auth_http.handle(request)),
    )
    .map_err(StartError::Thread)?;
    Ok(Some(listener.bound_address()))
}

/// Starts the status endpoints.
///
/// # Errors
/// [`StartError::Thread`].
pub fn start_status_endpoints(
    listener: &Arc<Listener>,
    status: StatusRequestHandler,
) -> Result<(), StartError> {
    let metrics = Arc::clone(status.metrics());
    http::serve(
        listener,
        &metrics,
        Arc::new(move |request| status.handle(request)),
    )
    .map_err(StartError::Thread)?;
    log::info!(address:% = listener.bound_address(); "status_page");
    Ok(())
}

/// Suggested fix if NGINX_AUTH cannot be bound.
pub const NGINX_BIND_FIX: &str =
    "set NGINX_AUTH to an address of this machine and a free port above 1023";
/// Suggested fix if GM_STATUS_INTERFACE cannot be bound.
pub const STATUS_BIND_FIX: &str =
    "set GM_STATUS_INTERFACE to an address of this machine and a free port above 1023";
