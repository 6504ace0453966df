//! Opens the MySQL store, with Redis if it is configured.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use r2d2::Pool;

use super::{RunningStore, StoreFactory, start_writers, table_name};
use crate::check;
use crate::check::database::TrialMailDomains;
use crate::config::{Config, DatabaseServerAddress, DatabaseTlsMode};
use crate::connection::{StoreLimits, StoreLimitsCell};
use crate::feed::{Feed, PublishStream};
use crate::metrics::Metrics;
use crate::server::StartError;
use crate::smtp::RecipientHook;
use crate::store::follow::{FollowedRows, MySqlFollowedRows};
use crate::store::mysql::pool::{
    self, Connector, MySqlHostAddress, MySqlSettings, MySqlTls, TableInfoCallback,
};
use crate::store::mysql::recipients::{self, RECIPIENT_CONNECTIONS, RecipientQuerySettings};
use crate::store::mysql::{BodyStore, MySqlReader, MySqlStore, TableInfo, probe};
use crate::store::redis::cluster::{ClusterBodyWriter, RedisCluster};
use crate::store::redis::{
    RedisBodyWriter, RedisCircuitBreaker, RedisPool, RedisSettings, RedisStream,
};
use crate::store::retention::{MySqlOldRows, OldRows, RetentionError, RoundCaller};
use crate::store::{
    BATCHES_IN_DOUBT_PER_WRITER, Diagnostic, StoreHealth, StoreOpener, StoreReadError,
    StoredMailReader, TableName,
};
use crate::sync;

/// The MySQL store.
pub struct MySqlStoreFactory;

impl StoreFactory for MySqlStoreFactory {
    fn start(
        &self,
        config: &Config,
        limits: Arc<StoreLimitsCell>,
        metrics: &Arc<Metrics>,
        feed: &Arc<Feed>,
    ) -> Result<RunningStore, StartError> {
        let health = StoreHealth::new(Arc::clone(metrics));
        let connector = Connector::new(
            mysql_settings(config),
            callback_applying_table_limits(config, &limits, &health),
            &health,
        );
        let pool = Arc::new(pool::new_connection_pool(&connector));
        pool::start_pool_watch_threads(&connector, &pool).map_err(StartError::Thread)?;
        probe::start(&connector, &pool).map_err(StartError::Thread)?;
        let redis = redis_settings(config);
        let body_store = body_store_maker(redis.as_ref(), config.save_workers, metrics)?;
        log::info!(store = "mysql", hosts = config.mysql_hosts.len(), redis = redis.is_some(); "store");
        if let Some(redis) = redis.clone() {
            // The check has its own thread, because Redis may respond slowly and the start does not depend on the result.
            let spawned = thread::Builder::new()
                .name("redis-check".to_owned())
                .spawn(move || {
                    check::redis::check_redis_or_cluster(&redis)
                        .iter()
                        .for_each(log_finding);
                });
            spawned.map_err(StartError::Thread)?;
        }
        let old_rows = {
            let (hosts, config) = (connector.clone(), config.clone());
            // A connector of its own, because its connections must not count as those of the writers.
            move |keep| -> Result<Box<dyn OldRows>, _> {
                let connector = Connector::for_long_queries(mysql_settings(&config));
                let old_rows = MySqlOldRows::open(&hosts, &connector, keep, RoundCaller::Server)?;
                Ok(Box::new(old_rows))
            }
        };
        let open: StoreOpener = Arc::new(move || {
            Ok(Box::new(MySqlStore::new(
                connector.clone(),
                Pool::clone(&pool),
                body_store(),
            )))
        });
        let store = start_writers(limits, config.save_workers, true, health, feed, open)?;
        Ok(RunningStore {
            old_rows: Some(Arc::new(old_rows)),
            ..store
        })
    }

    fn config_change_needs_new_store(&self, running: &Config, wanted: &Config) -> bool {
        mysql_settings(running) != mysql_settings(wanted)
            || redis_settings(running) != redis_settings(wanted)
    }

    fn start_recipient_lookup(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<RecipientHook>, StartError> {
        let start = |settings| recipients::start_recipient_lookup(settings, metrics);
        let started = recipient_query_settings(config).map(start).transpose();
        started.map_err(StartError::Thread)
    }

    fn config_change_needs_new_recipient_lookup(&self, running: &Config, wanted: &Config) -> bool {
        recipient_query_settings(running) != recipient_query_settings(wanted)
    }

    fn feed_stream(&self, config: &Config) -> Result<Option<Box<dyn PublishStream>>, StartError> {
        let (Some(name), Some(redis)) = (config.feed_target.stream(), redis_settings(config))
        else {
            return Ok(None);
        };
        if let Some(error) = redis.authorities_error() {
            return Err(error.into());
        }
        Ok(Some(Box::new(RedisStream::new(
            redis,
            name,
            config.feed_length,
        ))))
    }

    fn max_descriptors_of_store(&self, config: &Config) -> usize {
        max_mysql_descriptors(config) + max_redis_descriptors(config)
    }

    fn find_store_problems(&self, config: &Config) -> Vec<Diagnostic> {
        let mut findings = check::database::check_mysql_hosts_and_table(
            &connector_for_check(config),
            config.max_content_octets,
            &trial_mail_domains(config),
        );
        if let Some(settings) = recipient_query_settings(config) {
            findings.extend(check::database::check_recipient_query(&settings));
        }
        if config.keep.is_some() && !findings.iter().any(Diagnostic::is_error) {
            let connector = connector_for_check(config);
            findings.extend(check::database::check_retention(&connector));
        }
        if let Some(redis) = redis_settings(config) {
            findings.extend(check::redis::check_redis_or_cluster(&redis));
            let stream = config.feed_target.stream();
            findings.extend(stream.and_then(|name| check::redis::check_feed_stream(&redis, name)));
        }
        findings
    }

    fn open_reader(&self, config: &Config) -> Result<Box<dyn StoredMailReader>, StoreReadError> {
        let connector = Connector::for_long_queries(mysql_settings(config));
        let reader = MySqlReader::open(&connector, redis_settings(config))?;
        Ok(Box::new(reader))
    }

    fn open_followed_rows(
        &self,
        config: &Config,
        to: Option<&str>,
    ) -> Result<Box<dyn FollowedRows>, StoreReadError> {
        let connector = Connector::for_long_queries(mysql_settings(config));
        let reader = MySqlReader::open(&connector, redis_settings(config))?;
        Ok(Box::new(MySqlFollowedRows::open(reader, to)?))
    }

    fn open_old_rows(
        &self,
        config: &Config,
        keep: Duration,
    ) -> Result<Box<dyn OldRows>, RetentionError> {
        let connector = Connector::for_long_queries(mysql_settings(config));
        let old_rows = MySqlOldRows::open(&connector, &connector, keep, RoundCaller::Command)?;
        Ok(Box::new(old_rows))
    }

    fn schema(&self, table: &TableName) -> String {
        table.mysql_schema()
    }
}

/// Returns a function that creates the body store of a writer: the table, Redis or a Redis Cluster.
fn body_store_maker(
    redis: Option<&RedisSettings>,
    writers: usize,
    metrics: &Arc<Metrics>,
) -> Result<Box<dyn Fn() -> BodyStore + Send + Sync>, StartError> {
    let Some(settings) = redis else {
        return Ok(Box::new(|| BodyStore::Table));
    };
    if let Some(error) = settings.authorities_error() {
        return Err(error.into());
    }
    let [url] = settings.urls.as_slice() else {
        let cluster =
            RedisCluster::start(settings, writers, metrics).map_err(StartError::Thread)?;
        return Ok(Box::new(move || {
            BodyStore::Cluster(ClusterBodyWriter::new(&cluster))
        }));
    };
    let pool = RedisPool::new(settings, url, writers).map_err(StartError::Redis)?;
    let metrics = Arc::clone(metrics);
    let breaker = RedisCircuitBreaker::new(&metrics);
    // If the Redis thread of a writer cannot be started, that writer stores bodies in the table, so that no mail is lost.
    Ok(Box::new(move || {
        match RedisBodyWriter::start(&pool, &breaker, &metrics) {
            Ok(bodies) => BodyStore::Redis(bodies),
            Err(error) => {
                log::error!(reason:% = error; "redis_failed");
                BodyStore::Table
            }
        }
    }))
}

/// Returns the callback that receives the columns and limits that each new connection reads from the database. If they
/// have changed, the callback logs the findings of `check` about them and applies the limits to new sessions.
fn callback_applying_table_limits(
    config: &Config,
    limits: &Arc<StoreLimitsCell>,
    health: &StoreHealth,
) -> TableInfoCallback {
    let (limits, table) = (Arc::clone(limits), table_name(config));
    let health = health.clone();
    let at_start = config.max_content_octets;
    let previous = Mutex::new(None);
    Arc::new(move |info: &TableInfo| {
        let mut previous = sync::lock(&previous);
        if previous.as_ref() == Some(info) {
            return;
        }
        *previous = Some(info.clone());
        // A reload may have changed the configured size since the store was started.
        let configured = limits.shared_settings().map_or(at_start, |shared| {
            shared.current().configured_session.max_content_octets
        });
        let findings = check::database::check_table(info, &table, configured);
        findings.iter().for_each(log_finding);
        if let Some(columns) = &info.columns {
            health.set_table_columns(columns);
            limits.set_limits(StoreLimits {
                recipients: columns.columns_limiting_recipients(),
                max_content_octets: info.max_storable_content_octets(),
            });
        }
    })
}

fn log_finding(finding: &Diagnostic) {
    match finding.is_error() {
        true => log::error!(finding = finding.finding_text_with_fix(); "store_check"),
        false => log::warn!(finding = finding.finding_text_with_fix(); "store_check"),
    }
}

/// Returns the settings of the MySQL store.
fn mysql_settings(config: &Config) -> MySqlSettings {
    let host = |address: &DatabaseServerAddress| match address {
        DatabaseServerAddress::Tcp(name, port) => MySqlHostAddress::Tcp(name.clone(), *port),
        DatabaseServerAddress::Socket(path) => MySqlHostAddress::Socket(path.clone()),
    };
    MySqlSettings {
        hosts: config.mysql_hosts.iter().map(host).collect(),
        user: config.mysql_user.clone(),
        password: config.mysql_password.reveal().to_owned(),
        tls: mysql_tls(config),
        database: config.mysql_database.clone(),
        table: table_name(config),
        workers: config.save_workers,
    }
}

/// Returns the settings of the recipients' query, or `None` if GM_RECIPIENT_QUERY is empty.
fn recipient_query_settings(config: &Config) -> Option<RecipientQuerySettings> {
    (!config.recipient_query.is_empty()).then(|| RecipientQuerySettings {
        database: mysql_settings(config),
        query: config.recipient_query.clone(),
        cache_time: config.recipient_cache_time,
    })
}

fn mysql_tls(config: &Config) -> MySqlTls {
    match config.mysql_tls {
        DatabaseTlsMode::Off => MySqlTls::Off,
        DatabaseTlsMode::Insecure => MySqlTls::Insecure,
        DatabaseTlsMode::Unverified => MySqlTls::Unverified,
        DatabaseTlsMode::Verified => MySqlTls::Verified {
            ca_file: config.mysql_ca_file.clone(),
        },
    }
}

/// Returns a connector for `check`. Its connections limit no SMTP session to the widths of the columns, and nothing reads their
/// metrics.
fn connector_for_check(config: &Config) -> Connector {
    let health = StoreHealth::new(Arc::default());
    Connector::new(mysql_settings(config), Arc::new(|_| ()), &health)
}

/// Returns the addresses of the trial row of `check`; the recipient is in an accepted domain.
fn trial_mail_domains(config: &Config) -> TrialMailDomains {
    let primary = &config.primary_mail_host;
    TrialMailDomains {
        recipient_domain: (config.allowed_hosts.example_allowed_domain())
            .unwrap_or_else(|| primary.clone()),
        primary_mail_host: primary.clone(),
    }
}

/// Returns the settings of Redis, or `None` if REDIS_INTERFACE is empty.
fn redis_settings(config: &Config) -> Option<RedisSettings> {
    (!config.redis_urls.is_empty()).then(|| RedisSettings {
        urls: config
            .redis_urls_with_password()
            .iter()
            .map(|url| url.reveal().to_owned())
            .collect(),
        ca_file: config.redis_ca.clone(),
        expire_seconds: config.redis_expire_seconds,
    })
}

/// Returns the maximum number of descriptors that the MySQL store holds open.
///
/// Each writer has one connection, and each batch whose COMMIT is in doubt has one for its look-up. If there are several
/// hosts, a probe thread has a connection to each host. Each thread of the pool may be opening a connection. The
/// recipients' query has connections of its own, and so has the thread that removes old rows.
fn max_mysql_descriptors(config: &Config) -> usize {
    let hosts = match config.mysql_hosts.len() {
        1 => 0,
        count => count,
    };
    let recipients = match config.recipient_query.is_empty() {
        true => 0,
        false => RECIPIENT_CONNECTIONS,
    };
    let retention = usize::from(config.keep.is_some());
    (1 + BATCHES_IN_DOUBT_PER_WRITER) * config.save_workers
        + hosts
        + POOL_THREADS
        + recipients
        + retention
}

/// Returns the maximum number of descriptors that Redis needs: one for each writer on each node, two to query the hash slots of
/// a cluster and the settings of a node, and one for the stream of the feed.
fn max_redis_descriptors(config: &Config) -> usize {
    let nodes = match config.redis_urls.len() {
        0 => return 0,
        1 => 1,
        configured => configured.max(MIN_CLUSTER_NODES),
    };
    let feed = usize::from(config.feed_target.stream().is_some());
    nodes * config.save_workers + 2 + feed
}

/// Number of threads that r2d2 uses to open connections (its default).
const POOL_THREADS: usize = 3;
/// Minimum number of nodes assumed for a Redis Cluster: three nodes with slots (the fewest possible) and a replica of
/// each. A replica may take over even if it is not configured.
const MIN_CLUSTER_NODES: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_limit_counts_every_database_and_redis_connection() {
        for (text, want) in [
            (
                r#"{"MYSQL_HOST": "a", "MYSQL_DB": "m", "REDIS_INTERFACE": "", "GM_SAVE_WORKERS": "4"}"#,
                3 * 4 + 3,
            ),
            (
                r#"{"MYSQL_HOST": "a,b,c", "MYSQL_DB": "m", "REDIS_INTERFACE": "r", "GM_SAVE_WORKERS": "4"}"#,
                3 * 4 + 3 + 3 + 4 + 2,
            ),
            (
                r#"{"MYSQL_HOST": "a", "MYSQL_DB": "m", "REDIS_INTERFACE": "", "GM_RECIPIENT_QUERY": "SELECT ?"}"#,
                3 * 2 + 3 + 4,
            ),
            (
                r#"{"MYSQL_HOST": "a", "MYSQL_DB": "m", "REDIS_INTERFACE": "r,s,t", "GM_SAVE_WORKERS": "64"}"#,
                3 * 64 + 3 + 6 * 64 + 2,
            ),
        ] {
            let config = Config::from_json(text).unwrap();
            assert_eq!(
                MySqlStoreFactory.max_descriptors_of_store(&config),
                want,
                "{text}"
            );
        }
    }
}
