//! BDAT: a message in chunks of a declared size ([RFC 3030](https://www.rfc-editor.org/rfc/rfc3030)).

use std::mem;

use super::{MailTransaction, Session, SessionState, Step};
use crate::smtp::command::BdatCommand;
use crate::smtp::content::{ContentLimitError, MessageContent};
use crate::smtp::data::ContentSink;
use crate::smtp::input::InputBuffer;
use crate::smtp::reply::{self, Reply};
use crate::smtp::step::{ContentDiscardReason, Envelope};
use crate::smtp::xclient::XclientState;

/// A chunk whose octets are being received.
pub(super) struct ReceivingBdatChunk {
    remaining: u64,
    action: BdatChunkAction,
}

enum BdatChunkAction {
    /// BDAT was rejected. The octets of the chunk are discarded, because they must not be executed as commands. After the last
    /// octet the reply is sent and the session returns to the state before BDAT.
    Reject(Reply, Box<SessionState>),
    Receive {
        envelope: Envelope,
        sink: ContentSink,
        last: bool,
    },
}

impl ReceivingBdatChunk {
    /// Returns the reason why the octets of the chunk are discarded; `None` while they are stored.
    pub(super) fn discard_reason(&self) -> Option<ContentDiscardReason> {
        match &self.action {
            BdatChunkAction::Reject(reply, _) => Some(ContentDiscardReason::Command(reply.clone())),
            BdatChunkAction::Receive { sink, .. } => sink
                .content_discard_reason_of_data()
                .map(ContentDiscardReason::Message),
        }
    }
}

impl Session {
    /// Executes BDAT. Returns `None` if the octets of the chunk are read next, else the step that ends the session.
    pub(super) fn handle_bdat(&mut self, argument: &[u8]) -> Option<Step> {
        let Some(BdatCommand { size, last }) = BdatCommand::parse(argument) else {
            // The size of the chunk is unknown, so the input after this line cannot be trusted as commands.
            return Some(Step::Close(reply::R501_BAD_CHUNK_SIZE));
        };
        let action = match mem::replace(&mut self.state, SessionState::Closed) {
            state if !self.chunking_allowed() => {
                self.rejected_chunk_action(reply::R502_NOT_IMPLEMENTED, state, last)
            }
            SessionState::Transaction(transaction)
                if !transaction.envelope.recipients.is_empty() =>
            {
                if transaction.chunks.is_none() {
                    self.restart_content_progress();
                }
                let max = self.settings.max_content_octets;
                let content = transaction
                    .chunks
                    .unwrap_or_else(|| MessageContent::new(max, &self.budget));
                let spare = max.saturating_sub(content.octets().len());
                let fits = size <= spare as u64;
                BdatChunkAction::Receive {
                    envelope: transaction.envelope,
                    sink: if fits {
                        ContentSink::Storing(content)
                    } else {
                        ContentSink::Discarding(ContentLimitError::TooLarge)
                    },
                    last,
                }
            }
            state => self.rejected_chunk_action(state.out_of_sequence_reply(), state, last),
        };
        self.state = SessionState::Chunk(ReceivingBdatChunk {
            remaining: size,
            action,
        });
        None
    }

    fn rejected_chunk_action(
        &mut self,
        reply: Reply,
        state: SessionState,
        last: bool,
    ) -> BdatChunkAction {
        self.exempt_from_errors = self.discarding_chunks;
        if !self.exempt_from_errors {
            self.restart_content_progress();
        }
        self.discarding_chunks &= !last;
        BdatChunkAction::Reject(reply, Box::new(state))
    }

    /// Returns whether BDAT is accepted: only if no XCLIENT was accepted. nginx sends XCLIENT and parses the client's commands
    /// until the first accepted RCPT. nginx does not know BDAT, so it would execute the octets of a pipelined chunk as
    /// commands.
    pub(super) fn chunking_allowed(&self) -> bool {
        !self
            .proxy
            .as_ref()
            .is_some_and(XclientState::was_xclient_accepted)
    }

    /// Consumes octets of the chunk from `input`; returns the next step.
    #[expect(clippy::indexing_slicing, reason = "`count` is at most what is unread")]
    pub(super) fn read_chunk(&mut self, input: &mut InputBuffer) -> Step {
        let SessionState::Chunk(chunk) = &mut self.state else {
            return Step::NeedInput;
        };
        let unread = input.unconsumed_octets();
        let count = usize::try_from(chunk.remaining)
            .map_or(unread.len(), |remaining| remaining.min(unread.len()));
        if let BdatChunkAction::Receive { sink, .. } = &mut chunk.action {
            sink.push(&unread[..count]);
        }
        chunk.remaining -= count as u64;
        let (is_complete, is_discarded) = (chunk.remaining == 0, chunk.discard_reason().is_some());
        input.consume(count);
        self.add_to_content_progress(count, is_discarded);
        if !is_complete {
            return Step::NeedInput;
        }
        let SessionState::Chunk(chunk) = mem::replace(&mut self.state, SessionState::Ready) else {
            return Step::NeedInput;
        };
        match chunk.action {
            BdatChunkAction::Reject(reply, state) => {
                self.state = *state;
                Step::Reply(reply)
            }
            BdatChunkAction::Receive {
                envelope,
                sink: ContentSink::Storing(content),
                last: false,
            } => {
                let chunks = Some(content);
                self.state = SessionState::Transaction(MailTransaction { envelope, chunks });
                Step::Reply(reply::R250_CHUNK_OK)
            }
            BdatChunkAction::Receive {
                envelope,
                sink,
                last,
            } => {
                self.discarding_chunks = !last;
                self.step_after_end_of_message(envelope, sink)
            }
        }
    }
}
