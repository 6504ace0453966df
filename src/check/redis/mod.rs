//! Diagnoses Redis or the nodes of a Redis Cluster.

mod feed;
mod fixes;

pub use self::feed::check_feed_stream;
use self::fixes::{explain_redis_connection_error, redis_error_fix};
use super::driver_panic::run_check_catching_panic;
use crate::store::Diagnostic;
use crate::store::redis::cluster::RedisClusterReader;
use crate::store::redis::{
    RedisPool, RedisReadConnection, RedisSettings, is_tls_fault, redis_address_without_login,
};

/// Returns problems that would keep the server from storing bodies in Redis, and settings that may lose bodies.
pub fn check_redis_or_cluster(settings: &RedisSettings) -> Vec<Diagnostic> {
    if let Some(error) = settings.authorities_error() {
        // The server does not start without them.
        return vec![Diagnostic::error(error.to_string())];
    }
    run_check_catching_panic("REDIS_INTERFACE", || match settings.urls.as_slice() {
        [url] => check_standalone_redis(settings, url),
        _ => check_redis_cluster(settings),
    })
}

/// Returns the findings about all nodes of the Redis Cluster.
fn check_redis_cluster(settings: &RedisSettings) -> Vec<Diagnostic> {
    let mut cluster = match RedisClusterReader::open(settings) {
        Ok(cluster) => cluster,
        Err(error) => {
            let last = settings
                .configured_node_addresses()
                .last()
                .unwrap_or_default();
            let text = redis_connect_failure_text(
                settings,
                &last,
                &error.to_string(),
                "bodies go",
                "start the nodes of the Redis Cluster, or set REDIS_INTERFACE to \"\"",
            );
            return vec![Diagnostic::warning(text)];
        }
    };
    let addresses = cluster.slot_owner_addresses();
    let mut findings = Vec::new();
    for address in &addresses {
        let key = cluster.find_key_for_node(address, CHECK_KEY);
        match cluster.connection_to_redis_node(address) {
            Ok(node) => {
                findings.extend(check_redis_node(
                    settings,
                    node,
                    Some(address),
                    key.as_deref(),
                ));
            }
            Err(error) => {
                let error = error.to_string();
                let text = redis_connect_failure_text(
                    settings,
                    address,
                    &error,
                    "its bodies go",
                    "start it",
                );
                findings.push(Diagnostic::warning(text));
            }
        }
    }
    // A configured address that is not in the cluster's table of hash slots only needs to be reachable: the node has no hash
    // slots, or the table has another address of it.
    for address in settings
        .configured_node_addresses()
        .filter(|one| !addresses.contains(one))
    {
        if let Err(error) = cluster.connection_to_redis_node(&address) {
            findings.push(Diagnostic::warning(format!(
                "{error}; it has no slots now; start it, or take it out of REDIS_INTERFACE"
            )));
        }
    }
    findings
}

fn check_standalone_redis(settings: &RedisSettings, url: &str) -> Vec<Diagnostic> {
    if let Err(error) = RedisPool::new(settings, url, 1) {
        let fix = "write host:port, a socket path, or redis://user:pass@host:port/db";
        return vec![Diagnostic::error(format!("{error}; {fix}"))];
    }
    match RedisReadConnection::open(settings, url) {
        Ok(mut redis) => check_redis_node(settings, &mut redis, None, Some(CHECK_KEY)),
        Err(error) => {
            let start = "start Redis, or set REDIS_INTERFACE to \"\"";
            let text = redis_connect_failure_text(
                settings,
                &redis_address_without_login(url),
                &error.to_string(),
                "bodies go",
                start,
            );
            vec![Diagnostic::warning(text)]
        }
    }
}

/// Returns the text for a Redis server that cannot be reached. `bodies` begins the clause that says where bodies go instead;
/// `start` is the fix if no better one is known.
fn redis_connect_failure_text(
    settings: &RedisSettings,
    address: &str,
    error: &str,
    bodies: &str,
    start: &str,
) -> String {
    match explain_redis_connection_error(settings.uses_tls(), address, error) {
        Some(wrong) => {
            format!("REDIS_INTERFACE: Redis at {address}: {wrong}; {bodies} into column `mail`")
        }
        None if is_tls_fault(error) => format!("{error}; {bodies} into column `mail`"),
        None => {
            let fix = redis_error_fix(error).unwrap_or(start);
            format!("{error}; {bodies} into column `mail`; {fix}")
        }
    }
}

/// Returns the findings for one Redis server. `address` is set if the server is a node of a cluster. `key` is the key of the
/// trial write; `None` if that node owns no hash slots.
fn check_redis_node(
    settings: &RedisSettings,
    redis: &mut RedisReadConnection,
    address: Option<&str>,
    key: Option<&str>,
) -> Vec<Diagnostic> {
    let cli = redis_cli(settings);
    let (name, cli) = match address {
        None => ("Redis".to_owned(), cli),
        Some(address) => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
            let host = host.trim_matches(['[', ']']);
            (
                format!("node {address}"),
                format!("{cli} -h {host} -p {port}"),
            )
        }
    };
    let mut findings = Vec::new();
    let mut warn = |text: String| {
        findings.push(Diagnostic::warning(format!("REDIS_INTERFACE: {text}")));
    };
    if let Some(key) = key
        && let Err(error) = redis.test_redis_write(key)
    {
        let address = redis.address().to_owned();
        let wrong = explain_redis_connection_error(settings.uses_tls(), &address, &error);
        let is_wrong = wrong.is_some();
        let (text, fix) = match wrong {
            Some(wrong) => (wrong, None),
            None => {
                let fix = redis_error_fix(&error);
                (error, fix)
            }
        };
        let fix = fix.map(|fix| format!("; {fix}")).unwrap_or_default();
        warn(format!(
            "{name} does not take bodies: {text}; they go into column `mail`{fix}"
        ));
        if is_wrong || redis.is_redis_connection_broken() {
            // Each further command would fail or wait for its timeout.
            return findings;
        }
    }
    if let Some(policy) = redis
        .redis_info_field("memory", "maxmemory_policy")
        .filter(|policy| policy != "noeviction")
    {
        warn(format!(
            "maxmemory-policy of {name} is {policy}, which may evict bodies before they expire; run: {cli} CONFIG SET \
             maxmemory-policy noeviction"
        ));
    }
    if redis
        .redis_info_field("persistence", "aof_enabled")
        .as_deref()
        == Some("0")
    {
        warn(format!(
            "{name} keeps no append-only file, so a body acknowledged there can be lost if it crashes; run: {cli} CONFIG \
             SET appendonly yes, or set REDIS_INTERFACE to \"\" to keep bodies in MySQL"
        ));
    }
    if address.is_some()
        && redis
            .redis_config_parameter("cluster-require-full-coverage")
            .as_deref()
            == Some("yes")
    {
        warn(format!(
            "{name} stores nothing while another node is down (cluster-require-full-coverage); run: {cli} CONFIG SET \
             cluster-require-full-coverage no"
        ));
    }
    findings
}

/// Returns the beginning of a command line of redis-cli.
fn redis_cli(settings: &RedisSettings) -> String {
    match (&settings.ca_file, settings.uses_tls()) {
        (_, false) => "redis-cli".to_owned(),
        (None, true) => "redis-cli --tls".to_owned(),
        (Some(file), true) => format!("redis-cli --tls --cacert {}", file.display()),
    }
}

/// The key that `check` writes and deletes; in a cluster a number is appended.
const CHECK_KEY: &str = "goguerrilla:check";
