//! Data that a session exchanges with the connection: steps, expected input, progress and statistics.

use super::content::{ContentLimitError, MessageContent};
use super::path::{ForwardPath, ReversePath};
use super::reply::Reply;
use super::xclient::XclientAddress;

/// The TLS state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsState {
    /// TLS is off and STARTTLS is not offered, because no key is configured.
    Unavailable,
    /// TLS is off and STARTTLS is offered.
    Offered,
    /// TLS is on.
    On,
}

/// The next action of the connection, as decided by the session.
#[derive(Debug)]
pub enum Step {
    /// Queue the reply; it is sent at the latest before the next read (RFC 2920 §3.2).
    Reply(Reply),
    /// Ask [`SessionSettings::recipient_hook`](super::SessionSettings::recipient_hook) about this recipient, pass its answer to
    /// [`Session::recipient_checked`](super::Session::recipient_checked), and queue the reply.
    CheckRecipient(ForwardPath),
    /// Save the complete message, then send the reply that depends on the result.
    Save(Envelope, MessageContent),
    /// Send the reply, perform the TLS handshake, then call
    /// [`Session::reset_after_tls_handshake`](super::Session::reset_after_tls_handshake).
    ///
    /// The input buffer is empty at this step: commands that were sent in plaintext after STARTTLS must not be executed
    /// (CVE-2011-0411).
    StartTls(Reply),
    /// Use this client address, which a trusted proxy passed on, and queue the reply.
    Xclient(XclientAddress, Reply),
    /// Queue the reply to a message that is rejected before it is saved; the session continues.
    RejectMessage(ContentLimitError),
    /// Queue [`R550_XCLIENT_DENIED`](super::reply::R550_XCLIENT_DENIED); the session continues.
    RejectXclient,
    /// Send the reply to QUIT, then close.
    Quit(Reply),
    /// Send the reply, then close: the session rejects the client.
    Close(Reply),
    /// Send all queued replies, then read.
    NeedInput,
}

/// The reason why a session discards content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentDiscardReason {
    /// The message is too large or memory is exhausted.
    Message(ContentLimitError),
    /// The BDAT command was rejected with this reply.
    Command(Reply),
}

impl From<ContentDiscardReason> for Reply {
    fn from(reason: ContentDiscardReason) -> Reply {
        match reason {
            ContentDiscardReason::Message(error) => error.into(),
            ContentDiscardReason::Command(reply) => reply,
        }
    }
}

/// The paths of one transaction (RFC 5321 §2.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The sender address.
    pub reverse_path: ReversePath,
    /// The accepted recipients, each mailbox once. A complete message has at least one recipient.
    pub recipients: Vec<ForwardPath>,
    /// Whether MAIL had the parameter SMTPUTF8.
    pub smtputf8: bool,
}

impl Envelope {
    /// Returns whether one of the recipients is the mailbox of `path`.
    pub(super) fn has_recipient(&self, path: &ForwardPath) -> bool {
        self.recipients
            .iter()
            .any(|known| known.is_same_mailbox(path))
    }
}

/// The kind of input that a session expects next; each kind has its own timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedInput {
    /// A command outside of a transaction.
    Command,
    /// A command within a transaction.
    TransactionCommand,
    /// Message content, or the next BDAT command of a message.
    Content,
}

/// The progress of the message content that is being received or, between messages, of the last content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceivedContentProgress {
    /// Sequence number of the message: incremented by DATA, by the first BDAT of a message and by each rejected BDAT that is
    /// counted as an error.
    pub number: u64,
    /// Number of octets of the message that were received, in all of its chunks.
    pub octets: u64,
    /// Number of octets of the message that were discarded.
    pub discarded: u64,
}

/// The counters of a session, logged when the connection closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Accepted HELO and EHLO commands.
    pub helo: u64,
    /// Accepted MAIL commands.
    pub mail: u64,
    /// Accepted RCPT commands.
    pub rcpt: u64,
    /// All RCPT commands.
    pub rcpt_total: u64,
    /// Messages that were received completely.
    pub data: u64,
    /// Number of erroneous commands.
    pub errors: u64,
    /// Number of steps that the session returned, not counting [`Step::NeedInput`]. The connection begins a new timeout when
    /// this number changes.
    pub replies: u64,
}
