//! Checks that the limits of open files and memory mappings suffice for the configuration.

use crate::config::Config;
use crate::feed::MAX_FEED_READERS;
use crate::http;
use crate::os::rlimits;
use crate::server::http_endpoints;
use crate::server::listeners::all_smtp_listen_addresses;
use crate::server::store_factory_of_kind;

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
    let listeners = 2 * all_smtp_listen_addresses(config).count();
    let http =
        http_endpoints::http_endpoint_addresses(config).count() * (2 + http::MAX_HTTP_CONNECTIONS);
    let readers = config.status_address.map_or(0, |_| MAX_FEED_READERS);
    // After a reload two stores may be open: sessions that started before the reload still save to the old store.
    let stores = 2 * max_store_descriptors(config);
    config.max_clients + listeners + http + readers + stores + SPARE_DESCRIPTORS
}

/// Returns the maximum number of descriptors that the selected store holds open at the same time.
fn max_store_descriptors(config: &Config) -> usize {
    // If this program was built without the store, the start fails later.
    store_factory_of_kind(config.store).map_or(0, |store| store.max_descriptors_of_store(config))
}

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
            (
                r#"{"GM_STORE": "discard", "GM_MAX_CLIENTS": "10", "GSMTPS_LISTEN_INTERFACE": "127.0.0.1:465",
                    "GSMTP_PUB_KEY": "a", "GSMTP_PRV_KEY": "b",
                    "GM_STATUS_INTERFACE": "127.0.0.1:1", "NGINX_AUTH_ENABLED": "Y"}"#,
                10 + 4 + 64 + 2 * (32 + 2) + 16,
            ),
        ] {
            let config = Config::from_json(text).unwrap();
            assert_eq!(needed_descriptors(&config), want, "{text}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn descriptor_limit_counts_the_old_and_the_new_store_of_a_reload() {
        let config = Config::from_json("{}").unwrap();
        assert_eq!(needed_descriptors(&config), 500 + 2 + 64 + 2 * 5);
    }
}
