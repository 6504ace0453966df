//! Saving a complete message, and the reply to it.

use std::time::{Instant, SystemTime};

use super::ClientConnection;
use crate::error_chain::display_with_causes;
use crate::mail::{Mail, MailOrigin};
use crate::metrics::MailOutcome;
use crate::smtp::reply::{self, Reply};
use crate::smtp::{Envelope, MessageOctets};
use crate::store::{HoldLimit, SaveError, SavedId};

impl ClientConnection<'_> {
    /// Saves a message and returns the reply to it.
    pub(super) fn save(&mut self, envelope: Envelope, content: MessageOctets) -> Reply {
        let started_at = Instant::now();
        self.input.free_large_empty_buffer();
        let octets = content.octets().len();
        let (client, hold_time) = (self.client, self.settings.hold_time);
        let hold = || {
            let (taken, slots) = client.taken_and_all_connection_slots();
            HoldLimit::new(hold_time, taken, slots, client.is_server_draining())
        };
        let outcome = self.build_mail(envelope, content).and_then(|mail| {
            let from = mail.reverse_path().to_owned();
            let recipients = mail.recipients().len();
            // Returns whether the client has disconnected. Unread pipelined commands alone do not mean a disconnect.
            let mut client_left = || self.transport.has_client_left();
            let saved = self.settings.saver.save(mail, &hold, &mut client_left)?;
            Ok((saved, from, recipients))
        });
        let waited = started_at.elapsed();
        let metrics = self.metrics;
        metrics.save_time.observe_time(waited);
        let session = self.client.session_id();
        match outcome {
            Ok((saved, from, recipients)) => {
                self.mails_saved += 1;
                self.session.reset_command_count();
                self.deadlines.note_saved_mail();
                metrics.mails.count(MailOutcome::Saved);
                metrics.recipients_saved.add((), recipients);
                log::info!(
                    session:% = session, hash = saved.as_str(), from = from.as_str(),
                    rcpt = recipients, octets = octets; "saved"
                );
                Reply::mail_queued_reply(SavedId::as_str(&saved))
            }
            Err(error) => {
                self.deadlines.exclude_wait(waited);
                let reason = display_with_causes(&error);
                log::warn!(
                    session:% = session, octets = octets, reason = reason.as_str(); "not_saved"
                );
                let (outcome, reply) = match error {
                    SaveError::Unavailable(_) | SaveError::Refused(_) => {
                        (MailOutcome::Unavailable, reply::R451_NOT_SAVED)
                    }
                    SaveError::Full(_) => (MailOutcome::StoreFull, reply::R452_STORE_FULL),
                };
                metrics.mails.count(outcome);
                reply
            }
        }
    }

    fn build_mail(&self, envelope: Envelope, content: MessageOctets) -> Result<Mail, SaveError> {
        let settings = &self.session_settings;
        let origin = MailOrigin {
            client_ip: self.client.ip(),
            helo_name: self.session.helo_name().to_owned(),
            protocol: self.session.received_field_protocol(&envelope),
            host_name: settings.host_name.clone(),
            received_at: SystemTime::now(),
        };
        Mail::new(envelope, content, origin, |path| {
            settings.address_for_to_column(path)
        })
        .map_err(SaveError::from)
    }
}
