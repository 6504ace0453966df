//! DATA, and the end of a message for both DATA and BDAT.

use std::mem;

use super::{MailTransaction, Session, SessionState, Step};
use crate::smtp::command::{self, CommandError};
use crate::smtp::content::MessageContent;
use crate::smtp::data::{ContentSink, DataReader};
use crate::smtp::input::InputBuffer;
use crate::smtp::reply::{self, Reply};
use crate::smtp::step::{DiscardReason, Envelope, ReceivedContentProgress};

impl Session {
    /// Returns the progress of the message content that is being received or, between messages, of the last content.
    pub fn content_progress(&self) -> ReceivedContentProgress {
        self.progress
    }

    /// Returns the reason why content is being discarded; `None` if content is being stored or no content is expected.
    pub fn discard_reason(&self) -> Option<DiscardReason> {
        match &self.state {
            SessionState::Data(_, reader) => reader.sink().error().map(DiscardReason::Message),
            SessionState::Chunk(chunk) => chunk.discard_reason(),
            SessionState::Ready | SessionState::Transaction(_) | SessionState::Closed => None,
        }
    }

    /// Returns whether content is being discarded, or more chunks of a discarded message are expected.
    pub fn is_discarding(&self) -> bool {
        self.discarding_chunks || self.discard_reason().is_some()
    }

    pub(super) fn handle_data(&mut self, argument: &[u8]) -> Result<Reply, CommandError> {
        command::check_no_argument(argument)?;
        match mem::replace(&mut self.state, SessionState::Closed) {
            SessionState::Transaction(transaction) if transaction.is_ready_for_data() => {
                let content = MessageContent::new(self.settings.max_content_octets, &self.budget);
                self.begin_content();
                self.state = SessionState::Data(transaction.envelope, DataReader::new(content));
                Ok(Reply::new(
                    354,
                    None,
                    "End data with <CR><LF>.<CR><LF>".into(),
                ))
            }
            state => {
                let reply = state.sequence_error();
                self.state = state;
                Ok(reply)
            }
        }
    }

    pub(super) fn read_data(&mut self, input: &mut InputBuffer) -> Step {
        let SessionState::Data(_, reader) = &mut self.state else {
            return Step::NeedInput;
        };
        let progress = reader.read(input.unconsumed_octets());
        let is_discarded = reader.sink().error().is_some();
        input.consume(progress.used);
        self.record_content(progress.used, is_discarded);
        if !progress.is_end_of_message {
            return Step::NeedInput;
        }
        let SessionState::Data(envelope, reader) =
            mem::replace(&mut self.state, SessionState::Ready)
        else {
            return Step::NeedInput;
        };
        self.finish_message(envelope, reader.into_sink())
    }

    pub(super) fn finish_message(&mut self, envelope: Envelope, sink: ContentSink) -> Step {
        self.stats.data += 1;
        self.commands.count_ended_transaction();
        match sink {
            ContentSink::Storing(content) => Step::Save(envelope, content),
            ContentSink::Discarding(error) => Step::RejectMessage(error),
        }
    }

    pub(super) fn begin_content(&mut self) {
        self.progress = ReceivedContentProgress {
            number: self.progress.number + 1,
            ..ReceivedContentProgress::default()
        };
    }

    pub(super) fn record_content(&mut self, octets: usize, is_discarded: bool) {
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
    pub(super) fn sequence_error(&self) -> Reply {
        match self {
            SessionState::Transaction(transaction) if transaction.chunks.is_some() => {
                reply::R503_BDAT_IN_PROGRESS
            }
            SessionState::Transaction(_) => reply::R503_SEND_RCPT_FIRST,
            _ => reply::R503_SEND_MAIL_FIRST,
        }
    }
}
