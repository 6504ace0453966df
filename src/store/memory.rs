//! A store in memory, for tests.

use std::sync::{Arc, Mutex};

use super::{SaveError, SaveMail, SavedId};
use crate::mail::Mail;
use crate::sync;

/// Keeps in memory what `show` would print for each recipient. Clones share one list.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl MemoryStore {
    /// Returns trace fields and content of each saved mail, once per recipient, in order.
    pub fn saved_mail_contents(&self) -> Vec<Vec<u8>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        sync::lock(&self.bodies)
    }
}

impl SaveMail for MemoryStore {
    fn save_mail(&mut self, mail: &Mail) -> Result<SavedId, SaveError> {
        for delivery in mail.recipients() {
            let trace = mail.trace_fields(delivery);
            self.lock()
                .push([trace.as_bytes(), mail.content()].concat());
        }
        Ok(SavedId::from(mail.hash()))
    }
}
