//! The entries that the feed gets about the saved mails of a batch.

use std::sync::Arc;

use jiff::Timestamp;

use super::outcome::ClaimedMail;
use crate::feed::{Feed, FeedEntry};
use crate::mail::Mail;
use crate::store::{SaveError, SavedId, StoreHealth, TableColumns};

/// Returns one entry for each row of the mails that `outcomes` report as saved; none while the feed is off.
///
/// The caller publishes them after it has answered the clients, so that the feed delays no reply.
pub fn feed_entries_of_saved_mails(
    feed: &Feed,
    health: &StoreHealth,
    mails: &[ClaimedMail],
    outcomes: &[Result<SavedId, SaveError>],
) -> Vec<FeedEntry> {
    if !feed.is_on() {
        return Vec::new();
    }
    let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let date: Arc<str> = Arc::from(now);
    let columns = health.table_columns();
    let saved = mails
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| outcome.is_ok());
    saved
        .flat_map(|((_, mail), _)| entries_of_mail(mail, &columns, &date))
        .collect()
}

/// Returns the entries of one mail. Sender and subject are cut as in its row.
fn entries_of_mail(mail: &Mail, columns: &TableColumns, date: &Arc<str>) -> Vec<FeedEntry> {
    let from: Arc<str> = Arc::from(columns.from.truncate_to_column(mail.reverse_path()));
    let subject: Arc<str> = Arc::from(columns.subject.truncate_to_column(mail.subject()));
    let recipients = mail.recipients().iter();
    recipients
        .map(|delivery| FeedEntry {
            hash: delivery.hash,
            to: delivery.to.clone(),
            recipient: delivery.recipient.clone(),
            from: Arc::clone(&from),
            subject: Arc::clone(&subject),
            size: mail.trace_fields(delivery).len() + mail.content().len(),
            date: Arc::clone(date),
        })
        .collect()
}
