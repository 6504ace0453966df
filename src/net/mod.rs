//! Sockets: listeners, the thread pool with its limits, reads and writes with deadlines, TLS, the PROXY protocol.

pub mod accept_pool;
#[cfg(feature = "mysql")]
pub mod authorities;
mod certificate_chain;
mod client;
pub mod connection_limiter;
mod connection_slot;
pub mod deadline;
mod idle_threads;
pub mod io_timeout;
mod key_fault;
pub mod listener;
pub mod load;
pub mod pem_file;
pub mod proxy_protocol;
#[cfg(feature = "mysql")]
pub mod server_fault;
mod timed_socket;
pub mod tls;
pub mod transport;
mod transport_error;
pub mod trusted_proxies;
