//! Opens the store that the configuration selects, and starts its writers.

use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use r2d2::Pool;

use super::StartError;
use crate::check;
use crate::check::database::TrialAddresses;
use crate::config::{Config, ServerAddress, StoreKind};
use crate::connection::{StoreLimits, StoreLimitsCell};
use crate::metrics::Metrics;
use crate::store::mysql::pool::{self, Connector, MySqlHost, MySqlSettings, OnTableInfo};
use crate::store::mysql::{BodyStore, MySqlStore, TableInfo, probe};
use crate::store::redis::cluster::{ClusterBodyWriter, RedisCluster};
use crate::store::redis::{CircuitBreaker, RedisBodyWriter, RedisPool, RedisSettings};
use crate::store::sqlite::{DatabaseFile, SqliteStore};
use crate::store::{Diagnostic, SaveQueue, StoreHealth, StoreOpener, TableName, Writers};
use crate::sync;

/// The source of the store: the configuration or the embedding program.
pub enum StoreSource {
    /// The store that GM_STORE selects. The field is the SQLite file: the first call of `start` for SQLite sets the field, and
    /// a reload reuses it, so that a reload never switches to another file.
    Configured(OnceLock<DatabaseFile>),
    /// A store of the embedding program, and its number of writers.
    Custom(StoreOpener, usize),
}

/// A store whose writers have been started.
pub struct RunningStore {
    /// Saves the mail of connections.
    pub saver: SaveQueue,
    /// The limits of its table, once they are known.
    pub limits: Arc<StoreLimitsCell>,
    /// The writer threads; `None` for `discard`.
    pub writers: Option<Writers>,
}

impl StoreSource {
    /// Opens the store and starts its writers. `metrics` are those of the server.
    ///
    /// # Errors
    /// [`StartError`] if the store can never work. A MySQL database that is only unreachable is not an error.
    pub fn start(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
    ) -> Result<RunningStore, StartError> {
        let limits = Arc::default();
        match self {
            StoreSource::Custom(open, writers) => {
                let health = StoreHealth::up(Arc::clone(metrics));
                start_writers(limits, *writers, false, health, Arc::clone(open))
            }
            StoreSource::Configured(file) => match config.store {
                StoreKind::Discard => {
                    log::warn!(store = "discard", note = "every mail is accepted and none is stored"; "store");
                    Ok(RunningStore {
                        saver: SaveQueue::discarding(Arc::clone(metrics)),
                        limits,
                        writers: None,
                    })
                }
                StoreKind::Sqlite => {
                    let file = file.get_or_init(|| DatabaseFile::new(&config.sqlite_file));
                    start_sqlite(config, file, limits, metrics)
                }
                StoreKind::MySql => start_mysql(config, limits, metrics),
            },
        }
    }

    /// Returns whether a change from `running` to `wanted` requires another store.
    pub fn config_change_needs_new_store(&self, running: &Config, wanted: &Config) -> bool {
        let StoreSource::Configured(_) = self else {
            return false;
        };
        match wanted.store {
            StoreKind::Discard => false,
            StoreKind::Sqlite => running.mail_table != wanted.mail_table,
            StoreKind::MySql => {
                mysql_settings(running) != mysql_settings(wanted)
                    || redis_settings(running) != redis_settings(wanted)
            }
        }
    }
}

fn start_writers(
    limits: Arc<StoreLimitsCell>,
    count: usize,
    prepare: bool,
    health: StoreHealth,
    open: StoreOpener,
) -> Result<RunningStore, StartError> {
    let started = Writers::start(count, prepare, health, open);
    let (saver, writers) = started.map_err(StartError::Thread)?;
    Ok(RunningStore {
        saver,
        limits,
        writers: Some(writers),
    })
}

fn start_sqlite(
    config: &Config,
    file: &DatabaseFile,
    limits: Arc<StoreLimitsCell>,
    metrics: &Arc<Metrics>,
) -> Result<RunningStore, StartError> {
    let (file, table) = (file.clone(), table_name(config));
    // The store is opened here, because a file that cannot be written must be a start error. The writer thread then takes
    // this store.
    let opened = SqliteStore::open(&file, &table, metrics).map_err(StartError::Store)?;
    let opened = Mutex::new(Some(opened));
    let checked = file.clone();
    let readiness_check = move || checked.unready_reason();
    let counted_in = Arc::clone(metrics);
    let open: StoreOpener = Arc::new(move || {
        let opened = sync::lock(&opened).take();
        let store = opened.map_or_else(|| SqliteStore::open(&file, &table, &counted_in), Ok)?;
        Ok(Box::new(store))
    });
    let health = StoreHealth::up(Arc::clone(metrics));
    health.set_readiness_check(readiness_check);
    let store = start_writers(limits, 1, true, health, open)?;
    log::info!(store = "sqlite", file:% = config.sqlite_file.display(); "store");
    Ok(store)
}

fn start_mysql(
    config: &Config,
    limits: Arc<StoreLimitsCell>,
    metrics: &Arc<Metrics>,
) -> Result<RunningStore, StartError> {
    let health = StoreHealth::new(Arc::clone(metrics));
    let connector = Connector::new(
        mysql_settings(config),
        table_info_callback(config, &limits),
        &health,
    );
    let pool = Arc::new(pool::pool(&connector));
    pool::watch_idle_connections(&connector, &pool).map_err(StartError::Thread)?;
    probe::start(&connector, &pool).map_err(StartError::Thread)?;
    let redis = redis_settings(config);
    let body_store = body_store_maker(redis.as_ref(), config.save_workers, metrics)?;
    log::info!(store = "mysql", hosts = config.mysql_hosts.len(), redis = redis.is_some(); "store");
    if let Some(redis) = redis.clone() {
        // The check has its own thread, because Redis may respond slowly and the start does not depend on the result.
        let spawned = thread::Builder::new()
            .name("redis-check".to_owned())
            .spawn(move || {
                check::redis::check(&redis).iter().for_each(log_finding);
            });
        spawned.map_err(StartError::Thread)?;
    }
    let open: StoreOpener = Arc::new(move || {
        Ok(Box::new(MySqlStore::new(
            connector.clone(),
            Pool::clone(&pool),
            body_store(),
        )))
    });
    start_writers(limits, config.save_workers, true, health, open)
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
    let [url] = settings.urls.as_slice() else {
        let cluster =
            RedisCluster::start(settings, writers, metrics).map_err(StartError::Thread)?;
        return Ok(Box::new(move || {
            BodyStore::Cluster(ClusterBodyWriter::new(&cluster))
        }));
    };
    let pool = RedisPool::new(url, settings.expire_seconds, writers).map_err(StartError::Redis)?;
    let metrics = Arc::clone(metrics);
    let breaker = CircuitBreaker::new(&metrics);
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
fn table_info_callback(config: &Config, limits: &Arc<StoreLimitsCell>) -> OnTableInfo {
    let (limits, table) = (Arc::clone(limits), table_name(config));
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
            limits.set_limits(StoreLimits {
                recipients: columns.recipient_limits(),
                max_content_octets: info.max_content_octets(),
            });
        }
    })
}

fn log_finding(finding: &Diagnostic) {
    match finding.is_error() {
        true => log::error!(finding = finding.text(); "store_check"),
        false => log::warn!(finding = finding.text(); "store_check"),
    }
}

/// Returns the settings of the MySQL store.
pub fn mysql_settings(config: &Config) -> MySqlSettings {
    let host = |address: &ServerAddress| match address {
        ServerAddress::Tcp(name, port) => MySqlHost::Tcp(name.clone(), *port),
        ServerAddress::Socket(path) => MySqlHost::Socket(path.clone()),
    };
    MySqlSettings {
        hosts: config.mysql_hosts.iter().map(host).collect(),
        user: config.mysql_user.clone(),
        password: config.mysql_password.reveal().to_owned(),
        database: config.mysql_database.clone(),
        table: table_name(config),
        workers: config.save_workers,
    }
}

/// Returns a connector for `list`, `show` and `check`. These commands have no SMTP sessions to limit to the column widths,
/// and nothing reads their metrics.
pub fn mysql_connector(config: &Config) -> Connector {
    Connector::new(
        mysql_settings(config),
        Arc::new(|_| ()),
        &StoreHealth::new(Arc::default()),
    )
}

/// Returns the addresses of the trial row of `check`; the recipient is in an accepted domain.
pub fn trial_addresses(config: &Config) -> TrialAddresses {
    let primary = &config.primary_mail_host;
    TrialAddresses {
        recipient_domain: (config.allowed_hosts.example_domain())
            .unwrap_or_else(|| primary.clone()),
        primary_mail_host: primary.clone(),
    }
}

/// Returns the settings of Redis, or `None` if REDIS_INTERFACE is empty.
pub fn redis_settings(config: &Config) -> Option<RedisSettings> {
    (!config.redis_urls.is_empty()).then(|| RedisSettings {
        urls: config
            .redis_urls
            .iter()
            .map(|url| url.reveal().to_owned())
            .collect(),
        expire_seconds: config.redis_expire_seconds,
    })
}

/// Returns the configured table name. The configuration has validated it, so the default is never used.
pub fn table_name(config: &Config) -> TableName {
    TableName::parse(&config.mail_table).unwrap_or_default()
}
