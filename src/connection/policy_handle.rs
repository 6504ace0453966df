//! Settings of new sessions: those that are configured, narrowed by what the store turns out to hold.

use std::sync::{Arc, RwLock};

use crate::smtp::SessionSettings;
use crate::store::RecipientColumns;
use crate::sync;

/// What sessions to come decide by that save to one store. A session keeps what it began with. Another store has settings of its
/// own: what a store turns out to hold says nothing about the next one.
#[derive(Debug)]
pub struct PolicyHandle {
    inner: RwLock<Inner>,
}

/// What a store can hold, known once it was reached.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Columns of a recipient.
    pub recipients: RecipientColumns,
    /// Content that still fits into a row.
    pub max_content_octets: usize,
}

#[derive(Debug)]
struct Inner {
    configured: SessionSettings,
    store_limits: Option<StoreLimits>,
    current: Arc<SessionSettings>,
}

impl PolicyHandle {
    /// As configured, until more is limits.
    pub fn new(configured: SessionSettings) -> PolicyHandle {
        let current = Arc::new(configured.clone());
        PolicyHandle {
            inner: RwLock::new(Inner {
                configured,
                store_limits: None,
                current,
            }),
        }
    }

    /// For the next session.
    pub fn current(&self) -> Arc<SessionSettings> {
        let inner = sync::read(&self.inner);
        Arc::clone(&inner.current)
    }

    /// As the administrator wants it, whatever the store can hold.
    pub fn configured(&self) -> SessionSettings {
        let inner = sync::read(&self.inner);
        inner.configured.clone()
    }

    /// The administrator wants something else; what is known of the store still holds.
    pub fn configure(&self, configured: SessionSettings) {
        self.update(|inner| inner.configured = configured);
    }

    /// The store was reached and can hold this.
    pub fn apply_store_limits(&self, limits: StoreLimits) {
        self.update(|inner| inner.store_limits = Some(limits));
    }

    fn update(&self, how: impl FnOnce(&mut Inner)) {
        let mut inner = sync::write(&self.inner);
        how(&mut inner);
        let configured = inner.configured.clone();
        inner.current = Arc::new(match inner.store_limits {
            None => configured,
            Some(limits) => SessionSettings {
                recipient_limits: Arc::new(limits.recipients),
                max_content_octets: configured.max_content_octets.min(limits.max_content_octets),
                ..configured
            },
        });
    }
}
