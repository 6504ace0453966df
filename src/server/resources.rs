//! How many descriptors and mappings of memory this configuration needs, and whether the kernel lets us have them.

use super::http_addresses;
use super::listeners::listen_addresses;
use crate::config::{Config, StoreKind};
use crate::http;
use crate::os::rlimits;

/// Raises the limit of open descriptors as far as it may be raised, and warns where a limit is too low for this configuration.
pub fn check_limits(config: &Config) {
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
    // Each listener may have accepted one client more, which is told that there is no room.
    let listeners = 2 * listen_addresses(config).count();
    let inside = http_addresses(config).count() * (2 + http::MAX_CONNECTIONS);
    // SIGHUP may start another store while sessions still save to the one before.
    let stores = 2 * store_descriptors(config);
    config.max_clients + listeners + inside + stores + SPARE_DESCRIPTORS
}

/// What a store holds open when all of it is at work.
fn store_descriptors(config: &Config) -> usize {
    match config.store {
        StoreKind::Discard => 0,
        StoreKind::Sqlite => SQLITE_FILES,
        StoreKind::MySql => mysql_descriptors(config) + redis_descriptors(config),
    }
}

/// Each writer has a connection, and another one while it looks up what became of a COMMIT. Where there are several hosts, each
/// is watched over a connection of its own, and looked at once more before the pool connects.
fn mysql_descriptors(config: &Config) -> usize {
    let hosts = match config.mysql_hosts.len() {
        1 => 0,
        count => count,
    };
    2 * config.save_workers + hosts + POOL_THREADS
}

/// Each writer has a connection to each node that has slots; one more asks for the slots or for a node's settings.
fn redis_descriptors(config: &Config) -> usize {
    let nodes = match config.redis_urls.len() {
        0 => return 0,
        1 => 1,
        named => named.max(NODES_OF_A_CLUSTER),
    };
    nodes * config.save_workers + 2
}

/// The file, its log, the log's index, and the descriptor by which the file is known.
const SQLITE_FILES: usize = 4;
/// Threads of r2d2 that make connections.
const POOL_THREADS: usize = 3;
/// A cluster has three nodes with slots at least, and may have more than are named: replicas that take over.
const NODES_OF_A_CLUSTER: usize = 6;
/// Log, signals, standard streams, the resolver, and room for a library or two.
const SPARE_DESCRIPTORS: usize = 64;
/// Its thread's stack and the one for signals, each with the page that guards it.
const MAPPINGS_PER_CLIENT: usize = 4;
/// The program, its libraries, its heaps and the store.
const SPARE_MAPPINGS: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_limit_counts_every_connection_of_the_configuration() {
        for (text, want) in [
            (r#"{"GM_STORE": "discard"}"#, 500 + 2 + 64),
            ("{}", 500 + 2 + 64 + 2 * 4),
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
            let (config, _) = Config::parse(text).unwrap();
            assert_eq!(needed_descriptors(&config), want, "{text}");
        }
    }
}
