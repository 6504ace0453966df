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

/// Saves `batch` with `save_part`, which commits all it is given or nothing; halves what fails until the guilty mail
/// stands alone. One outcome per mail, in order. A batch of n with one bad mail costs about 2 log₂ n transactions.
pub fn save_split(
    batch: &[Mail],
    save_part: &mut impl FnMut(&[Mail]) -> Result<(), PartError>,
) -> Vec<Result<SavedId, SaveError>> {
    match save_part(batch) {
        Ok(()) => batch
            .iter()
            .map(|mail| Ok(SavedId::from(mail.deliveries()[0].hash)))
            .collect(),
        Err(PartError::Content(error)) if batch.len() == 1 => {
            log::error!(reason:% = error, hash:% = batch[0].deliveries()[0].hash; "refused_by_store");
            vec![Err(error)]
        }
        Err(PartError::Content(_)) => {
            let (first, second) = batch.split_at(batch.len() / 2);
            let mut outcomes = save_split(first, save_part);
            outcomes.extend(save_split(second, save_part));
            outcomes
        }
        Err(PartError::Store(error)) => vec![Err(error); batch.len()],
    }
}
