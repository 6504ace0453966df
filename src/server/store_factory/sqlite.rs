//! Opens the SQLite store.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::{RunningStore, StoreFactory, start_writers, table_name};
use crate::check;
use crate::config::Config;
use crate::connection::StoreLimitsCell;
use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::server::StartError;
use crate::store::follow::{FollowedRows, SqliteFollowedRows};
use crate::store::retention::{OldRows, RetentionError, SqliteOldRows};
use crate::store::sqlite::{
    DatabaseFile, SqliteMailReader, SqliteStore, low_space_reason, reason_that_file_cannot_be_found,
};
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
        feed: &Arc<Feed>,
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
        let old_rows = {
            let (file, table) = (file.clone(), table.clone());
            move |keep| -> Result<Box<dyn OldRows>, _> {
                Ok(Box::new(SqliteOldRows::open(&file, &table, keep)?))
            }
        };
        let counted_in = Arc::clone(metrics);
        let open: StoreOpener = Arc::new(move || {
            let opened = sync::lock(&opened).take();
            let store = opened.map_or_else(|| SqliteStore::open(&file, &table, &counted_in), Ok)?;
            Ok(Box::new(store))
        });
        let health = StoreHealth::new_of_reached_store(Arc::clone(metrics));
        health.set_readiness_check(readiness_check);
        let store = start_writers(limits, 1, true, health, feed, open)?;
        log::info!(store = "sqlite", file:% = config.sqlite_file.display(); "store");
        Ok(RunningStore {
            old_rows: Some(Arc::new(old_rows)),
            ..store
        })
    }

    fn config_change_needs_new_store(&self, running: &Config, wanted: &Config) -> bool {
        running.mail_table != wanted.mail_table
    }

    fn max_descriptors_of_store(&self, config: &Config) -> usize {
        match config.keep {
            Some(_) => SQLITE_DESCRIPTORS + RETENTION_DESCRIPTORS,
            None => SQLITE_DESCRIPTORS,
        }
    }

    fn find_store_problems(&self, config: &Config) -> Vec<Diagnostic> {
        check::check_sqlite_file(&config.sqlite_file, &table_name(config))
    }

    fn open_reader(&self, config: &Config) -> Result<Box<dyn StoredMailReader>, StoreReadError> {
        let reader = SqliteMailReader::open(&config.sqlite_file, &table_name(config))?;
        Ok(Box::new(reader))
    }

    fn open_followed_rows(
        &self,
        config: &Config,
        to: Option<&str>,
    ) -> Result<Box<dyn FollowedRows>, StoreReadError> {
        let rows = SqliteFollowedRows::open(&config.sqlite_file, &table_name(config), to)?;
        Ok(Box::new(rows))
    }

    fn open_old_rows(
        &self,
        config: &Config,
        keep: Duration,
    ) -> Result<Box<dyn OldRows>, RetentionError> {
        let failed = |text| Err(RetentionError::Failed(text));
        let path = &config.sqlite_file;
        if let Some(reason) = reason_that_file_cannot_be_found(path) {
            return failed(reason);
        }
        let file = DatabaseFile::new(path);
        if let Err(error) = file.create_or_verify_database_file() {
            return failed(error.to_string());
        }
        let old_rows = SqliteOldRows::open(&file, &table_name(config), keep)?;
        Ok(Box::new(old_rows))
    }

    fn schema(&self, table: &TableName) -> String {
        table.sqlite_schema()
    }
}

/// Number of descriptors of the SQLite store: the database file, its `-wal`, its `-shm` twice, and a descriptor that keeps
/// the inode number of the database file from being reused.
const SQLITE_DESCRIPTORS: usize = 5;
/// Number of descriptors of the connection that removes old rows: the database file and its `-wal`; connections of one process
/// share the `-shm`.
const RETENTION_DESCRIPTORS: usize = 2;
