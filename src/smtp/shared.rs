//! Settings that change while sessions run: by the administrator, and by what the store turns out to be.

use std::sync::{Arc, PoisonError, RwLock};

use super::column::Column;
use super::session::SessionSettings;

/// What sessions to come decide by. A session keeps what it began with.
#[derive(Debug)]
pub struct SharedSettings {
    inner: RwLock<Inner>,
}

/// What a store can hold, known once it was reached.
#[derive(Clone, Copy, Debug)]
pub struct Narrowing {
    /// Column `to`.
    pub to_column: Column,
    /// Column `recipient`.
    pub recipient_column: Column,
    /// Content that still fits into a row.
    pub max_content_octets: usize,
}

#[derive(Debug)]
struct Inner {
    configured: SessionSettings,
    narrowing: Option<Narrowing>,
    current: Arc<SessionSettings>,
}

impl SharedSettings {
    /// As configured, until more is known.
    pub fn new(configured: SessionSettings) -> SharedSettings {
        let current = Arc::new(configured.clone());
        let narrowing = None;
        SharedSettings {
            inner: RwLock::new(Inner {
                configured,
                narrowing,
                current,
            }),
        }
    }

    /// For the next session.
    pub fn current(&self) -> Arc<SessionSettings> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&inner.current)
    }

    /// As the administrator wants it, whatever the store can hold.
    pub fn configured(&self) -> SessionSettings {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.configured.clone()
    }

    /// The administrator wants something else; what is known of the store still holds.
    pub fn configure(&self, configured: SessionSettings) {
        self.change(|inner| inner.configured = configured);
    }

    /// The store was reached and can hold this.
    pub fn narrow(&self, narrowing: Narrowing) {
        self.change(|inner| inner.narrowing = Some(narrowing));
    }

    fn change(&self, how: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        how(&mut inner);
        let configured = inner.configured.clone();
        inner.current = Arc::new(match inner.narrowing {
            None => configured,
            Some(known) => SessionSettings {
                to_column: known.to_column,
                recipient_column: known.recipient_column,
                max_content_octets: configured.max_content_octets.min(known.max_content_octets),
                ..configured
            },
        });
    }
}
