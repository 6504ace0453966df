//! Saves the mails of a batch one by one, for stores that implement only `save_mail`.

use super::{SaveError, SaveMail, SavedId};
use crate::mail::Mail;
use crate::panics;

/// The error of a mail at which a store panicked. The writer then opens the store again.
#[derive(Debug, thiserror::Error)]
#[error("the writer panicked and reopens its store: {0}")]
pub struct StorePanicked(String);

/// Saves the mails in order; returns one outcome per mail. If the store panics, its mail has the error [`StorePanicked`] and is
/// the last one with an outcome: the mails before it are saved, and those after it are not.
pub fn save_each<S: SaveMail + ?Sized>(
    store: &mut S,
    batch: &[Mail],
) -> Vec<Result<SavedId, SaveError>> {
    let mut outcomes = Vec::with_capacity(batch.len());
    for mail in batch {
        match panics::catch_panic(|| store.save_mail(mail)) {
            Ok(outcome) => outcomes.push(outcome),
            Err(text) => {
                outcomes.push(Err(SaveError::unavailable(StorePanicked(text))));
                break;
            }
        }
    }
    outcomes
}

impl SaveError {
    /// Returns whether the store panicked.
    pub(super) fn is_store_panic(&self) -> bool {
        self.cause().get_ref().is::<StorePanicked>()
    }
}
