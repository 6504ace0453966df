//! Sockets: listeners, the thread pool with its limits, reads and writes with deadlines, TLS, the PROXY protocol.

pub mod accept_pool;
#[cfg(feature = "mysql")]
pub mod authorities;
#[cfg(feature = "mysql")]
pub mod ca_file;
mod certificate_chain;
mod client;
mod close_signal;
pub mod connection_limiter;
mod connection_slot;
pub mod deadline;
mod idle_threads;
pub mod io_timeout;
mod key_fault;
pub mod listener;
pub mod load;
mod pem_file;
pub mod proxy_protocol;
mod timed_socket;
pub mod tls;
#[cfg(feature = "mysql")]
pub mod tls_client_error;
pub mod transport;
mod transport_error;
pub mod trusted_proxies;
