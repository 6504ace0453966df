//! DATA, and the end of a message for both DATA and BDAT.

use std::mem;

use super::{MailTransaction, Session, SessionState, Step};
use crate::smtp::command::{self, CommandError};
use crate::smtp::content::MessageOctets;
use crate::smtp::data::{ContentSink, DataReader};
use crate::smtp::input::InputBuffer;
use crate::smtp::reply::{self, Reply};
use crate::smtp::step::{ContentDiscardReason, Envelope, ReceivedContentProgress};

impl Session {
    /// Returns the progress of the message content that is being received or, between messages, of the last content.
    pub fn content_progress(&self) -> ReceivedContentProgress {
        self.progress
    }

    /// Returns the reason why content is being discarded; `None` if content is being stored or no content is expected.
    pub fn discard_reason(&self) -> Option<ContentDiscardReason> {
        match &self.state {
            SessionState::Data(_, reader) => reader
                .content_sink()
                .content_discard_reason_of_data()
                .map(ContentDiscardReason::Message),
            SessionState::Chunk(chunk) => chunk.discard_reason(),
            SessionState::Ready | SessionState::Transaction(_) | SessionState::Closed => None,
        }
    }

    /// Returns whether content is being discarded, or more chunks of a discarded message are expected.
    pub fn is_discarding_content(&self) -> bool {
        self.discarding_chunks || self.discard_reason().is_some()
    }

    /// Begins to receive content if the transaction has a recipient.
    pub(super) fn handle_data(&mut self, argument: &[u8]) -> Result<Reply, CommandError> {
        command::check_no_argument(argument)?;
        match mem::replace(&mut self.state, SessionState::Closed) {
            SessionState::Transaction(transaction) if transaction.is_ready_for_data() => {
                let content = MessageOctets::new(self.settings.max_content_octets, &self.budget);
                self.restart_content_progress();
                self.state = SessionState::Data(transaction.envelope, DataReader::new(content));
                Ok(Reply::new(
                    354,
                    None,
                    "End data with <CR><LF>.<CR><LF>".into(),
                ))
            }
            state => {
                let reply = state.out_of_sequence_reply();
                self.state = state;
                Ok(reply)
            }
        }
    }

    /// Reads content after 354. Returns [`Step::NeedInput`] until the end of the message.
    pub(super) fn read_data(&mut self, input: &mut InputBuffer) -> Step {
        let SessionState::Data(_, reader) = &mut self.state else {
            return Step::NeedInput;
        };
        let progress = reader.read(input.unconsumed_octets());
        let is_discarded = reader
            .content_sink()
            .content_discard_reason_of_data()
            .is_some();
        input.consume(progress.used);
        self.add_to_content_progress(progress.used, is_discarded);
        if !progress.is_end_of_message {
            return Step::NeedInput;
        }
        let SessionState::Data(envelope, reader) =
            mem::replace(&mut self.state, SessionState::Ready)
        else {
            return Step::NeedInput;
        };
        self.step_after_end_of_message(envelope, reader.into_content_sink())
    }

    /// Returns the step that saves a complete message, or rejects it if its content was discarded.
    pub(super) fn step_after_end_of_message(
        &mut self,
        envelope: Envelope,
        sink: ContentSink,
    ) -> Step {
        self.stats.data += 1;
        self.commands.add_commands_of_ended_transaction();
        match sink {
            ContentSink::Storing(content) => Step::Save(envelope, content),
            ContentSink::Discarding(error) => Step::RejectMessage(error),
        }
    }

    /// Sets the counts of received octets to 0 for the next message.
    pub(super) fn restart_content_progress(&mut self) {
        self.progress = ReceivedContentProgress {
            number: self.progress.number + 1,
            ..ReceivedContentProgress::default()
        };
    }

    /// Counts received octets of content.
    pub(super) fn add_to_content_progress(&mut self, octets: usize, is_discarded: bool) {
        self.progress.octets += octets as u64;
        if is_discarded {
            self.progress.discarded += octets as u64;
        }
    }
}

impl MailTransaction {
    fn is_ready_for_data(&self) -> bool {
        self.chunks.is_none() && !self.envelope.recipients.is_empty()
    }
}

impl SessionState {
    /// Returns the reply that rejects DATA or BDAT, if the session is in a state in which the command is not allowed.
    pub(super) fn out_of_sequence_reply(&self) -> Reply {
        match self {
            SessionState::Transaction(transaction) if transaction.chunks.is_some() => {
                reply::R503_BDAT_IN_PROGRESS
            }
            SessionState::Transaction(_) => reply::R503_SEND_RCPT_FIRST,
            _ => reply::R503_SEND_MAIL_FIRST,
        }
    }
}
