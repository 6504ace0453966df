//! The SMTP protocol without I/O: no sockets, clocks, threads or logs.
//!
//! [`Session::next_step`] reads received octets from an [`InputBuffer`] and returns one [`Step`], which the module
//! `connection` carries out. Every SMTP dialogue can therefore be tested without a socket.
//!
//! Implements RFC 5321 (SMTP), 1870 (SIZE), 2034 (enhanced status), 2920 (PIPELINING), 3030 (CHUNKING), 3463 (status codes),
//! 3848 (protocol words), 6152 (8BITMIME), 6531 (SMTPUTF8), 9422 (LIMITS) and Postfix's XCLIENT.

mod address;
mod allowed_hosts;
mod command;
mod content;
mod data;
pub mod domain;
mod extension;
mod input;
mod line;
mod parameter;
mod path;
mod policy;
mod recipient_hook;
pub mod reply;
mod session;
mod step;
mod xclient;

pub use address::{is_helo_name, parse_mail_address, parse_rcpt_address};
pub use allowed_hosts::{AcceptedDomains, AcceptedDomainsBuilder, InvalidAllowedHostsItem};
pub use command::{
    CommandError, MailCommand, Verb, parse_helo_name, parse_rcpt, split_verb_and_argument,
};
pub use content::{ContentLimitError, MemoryBudget, MemoryReservation, MessageOctets};
pub use data::{ContentSink, DataReadProgress, DataReader};
pub use input::{COMMAND_READ_SIZE, CONTENT_READ_SIZE, InputBuffer};
pub use path::{ForwardPath, MailPathError, ReversePath};
pub use policy::{RecipientColumnLimits, SessionSettings};
pub use recipient_hook::{RecipientCheck, RecipientHook};
pub use reply::{EnhancedStatus, Reply};
pub use session::Session;
pub use step::{
    ContentDiscardReason, Envelope, ExpectedInput, ReceivedContentProgress, SessionStats, Step,
    TlsState,
};
pub use xclient::XclientAddress;
