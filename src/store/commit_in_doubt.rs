//! The error of mails whose COMMIT was not answered: their outcome must be looked up before their clients get a reply.

use std::fmt;
use std::sync::Mutex;

use super::SaveError;
use crate::mail::Mail;
use crate::sync::lock;

/// The error of all mails of one transaction whose COMMIT was not answered, with the function that looks up the outcome.
///
/// A store returns it from `save_batch`. The writer then takes the function and calls it on another thread, so that the writer
/// can save the next batch. If the function is never called, the mails are not acknowledged.
pub struct CommitInDoubt {
    reason: String,
    look_up: Mutex<Option<CommitLookUp>>,
}

/// Determines the outcome of a COMMIT. It gets the mails of the transaction, in order. `Ok` means that all of them are stored.
pub type CommitLookUp = Box<dyn FnOnce(&[Mail]) -> Result<(), SaveError> + Send>;

impl CommitInDoubt {
    /// Returns the error of the mails of a transaction whose COMMIT failed with `reason`.
    pub fn save_error(reason: &str, look_up: CommitLookUp) -> SaveError {
        SaveError::unavailable(CommitInDoubt {
            reason: reason.to_owned(),
            look_up: Mutex::new(Some(look_up)),
        })
    }

    /// Returns the function that looks up the outcome; `None` if it was taken before.
    pub(super) fn take_look_up(&self) -> Option<CommitLookUp> {
        lock(&self.look_up).take()
    }
}

impl SaveError {
    /// Returns the doubt about the COMMIT of this mail; `None` if the mail is certainly not saved.
    pub(super) fn commit_in_doubt(&self) -> Option<&CommitInDoubt> {
        self.cause().get_ref().downcast_ref()
    }
}

impl fmt::Display for CommitInDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "COMMIT was not answered, and its outcome is unknown: {}",
            self.reason
        )
    }
}

impl fmt::Debug for CommitInDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitInDoubt({:?})", self.reason)
    }
}

impl std::error::Error for CommitInDoubt {}
