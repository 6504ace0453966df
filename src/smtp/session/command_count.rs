//! Limits the number of commands that a client may send before a mail is saved. Otherwise a client could keep its connection
//! forever with NOOP.

use super::{Session, SessionState};
use crate::smtp::command::Verb;

/// The number of commands since the last saved mail.
///
/// The commands that transfer a mail count only if the mail is not saved, so that a mail with many recipients or chunks
/// does not reach the limit.
#[derive(Debug, Default)]
pub(super) struct CommandCount {
    counted: u64,
    /// Number of MAIL, DATA, BDAT and the first `max_recipients` RCPT commands in the open transaction.
    in_transaction: u64,
    recipients: usize,
}

impl Session {
    /// Counts a command that was executed. BDAT after a discarded chunk of the same message does not count, because a
    /// pipelining client sends it before it receives the reply.
    pub(super) fn count_toward_command_limit(
        &mut self,
        verb: Option<Verb>,
        was_in_transaction: bool,
    ) {
        let is_in_transaction = self.is_in_transaction();
        let is_for_mail = match verb {
            Some(Verb::Mail) => !was_in_transaction && is_in_transaction,
            _ => was_in_transaction,
        };
        if !self.exempt_from_errors {
            let max_recipients = self.settings.max_recipients;
            self.commands.add(verb, is_for_mail, max_recipients);
        }
        if was_in_transaction && !is_in_transaction {
            self.commands.add_commands_of_ended_transaction();
        }
    }

    /// Returns whether a transaction is open. The transaction stays open while its content is received.
    pub(super) fn is_in_transaction(&self) -> bool {
        match self.state {
            SessionState::Transaction(_) | SessionState::Data(..) | SessionState::Chunk(_) => true,
            SessionState::Ready | SessionState::Closed => false,
        }
    }
}

impl CommandCount {
    /// Counts one command. `is_in_transaction` is whether a transaction was open before the command, or the command opened
    /// one. Each RCPT beyond `max_recipients` counts like a command outside of a transaction.
    fn add(&mut self, verb: Option<Verb>, is_in_transaction: bool, max_recipients: usize) {
        let is_for_mail = is_in_transaction
            && match verb {
                Some(Verb::Mail | Verb::Data | Verb::Bdat) => true,
                Some(Verb::Rcpt) => {
                    self.recipients = self.recipients.saturating_add(1);
                    self.recipients <= max_recipients
                }
                _ => false,
            };
        match is_for_mail {
            true => self.in_transaction += 1,
            false => self.counted += 1,
        }
    }

    /// Adds the commands of the ended transaction to `counted`. If the transaction's mail is saved,
    /// `reset_count_after_saved_mail` later sets the counts to 0.
    pub(super) fn add_commands_of_ended_transaction(&mut self) {
        self.counted += self.in_transaction;
        self.in_transaction = 0;
        self.recipients = 0;
    }

    /// Resets the count after a mail was saved.
    pub(super) fn reset_count_after_saved_mail(&mut self) {
        *self = CommandCount::default();
    }

    /// Returns whether the client has sent more than [`MAX_COMMANDS`] commands without a saved mail.
    pub(super) fn is_command_limit_exceeded(&self) -> bool {
        self.counted > MAX_COMMANDS
    }
}

/// Maximum number of commands without a saved mail; the next command ends the session.
const MAX_COMMANDS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the count after this number of commands outside of a transaction.
    fn command_count_after_commands(commands: usize) -> CommandCount {
        let mut count = CommandCount::default();
        for _ in 0..commands {
            count.add(Some(Verb::Noop), false, 100);
        }
        count
    }

    #[test]
    fn command_limit_is_exceeded_by_command_101() {
        assert!(!command_count_after_commands(100).is_command_limit_exceeded());
        assert!(command_count_after_commands(101).is_command_limit_exceeded());
    }

    #[test]
    fn transaction_commands_count_only_when_it_ends_unsaved() {
        let mut count = command_count_after_commands(95);
        count.add(Some(Verb::Mail), true, 100);
        for _ in 0..100 {
            count.add(Some(Verb::Rcpt), true, 100);
        }
        for _ in 0..1_000 {
            count.add(Some(Verb::Bdat), true, 100);
        }
        assert!(!count.is_command_limit_exceeded());
        count.add_commands_of_ended_transaction();
        assert!(count.is_command_limit_exceeded());
        count.reset_count_after_saved_mail();
        assert!(!count.is_command_limit_exceeded());
    }

    #[test]
    fn excess_recipients_and_other_commands_in_a_transaction_count_at_once() {
        let mut count = command_count_after_commands(98);
        for _ in 0..3 {
            count.add(Some(Verb::Rcpt), true, 2);
        }
        count.add(Some(Verb::Noop), true, 2);
        assert!(!count.is_command_limit_exceeded());
        count.add(None, true, 2);
        assert!(count.is_command_limit_exceeded());
    }
}
