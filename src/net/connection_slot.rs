//! The connection slots: how many connections are served at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};

/// One taken connection slot; released on drop, also after a panic.
pub struct ConnectionSlot<'a>(&'a AtomicUsize);

impl ConnectionSlot<'_> {
    /// Takes a slot, which `active` counts; `None` if `max` slots are taken.
    pub fn take_connection_slot(active: &AtomicUsize, max: usize) -> Option<ConnectionSlot<'_>> {
        active
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| {
                (taken < max).then_some(taken + 1)
            })
            .ok()
            .map(|_| ConnectionSlot(active))
    }
}

impl Drop for ConnectionSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
