//! The settings that determine how a session answers commands.

use std::fmt::Debug;
use std::sync::Arc;

use super::allowed_hosts::AcceptedDomains;
use super::command::{self, CommandError, Verb};
use super::path::ForwardPath;
use super::recipient_hook::RecipientHook;

/// The limits of a store for recipient addresses.
pub trait RecipientColumnLimits: Debug + Send + Sync {
    /// Returns whether the store can hold both texts unchanged: `recipient` is the forward-path, `to` is the value of column
    /// `to`.
    fn can_store_recipient(&self, recipient: &str, to: &str) -> bool;
}

/// The settings of a session.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Host name in the greeting, the EHLO reply and the Received field.
    pub host_name: String,
    /// Domain of the address in column `to`.
    pub primary_mail_host: String,
    /// Recipient domains that are accepted.
    pub allowed_hosts: AcceptedDomains,
    /// Maximum size of the content of one message in octets, advertised by SIZE; a larger message is rejected with 552.
    pub max_content_octets: usize,
    /// Maximum number of recipients in one transaction; further recipients are rejected with 452 (too many recipients).
    pub max_recipients: usize,
    /// Limits of the store for recipients; a recipient that the store cannot hold is rejected with 553 (bad address).
    pub recipient_limits: Arc<dyn RecipientColumnLimits>,
    /// Decides which recipients exist; `None` if all recipients at the accepted domains exist.
    pub recipient_hook: Option<RecipientHook>,
    /// Whether the connection logs all commands and replies
    /// ([`Session::take_last_command`](super::Session::take_last_command)).
    pub verbose: bool,
}

impl SessionSettings {
    /// Returns the address in column `to`: the recipient's local-part at the primary mail host.
    pub fn address_for_to_column(&self, path: &ForwardPath) -> String {
        path.address_at_host(&self.primary_mail_host)
    }

    /// Returns whether `line` names a recipient for which RCPT would be rejected with 550 (relay denied). `line` is a RCPT
    /// command or a forward-path, with or without brackets. For a line with another error the result is `false`, because the
    /// session rejects such a line later.
    pub fn is_relay_rcpt(&self, line: &[u8]) -> bool {
        match forward_path_in_line(line) {
            Ok(path) => !self.allowed_hosts.accepts_recipient_path(&path),
            Err(error) => error == CommandError::TwoDomains,
        }
    }

    /// Returns the hook and the address to ask it about, if RCPT with the recipient in `line` would ask a hook that has a time
    /// limit. nginx's auth_http uses this for every RCPT until one is accepted. The session asks a hook without a time limit
    /// when nginx passes the RCPT on.
    pub fn timely_hook_for_rcpt(&self, line: &[u8]) -> Option<(&RecipientHook, String)> {
        let hook = (self.recipient_hook.as_ref()).filter(|hook| hook.has_time_limit())?;
        let path = forward_path_in_line(line).ok()?;
        let is_asked = self.allowed_hosts.accepts_recipient_path(&path)
            && self.can_store_recipient(&path)
            && !path.is_postmaster();
        is_asked.then(|| (hook, path.mailbox_address()))
    }

    /// Returns whether the store can hold this recipient unchanged.
    pub(super) fn can_store_recipient(&self, path: &ForwardPath) -> bool {
        let to = self.address_for_to_column(path);
        self.recipient_limits
            .can_store_recipient(path.as_str(), &to)
    }
}

/// Parses the recipient in a RCPT command or a forward-path, with or without brackets.
fn forward_path_in_line(line: &[u8]) -> Result<ForwardPath, CommandError> {
    match command::split_verb_and_argument(line) {
        (Some(Verb::Rcpt), argument) => command::parse_rcpt(argument, true),
        _ => command::parse_rcpt(&[b"TO:", line].concat(), true)
            .or_else(|_| command::parse_rcpt(&[b"TO:<", line, b">"].concat(), true)),
    }
}
