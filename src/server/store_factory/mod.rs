//! Opens the store that the configuration selects, and starts its writers.

mod discard;
mod factory;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::{Arc, OnceLock};

pub use factory::{StoreFactory, store_factory_of_kind};

use super::StartError;
use crate::config::Config;
use crate::connection::StoreLimitsCell;
use crate::feed::{Feed, PublishStream};
use crate::metrics::Metrics;
use crate::smtp::RecipientHook;
use crate::store::retention::OldRowsOpener;
use crate::store::{SaveQueue, StoreHealth, StoreOpener, TableName, WriterThreads};

/// The source of the store: the configuration or the embedding program.
pub enum ConfiguredOrCustomStore {
    /// The store that GM_STORE selects. The first call of `start` sets the field, and a reload reuses it, because a change of
    /// GM_STORE needs a restart.
    Configured(OnceLock<Box<dyn StoreFactory>>),
    /// A store of the embedding program, and its number of writers.
    Custom(StoreOpener, usize),
}

/// A store whose writers have been started.
pub struct RunningStore {
    /// The queue through which connections hand mail to the writers.
    pub saver: SaveQueue,
    /// The limits of its table, once they are known.
    pub limits: Arc<StoreLimitsCell>,
    /// The writer threads; `None` for `discard`.
    pub writers: Option<WriterThreads>,
    /// Finds the rows that GM_KEEP_DAYS removes; `None` for `discard` and the store of an embedding program.
    pub old_rows: Option<OldRowsOpener>,
}

impl ConfiguredOrCustomStore {
    /// Opens the store and starts its writers, which publish an entry in `feed` for each row. `metrics` are those of the
    /// server.
    ///
    /// # Errors
    /// [`StartError`] if the store can never work. A MySQL database that is only unreachable is not an error.
    pub fn start(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
        feed: &Arc<Feed>,
    ) -> Result<RunningStore, StartError> {
        let limits = Arc::default();
        match self {
            ConfiguredOrCustomStore::Custom(open, writers) => {
                let health = StoreHealth::new_of_reached_store(Arc::clone(metrics));
                start_writers(limits, *writers, false, health, feed, Arc::clone(open))
            }
            ConfiguredOrCustomStore::Configured(selected) => {
                let store = match selected.get() {
                    Some(store) => store,
                    None => {
                        let store = store_factory_of_kind(config.store)?;
                        selected.get_or_init(|| store)
                    }
                };
                store.start(config, limits, metrics, feed)
            }
        }
    }

    /// Returns whether the configuration selects the store.
    pub fn is_configured(&self) -> bool {
        matches!(self, ConfiguredOrCustomStore::Configured(_))
    }

    /// Returns the Redis stream that the feed is written to, which is not connected yet. Returns `None` if GM_FEED names none,
    /// and for a store of the embedding program.
    ///
    /// # Errors
    /// [`StartError`]: REDIS_INTERFACE or REDIS_CA cannot be used.
    pub fn feed_stream(
        &self,
        config: &Config,
    ) -> Result<Option<Box<dyn PublishStream>>, StartError> {
        match self.configured() {
            Some(store) => store.feed_stream(config),
            None => Ok(None),
        }
    }

    /// Starts what asks the store's database which recipients exist (GM_RECIPIENT_QUERY). Returns `None` if the query is not
    /// configured, and for a store of the embedding program.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    pub fn start_recipient_lookup(
        &self,
        config: &Config,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<RecipientHook>, StartError> {
        match self.configured() {
            Some(store) => store.start_recipient_lookup(config, metrics),
            None => Ok(None),
        }
    }

    /// Returns whether a change from `running` to `wanted` requires another query for recipients, or other connections for it.
    pub fn config_change_needs_new_recipient_lookup(
        &self,
        running: &Config,
        wanted: &Config,
    ) -> bool {
        self.configured()
            .is_some_and(|store| store.config_change_needs_new_recipient_lookup(running, wanted))
    }

    /// Returns whether a change from `running` to `wanted` requires another store.
    pub fn config_change_needs_new_store(&self, running: &Config, wanted: &Config) -> bool {
        self.configured()
            .is_some_and(|store| store.config_change_needs_new_store(running, wanted))
    }

    /// Returns the store that the configuration selects, after the first call of `start`; `None` for a store of the embedding
    /// program.
    fn configured(&self) -> Option<&dyn StoreFactory> {
        match self {
            ConfiguredOrCustomStore::Custom(..) => None,
            ConfiguredOrCustomStore::Configured(selected) => selected.get().map(Box::as_ref),
        }
    }
}

fn start_writers(
    limits: Arc<StoreLimitsCell>,
    count: usize,
    prepare: bool,
    health: StoreHealth,
    feed: &Arc<Feed>,
    open: StoreOpener,
) -> Result<RunningStore, StartError> {
    let started = WriterThreads::start(count, prepare, health, feed, open);
    let (saver, writers) = started.map_err(StartError::Thread)?;
    Ok(RunningStore {
        saver,
        limits,
        writers: Some(writers),
        old_rows: None,
    })
}

/// Returns the configured table name. The configuration has validated it, so the default is never used.
pub fn table_name(config: &Config) -> TableName {
    TableName::parse(&config.mail_table).unwrap_or_default()
}
