//! Sockets: accepting them, a place for each client, octets in and out under deadlines.

mod certificate_chain;
mod crew;
pub mod deadline;
mod key_fault;
pub mod listener;
pub mod load;
mod pem_file;
pub mod per_address;
pub mod pool;
pub mod proxy;
pub mod tls;
pub mod transport;
pub mod trusted;
pub mod watch;
