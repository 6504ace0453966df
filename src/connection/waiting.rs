//! How long a connection waits for its client: a new deadline whenever something was completed.

use std::mem;
use std::time::{Duration, Instant};

use super::Connection;
use crate::metrics::CloseReason;
use crate::net::deadline::Deadline;
use crate::net::load::Load;
use crate::smtp::{DiscardReason, Expecting, Session};

/// The deadlines of one connection.
pub(super) struct Deadlines {
    /// Since when the client has sent commands without a delivery, moved on by the time it waited for the store.
    commands_since: Instant,
    /// A mail was saved, so `commands_since` begins anew with the next wait, which comes after the reply to the mail.
    is_mail_saved: bool,
    /// The deadline of the command that is awaited after so many replies.
    command: Option<(Expecting, u64, Deadline)>,
    /// The deadline of the content of this number, from the first chunk of a message to its last.
    content: Option<(u64, Deadline)>,
}

impl Deadlines {
    /// Returns the deadlines of a client that connects now.
    pub(super) fn new(now: Instant) -> Deadlines {
        Deadlines {
            commands_since: now,
            is_mail_saved: false,
            command: None,
            content: None,
        }
    }

    /// Returns the deadline of what the session awaits.
    pub(super) fn next(
        &mut self,
        session: &Session,
        timeout: Duration,
        has_delivered: bool,
    ) -> Deadline {
        let awaited = session.expecting();
        if awaited == Expecting::Content || session.is_discarding() {
            let content = self.content(session, timeout);
            if awaited == Expecting::Content {
                return content;
            }
        }
        let replies = session.counts().replies;
        if let Some((a, r, deadline)) = self.command
            && (a, r) == (awaited, replies)
        {
            return deadline;
        }
        let now = Instant::now();
        let is_idle = awaited == Expecting::Command && has_delivered;
        let deadline = Deadline::for_command(now, timeout)
            .with_commands_since(self.commands_since(now))
            .idle_after_delivery(is_idle);
        self.command = Some((awaited, replies, deadline));
        deadline
    }

    fn content(&mut self, session: &Session, timeout: Duration) -> Deadline {
        let progress = session.progress();
        let (_, deadline) = match &mut self.content {
            Some(content) if content.0 == progress.number => content,
            content => content.insert((
                progress.number,
                Deadline::for_content(Instant::now(), timeout),
            )),
        };
        deadline.set_progress(progress.octets);
        if session.is_discarding() {
            deadline.set_discarded(Instant::now);
        }
        *deadline
    }

    /// Ends a silence of the content that is awaited.
    pub(super) fn record_content(&mut self, now: Instant) {
        if let Some((_, deadline)) = &mut self.content {
            deadline.record_octets(now);
        }
    }

    /// Returns since when the client has sent commands without a delivery.
    pub(super) fn commands_since(&mut self, now: Instant) -> Instant {
        if mem::take(&mut self.is_mail_saved) {
            self.commands_since = now;
        }
        self.commands_since
    }

    /// Begins the time for commands anew after the reply to the mail that was saved.
    pub(super) fn mail_saved(&mut self) {
        self.is_mail_saved = true;
    }

    /// Excludes a time in which the client waited for the store from its time for commands.
    pub(super) fn exclude(&mut self, waited: Duration) {
        self.commands_since += waited;
    }

    fn has_discarded_long_enough(&self) -> bool {
        let content = self.content.as_ref();
        content.is_some_and(|(_, deadline)| deadline.was_discarded_long_enough(Instant::now()))
    }
}

impl Connection<'_> {
    /// Returns whether content was discarded for as long as that may take or, once half of the slots are taken, for as
    /// many octets.
    pub(super) fn has_discarded_enough(&self) -> bool {
        let max_content = self.session_settings.max_content_octets as u64;
        let max_discarded = max_content
            .saturating_mul(2)
            .saturating_add(MAX_DISCARDED_BEYOND);
        let is_far = self.session.progress().discarded > max_discarded;
        (is_far && self.client.load() >= Load::HalfFull)
            || self.deadlines.has_discarded_long_enough()
    }

    /// Returns the last reply to a client whose time is up. A sender whose message is too large has to learn that, or it
    /// would send it again.
    pub(super) fn reported_discard_reason(&self, end: CloseReason) -> Option<DiscardReason> {
        match end == CloseReason::Shed || self.deadlines.has_discarded_long_enough() {
            true => self.session.discard_reason(),
            false => None,
        }
    }
}

/// A sender whose mail is up to a mebibyte too large still learns it at the end of its content, as most expect it.
const MAX_DISCARDED_BEYOND: u64 = 1 << 20;
