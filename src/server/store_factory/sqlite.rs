//! Opens the SQLite store.

use std::sync::{Arc, Mutex, OnceLock};

use super::{RunningStore, StoreFactory, start_writers, table_name};
use crate::check;
use crate::config::Config;
use crate::connection::StoreLimitsCell;
use crate::metrics::Metrics;
use crate::server::StartError;
use crate::store::sqlite::{DatabaseFile, SqliteMailReader, SqliteStore, low_space_reason};
use crate::store::{
    Diagnostic, StoreHealth, StoreOpener, StoreReadError, StoredMailReader, TableName,
};
use crate::sync;

/// The SQLite store.
#[derive(Default)]
pub struct SqliteStoreFactory {
    /// The database file: the first call of `start` sets the field, and a reload reuses it, so that a reload never switches to
    /// another file.
    file: OnceLock<DatabaseFile>,
}

impl StoreFactory for SqliteStoreFactory {
    fn start(
        &self,
        config: &Config,
        limits: Arc<StoreLimitsCell>,
        metrics: &Arc<Metrics>,
    ) -> Result<RunningStore, StartError> {
        let file = self
            .file
            .get_or_init(|| DatabaseFile::new(&config.sqlite_file))
            .clone();
        let table = table_name(config);
        // The store is opened here, because a file that cannot be written must be a start error. The writer thread then takes
        // this store.
        let opened = SqliteStore::open(&file, &table, metrics).map_err(StartError::Store)?;
        let opened = Mutex::new(Some(opened));
        let checked = file.clone();
        let readiness_check = move || {
            let low_space = || low_space_reason(checked.path());
            checked.unready_reason().or_else(low_space)
        };
        let counted_in = Arc::clone(metrics);
        let open: StoreOpener = Arc::new(move || {
            let opened = sync::lock(&opened).take();
            let store = opened.map_or_else(|| SqliteStore::open(&file, &table, &counted_in), Ok)?;
            Ok(Box::new(store))
        });
        let health = StoreHealth::new_of_reached_store(Arc::clone(metrics));
        health.set_readiness_check(readiness_check);
        let store = start_writers(limits, 1, true, health, open)?;
        log::info!(store = "sqlite", file:% = config.sqlite_file.display(); "store");
        Ok(store)
    }

    fn config_change_needs_new_store(&self, running: &Config, wanted: &Config) -> bool {
        running.mail_table != wanted.mail_table
    }

    fn max_descriptors_of_store(&self, _: &Config) -> usize {
        SQLITE_DESCRIPTORS
    }

    fn find_store_problems(&self, config: &Config) -> Vec<Diagnostic> {
        check::sqlite(&config.sqlite_file, &table_name(config))
    }

    fn open_reader(&self, config: &Config) -> Result<Box<dyn StoredMailReader>, StoreReadError> {
        let reader = SqliteMailReader::open(&config.sqlite_file, &table_name(config))?;
        Ok(Box::new(reader))
    }

    fn schema(&self, table: &TableName) -> String {
        table.sqlite_schema()
    }
}

/// Number of descriptors of the SQLite store: the database file, its `-wal`, its `-shm` twice, and a descriptor that keeps
/// the inode number of the database file from being reused.
const SQLITE_DESCRIPTORS: usize = 5;
