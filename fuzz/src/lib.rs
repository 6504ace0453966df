//! Shared code of the fuzz targets: a session without a socket, its visible steps, and streams cut in several ways.

use std::net::IpAddr;
use std::sync::Arc;

use goguerrilla::internals::smtp::{
    AcceptedDomains, COMMAND_READ_SIZE, InputBuffer, MemoryBudget, Reply, Session, SessionSettings,
    Step, TlsState, XclientAddress, reply,
};
use goguerrilla::internals::store::TableColumns;

/// A session and the input on its way to it.
pub struct Dialogue {
    session: Session,
    input: InputBuffer,
    budget: MemoryBudget,
    max_budget: usize,
    max_content: usize,
    max_recipients: usize,
    is_closed: bool,
}

/// The externally visible part of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutput {
    Reply(u16, String),
    Save(Mail),
    StartTls,
    Xclient(XclientAddress),
    Close(u16, String),
}

/// A mail that the session would save.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub from: String,
    pub recipients: Vec<String>,
    pub smtputf8: bool,
    pub content: Vec<u8>,
}

impl StepOutput {
    /// Returns the reply code, or 0 for a save, whose reply the connection decides.
    pub fn code(&self) -> u16 {
        match self {
            StepOutput::Reply(code, _) | StepOutput::Close(code, _) => *code,
            StepOutput::StartTls | StepOutput::Xclient(_) => 220,
            StepOutput::Save(_) => 0,
        }
    }
}

impl Dialogue {
    /// Starts a session before EHLO. It accepts mail for ours.test, with three recipients at most.
    pub fn new(max_content: usize, max_budget: usize, tls: TlsState) -> Dialogue {
        Dialogue::with_settings(settings(max_content), max_budget, tls)
    }

    /// Starts a session with these settings.
    pub fn with_settings(
        settings: Arc<SessionSettings>,
        max_budget: usize,
        tls: TlsState,
    ) -> Dialogue {
        let budget = MemoryBudget::new(max_budget);
        Dialogue {
            max_content: settings.max_content_octets,
            max_recipients: settings.max_recipients,
            session: Session::new(settings, budget.clone(), tls),
            input: InputBuffer::new(),
            budget,
            max_budget,
            is_closed: false,
        }
    }

    /// Makes the peer a trusted proxy; `proxy_address` is the client address of its PROXY header.
    pub fn allow_xclient(mut self, proxy_address: Option<IpAddr>) -> Dialogue {
        self.session.enable_xclient(proxy_address);
        self
    }

    /// Passes octets to the session as a connection reads them, limited by the space in the buffer, and returns the
    /// steps.
    pub fn receive(&mut self, octets: &[u8]) -> Vec<StepOutput> {
        let mut steps = Vec::new();
        let mut rest = octets;
        while !rest.is_empty() && !self.is_closed {
            rest = &rest[self.fill(rest)..];
            while let Some(step) = self.next() {
                steps.push(step);
            }
        }
        steps
    }

    /// Passes all pieces in order and returns the steps.
    pub fn receive_all(&mut self, pieces: &[&[u8]]) -> Vec<StepOutput> {
        pieces
            .iter()
            .flat_map(|piece| self.receive(piece))
            .collect()
    }

    /// Copies as many octets into the input buffer as fit, and returns their number.
    pub fn fill(&mut self, octets: &[u8]) -> usize {
        let spare = self.input.spare_mut(COMMAND_READ_SIZE);
        let count = spare.len().min(octets.len());
        spare[..count].copy_from_slice(&octets[..count]);
        self.input.mark_spare_octets_as_filled(count);
        count
    }

    /// Returns the next step, or `None` if the session needs more input or is closed.
    pub fn next(&mut self) -> Option<StepOutput> {
        if self.is_closed {
            return None;
        }
        let step = match self.session.next_step(&mut self.input) {
            Step::NeedInput => {
                // Only an incomplete command line may stay unread.
                assert!(self.input.unconsumed_octets().len() < 2_048);
                let buffer = self.input.unconsumed_octets().len()
                    + self.input.spare_mut(COMMAND_READ_SIZE).len();
                assert!(buffer <= 65_536, "a buffer of {buffer} octets");
                return None;
            }
            Step::Reply(reply) => output(&reply),
            Step::RejectMessage(error) => output(&error.into()),
            Step::RejectXclient => output(&reply::R550_XCLIENT_DENIED),
            Step::Quit(reply) | Step::Close(reply) => {
                self.is_closed = true;
                let (code, text) = check_reply(&reply);
                StepOutput::Close(code, text)
            }
            Step::StartTls(reply) => {
                check_reply(&reply);
                // CVE-2011-0411: commands pipelined after STARTTLS must not survive.
                assert!(self.input.unconsumed_octets().is_empty());
                self.session.reset_after_tls_handshake();
                StepOutput::StartTls
            }
            Step::Xclient(address, reply) => {
                check_reply(&reply);
                StepOutput::Xclient(address)
            }
            Step::CheckRecipient(_) => unreachable!("no recipient hook is set"),
            Step::Save(envelope, content) => {
                assert!(content.octets().len() <= self.max_content);
                assert!((1..=self.max_recipients).contains(&envelope.recipients.len()));
                let paths = envelope.recipients.iter();
                StepOutput::Save(Mail {
                    from: envelope.reverse_path.as_str().to_owned(),
                    recipients: paths.map(|path| path.as_str().to_owned()).collect(),
                    smtputf8: envelope.smtputf8,
                    content: content.octets().to_vec(),
                })
            }
        };
        assert!(self.budget.reserved_octets() <= self.max_budget);
        Some(step)
    }

    /// Returns the unread input.
    pub fn unread(&self) -> &[u8] {
        self.input.unconsumed_octets()
    }

    /// Returns the session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the session and asserts that it released all memory.
    pub fn end(self) {
        let budget = self.budget.clone();
        drop(self);
        assert_eq!(budget.reserved_octets(), 0);
    }
}

/// Checks the form of a reply after which the session goes on.
fn output(reply: &Reply) -> StepOutput {
    let (code, text) = check_reply(reply);
    StepOutput::Reply(code, text)
}

/// Checks the form of a reply and returns its code and its text on the wire.
pub fn check_reply(reply: &Reply) -> (u16, String) {
    let mut octets = Vec::new();
    reply.write_to(&mut octets);
    let text = String::from_utf8(octets).expect("ASCII");
    let lines: Vec<&str> = text.split_inclusive("\r\n").collect();
    for (index, line) in lines.iter().enumerate() {
        assert!(line.len() <= 512, "{line}");
        let line = line.strip_suffix("\r\n").expect("each line ends in CR LF");
        assert!(
            line.bytes().all(|octet| (32..127).contains(&octet)),
            "{line:?}"
        );
        assert_eq!(line[..3], reply.three_digit_code().to_string());
        let separator = if index + 1 == lines.len() { " " } else { "-" };
        assert_eq!(&line[3..4], separator);
    }
    assert!(!lines.is_empty());
    (reply.three_digit_code(), text)
}

/// Returns the stream as a whole, octet by octet, and in pieces whose lengths are derived from its octets, so that a
/// finding is reproducible.
pub fn split_three_ways(stream: &[u8]) -> [Vec<&[u8]>; 3] {
    // FNV-1a, then Marsaglia's xorshift64.
    let fnv = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(0x100_0000_01b3);
    let mut state = stream.iter().fold(0xcbf2_9ce4_8422_2325, fnv) | 1;
    let mut pieces = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let longest = [2, 8, 64, 4_096][(state >> 60) as usize % 4];
        let (piece, tail) = rest.split_at((1 + (state >> 20) as usize % longest).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    [vec![stream], stream.chunks(1).collect(), pieces]
}

/// Returns the settings of the sessions.
pub fn settings(max_content: usize) -> Arc<SessionSettings> {
    Arc::new(SessionSettings {
        host_name: "mx.test".to_owned(),
        primary_mail_host: "primary.test".to_owned(),
        allowed_hosts: AcceptedDomains::from_host_patterns(["ours.test"]).expect("a domain"),
        max_content_octets: max_content,
        max_recipients: 3,
        recipient_limits: Arc::new(TableColumns::DEFAULT.columns_limiting_recipients()),
        recipient_hook: None,
        verbose: true,
    })
}
