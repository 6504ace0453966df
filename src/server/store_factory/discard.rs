//! `discard`: accepts every mail and stores none.

use std::sync::Arc;
use std::time::Duration;

use super::{RunningStore, StoreFactory};
use crate::config::Config;
use crate::connection::StoreLimitsCell;
use crate::feed::Feed;
use crate::metrics::Metrics;
use crate::server::StartError;
use crate::store::follow::FollowedRows;
use crate::store::retention::{OldRows, RetentionError};
use crate::store::{Diagnostic, SaveQueue, StoreReadError, StoredMailReader, TableName};

/// The store `discard`.
pub struct DiscardStoreFactory;

impl StoreFactory for DiscardStoreFactory {
    fn start(
        &self,
        _: &Config,
        limits: Arc<StoreLimitsCell>,
        metrics: &Arc<Metrics>,
        _: &Arc<Feed>,
    ) -> Result<RunningStore, StartError> {
        log::warn!(store = "discard", note = "every mail is accepted and none is stored"; "store");
        Ok(RunningStore {
            saver: SaveQueue::new_discarding(Arc::clone(metrics)),
            limits,
            writers: None,
            old_rows: None,
        })
    }

    fn config_change_needs_new_store(&self, _: &Config, _: &Config) -> bool {
        false
    }

    fn max_descriptors_of_store(&self, _: &Config) -> usize {
        0
    }

    fn find_store_problems(&self, _: &Config) -> Vec<Diagnostic> {
        vec![Diagnostic::warning(
            "GM_STORE: discard accepts every mail and stores none; set \"sqlite\" to keep mail"
                .to_owned(),
        )]
    }

    fn open_reader(&self, _: &Config) -> Result<Box<dyn StoredMailReader>, StoreReadError> {
        Err(StoreReadError(NOTHING_TO_READ.to_owned()))
    }

    fn open_followed_rows(
        &self,
        _: &Config,
        _: Option<&str>,
    ) -> Result<Box<dyn FollowedRows>, StoreReadError> {
        Err(StoreReadError(NOTHING_TO_READ.to_owned()))
    }

    fn open_old_rows(&self, _: &Config, _: Duration) -> Result<Box<dyn OldRows>, RetentionError> {
        let text = "GM_STORE: the store discard keeps no mail to remove";
        Err(RetentionError::Failed(text.to_owned()))
    }

    fn schema(&self, table: &TableName) -> String {
        table.sqlite_schema()
    }
}

const NOTHING_TO_READ: &str = "GM_STORE: the store discard keeps no mail to read";
