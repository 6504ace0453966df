//! Finds the one bad mail in a batch that failed, so that its neighbours are saved all the same.

use super::{SaveError, SavedId};
use crate::mail::Mail;

/// Why a transaction failed.
#[derive(Debug, PartialEq, Eq)]
pub enum PartError {
    /// For a reason that lies in the store: no mail of it would fare better alone.
    Store(SaveError),
    /// For a reason that may lie in a mail.
    Content(SaveError),
}

impl PartError {
    /// What to tell whoever has no neighbours.
    pub fn into_save_error(self) -> SaveError {
        match self {
            PartError::Store(error) | PartError::Content(error) => error,
        }
    }
}

/// Saves `batch` with `save_part`, which commits all it is given or nothing; halves what fails until the guilty mail
/// stands alone. One outcome per mail, in order. A batch of n with one bad mail costs about 2 log₂ n transactions. Once
/// the store itself has failed, what is left is not tried.
pub fn save_split(
    batch: &[Mail],
    save_part: &mut impl FnMut(&[Mail]) -> Result<(), PartError>,
) -> Vec<Result<SavedId, SaveError>> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        match save_part(part) {
            Ok(()) => {
                let saved = part.iter().map(|mail| Ok(SavedId::from(mail.hash())));
                outcomes.extend(saved);
            }
            Err(PartError::Content(error)) if part.len() <= 1 => {
                outcomes.extend(part.iter().map(|_| Err(error.clone())));
            }
            Err(PartError::Content(_)) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            Err(PartError::Store(error)) => {
                let left = part.len() + parts.iter().map(|part| part.len()).sum::<usize>();
                outcomes.extend(std::iter::repeat_n(Err(error), left));
                break;
            }
        }
    }
    outcomes
}
