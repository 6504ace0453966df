//! Which store the configuration asks for, and how it is started.

use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use r2d2::Pool;

use super::StartError;
use crate::check;
use crate::check::database::TrialAddresses;
use crate::config::{Config, ServerAddress, StoreKind};
use crate::connection::{PolicyHandle, StoreLimits};
use crate::smtp::SessionSettings;
use crate::store::mysql::pool::{self, Connector, MySqlHost, MySqlSettings, OnTableInfo};
use crate::store::mysql::{BodyStore, MySqlStore, TableInfo, probe};
use crate::store::redis::cluster::{ClusterBodyWriter, RedisCluster};
use crate::store::redis::{BodyWriter, Breaker, RedisPool, RedisSettings};
use crate::store::sqlite::{DatabaseFile, SqliteStore};
use crate::store::{Diagnostic, Health, OpenStore, Saver, TableName, Writers};
use crate::sync;

/// Where mail may go.
pub enum StoreSource {
    /// Where GM_STORE says. The SQLite file, once it was opened, is the same one until the server ends.
    Configured(OnceLock<DatabaseFile>),
    /// Into a store of the user's own.
    Own(OpenStore),
}

/// A store that takes mail.
pub struct RunningStore {
    /// For connections.
    pub saver: Saver,
    /// What sessions that save here decide by. What this store turns out to hold narrows them, and no others.
    pub session: Arc<PolicyHandle>,
    /// The threads behind it; the discarding store has none.
    pub writers: Option<Writers>,
}

impl StoreSource {
    /// Starts the store, for sessions that decide by `configured`.
    ///
    /// # Errors
    /// [`StartError`]: it can never work. A database that cannot be reached now is no error.
    pub fn start(
        &self,
        config: &Config,
        configured: SessionSettings,
    ) -> Result<RunningStore, StartError> {
        let session = Arc::new(PolicyHandle::new(configured));
        match self {
            StoreSource::Own(open) => {
                start_writers(session, 1, false, Health::up(), Arc::clone(open))
            }
            StoreSource::Configured(file) => match config.store {
                StoreKind::Discard => {
                    log::warn!(store = "discard", note = "every mail is thanked for and dropped"; "store");
                    Ok(RunningStore {
                        saver: Saver::discarding(),
                        session,
                        writers: None,
                    })
                }
                StoreKind::Sqlite => {
                    let file = file.get_or_init(|| DatabaseFile::new(&config.sqlite_file));
                    start_sqlite(config, file, session)
                }
                StoreKind::MySql => start_mysql(config, session),
            },
        }
    }

    /// Whether `wanted` needs another store than the one that was started with `running`.
    pub fn differ(&self, running: &Config, wanted: &Config) -> bool {
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
    session: Arc<PolicyHandle>,
    count: usize,
    prepare: bool,
    health: Health,
    open: OpenStore,
) -> Result<RunningStore, StartError> {
    let started = Writers::start(count, prepare, health, open);
    let (saver, writers) = started.map_err(StartError::Kernel)?;
    Ok(RunningStore {
        saver,
        session,
        writers: Some(writers),
    })
}

fn start_sqlite(
    config: &Config,
    file: &DatabaseFile,
    session: Arc<PolicyHandle>,
) -> Result<RunningStore, StartError> {
    let (file, table) = (file.clone(), table_name(config));
    // Opened here, so that a file that can never be written is an error at start, and given to the writer as it is.
    let opened = SqliteStore::open(&file, &table).map_err(StartError::Store)?;
    let opened = Mutex::new(Some(opened));
    let open: OpenStore = Arc::new(move || {
        let opened = sync::lock(&opened).take();
        let store = opened.map_or_else(|| SqliteStore::open(&file, &table), Ok)?;
        Ok(Box::new(store))
    });
    let store = start_writers(session, 1, true, Health::up(), open)?;
    log::info!(store = "sqlite", file:% = config.sqlite_file.display(); "store");
    Ok(store)
}

fn start_mysql(config: &Config, session: Arc<PolicyHandle>) -> Result<RunningStore, StartError> {
    let health = Health::default();
    let connector = Connector::new(
        mysql_settings(config),
        on_table_info(config, &session),
        &health,
    );
    let pool = Arc::new(pool::pool(&connector));
    pool::watch_idle_connections(&connector, &pool).map_err(StartError::Kernel)?;
    probe::start(&connector, &pool).map_err(StartError::Kernel)?;
    let redis = redis_settings(config);
    let body_store = body_stores(redis.as_ref(), config.save_workers)?;
    log::info!(store = "mysql", hosts = config.mysql_hosts.len(), redis = redis.is_some(); "store");
    if let Some(redis) = redis.clone() {
        // Redis may be slow to answer, and nothing waits for what it says.
        let spawned = thread::Builder::new()
            .name("redis-check".to_owned())
            .spawn(move || {
                check::redis::check(&redis).iter().for_each(log_finding);
            });
        spawned.map_err(StartError::Kernel)?;
    }
    let open: OpenStore = Arc::new(move || {
        Ok(Box::new(MySqlStore::new(
            connector.clone(),
            Pool::clone(&pool),
            body_store(),
        )))
    });
    start_writers(session, config.save_workers, true, health, open)
}

/// Makes each writer's way to where bodies go.
fn body_stores(
    redis: Option<&RedisSettings>,
    writers: usize,
) -> Result<Box<dyn Fn() -> BodyStore + Send + Sync>, StartError> {
    let Some(settings) = redis else {
        return Ok(Box::new(|| BodyStore::Table));
    };
    let [url] = settings.urls.as_slice() else {
        let cluster = RedisCluster::start(settings, writers).map_err(StartError::Kernel)?;
        return Ok(Box::new(move || {
            BodyStore::Cluster(ClusterBodyWriter::new(&cluster))
        }));
    };
    let pool = RedisPool::new(url, settings.expire_seconds, writers).map_err(StartError::Redis)?;
    let breaker = Breaker::default();
    // Redis never costs a mail, nor does a thread for it that cannot be started.
    Ok(Box::new(move || match BodyWriter::start(&pool, &breaker) {
        Ok(bodies) => BodyStore::Redis(bodies),
        Err(error) => {
            log::error!(reason:% = error; "redis_failed");
            BodyStore::Table
        }
    }))
}

/// Sessions to come decide by the table as it really is; what is wrong with it is said whenever that changes.
fn on_table_info(config: &Config, session: &Arc<PolicyHandle>) -> OnTableInfo {
    let (session, table) = (Arc::clone(session), table_name(config));
    let last = Mutex::new(None);
    Arc::new(move |facts: &TableInfo| {
        let mut last = sync::lock(&last);
        if last.as_ref() == Some(facts) {
            return;
        }
        *last = Some(facts.clone());
        let wanted = session.configured().max_content_octets;
        let findings = check::database::check_table(facts, &table, wanted);
        findings.iter().for_each(log_finding);
        if let Some(shape) = &facts.columns {
            session.apply_store_limits(StoreLimits {
                recipients: shape.recipient_columns(),
                max_content_octets: facts.max_content_octets(),
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

/// How the database is reached.
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

/// A connector for commands that read; what it learns changes nothing.
pub fn mysql_connector(config: &Config) -> Connector {
    Connector::new(mysql_settings(config), Arc::new(|_| ()), &Health::default())
}

/// Returns the addresses of the row that `check` tries: of a domain that is accepted.
pub fn trial_addresses(config: &Config) -> TrialAddresses {
    let primary = &config.primary_mail_host;
    TrialAddresses {
        recipient_domain: (config.allowed_hosts.example_domain())
            .unwrap_or_else(|| primary.clone()),
        primary_mail_host: primary.clone(),
    }
}

/// How Redis is reached, if it is used.
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

/// The table's name; the configuration has seen to it that it is one.
pub fn table_name(config: &Config) -> TableName {
    TableName::parse(&config.mail_table).unwrap_or_default()
}
