//! What sessions decide by. It changes while they run: by the administrator, and by what the store turns out to be.

use std::sync::{Arc, RwLock};

use super::allowed_hosts::AllowedHosts;
use super::column::Column;
use super::command::{self, CommandError, Verb};
use super::path::ForwardPath;
use crate::sync;

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
    /// Column `to` of the store.
    pub to_column: Column,
    /// Column `recipient` of the store.
    pub recipient_column: Column,
    /// Whether command lines are kept for the log ([`Session::take_said`](super::Session::take_said)).
    pub verbose: bool,
}

/// What sessions to come decide by that save to one store. A session keeps what it began with. Another store has settings of its
/// own: what a store turns out to hold says nothing about the next one.
#[derive(Debug)]
pub struct PolicyHandle {
    inner: RwLock<Inner>,
}

/// What a store can hold, known once it was reached.
#[derive(Clone, Copy, Debug)]
pub struct StoreLimits {
    /// Column `to`.
    pub to_column: Column,
    /// Column `recipient`.
    pub recipient_column: Column,
    /// Content that still fits into a row.
    pub max_content_octets: usize,
}

#[derive(Debug)]
struct Inner {
    configured: SessionSettings,
    store_limits: Option<StoreLimits>,
    current: Arc<SessionSettings>,
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
        self.recipient_column.holds(path.as_str()) && self.to_column.holds(&self.to_address(path))
    }
}

impl PolicyHandle {
    /// As configured, until more is known.
    pub fn new(configured: SessionSettings) -> PolicyHandle {
        let current = Arc::new(configured.clone());
        let narrowing = None;
        PolicyHandle {
            inner: RwLock::new(Inner {
                configured,
                store_limits: narrowing,
                current,
            }),
        }
    }

    /// For the next session.
    pub fn current(&self) -> Arc<SessionSettings> {
        let inner = sync::read(&self.inner);
        Arc::clone(&inner.current)
    }

    /// As the administrator wants it, whatever the store can hold.
    pub fn configured(&self) -> SessionSettings {
        let inner = sync::read(&self.inner);
        inner.configured.clone()
    }

    /// The administrator wants something else; what is known of the store still holds.
    pub fn configure(&self, configured: SessionSettings) {
        self.update(|inner| inner.configured = configured);
    }

    /// The store was reached and can hold this.
    pub fn apply_store_limits(&self, narrowing: StoreLimits) {
        self.update(|inner| inner.store_limits = Some(narrowing));
    }

    fn update(&self, how: impl FnOnce(&mut Inner)) {
        let mut inner = sync::write(&self.inner);
        how(&mut inner);
        let configured = inner.configured.clone();
        inner.current = Arc::new(match inner.store_limits {
            None => configured,
            Some(known) => SessionSettings {
                to_column: known.to_column,
                recipient_column: known.recipient_column,
                max_content_octets: configured.max_content_octets.min(known.max_content_octets),
                ..configured
            },
        });
    }
}
