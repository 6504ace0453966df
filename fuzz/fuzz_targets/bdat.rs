//! BDAT among other commands: each stored mail and each reply is compared with a model that knows what was sent.
#![no_main]

use std::mem;

use arbitrary::Arbitrary;
use goguerrilla::internals::smtp::TlsState;
use goguerrilla_fuzz::{Dialogue, StepOutput, split_three_ways};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Command {
    Chunk { octets: Vec<u8>, last: bool },
    Mail,
    Recipient(u8),
    ForeignRecipient,
    Data { lines: u8 },
    Reset,
    Ehlo,
    Noop,
}

/// The client's transaction as the model expects it.
#[derive(Default)]
struct Model {
    transaction: Option<Transaction>,
    /// Whether a chunk that was not the last one was rejected; further chunks of its message may follow.
    follows_rejected_chunk: bool,
    expected: Vec<Expected>,
    stream: Vec<u8>,
}

#[derive(Default)]
struct Transaction {
    recipients: Vec<u8>,
    chunks: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Code(u16),
    /// The reply to a further chunk of a rejected message; it does not count as an error.
    CodeWithoutError(u16),
    Saved(usize, Vec<u8>),
}

fuzz_target!(|commands: Vec<Command>| {
    let mut model = Model::default();
    for command in commands.iter().take(MAX_COMMANDS) {
        model.send(command);
    }
    // The eleventh error ends the session.
    let mut errors = 0;
    for (index, expected) in model.expected.iter().enumerate() {
        errors += u32::from(matches!(expected, Expected::Code(500..=503 | 555)));
        if errors > 10 {
            model.expected.truncate(index);
            model.expected.push(Expected::Code(421));
            break;
        }
    }
    for expected in &mut model.expected {
        if let Expected::CodeWithoutError(code) = *expected {
            *expected = Expected::Code(code);
        }
    }
    for pieces in split_three_ways(&model.stream) {
        let mut dialogue = Dialogue::new(MAX_CONTENT, 1 << 20, TlsState::Unavailable);
        dialogue.receive(b"EHLO c\r\n");
        let seen = dialogue.receive_all(&pieces);
        let seen: Vec<Expected> = seen.into_iter().map(expected).collect();
        assert_eq!(seen, model.expected);
        dialogue.end();
    }
});

fn expected(seen: StepOutput) -> Expected {
    match seen {
        StepOutput::Save(mail) => Expected::Saved(mail.recipients.len(), mail.content),
        step => Expected::Code(step.code()),
    }
}

impl Model {
    fn send(&mut self, command: &Command) {
        let is_after_rejected_chunk = mem::take(&mut self.follows_rejected_chunk);
        let mut code = |code| self.expected.push(Expected::Code(code));
        let is_chunked = self
            .transaction
            .as_ref()
            .is_some_and(|open| open.chunks.is_some());
        match command {
            Command::Chunk { octets, last } => {
                let last_word = if *last { " LAST" } else { "" };
                self.stream
                    .extend(format!("BDAT {}{last_word}\r\n", octets.len()).bytes());
                self.stream.extend(octets);
                // Accepted or not, the octets of a chunk are never commands.
                let has_recipients = |open: &Transaction| !open.recipients.is_empty();
                if !self.transaction.as_ref().is_some_and(has_recipients) {
                    self.follows_rejected_chunk = is_after_rejected_chunk && !last;
                    let code = if is_after_rejected_chunk {
                        Expected::CodeWithoutError
                    } else {
                        Expected::Code
                    };
                    self.expected.push(code(503));
                    return;
                }
                let mut open = self.transaction.take().unwrap_or_default();
                let mut content = open.chunks.take().unwrap_or_default();
                content.extend(octets);
                if content.len() > MAX_CONTENT {
                    code(552);
                    self.follows_rejected_chunk = !last;
                } else if *last {
                    let recipients = open.recipients.len();
                    self.expected.push(Expected::Saved(recipients, content));
                } else {
                    code(250);
                    open.chunks = Some(content);
                    self.transaction = Some(open);
                }
            }
            Command::Mail => {
                self.stream.extend(b"MAIL FROM:<a@b>\r\n");
                code(if self.transaction.is_some() { 503 } else { 250 });
                self.transaction.get_or_insert_default();
            }
            Command::Recipient(number) => {
                let number = number % 5;
                self.stream
                    .extend(format!("RCPT TO:<u{number}@ours.test>\r\n").bytes());
                match &mut self.transaction {
                    Some(open) if !is_chunked => {
                        let is_known = open.recipients.contains(&number);
                        if !is_known && open.recipients.len() == 3 {
                            code(452);
                        } else {
                            code(250);
                            if !is_known {
                                open.recipients.push(number);
                            }
                        }
                    }
                    _ => code(503),
                }
            }
            Command::ForeignRecipient => {
                self.stream.extend(b"RCPT TO:<u@foreign.test>\r\n");
                let may_ask = self.transaction.is_some() && !is_chunked;
                code(if may_ask { 550 } else { 503 });
            }
            Command::Data { lines } => {
                self.stream.extend(b"DATA\r\n");
                match &self.transaction {
                    Some(open) if !open.recipients.is_empty() && !is_chunked => {
                        code(354);
                        let content = b"BDAT 3 LAST\r\n".repeat(usize::from(*lines % 40));
                        self.stream.extend(&content);
                        self.stream.extend(b".\r\n");
                        if content.len() > MAX_CONTENT {
                            code(552);
                        } else {
                            let recipients = open.recipients.len();
                            self.expected.push(Expected::Saved(recipients, content));
                        }
                        self.transaction = None;
                    }
                    _ => code(503),
                }
            }
            Command::Reset | Command::Ehlo => {
                let is_reset = matches!(command, Command::Reset);
                let line = if is_reset { "RSET\r\n" } else { "HELO c\r\n" };
                self.stream.extend(line.bytes());
                code(250);
                self.transaction = None;
            }
            Command::Noop => {
                self.stream.extend(b"NOOP\r\n");
                code(250);
            }
        }
    }
}

const MAX_CONTENT: usize = 300;
/// Maximum number of commands of a session without a saved mail: 100 minus EHLO.
const MAX_COMMANDS: usize = 99;
