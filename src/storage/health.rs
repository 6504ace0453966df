//! Whether a store can be reached, as far as anybody knows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Known by whoever tries to reach the store, asked by whoever has mail for it. Clones share one state.
///
/// While a store is down, mail is answered 451 at once instead of waiting for it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    down: AtomicBool,
    reason: Mutex<String>,
}

impl Health {
    /// The store was reached. Said in the log when it had been down.
    pub fn set_up(&self) {
        if self.shared.down.swap(false, Ordering::SeqCst) {
            log::warn!("store_back");
        }
    }

    /// The store was not reached. Said in the log once.
    pub fn set_down(&self, reason: &str) {
        *self
            .shared
            .reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = reason.to_owned();
        if !self.shared.down.swap(true, Ordering::SeqCst) {
            log::error!(reason = reason; "store_down");
        }
    }

    /// Why the store is down; `None` while it is not known to be.
    pub fn why_down(&self) -> Option<String> {
        let reason = || {
            self.shared
                .reason
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        };
        self.shared.down.load(Ordering::SeqCst).then(reason)
    }
}
