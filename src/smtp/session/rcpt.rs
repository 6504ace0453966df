//! RCPT: the checks of a recipient, and its answer after the recipient hook was asked.

use super::{Session, SessionState, Step};
use crate::smtp::command::{self, CommandError};
use crate::smtp::path::ForwardPath;
use crate::smtp::recipient_hook::RecipientCheck;
use crate::smtp::reply::{self, Reply};

impl Session {
    /// Checks a recipient. Returns the reply, or [`Step::CheckRecipient`] if the recipient hook decides.
    pub(super) fn rcpt(&mut self, argument: &[u8]) -> Result<Step, CommandError> {
        self.stats.rcpt_total += 1;
        let envelope = match &self.state {
            SessionState::Transaction(transaction) if transaction.chunks.is_some() => {
                return Ok(Step::Reply(reply::R503_BDAT_IN_PROGRESS));
            }
            SessionState::Transaction(transaction) => &transaction.envelope,
            _ => return Ok(Step::Reply(reply::R503_SEND_MAIL_FIRST)),
        };
        let path = command::parse_rcpt(argument, envelope.smtputf8)?;
        let settings = &self.settings;
        if !settings.allowed_hosts.accepts_recipient_path(&path) {
            return Ok(Step::Reply(reply::R550_RELAY_DENIED));
        }
        if !settings.can_store_recipient(&path) {
            return Ok(Step::Reply(reply::R553_RECIPIENT_UNSTORABLE));
        }
        if !envelope.has_recipient(&path) {
            // Like Postfix, checks the limit before it asks the hook: a lookup for a recipient that gets 452 would be wasted.
            if envelope.recipients.len() >= settings.max_recipients {
                return Ok(Step::Reply(reply::R452_TOO_MANY_RECIPIENTS));
            }
            if settings.recipient_hook.is_some() && !path.is_postmaster() {
                return Ok(Step::CheckRecipient(path));
            }
        }
        Ok(Step::Reply(self.accept_recipient(path)))
    }

    /// Continues after [`Step::CheckRecipient`] with the answer of the recipient hook; returns the reply to RCPT.
    pub fn recipient_checked(&mut self, path: ForwardPath, check: RecipientCheck) -> Reply {
        match check {
            RecipientCheck::Accept => self.accept_recipient(path),
            RecipientCheck::Reject => reply::R550_USER_UNKNOWN,
            RecipientCheck::Defer => reply::R451_RECIPIENT_LOOKUP_FAILED,
        }
    }

    /// Adds the recipient to the transaction, unless the transaction already has it; returns the reply.
    fn accept_recipient(&mut self, path: ForwardPath) -> Reply {
        let SessionState::Transaction(transaction) = &mut self.state else {
            return reply::R503_SEND_MAIL_FIRST;
        };
        if !transaction.envelope.has_recipient(&path) {
            transaction.envelope.recipients.push(path);
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.forbid_xclient_address_change();
        }
        self.stats.rcpt += 1;
        reply::R250_RECIPIENT_OK
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::smtp::{
        AcceptedDomains, InputBuffer, MemoryBudget, RecipientColumnLimits, RecipientHook,
        SessionSettings, TlsState,
    };

    #[derive(Debug)]
    struct UpTo(usize);

    impl RecipientColumnLimits for UpTo {
        fn can_store_recipient(&self, recipient: &str, _: &str) -> bool {
            recipient.len() <= self.0
        }
    }

    /// Returns a session in a transaction, and the addresses that its hook was asked about. The hook rejects local-part
    /// `unknown` and defers local-part `later`.
    fn session_with_hook() -> (Session, Arc<Mutex<Vec<String>>>) {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let hook = {
            let asked = Arc::clone(&asked);
            RecipientHook::new(move |address| {
                asked.lock().unwrap().push(address.to_owned());
                match address.split_once('@') {
                    Some(("unknown", _)) => RecipientCheck::Reject,
                    Some(("later", _)) => RecipientCheck::Defer,
                    _ => RecipientCheck::Accept,
                }
            })
        };
        let settings = SessionSettings {
            host_name: "mx.test".to_owned(),
            primary_mail_host: "mx.test".to_owned(),
            allowed_hosts: AcceptedDomains::from_host_patterns(["ours.test", "m\u{fc}nchen.test"])
                .unwrap(),
            max_content_octets: 1_000,
            max_recipients: 3,
            recipient_limits: Arc::new(UpTo(40)),
            recipient_hook: Some(hook),
            verbose: false,
        };
        let budget = MemoryBudget::new(1_000);
        let mut session = Session::new(Arc::new(settings), budget, TlsState::Unavailable);
        for command in ["EHLO c.test", "MAIL FROM:<a@b.test> SMTPUTF8"] {
            assert_eq!(reply_code(&mut session, command), 250);
        }
        (session, asked)
    }

    /// Returns the reply code to a command; asks the hook like a connection does.
    fn reply_code(session: &mut Session, command: &str) -> u16 {
        let mut input = InputBuffer::from_octets(format!("{command}\r\n").as_bytes());
        let reply = match session.next_step(&mut input) {
            Step::Reply(reply) => reply,
            Step::CheckRecipient(path) => {
                let hook = session.settings.recipient_hook.clone().unwrap();
                let check = hook.check(&path.mailbox_address());
                session.recipient_checked(path, check)
            }
            step => panic!("expected a reply to {command}, but found {step:?}"),
        };
        reply.three_digit_code()
    }

    fn rcpt(session: &mut Session, address: &str) -> u16 {
        reply_code(session, &format!("RCPT TO:<{address}>"))
    }

    #[test]
    fn hook_accepts_rejects_and_defers_recipients() {
        let (mut session, _) = session_with_hook();
        assert_eq!(rcpt(&mut session, "unknown@ours.test"), 550);
        assert_eq!(rcpt(&mut session, "later@ours.test"), 451);
        assert_eq!(reply_code(&mut session, "DATA"), 503);
        assert_eq!(rcpt(&mut session, "u@ours.test"), 250);
        assert_eq!(reply_code(&mut session, "DATA"), 354);
        let mut input = InputBuffer::from_octets(b"x\r\n.\r\n");
        let Step::Save(envelope, _) = session.next_step(&mut input) else {
            panic!("expected a mail");
        };
        let stored: Vec<&str> = envelope
            .recipients
            .iter()
            .map(ForwardPath::as_str)
            .collect();
        assert_eq!(stored, ["u@ours.test"]);
        let stats = session.session_counters();
        assert_eq!((stats.rcpt, stats.rcpt_total), (1, 3));
    }

    #[test]
    fn hook_gets_the_canonical_spelling_of_each_mailbox() {
        let (mut session, asked) = session_with_hook();
        for address in [
            "@r.test,@s.test:User@OURS.Test.",
            "\"a b\"@ours.test",
            "u@M\u{fc}nchen.test",
        ] {
            assert_eq!(rcpt(&mut session, address), 250, "{address}");
        }
        assert_eq!(
            *asked.lock().unwrap(),
            [
                "User@ours.test",
                "\"a b\"@ours.test",
                "u@xn--mnchen-3ya.test"
            ]
        );
    }

    #[test]
    fn hook_is_asked_last_and_not_for_known_recipients_or_postmaster() {
        let (mut session, asked) = session_with_hook();
        let long = format!("{}@ours.test", "x".repeat(40));
        for (address, want) in [
            ("u", 501),
            ("u@foreign.test", 550),
            ("u@foreign.test@ours.test", 550),
            (long.as_str(), 553),
            ("PostMaster", 250),
            ("postmaster@ours.test", 250),
            ("u@ours.test", 250),
            ("u@ours.test", 250),
            ("@r.test:u@OURS.test.", 250),
            ("unknown@ours.test", 452),
        ] {
            assert_eq!(rcpt(&mut session, address), want, "{address}");
        }
        assert_eq!(*asked.lock().unwrap(), ["u@ours.test"]);
        assert_eq!(reply_code(&mut session, "RSET"), 250);
        assert_eq!(reply_code(&mut session, "MAIL FROM:<>"), 250);
        assert_eq!(rcpt(&mut session, "u@ours.test"), 250);
        assert_eq!(asked.lock().unwrap().len(), 2, "a new transaction asks");
        assert_eq!(reply_code(&mut session, "RSET"), 250);
        assert_eq!(rcpt(&mut session, "u@ours.test"), 503);
        assert_eq!(asked.lock().unwrap().len(), 2, "no transaction");
    }

    #[test]
    fn rejected_recipients_count_as_commands() {
        let (mut session, asked) = session_with_hook();
        let mut replies = 0;
        let mut input = InputBuffer::from_octets(&b"RCPT TO:<unknown@ours.test>\r\n".repeat(200));
        loop {
            match session.next_step(&mut input) {
                Step::CheckRecipient(path) => {
                    let reply = session.recipient_checked(path, RecipientCheck::Reject);
                    assert_eq!(reply, reply::R550_USER_UNKNOWN);
                    replies += 1;
                }
                Step::Close(reply) => {
                    assert_eq!(reply, reply::R421_TOO_MANY_COMMANDS);
                    break;
                }
                step => panic!("unexpected {step:?}"),
            }
        }
        // EHLO counts, MAIL and the first three RCPTs do not.
        assert_eq!(replies, 102);
        assert!(asked.lock().unwrap().is_empty());
    }
}
