//! What decides which recipients exist: a function of the embedding program, or GM_RECIPIENT_QUERY.

use std::sync::Arc;

use super::error::StartError;
use super::store_factory::ConfiguredOrCustomStore;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::smtp::RecipientHook;

/// The source of the recipient hook.
#[derive(Clone)]
pub enum RecipientSource {
    /// A hook of the embedding program, which a reload never changes.
    Program(RecipientHook),
    /// The configuration.
    Configuration,
}

impl RecipientSource {
    /// Returns the recipient hook for this configuration; `None` if all recipients at the accepted domains exist.
    ///
    /// # Errors
    /// [`StartError::Thread`].
    pub fn start_hook(
        &self,
        stores: &ConfiguredOrCustomStore,
        config: &Config,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<RecipientHook>, StartError> {
        match self {
            RecipientSource::Program(hook) => Ok(Some(hook.clone())),
            RecipientSource::Configuration => stores.start_recipient_lookup(config, metrics),
        }
    }

    /// Returns whether a change from `running` to `wanted` requires another hook.
    pub fn config_change_needs_new_hook(
        &self,
        stores: &ConfiguredOrCustomStore,
        running: &Config,
        wanted: &Config,
    ) -> bool {
        match self {
            RecipientSource::Program(_) => false,
            RecipientSource::Configuration => {
                stores.config_change_needs_new_recipient_lookup(running, wanted)
            }
        }
    }
}
