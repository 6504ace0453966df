//! Sockets: accepting them, a place for each client, octets in and out under deadlines.

mod crew;
pub mod deadline;
pub mod listener;
pub mod load;
pub mod per_address;
pub mod pool;
pub mod proxy;
pub mod tls;
pub mod transport;
pub mod trusted;
pub mod watch;
