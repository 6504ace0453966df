//! BDAT: chunks of a message, counted instead of framed ([RFC 3030](https://www.rfc-editor.org/rfc/rfc3030)).

use std::mem;

use super::{Session, State, Step, Transaction};
use crate::smtp::command::BdatCommand;
use crate::smtp::content::{Content, ContentError};
use crate::smtp::data::Sink;
use crate::smtp::input::InputBuffer;
use crate::smtp::reply::{self, Reply};
use crate::smtp::step::{DiscardReason, Envelope};
use crate::smtp::xclient::TrustedProxy;

/// A chunk whose octets flow.
pub(super) struct Chunk {
    remaining: u64,
    after: AfterChunk,
}

enum AfterChunk {
    /// The chunk was no good from the start: its octets are no commands all the same.
    Reject(Reply, Box<State>),
    Receive {
        envelope: Envelope,
        intake: Sink,
        last: bool,
    },
}

impl Chunk {
    /// Returns why the octets of the chunk are discarded; `None` while they are stored.
    pub(super) fn discard_reason(&self) -> Option<DiscardReason> {
        match &self.after {
            AfterChunk::Reject(reply, _) => Some(DiscardReason::Command(reply.clone())),
            AfterChunk::Receive { intake, .. } => intake.error().map(DiscardReason::Message),
        }
    }
}

impl Session {
    /// A chunk is announced: its octets come next, unless the session ends here.
    pub(super) fn bdat(&mut self, argument: &[u8]) -> Option<Step> {
        let Some(BdatCommand { size, last }) = BdatCommand::parse(argument) else {
            // How many octets are no commands is unknown, so none after them can be trusted.
            return Some(Step::Close(reply::R501_BAD_CHUNK_SIZE));
        };
        let then = match mem::replace(&mut self.state, State::Closed) {
            state if !self.chunking_allowed() => {
                self.reject_chunk(reply::R502_NOT_IMPLEMENTED, state, last)
            }
            State::Transaction(transaction) if !transaction.envelope.recipients.is_empty() => {
                if transaction.chunks.is_none() {
                    self.begin_content();
                }
                let max = self.settings.max_content_octets;
                let content = transaction
                    .chunks
                    .unwrap_or_else(|| Content::new(max, &self.budget));
                let room = max.saturating_sub(content.octets().len());
                let fits = size <= room as u64;
                AfterChunk::Receive {
                    envelope: transaction.envelope,
                    intake: if fits {
                        Sink::Storing(content)
                    } else {
                        Sink::Discarding(ContentError::TooLarge)
                    },
                    last,
                }
            }
            state => self.reject_chunk(state.sequence_error(), state, last),
        };
        self.state = State::Chunk(Chunk {
            remaining: size,
            after: then,
        });
        None
    }

    fn reject_chunk(&mut self, reply: Reply, state: State, last: bool) -> AfterChunk {
        self.exempt_from_errors = self.discarding_chunks;
        if !self.exempt_from_errors {
            self.begin_content();
        }
        self.discarding_chunks &= !last;
        AfterChunk::Reject(reply, Box::new(state))
    }

    /// Not through nginx: up to the first accepted RCPT it reads commands itself and knows no BDAT, so a chunk that is sent
    /// along with them would be commands to it.
    pub(super) fn chunking_allowed(&self) -> bool {
        !self.proxy.as_ref().is_some_and(TrustedProxy::was_applied)
    }

    /// Uses up input as octets of the chunk.
    #[expect(clippy::indexing_slicing, reason = "`count` is at most what is unread")]
    pub(super) fn read_chunk(&mut self, input: &mut InputBuffer) -> Step {
        let State::Chunk(chunk) = &mut self.state else {
            return Step::NeedInput;
        };
        let unread = input.unread();
        let count =
            usize::try_from(chunk.remaining).map_or(unread.len(), |left| left.min(unread.len()));
        if let AfterChunk::Receive { intake, .. } = &mut chunk.after {
            intake.push(&unread[..count]);
        }
        chunk.remaining -= count as u64;
        let (is_complete, is_discarded) = (chunk.remaining == 0, chunk.discard_reason().is_some());
        input.consume(count);
        self.content_came(count, is_discarded);
        if !is_complete {
            return Step::NeedInput;
        }
        let State::Chunk(chunk) = mem::replace(&mut self.state, State::Ready) else {
            return Step::NeedInput;
        };
        match chunk.after {
            AfterChunk::Reject(reply, state) => {
                self.state = *state;
                Step::Reply(reply)
            }
            AfterChunk::Receive {
                envelope,
                intake: Sink::Storing(content),
                last: false,
            } => {
                let chunks = Some(content);
                self.state = State::Transaction(Transaction { envelope, chunks });
                Step::Reply(reply::R250_CHUNK_OK)
            }
            AfterChunk::Receive {
                envelope,
                intake,
                last,
            } => {
                self.discarding_chunks = !last;
                self.finish_message(envelope, intake)
            }
        }
    }
}
