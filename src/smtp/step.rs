//! What a session says to whoever connects it to a socket, and what it is asked.

use super::content::{Content, ContentError};
use super::path::{ForwardPath, ReversePath};
use super::reply::Reply;
use super::xclient::ClientAddress;

/// Whether a session is encrypted, or could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// We have no key.
    Unavailable,
    /// STARTTLS is offered.
    Offered,
    /// Everything is said in TLS.
    On,
}

/// What happens next: the whole conversation between protocol and socket.
#[derive(Debug)]
pub enum Step {
    /// Say this; it may wait for company until input is needed (RFC 2920 §3.2).
    Reply(Reply),
    /// A message has arrived whole: save it, and say how that went.
    Save(Envelope, Content),
    /// Say this, do the handshake, and then tell the session with [`Session::tls_started`](super::Session::tls_started). Given only while nothing
    /// is unread (CVE-2011-0411): what stands behind STARTTLS was not said in TLS.
    StartTls(Reply),
    /// A trusted proxy has said for whom it speaks: take that address from now on, and say this.
    Xclient(ClientAddress, Reply),
    /// Queue the reply to a message that is too large or finds no memory; the session goes on.
    RejectMessage(ContentError),
    /// Queue [`R550_XCLIENT_DENIED`](super::reply::R550_XCLIENT_DENIED); the session goes on.
    RejectXclient,
    /// Send the reply to QUIT and close.
    Quit(Reply),
    /// Send the reply and close: the session rejects the client.
    Close(Reply),
    /// Flush what is to be said, then read.
    NeedInput,
}

/// Reason why a session discards octets of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscardReason {
    /// The message is too large or finds no memory.
    Message(ContentError),
    /// The BDAT command was rejected with this reply.
    Command(Reply),
}

impl From<DiscardReason> for Reply {
    fn from(reason: DiscardReason) -> Reply {
        match reason {
            DiscardReason::Message(error) => error.into(),
            DiscardReason::Command(reply) => reply,
        }
    }
}

/// The paths of one transaction (RFC 5321 §2.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Who sent it.
    pub reverse_path: ReversePath,
    /// Who shall have it: at least one at the end of mail, each mailbox once.
    pub recipients: Vec<ForwardPath>,
    /// Whether the client asked for SMTPUTF8.
    pub smtputf8: bool,
}

/// What the client is expected to send next, each with a patience of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expecting {
    /// The next command; nothing of this client's is under way.
    Command,
    /// The next command of a transaction.
    TransactionCommand,
    /// Message content, or the next chunk of it.
    Content,
}

/// How far the content has come that was received last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentProgress {
    /// Counts up with each DATA, each first chunk of a message and each chunk out of sequence.
    pub number: u64,
    /// Octets of the content so far, in all of its chunks.
    pub octets: u64,
    /// Those of them that were discarded.
    pub discarded: u64,
}

/// What a session did, for the line that ends it in the log. None of these can be counted to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// HELO and EHLO accepted.
    pub helo: u64,
    /// MAIL accepted.
    pub mail: u64,
    /// RCPT accepted.
    pub rcpt: u64,
    /// RCPT asked for.
    pub rcpt_asked: u64,
    /// Messages that arrived whole.
    pub data: u64,
    /// Faulty commands.
    pub errors: u64,
    /// Replies decided on; changes whenever something was completed.
    pub replies: u64,
}
