//! The states of one SMTP session and what moves it from one to the next.

mod bdat;
mod command_count;
mod receiving;

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use self::bdat::Chunk;
use self::command_count::CommandCount;
use super::command::{self, CommandError, MailCommand, Verb};
use super::content::{Content, ContentError, MemoryBudget};
use super::data::DataReader;
use super::extension::{self, OfferedExtensions};
use super::input::InputBuffer;
use super::line::{Line, LineReader};
use super::policy::SessionSettings;
use super::reply::{self, Reply};
use super::step::{ContentProgress, Envelope, Expecting, SessionStats, Step, Tls};
use super::xclient::{TrustedProxy, XclientAttributes};

/// One client's dialogue, from the greeting to QUIT. Knows no socket, clock or store.
pub struct Session {
    settings: Arc<SessionSettings>,
    budget: MemoryBudget,
    lines: LineReader,
    tls: Tls,
    helo: Option<Helo>,
    proxy: Option<TrustedProxy>,
    state: State,
    counts: SessionStats,
    commands: CommandCount,
    progress: ContentProgress,
    last_command: Option<String>,
    /// A chunk was refused, and its message with it: the rest of it, up to its last chunk or another command, was on its
    /// way already and is no fault.
    discarding_chunks: bool,
    /// The reply at hand is such a chunk's.
    exempt_from_errors: bool,
}

/// ```text
///             MAIL                   DATA
///  ┌► Ready ───────► Transaction ───────────► Data
///  │    ▲               │  ▲  │ BDAT            │
///  │    │   RSET EHLO   │  │  ▼                 │ CR LF . CR LF
///  │    └───────────────┘  └─ Chunk             │
///  │        Step::Save          │ BDAT n LAST   │
///  └────────────────────────────┴───────────────┘
/// ```
enum State {
    /// MAIL is wanted, or HELO before it.
    Ready,
    /// RCPT, then DATA or BDAT is wanted.
    Transaction(Transaction),
    /// Content flows, dots and all.
    Data(Envelope, DataReader),
    /// The octets of a chunk flow.
    Chunk(Chunk),
    /// Nothing more is read.
    Closed,
}

/// What the client said of itself; holds until it says otherwise.
struct Helo {
    name: String,
    extended: bool,
}

struct Transaction {
    envelope: Envelope,
    /// Content of the chunks so far, once there was one.
    chunks: Option<Content>,
}

impl Session {
    /// A session whose greeting has not been said.
    pub fn new(settings: Arc<SessionSettings>, budget: MemoryBudget, tls: Tls) -> Session {
        Session {
            settings,
            budget,
            lines: LineReader::default(),
            tls,
            helo: None,
            proxy: None,
            state: State::Ready,
            counts: SessionStats::default(),
            commands: CommandCount::default(),
            progress: ContentProgress::default(),
            last_command: None,
            discarding_chunks: false,
            exempt_from_errors: false,
        }
    }

    /// Believes XCLIENT: the peer is a trusted proxy. `named` is the address that it passed on already, in the header of
    /// the PROXY protocol.
    pub fn trust_proxy(&mut self, named: Option<IpAddr>) {
        self.proxy = Some(TrustedProxy::new(named));
    }

    /// The first thing to say.
    pub fn greet(&self) -> Reply {
        Reply::greeting(&self.settings.host_name)
    }

    /// Uses up input as far as it makes a step. The steps do not depend on where the stream was cut.
    pub fn next_step(&mut self, input: &mut InputBuffer) -> Step {
        let step = match &mut self.state {
            State::Data(..) => self.read_data(input),
            State::Chunk(..) => self.read_chunk(input),
            State::Closed => Step::NeedInput,
            State::Ready | State::Transaction(_) => self.read_line(input),
        };
        match &step {
            Step::NeedInput => return step,
            Step::Reply(reply) if reply.is_error() => {
                self.counts.errors += u64::from(!mem::take(&mut self.exempt_from_errors));
            }
            Step::Quit(_) | Step::Close(_) => self.state = State::Closed,
            Step::Reply(_)
            | Step::RejectMessage(_)
            | Step::RejectXclient
            | Step::StartTls(_)
            | Step::Xclient(..)
            | Step::Save(..) => {}
        }
        self.counts.replies += 1;
        if self.counts.errors > MAX_ERRORS {
            self.state = State::Closed;
            return Step::Close(reply::R421_TOO_MANY_ERRORS);
        }
        step
    }

    /// The handshake succeeded: what was said before is forgotten ([RFC 3207 §4.2]).
    ///
    /// [RFC 3207 §4.2]: https://www.rfc-editor.org/rfc/rfc3207#section-4.2
    pub fn tls_started(&mut self) {
        self.tls = Tls::On;
        self.helo = None;
        self.state = State::Ready;
        self.commands.transaction_ended();
    }

    /// Sets that the mail of the last [`Step::Save`] was saved: the client may send as many commands again.
    pub fn mail_saved(&mut self) {
        self.commands.restart();
    }

    /// What the client is expected to send next.
    pub fn expecting(&self) -> Expecting {
        match self.state {
            State::Data(..) | State::Chunk(..) => Expecting::Content,
            State::Transaction(Transaction {
                chunks: Some(_), ..
            }) => Expecting::Content,
            State::Transaction(_) => Expecting::TransactionCommand,
            State::Ready | State::Closed => Expecting::Command,
        }
    }

    /// What the client called itself, or its proxy called it before; empty while nobody has.
    pub fn helo_name(&self) -> &str {
        let said = self.helo.as_ref().map(|hello| hello.name.as_str());
        let given = || self.proxy.as_ref()?.helo_name();
        said.or_else(given).unwrap_or_default()
    }

    /// The protocol word of Received ([RFC 3848](https://www.rfc-editor.org/rfc/rfc3848), RFC 6531 §4.3).
    pub fn protocol(&self, envelope: &Envelope) -> &'static str {
        let extended = self.helo.as_ref().is_some_and(|hello| hello.extended);
        match (envelope.smtputf8, extended, self.tls == Tls::On) {
            (true, _, false) => "UTF8SMTP",
            (true, _, true) => "UTF8SMTPS",
            (false, true, false) => "ESMTP",
            (false, true, true) => "ESMTPS",
            (false, false, _) => "SMTP",
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> SessionStats {
        self.counts
    }

    /// The command line last read, when the settings ask for it.
    pub fn take_last_command(&mut self) -> Option<String> {
        self.last_command.take()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a complete line is there, and ends in CR LF"
    )]
    fn read_line(&mut self, input: &mut InputBuffer) -> Step {
        let octets = match self.lines.next(input) {
            Line::Complete(octets) => octets,
            Line::Partial => return Step::NeedInput,
            Line::TooLong if command::is_http_request(input.unread()) => {
                return Step::Close(reply::R500_HTTP_REQUEST);
            }
            Line::TooLong => return reject_line(input.unread(), reply::R500_LINE_TOO_LONG),
            Line::BareLf => return Step::Close(reply::R500_BARE_LF),
        };
        let line = &input.unread()[..octets - 2];
        if self.settings.verbose {
            self.last_command = Some(String::from_utf8_lossy(line).into_owned());
        }
        let was_in_transaction = self.is_in_transaction();
        let (verb, step) = if command::is_http_request(line) {
            (None, Some(Step::Close(reply::R500_HTTP_REQUEST)))
        } else if line.iter().any(|octet| matches!(octet, b'\r' | 0)) {
            (None, Some(reject_line(line, reply::R500_BAD_OCTETS)))
        } else {
            let (verb, argument) = command::split(line);
            self.discarding_chunks &= verb == Some(Verb::Bdat);
            let step = match verb {
                Some(verb) => self.execute(verb, argument),
                None => Some(reject_line(line, reply::R500_UNKNOWN_VERB)),
            };
            (verb, step)
        };
        self.count_command(verb, was_in_transaction);
        input.consume(octets);
        match step {
            Some(step @ (Step::Quit(_) | Step::Close(_))) => step,
            _ if self.commands.is_exceeded() => Step::Close(reply::R421_TOO_MANY_COMMANDS),
            Some(Step::StartTls(_)) if !input.unread().is_empty() => {
                Step::Close(reply::R454_PIPELINED_STARTTLS)
            }
            Some(step) => step,
            None => self.read_chunk(input),
        }
    }

    /// The one table of commands: what each verb does. `None`: the octets of a chunk come next.
    fn execute(&mut self, verb: Verb, argument: &[u8]) -> Option<Step> {
        let outcome = match verb {
            Verb::Helo => self.helo(argument, false).map(Step::Reply),
            Verb::Ehlo => self.helo(argument, true).map(Step::Reply),
            Verb::Mail => self.mail(argument),
            Verb::Rcpt => self.rcpt(argument).map(Step::Reply),
            Verb::Data => self.data(argument).map(Step::Reply),
            Verb::Bdat => return self.bdat(argument),
            Verb::Rset => self.rset(argument).map(Step::Reply),
            Verb::Noop => Ok(Step::Reply(reply::R250_OK)),
            Verb::Vrfy => Ok(Step::Reply(reply::R252_CANNOT_VERIFY)),
            Verb::Help => Ok(Step::Reply(reply::R214_HELP)),
            Verb::Quit => command::no_argument(argument).map(|()| Step::Quit(reply::R221_BYE)),
            Verb::StartTls => self.start_tls(argument),
            Verb::Xclient => self.xclient(argument),
            Verb::Expn | Verb::NotImplemented => Ok(Step::Reply(reply::R502_NOT_IMPLEMENTED)),
        };
        Some(outcome.unwrap_or_else(|error| Step::Reply(error.into())))
    }

    fn helo(&mut self, argument: &[u8], extended: bool) -> Result<Reply, CommandError> {
        let name = command::helo_name(argument)?.to_owned();
        self.helo = Some(Helo { name, extended });
        self.state = State::Ready;
        self.counts.helo += 1;
        let settings = &self.settings;
        Ok(if extended {
            let offer = OfferedExtensions {
                chunking: self.chunking_allowed(),
                starttls: self.tls == Tls::Offered,
                xclient: self.proxy.is_some(),
            };
            extension::ehlo_reply(&settings.host_name, settings.max_content_octets, offer)
        } else {
            Reply::new(250, None, settings.host_name.clone().into())
        })
    }

    fn mail(&mut self, argument: &[u8]) -> Result<Step, CommandError> {
        if self.helo.is_none() {
            return Ok(Step::Reply(reply::R503_SEND_HELO_FIRST));
        }
        if let State::Transaction(_) = self.state {
            return Ok(Step::Reply(reply::R503_NESTED_MAIL));
        }
        let mail = MailCommand::parse(argument)?;
        let max = self.settings.max_content_octets as u64;
        if mail.parameters.size.is_some_and(|size| size > max) {
            return Ok(Step::RejectMessage(ContentError::TooLarge));
        }
        let envelope = Envelope {
            reverse_path: mail.reverse_path,
            recipients: Vec::new(),
            smtputf8: mail.parameters.smtputf8,
        };
        let chunks = None;
        self.state = State::Transaction(Transaction { envelope, chunks });
        self.counts.mail += 1;
        Ok(Step::Reply(reply::R250_SENDER_OK))
    }

    fn rcpt(&mut self, argument: &[u8]) -> Result<Reply, CommandError> {
        self.counts.rcpt_asked += 1;
        let envelope = match &mut self.state {
            State::Transaction(transaction) if transaction.chunks.is_some() => {
                return Ok(reply::R503_CHUNKS_UNDER_WAY);
            }
            State::Transaction(transaction) => &mut transaction.envelope,
            _ => return Ok(reply::R503_SEND_MAIL_FIRST),
        };
        let path = command::parse_rcpt(argument, envelope.smtputf8)?;
        let settings = &self.settings;
        if !settings.allowed_hosts.accept(&path) {
            return Ok(reply::R550_RELAY_DENIED);
        }
        if !settings.can_store(&path) {
            return Ok(reply::R553_RECIPIENT_UNSTORABLE);
        }
        let recipients = &mut envelope.recipients;
        if !recipients.iter().any(|known| known.is_same_mailbox(&path)) {
            if recipients.len() >= settings.max_recipients {
                return Ok(reply::R452_TOO_MANY_RECIPIENTS);
            }
            recipients.push(path);
        }
        if let Some(proxy) = &mut self.proxy {
            proxy.lock_address();
        }
        self.counts.rcpt += 1;
        Ok(reply::R250_RECIPIENT_OK)
    }

    fn rset(&mut self, argument: &[u8]) -> Result<Reply, CommandError> {
        command::no_argument(argument)?;
        self.state = State::Ready;
        Ok(reply::R250_OK)
    }

    fn start_tls(&self, argument: &[u8]) -> Result<Step, CommandError> {
        if self.tls == Tls::Unavailable {
            return Ok(Step::Reply(reply::R502_NOT_IMPLEMENTED));
        }
        command::no_argument(argument)?;
        Ok(match self.tls {
            Tls::On => Step::Reply(reply::R503_TLS_ALREADY),
            Tls::Offered | Tls::Unavailable => Step::StartTls(reply::R220_START_TLS),
        })
    }

    /// The session starts over for the client that a trusted proxy speaks for, which has to greet us itself.
    fn xclient(&mut self, argument: &[u8]) -> Result<Step, CommandError> {
        let Some(proxy) = &mut self.proxy else {
            return Ok(Step::RejectXclient);
        };
        if let State::Transaction(_) = self.state {
            return Ok(Step::Reply(reply::R503_XCLIENT_IN_TRANSACTION));
        }
        let facts = XclientAttributes::parse(argument)?;
        let address = facts.address;
        if !proxy.apply(facts) {
            return Ok(Step::RejectXclient);
        }
        self.helo = None;
        Ok(Step::Xclient(address, self.greet()))
    }
}

/// Rejects a line that is no command. If it begins like BDAT, an unknown number of content octets follows it, so the
/// session ends.
fn reject_line(line: &[u8], reply: Reply) -> Step {
    match command::is_bdat(line) {
        true => Step::Close(reply),
        false => Step::Reply(reply),
    }
}

/// A session may send this many faulty commands; the next one ends it.
const MAX_ERRORS: u64 = 10;
