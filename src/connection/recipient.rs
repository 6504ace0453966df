//! Calls the recipient hook, of GM_RECIPIENT_QUERY or of an embedding program, and replies to RCPT.

use std::mem;
use std::time::{Duration, Instant};

use super::ClientConnection;
use crate::metrics::{CloseReason, Component};
use crate::panics;
use crate::smtp::{ForwardPath, RecipientCheck};

impl ClientConnection<'_> {
    /// Asks the recipient hook about `path` and queues the reply. The time of the hook does not count against the client.
    pub(super) fn ask_hook_and_queue_rcpt_reply(
        &mut self,
        path: ForwardPath,
    ) -> Result<(), CloseReason> {
        let started_at = Instant::now();
        let check = self.call_recipient_hook(&path);
        let waited = started_at.elapsed();
        self.deadlines.exclude_wait(waited);
        let reply = self.session.recipient_checked(path, check);
        self.queue_reply_and_flush_if_large(&reply)?;
        // The client waits at most five minutes for each reply (RFC 5321 §4.5.3.2.3). If it pipelines many RCPTs and the hook
        // is slow, the first reply must not wait for the last answer of the hook.
        match waited >= SLOW_HOOK {
            true => self.send_queued_replies(),
            false => Ok(()),
        }
    }

    /// Calls the hook. A panic of the hook defers the recipient; only the first panic of a connection is logged, because a
    /// client may send many RCPTs.
    fn call_recipient_hook(&mut self, path: &ForwardPath) -> RecipientCheck {
        let Some(hook) = &self.session_settings.recipient_hook else {
            return RecipientCheck::Accept;
        };
        let address = path.mailbox_address();
        let metrics = self.client.metrics();
        let checked = panics::catch_and_count_panic(metrics, Component::RecipientHook, || {
            hook.check(&address)
        });
        checked.unwrap_or_else(|text| {
            if !mem::replace(&mut self.hook_panic_logged, true) {
                let session = self.client.session_id();
                log::error!(
                    session:% = session, rcpt = address.as_str(), reason = text.as_str();
                    "recipient_hook_panicked"
                );
            }
            RecipientCheck::Defer
        })
    }
}

/// If one call of the hook takes at least this time, all queued replies are sent before the next call.
const SLOW_HOOK: Duration = Duration::from_secs(1);
