//! Sockets: accepting them, a place for each client, octets in and out under deadlines.

pub mod deadline;
pub mod listener;
pub mod per_address;
pub mod pool;
pub mod tls;
pub mod transport;
pub mod watch;
