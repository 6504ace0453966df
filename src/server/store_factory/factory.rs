//! The stores that GM_STORE can select in this build.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "mysql")]
use super::mysql;
#[cfg(feature = "sqlite")]
use super::sqlite;
use super::{RunningStore, discard};
use crate::config::{Config, StoreKind};
use crate::connection::StoreLimitsCell;
use crate::feed::{Feed, PublishStream};
use crate::metrics::Metrics;
use crate::server::StartError;
use crate::smtp::RecipientHook;
use crate::store::follow::FollowedRows;
use crate::store::retention::{OldRows, RetentionError};
use crate::store::{Diagnostic, StoreReadError, StoredMailReader, TableName};

/// A store that GM_STORE can select: what the server and the commands `check`, `list`, `show`, `prune` and `schema` need from
/// it.
pub trait StoreFactory: Send + Sync {
    /// Opens the store and starts its writers, which set `limits` once they know the limits of the table, and publish an entry
    /// in `feed` for each row. `metrics` are those of the server.
    ///
    /// # Errors
    /// [`StartError`] if the store can never work.
    fn start(
        &self,
        config: &Config,
        limits: Arc<StoreLimitsCell>,
        metrics: &Arc<Metrics>,
        feed: &Arc<Feed>,
    ) -> Result<RunningStore, StartError>;

    /// Returns whether a reload from `running` to `wanted` must start the store again.
    fn config_change_needs_new_store(&self, running: &Config, wanted: &Config) -> bool;

    /// Starts what asks the database which recipients exist; returns `None` if GM_RECIPIENT_QUERY is empty. Only the MySQL
    /// store accepts the key.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    fn start_recipient_lookup(
        &self,
        _config: &Config,
        _metrics: &Arc<Metrics>,
    ) -> Result<Option<RecipientHook>, StartError> {
        Ok(None)
    }

    /// Returns whether a reload from `running` to `wanted` must start the recipients' query again.
    fn config_change_needs_new_recipient_lookup(
        &self,
        _running: &Config,
        _wanted: &Config,
    ) -> bool {
        false
    }

    /// Returns the Redis stream that the feed is written to, which is not connected yet; `None` if GM_FEED names none. Only the
    /// MySQL store accepts a name.
    ///
    /// # Errors
    /// [`StartError`]: REDIS_INTERFACE or REDIS_CA cannot be used.
    fn feed_stream(&self, _config: &Config) -> Result<Option<Box<dyn PublishStream>>, StartError> {
        Ok(None)
    }

    /// Returns the maximum number of descriptors that the store holds open at the same time.
    fn max_descriptors_of_store(&self, config: &Config) -> usize;

    /// Returns everything that would prevent the store from saving mail, and warnings. Changes nothing in the store.
    fn find_store_problems(&self, config: &Config) -> Vec<Diagnostic>;

    /// Opens the store for reading.
    ///
    /// # Errors
    /// [`StoreReadError`]: the store cannot be opened; the text names the key to check.
    fn open_reader(&self, config: &Config) -> Result<Box<dyn StoredMailReader>, StoreReadError>;

    /// Opens the store to follow the mails that arrive in it, or only those of the recipient `to`, for `list --follow`.
    ///
    /// # Errors
    /// [`StoreReadError`]: the store cannot be opened; the text names the key to check.
    fn open_followed_rows(
        &self,
        config: &Config,
        to: Option<&str>,
    ) -> Result<Box<dyn FollowedRows>, StoreReadError>;

    /// Opens the store to remove the rows that are older than `keep`, for `prune`.
    ///
    /// # Errors
    /// [`RetentionError`].
    fn open_old_rows(
        &self,
        config: &Config,
        keep: Duration,
    ) -> Result<Box<dyn OldRows>, RetentionError>;

    /// Returns the statements that create the table.
    fn schema(&self, table: &TableName) -> String;
}

/// Returns the store that GM_STORE selects. The store is not opened yet.
///
/// # Errors
/// [`StartError::StoreNotBuilt`]: this program was built without the store.
pub fn store_factory_of_kind(kind: StoreKind) -> Result<Box<dyn StoreFactory>, StartError> {
    let built = BUILT_STORES.iter().find(|(built, _)| *built == kind);
    built.map(|(_, new)| new()).ok_or_else(|| {
        let built = BUILT_STORES.iter().map(|(built, _)| gm_store_value_of_kind(*built));
        let expected = built.collect::<Vec<_>>().join("\" or \"");
        let store = gm_store_value_of_kind(kind);
        StartError::StoreNotBuilt {
            store,
            selected_by: match kind {
                StoreKind::Sqlite => "the default",
                StoreKind::MySql => "the default if a MYSQL_ key is set",
                StoreKind::Discard => "not a default",
            },
            fix: format!(
                "expected \"{expected}\": set GM_STORE, or build the program with `cargo build --release --features {store}`"
            ),
        }
    })
}

/// Returns the value of GM_STORE for a store. The Cargo feature of a store has the same name.
fn gm_store_value_of_kind(kind: StoreKind) -> &'static str {
    match kind {
        StoreKind::Sqlite => "sqlite",
        StoreKind::MySql => "mysql",
        StoreKind::Discard => "discard",
    }
}

/// Creates a store that is not opened yet.
type StoreFactoryConstructor = fn() -> Box<dyn StoreFactory>;

/// The stores of this build, with their constructors.
const BUILT_STORES: &[(StoreKind, StoreFactoryConstructor)] = &[
    #[cfg(feature = "sqlite")]
    (StoreKind::Sqlite, || {
        Box::<sqlite::SqliteStoreFactory>::default()
    }),
    #[cfg(feature = "mysql")]
    (StoreKind::MySql, || Box::new(mysql::MySqlStoreFactory)),
    (StoreKind::Discard, || {
        Box::new(discard::DiscardStoreFactory)
    }),
];
