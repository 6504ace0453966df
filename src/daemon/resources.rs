//! Checks that the limits of open files and memory mappings suffice for the configuration.

use crate::config::{Config, StoreKind};
use crate::http;
use crate::os::rlimits;
use crate::server::http_endpoints;
use crate::server::listeners::listen_addresses;

/// Raises the limit of open files if necessary, and logs a warning for each limit that is too low for this configuration.
pub fn raise_and_check_rlimits(config: &Config) {
    let needed = needed_descriptors(config) as u64;
    let limit = rlimits::raise_descriptor_limit(needed);
    if limit < needed {
        log::warn!(limit = limit, needed = needed, fix = "raise `ulimit -n` or lower GM_MAX_CLIENTS"; "fd_limit_low");
    }
    let needed = (config.max_clients * MAPPINGS_PER_CLIENT + SPARE_MAPPINGS) as u64;
    if let Some(limit) = rlimits::mapping_limit().filter(|limit| *limit < needed) {
        log::warn!(limit = limit, needed = needed, fix = "raise `sysctl vm.max_map_count` or lower GM_MAX_CLIENTS"; "map_count_low");
    }
}

fn needed_descriptors(config: &Config) -> usize {
    // Each listener has its socket and at most one connection beyond GM_MAX_CLIENTS, to which the server replies 421.
    let listeners = 2 * listen_addresses(config).count();
    let http = http_endpoints::addresses(config).count() * (2 + http::MAX_HTTP_CONNECTIONS);
    // After a reload two stores may be open: sessions that started before the reload still save to the old store.
    let stores = 2 * store_descriptors(config);
    config.max_clients + listeners + http + stores + SPARE_DESCRIPTORS
}

/// Returns the maximum number of descriptors that a store holds open at the same time.
fn store_descriptors(config: &Config) -> usize {
    match config.store {
        StoreKind::Discard => 0,
        StoreKind::Sqlite => SQLITE_DESCRIPTORS,
        StoreKind::MySql => mysql_descriptors(config) + redis_descriptors(config),
    }
}

/// Returns the maximum number of descriptors that the MySQL store holds open.
///
/// Each writer has one connection, and a second connection while it looks up the outcome of a COMMIT. If there are
/// several hosts, the probe thread has a connection to each host. Each thread of the pool may be opening a connection.
fn mysql_descriptors(config: &Config) -> usize {
    let hosts = match config.mysql_hosts.len() {
        1 => 0,
        count => count,
    };
    2 * config.save_workers + hosts + POOL_THREADS
}

/// Returns the maximum number of descriptors that Redis needs: one for each writer on each node, and two to query the
/// hash slots of a cluster and the settings of a node.
fn redis_descriptors(config: &Config) -> usize {
    let nodes = match config.redis_urls.len() {
        0 => return 0,
        1 => 1,
        configured => configured.max(MIN_CLUSTER_NODES),
    };
    nodes * config.save_workers + 2
}

/// Number of descriptors of the SQLite store: the database file, its `-wal`, its `-shm` twice, and a descriptor that keeps
/// the inode number of the database file from being reused.
const SQLITE_DESCRIPTORS: usize = 5;
/// Number of threads that r2d2 uses to open connections (its default).
const POOL_THREADS: usize = 3;
/// Minimum number of nodes assumed for a Redis Cluster: three nodes with slots (the fewest possible) and a replica of
/// each. A replica may take over even if it is not configured.
const MIN_CLUSTER_NODES: usize = 6;
/// Number of descriptors for the log, signals, standard streams, the resolver and libraries.
const SPARE_DESCRIPTORS: usize = 64;
/// Number of memory mappings of a connection thread: its stack and its signal stack, each with a guard page.
const MAPPINGS_PER_CLIENT: usize = 4;
/// Number of memory mappings that the program, its libraries, its heaps and the store need.
const SPARE_MAPPINGS: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_limit_counts_every_connection_of_the_configuration() {
        for (text, want) in [
            (r#"{"GM_STORE": "discard"}"#, 500 + 2 + 64),
            ("{}", 500 + 2 + 64 + 2 * 5),
            (
                r#"{"GM_STORE": "discard", "GM_MAX_CLIENTS": "10", "GSMTPS_LISTEN_INTERFACE": "127.0.0.1:465",
                    "GSMTP_PUB_KEY": "a", "GSMTP_PRV_KEY": "b",
                    "GM_STATUS_INTERFACE": "127.0.0.1:1", "NGINX_AUTH_ENABLED": "Y"}"#,
                10 + 4 + 64 + 2 * (32 + 2),
            ),
            (
                r#"{"MYSQL_HOST": "a", "MYSQL_DB": "m", "REDIS_INTERFACE": "", "GM_SAVE_WORKERS": "4"}"#,
                500 + 2 + 64 + 2 * (2 * 4 + 3),
            ),
            (
                r#"{"MYSQL_HOST": "a,b,c", "MYSQL_DB": "m", "REDIS_INTERFACE": "r", "GM_SAVE_WORKERS": "4"}"#,
                500 + 2 + 64 + 2 * (2 * 4 + 3 + 3 + 4 + 2),
            ),
            (
                r#"{"MYSQL_HOST": "a", "MYSQL_DB": "m", "REDIS_INTERFACE": "r,s,t", "GM_SAVE_WORKERS": "64"}"#,
                500 + 2 + 64 + 2 * (2 * 64 + 3 + 6 * 64 + 2),
            ),
        ] {
            let config = Config::from_json(text).unwrap();
            assert_eq!(needed_descriptors(&config), want, "{text}");
        }
    }
}
