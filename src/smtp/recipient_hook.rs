//! The hook that decides which recipients exist: a function of an embedding program, or a query to a database.

use std::fmt;
use std::sync::Arc;

/// The answer of a recipient hook: whether the server accepts mail for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecipientCheck {
    /// Accepts the recipient: 250 2.1.5.
    Accept,
    /// Rejects the recipient, because it does not exist: 550 5.1.1. The sender gets a bounce.
    Reject,
    /// Defers the decision, for example because a database does not answer: 451 4.3.0. The client tries again later.
    Defer,
}

/// A function that decides whether a recipient exists. The session asks it at RCPT; clones share it.
#[derive(Clone)]
pub struct RecipientHook {
    check: Arc<dyn Fn(&str) -> RecipientCheck + Send + Sync>,
    has_time_limit: bool,
}

impl RecipientHook {
    /// Returns a hook that calls `check` with the address of each recipient, `local-part@domain`.
    ///
    /// The local-part is as the client wrote it, with quotes if it is quoted. The domain is canonical, so that each mailbox
    /// has one spelling: lower case, A-labels, no trailing dot. There are no angle brackets and there is no source route.
    ///
    /// The hook is asked last: after the syntax, the accepted domains, the width of the column and the maximum number of
    /// recipients. It is not asked for a recipient that the transaction already has, and never for `postmaster`, which is
    /// always accepted ([RFC 5321 §4.5.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.1)).
    ///
    /// The hook runs on the thread of the connection, on several threads at once, and may block: this time does not count
    /// against the client, but the connection keeps its slot meanwhile, and a client that waits for more than five minutes
    /// disconnects. If the hook panics, the client gets the reply of [`RecipientCheck::Defer`].
    pub fn new(check: impl Fn(&str) -> RecipientCheck + Send + Sync + 'static) -> RecipientHook {
        RecipientHook {
            check: Arc::new(check),
            has_time_limit: false,
        }
    }

    /// Returns a hook like [`new`](RecipientHook::new) whose function returns within a few seconds. nginx's auth_http asks only
    /// such a hook, because nginx does not wait longer.
    pub fn with_time_limit(
        check: impl Fn(&str) -> RecipientCheck + Send + Sync + 'static,
    ) -> RecipientHook {
        RecipientHook {
            has_time_limit: true,
            ..RecipientHook::new(check)
        }
    }

    /// Returns whether the function of the hook returns within a few seconds.
    pub fn has_time_limit(&self) -> bool {
        self.has_time_limit
    }

    /// Asks the hook about the recipient `address`.
    pub fn check(&self, address: &str) -> RecipientCheck {
        (self.check)(address)
    }
}

impl fmt::Debug for RecipientHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecipientHook")
    }
}
