//! What is wrong with Redis, or with a node of a Redis Cluster.

mod cures;

use self::cures::{cure_of, wrong_server};
use super::without_panic;
use crate::metrics::Component;
use crate::store::Diagnostic;
use crate::store::redis::cluster::ClusterReader;
use crate::store::redis::{RedisPool, RedisReader, RedisSettings, display_address};

/// Looks at Redis as the server would.
pub fn check(settings: &RedisSettings) -> Vec<Diagnostic> {
    without_panic(Component::Redis, "REDIS_INTERFACE", || {
        match settings.urls.as_slice() {
            [url] => check_single(url, settings.expire_seconds),
            _ => check_cluster(settings),
        }
    })
}

/// Whatever is wrong with any node.
fn check_cluster(settings: &RedisSettings) -> Vec<Diagnostic> {
    let mut cluster = match ClusterReader::open(settings) {
        Ok(cluster) => cluster,
        Err(error) => {
            let last = settings.addresses().last().unwrap_or_default();
            let text = not_open(
                &last,
                &error.to_string(),
                "bodies go",
                "start the nodes of the Redis Cluster, or set REDIS_INTERFACE to \"\"",
            );
            return vec![Diagnostic::warning(text)];
        }
    };
    let addresses = cluster.addresses();
    let mut findings = Vec::new();
    for address in &addresses {
        let key = cluster.key_at(address, CHECK_KEY);
        match cluster.node(address) {
            Ok(node) => findings.extend(check_node(node, Some(address), key.as_deref())),
            Err(error) => {
                let error = error.to_string();
                let text = not_open(address, &error, "its bodies go", "start it");
                findings.push(Diagnostic::warning(text));
            }
        }
    }
    // One that has no slots, or goes by another name among those that have: it need only be there.
    for address in settings.addresses().filter(|one| !addresses.contains(one)) {
        if let Err(error) = cluster.node(&address) {
            findings.push(Diagnostic::warning(format!(
                "{error}; it has no slots now; start it, or take it out of REDIS_INTERFACE"
            )));
        }
    }
    findings
}

fn check_single(url: &str, expire_seconds: usize) -> Vec<Diagnostic> {
    if let Err(error) = RedisPool::new(url, expire_seconds, 1) {
        return vec![Diagnostic::error(error)];
    }
    match RedisReader::open(url) {
        Ok(mut redis) => check_node(&mut redis, None, Some(CHECK_KEY)),
        Err(error) => {
            let start = "start Redis, or set REDIS_INTERFACE to \"\"";
            let text = not_open(
                &display_address(url),
                &error.to_string(),
                "bodies go",
                start,
            );
            vec![Diagnostic::warning(text)]
        }
    }
}

/// Returns the text of a finding for a Redis that could not be entered; `start` is the cure of one that is away.
fn not_open(place: &str, error: &str, bodies: &str, start: &str) -> String {
    match wrong_server(place, error) {
        Some(wrong) => {
            format!(
                "REDIS_INTERFACE: Redis at {place}: {wrong}; {bodies} into column `mail` meanwhile"
            )
        }
        None => {
            let cure = cure_of(error).unwrap_or(start);
            format!("{error}; {bodies} into column `mail` meanwhile; {cure}")
        }
    }
}

/// What is wrong with one Redis, which is a node of a cluster if it has an address; one without a key has no slots.
fn check_node(
    redis: &mut RedisReader,
    address: Option<&str>,
    key: Option<&str>,
) -> Vec<Diagnostic> {
    let (name, cli) = match address {
        None => ("Redis".to_owned(), "redis-cli".to_owned()),
        Some(address) => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
            let host = host.trim_matches(['[', ']']);
            (
                format!("node {address}"),
                format!("redis-cli -h {host} -p {port}"),
            )
        }
    };
    let mut findings = Vec::new();
    let mut warn = |text: String| {
        findings.push(Diagnostic::warning(format!("REDIS_INTERFACE: {text}")));
    };
    if let Some(key) = key
        && let Err(error) = redis.try_write(key)
    {
        let place = redis.place().to_owned();
        let wrong = wrong_server(&place, &error);
        let is_wrong = wrong.is_some();
        let (what, cure) = match wrong {
            Some(wrong) => (wrong, None),
            None => {
                let cure = cure_of(&error);
                (error, cure)
            }
        };
        let cure = cure.map(|cure| format!("; {cure}")).unwrap_or_default();
        warn(format!(
            "{name} does not take bodies: {what}; they go into column `mail` meanwhile{cure}"
        ));
        if is_wrong || redis.is_broken() {
            // Each further question would wait for its time-out.
            return findings;
        }
    }
    if let Some(policy) = redis
        .info("memory", "maxmemory_policy")
        .filter(|policy| policy != "noeviction")
    {
        warn(format!(
            "maxmemory-policy of {name} is {policy}, which may drop bodies before their time; run: {cli} CONFIG SET \
             maxmemory-policy noeviction"
        ));
    }
    if redis.info("persistence", "aof_enabled").as_deref() == Some("0") {
        warn(format!(
            "{name} keeps no append-only file, so a body acknowledged there can be lost when it dies; run: {cli} CONFIG \
             SET appendonly yes, or set REDIS_INTERFACE to \"\" to keep bodies in MySQL"
        ));
    }
    if address.is_some() && redis.setting("cluster-require-full-coverage").as_deref() == Some("yes")
    {
        warn(format!(
            "{name} takes nothing while another node is missing (cluster-require-full-coverage); run: {cli} CONFIG SET \
             cluster-require-full-coverage no"
        ));
    }
    findings
}

/// What `check` writes and takes back; in a cluster a number follows it.
const CHECK_KEY: &str = "goguerrilla:check";
