//! The deadlines of a connection. Each reply begins a new deadline for the next command; each message has one deadline
//! for its content.

use std::mem;
use std::time::{Duration, Instant};

use super::ClientConnection;
use crate::metrics::CloseReason;
use crate::net::deadline::Deadline;
use crate::net::load::LoadLevel;
use crate::smtp::{ContentDiscardReason, ExpectedInput, Session};

/// The deadlines of one connection.
pub(super) struct Deadlines {
    /// Start of the period in which the client has sent commands but no mail. The time that a mail waited for the store
    /// without being saved and the time of the recipient hook are excluded.
    commands_since: Instant,
    /// Whether a mail was saved in this period. A new period then begins with the next wait for input, after the reply to the
    /// mail was sent.
    is_mail_saved: bool,
    /// The deadline for a command. It is valid for this kind of input and this number of replies.
    command: Option<(ExpectedInput, u64, Deadline)>,
    /// The deadline for the content of one message, from its first chunk to its last, with the sequence number of the message.
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

    /// Returns the deadline for the input that the session expects.
    pub(super) fn deadline_for_expected_input(
        &mut self,
        session: &Session,
        timeout: Duration,
        has_delivered: bool,
    ) -> Deadline {
        let expected = session.expected_input();
        if expected == ExpectedInput::Content || session.is_discarding_content() {
            let content = self.content_deadline(session, timeout);
            if expected == ExpectedInput::Content {
                return content;
            }
        }
        let replies = session.session_counters().replies;
        if let Some((kind, number, deadline)) = self.command
            && (kind, number) == (expected, replies)
        {
            return deadline;
        }
        let now = Instant::now();
        let is_idle = expected == ExpectedInput::Command && has_delivered;
        let deadline = Deadline::new_command_deadline(now, timeout)
            .with_command_period_start(self.start_of_commands_without_mail(now))
            .with_idle_after_delivery_flag(is_idle);
        self.command = Some((expected, replies, deadline));
        deadline
    }

    fn content_deadline(&mut self, session: &Session, timeout: Duration) -> Deadline {
        let progress = session.content_progress();
        let (_, deadline) = match &mut self.content {
            Some(content) if content.0 == progress.number => content,
            content => content.insert((
                progress.number,
                Deadline::new_content_deadline(Instant::now(), timeout),
            )),
        };
        deadline.set_content_octets_for_deadline(progress.octets);
        if session.is_discarding_content() {
            deadline.mark_content_as_discarded(Instant::now);
        }
        *deadline
    }

    /// Restarts the timeout for a pause within content, because octets were received.
    pub(super) fn restart_timeout_for_content_pause(&mut self, now: Instant) {
        if let Some((_, deadline)) = &mut self.content {
            deadline.restart_content_pause_limit(now);
        }
    }

    /// Returns the start of the period in which the client has sent commands but no mail.
    pub(super) fn start_of_commands_without_mail(&mut self, now: Instant) -> Instant {
        if mem::take(&mut self.is_mail_saved) {
            self.commands_since = now;
        }
        self.commands_since
    }

    /// Records that a mail was saved. The period of commands without a mail restarts after the reply to this mail.
    pub(super) fn note_saved_mail(&mut self) {
        self.is_mail_saved = true;
    }

    /// Moves the start of the command period forward by `waited`: time spent waiting for the store or for the recipient hook
    /// does not count towards the time limit for commands without a mail.
    pub(super) fn exclude_wait(&mut self, waited: Duration) {
        self.commands_since += waited;
    }

    fn is_discard_time_over(&self) -> bool {
        let content = self.content.as_ref();
        content.is_some_and(|(_, deadline)| deadline.is_max_discard_time_over(Instant::now()))
    }
}

impl ClientConnection<'_> {
    /// Returns whether discarding has reached its time limit or, if at least half of the connection slots are taken, its limit
    /// in octets.
    pub(super) fn is_discard_limit_reached(&self) -> bool {
        let max_content = self.session_settings.max_content_octets as u64;
        let max_discarded = max_content
            .saturating_mul(2)
            .saturating_add(MAX_DISCARDED_BEYOND);
        let is_over_limit = self.session.content_progress().discarded > max_discarded;
        (is_over_limit && self.client.connection_slot_load() >= LoadLevel::HalfFull)
            || self.deadlines.is_discard_time_over()
    }

    /// Returns why content is discarded if the connection closes because connection slots run out (`reason` is `Shed`) or
    /// because the time limit for discarding has passed; otherwise `None`. The client gets the reply of that reason, for
    /// example 552 (message too large), because after 421 it would send the same message again.
    pub(super) fn discard_reason_to_send_on_close(
        &self,
        reason: CloseReason,
    ) -> Option<ContentDiscardReason> {
        match reason == CloseReason::Shed || self.deadlines.is_discard_time_over() {
            true => self.session.discard_reason(),
            false => None,
        }
    }
}

/// While at least half of the connection slots are taken, the server closes the connection when the discarded octets of a
/// message exceed twice the maximum message size plus this number. Less is read and discarded, because most clients read the
/// reply only after they have sent the whole message.
const MAX_DISCARDED_BEYOND: u64 = 1 << 20;
