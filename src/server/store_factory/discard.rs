//! `discard`: accepts every mail and stores none.

use std::sync::Arc;

use super::{RunningStore, SelectableStore};
use crate::config::Config;
use crate::connection::StoreLimitsCell;
use crate::metrics::Metrics;
use crate::server::StartError;
use crate::store::{Diagnostic, MailReader, SaveQueue, StoreReadError, TableName};

/// The store `discard`.
pub struct Discard;

impl SelectableStore for Discard {
    fn start(
        &self,
        _: &Config,
        limits: Arc<StoreLimitsCell>,
        metrics: &Arc<Metrics>,
    ) -> Result<RunningStore, StartError> {
        log::warn!(store = "discard", note = "every mail is accepted and none is stored"; "store");
        Ok(RunningStore {
            saver: SaveQueue::new_discarding(Arc::clone(metrics)),
            limits,
            writers: None,
        })
    }

    fn config_change_needs_new_store(&self, _: &Config, _: &Config) -> bool {
        false
    }

    fn max_descriptors(&self, _: &Config) -> usize {
        0
    }

    fn check(&self, _: &Config) -> Vec<Diagnostic> {
        vec![Diagnostic::warning(
            "GM_STORE: discard accepts every mail and stores none; set \"sqlite\" to keep mail"
                .to_owned(),
        )]
    }

    fn open_reader(&self, _: &Config) -> Result<Box<dyn MailReader>, StoreReadError> {
        let text = "GM_STORE: the store discard keeps no mail to read";
        Err(StoreReadError(text.to_owned()))
    }

    fn schema(&self, table: &TableName) -> String {
        table.sqlite_schema()
    }
}
