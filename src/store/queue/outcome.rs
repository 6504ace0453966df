//! The end of a batch: counts and logs its errors, updates the health of the store, and answers the waiting connections.

use super::feed_entries::feed_entries_of_saved_mails;
use super::pending::UnansweredMail;
use crate::error_chain::display_with_causes;
use crate::feed::Feed;
use crate::mail::Mail;
use crate::metrics::{Metrics, StoreErrorKind};
use crate::store::{SaveError, SavedId, StoreHealth};

/// A mail that a writer has claimed, with the handle that answers its connection.
pub type ClaimedMail = (UnansweredMail, Mail);

/// Records the outcomes of `mails` in the log, the metrics and the health of the store, and answers the connections. `outcomes`
/// are in the order of `mails`; a mail without an outcome gets 451. Then publishes the feed's entries about the saved ones.
pub fn report_outcomes(
    health: &StoreHealth,
    feed: &Feed,
    mails: Vec<ClaimedMail>,
    outcomes: Vec<Result<SavedId, SaveError>>,
) {
    record_outcomes(health, &mails, &outcomes, |_| true);
    let entries = feed_entries_of_saved_mails(feed, health, &mails, &outcomes);
    for ((queued, mail), outcome) in mails.into_iter().zip(outcomes) {
        queued.set_save_outcome(outcome, Some(mail));
    }
    feed.publish(entries);
}

/// Records the outcomes of `mails` in the metrics and the health of the store, and, if `is_to_be_logged` returns true for the
/// reason of a failure, in the log.
pub fn record_outcomes(
    health: &StoreHealth,
    mails: &[ClaimedMail],
    outcomes: &[Result<SavedId, SaveError>],
    is_to_be_logged: impl FnOnce(&str) -> bool,
) {
    if let Some(Err(error)) = outcomes.iter().find(|outcome| outcome.is_err()) {
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        count_store_error(health.metrics(), error);
        let reason = display_with_causes(error);
        if is_to_be_logged(&reason) {
            log::error!(mails = failed, of = mails.len(), reason = reason.as_str(); "batch_failed");
        }
    }
    update_health(health, mails, outcomes);
}

/// Counts an error of the store in the metrics.
pub fn count_store_error(metrics: &Metrics, error: &SaveError) {
    metrics.store_errors.count(match error {
        SaveError::Unavailable(_) => StoreErrorKind::Unavailable,
        SaveError::Full(_) => StoreErrorKind::Full,
        SaveError::Refused(_) => StoreErrorKind::Refused,
    });
}

/// Updates the health of the store after a batch.
fn update_health(
    health: &StoreHealth,
    mails: &[ClaimedMail],
    outcomes: &[Result<SavedId, SaveError>],
) {
    if outcomes.iter().any(Result::is_ok) {
        health.record_store_success();
        return;
    }
    let mut errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    let is_of_store = |error: &&SaveError| !matches!(error, SaveError::Refused(_));
    if let Some(error) = errors.clone().find(is_of_store) {
        health.record_failed_batch_in_health(&display_with_causes(error));
    } else if let Some(error) = errors.next() {
        let clients = mails.iter().map(|(_, mail)| mail.client_ip());
        health.record_rejected_batch_in_health(clients, &display_with_causes(error));
    }
}
