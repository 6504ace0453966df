//! Limits and names by which a session answers commands.

use std::fmt::Debug;
use std::sync::Arc;

use super::allowed_hosts::AllowedHosts;
use super::command::{self, CommandError, Verb};
use super::path::ForwardPath;

/// Decides whether a store can hold a recipient unchanged.
pub trait RecipientLimits: Debug + Send + Sync {
    /// Returns whether the store holds both the forward-path and column `to`.
    fn can_store(&self, recipient: &str, to: &str) -> bool;
}

/// What a session decides by.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The name we greet with.
    pub host_name: String,
    /// The domain in column `to`.
    pub primary_mail_host: String,
    /// Recipient domains that are ours.
    pub allowed_hosts: AllowedHosts,
    /// Ceiling of one message's content, advertised by SIZE.
    pub max_content_octets: usize,
    /// Ceiling of recipients in one transaction; beyond it 452.
    pub max_recipients: usize,
    /// Recipients that the store can hold; others get 553.
    pub recipient_limits: Arc<dyn RecipientLimits>,
    /// Whether command lines are kept for the log ([`Session::take_said`](super::Session::take_said)).
    pub verbose: bool,
}

impl SessionSettings {
    /// Column `to` for a recipient: its local-part at our primary host.
    pub fn to_address(&self, path: &ForwardPath) -> String {
        format!("{}@{}", path.local_part(), self.primary_mail_host)
    }

    /// Whether `line`, a RCPT command in the client's own spelling or its forward-path alone, names a recipient that is
    /// none of ours. Whatever else may be wrong with it is for a session to say.
    pub fn is_relay_rcpt(&self, line: &[u8]) -> bool {
        let path = match command::split(line) {
            (Some(Verb::Rcpt), argument) => command::parse_rcpt(argument, true),
            _ => command::parse_rcpt(&[b"TO:", line].concat(), true)
                .or_else(|_| command::parse_rcpt(&[b"TO:<", line, b">"].concat(), true)),
        };
        match path {
            Ok(path) => !self.allowed_hosts.accept(&path),
            Err(error) => error == CommandError::EmbeddedRoute,
        }
    }

    /// Whether the store holds this recipient whole.
    pub(super) fn can_store(&self, path: &ForwardPath) -> bool {
        let to = self.to_address(path);
        self.recipient_limits.can_store(path.as_str(), &to)
    }
}
