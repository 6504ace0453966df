//! The entries that the feed gets about the saved mails of a batch.

use std::sync::Arc;

use jiff::Timestamp;

use super::outcome::ClaimedMail;
use crate::feed::{Feed, FeedEntry};
use crate::mail::Mail;
use crate::store::{SaveError, SavedId, TableColumns};

/// Returns one entry for each row of the mails that `outcomes` report as saved; none while the feed is off.
///
/// The caller publishes them after it has answered the clients, so that the feed delays no reply.
pub fn feed_entries_of_saved_mails(
    feed: &Feed,
    mails: &[ClaimedMail],
    outcomes: &[Result<SavedId, SaveError>],
) -> Vec<FeedEntry> {
    if !feed.is_on() {
        return Vec::new();
    }
    let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let date: Arc<str> = Arc::from(now);
    let saved = mails
        .iter()
        .zip(outcomes)
        .filter(|(_, outcome)| outcome.is_ok());
    saved
        .flat_map(|((_, mail), _)| entries_of_mail(mail, &date))
        .collect()
}

/// Returns the entries of one mail. Sender and subject are cut as the table that `schema` prints cuts them; the row of a table
/// with narrower columns holds less.
fn entries_of_mail(mail: &Mail, date: &Arc<str>) -> Vec<FeedEntry> {
    let columns = TableColumns::DEFAULT;
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
