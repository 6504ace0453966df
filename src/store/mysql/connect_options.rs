//! The driver's options that all connections to the database share: credentials, database and the time limit for connecting.

use std::time::Duration;

use mysql::OptsBuilder;

use super::settings::MySqlSettings;

/// Returns the options for a connection with these settings. The caller adds the address and the time limits for reading and
/// writing.
pub fn connection_options(settings: &MySqlSettings) -> OptsBuilder {
    OptsBuilder::new()
        .user(Some(settings.user.as_str()))
        .pass(Some(settings.password.as_str()))
        .db_name(Some(settings.database.as_str()).filter(|name| !name.is_empty()))
        // Prevents the driver from switching from a TCP connection over loopback to the server's Unix socket.
        .prefer_socket(false)
        .tcp_connect_timeout(Some(tcp_connect_timeout(settings)))
}

/// Adds the keepalive of TCP: a host that cannot be reached any more is noticed within two minutes also while a long query has
/// no answer.
pub fn add_keepalive(options: OptsBuilder) -> OptsBuilder {
    options
        .tcp_keepalive_time_ms(Some(60_000))
        .tcp_keepalive_probe_interval_secs(Some(10))
        .tcp_keepalive_probe_count(Some(6))
}

/// Returns the time limit for a TCP connection to one address.
pub fn tcp_connect_timeout(settings: &MySqlSettings) -> Duration {
    match settings.hosts.len() {
        1 => CONNECT_TIMEOUT,
        _ => PROBE_TIMEOUT,
    }
}

/// Time limit for a TCP connection to one address, if only one host is configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time limit for a TCP connection to one address, if several hosts are configured; also for each read and write of a host
/// check.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
