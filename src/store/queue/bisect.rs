//! Isolates the mails that make a batch fail, so that the other mails of the batch are saved.

use crate::mail::Mail;
use crate::store::{SaveError, SavedId};

/// Why a transaction failed.
#[derive(Debug)]
pub enum BatchError {
    /// The store failed. Saving only a part of the batch would fail too, so no part is tried.
    Store(SaveError),
    /// One of the mails may be the cause.
    Mail(SaveError),
}

/// Saves `batch` with `save_part`, which commits all mails of a part or none. A part that fails because of a mail is halved
/// until the bad mail is alone; one bad mail among n costs about 2 log₂ n transactions. After an error of the store itself, the
/// remaining mails are not tried. Returns one outcome per mail, in order.
pub fn save_bisecting(
    batch: &[Mail],
    save_part: &mut impl FnMut(&[Mail]) -> Result<(), BatchError>,
) -> Vec<Result<SavedId, SaveError>> {
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut parts = vec![batch];
    while let Some(part) = parts.pop() {
        match save_part(part) {
            Ok(()) => {
                let saved = part.iter().map(|mail| Ok(SavedId::from(mail.hash())));
                outcomes.extend(saved);
            }
            Err(BatchError::Mail(error)) if part.len() <= 1 => {
                outcomes.extend(part.iter().map(|_| Err(error.clone())));
            }
            Err(BatchError::Mail(_)) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            // Whether this part is stored is looked up later. The other parts can be saved on another connection.
            Err(BatchError::Store(error)) if error.commit_in_doubt().is_some() => {
                outcomes.extend(std::iter::repeat_n(Err(error), part.len()));
            }
            Err(BatchError::Store(error)) => {
                let left = part.len() + parts.iter().map(|part| part.len()).sum::<usize>();
                outcomes.extend(std::iter::repeat_n(Err(error), left));
                break;
            }
        }
    }
    outcomes
}
