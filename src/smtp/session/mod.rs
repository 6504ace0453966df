//! The states of an SMTP session and the commands that change them.

mod bdat;
mod command_count;
mod data;
mod rcpt;

use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use self::bdat::ReceivingBdatChunk;
use self::command_count::CommandCount;
use super::command::{self, CommandError, MailCommand, Verb};
use super::content::{ContentLimitError, MemoryBudget, MessageOctets};
use super::data::DataReader;
use super::extension::{self, ConditionalExtensions};
use super::input::InputBuffer;
use super::line::{CommandLineFinder, LineSearchResult};
use super::policy::SessionSettings;
use super::reply::{self, Reply};
use super::step::{Envelope, ExpectedInput, ReceivedContentProgress, SessionStats, Step, TlsState};
use super::xclient::{XclientAttributes, XclientState};

/// One SMTP session, from the greeting to its end. It has no socket, clock or store.
pub struct Session {
    settings: Arc<SessionSettings>,
    budget: MemoryBudget,
    lines: CommandLineFinder,
    tls: TlsState,
    helo: Option<Helo>,
    proxy: Option<XclientState>,
    state: SessionState,
    stats: SessionStats,
    commands: CommandCount,
    progress: ReceivedContentProgress,
    last_command: Option<String>,
    /// Whether a chunk was discarded and more chunks of its message may follow. These chunks, up to LAST or another command,
    /// are discarded too. They do not count as errors, because a pipelining client sends them before it receives the reply to
    /// the first discarded chunk.
    discarding_chunks: bool,
    /// Whether the current command is BDAT for a remaining chunk of a discarded message; rejecting it does not count as an
    /// error.
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
enum SessionState {
    /// HELO, EHLO or MAIL is expected.
    Ready,
    /// RCPT is expected, then DATA or BDAT.
    Transaction(MailTransaction),
    /// Content after DATA is being received.
    Data(Envelope, DataReader),
    /// The octets of a BDAT chunk are being received.
    Chunk(ReceivingBdatChunk),
    /// The session has ended; further input is ignored.
    Closed,
}

/// The last accepted HELO or EHLO.
struct Helo {
    name: String,
    extended: bool,
}

struct MailTransaction {
    envelope: Envelope,
    /// Content of the chunks so far; `None` before the first chunk.
    chunks: Option<MessageOctets>,
}

impl Session {
    /// Returns a session before its greeting.
    pub fn new(settings: Arc<SessionSettings>, budget: MemoryBudget, tls: TlsState) -> Session {
        Session {
            settings,
            budget,
            lines: CommandLineFinder::default(),
            tls,
            helo: None,
            proxy: None,
            state: SessionState::Ready,
            stats: SessionStats::default(),
            commands: CommandCount::default(),
            progress: ReceivedContentProgress::default(),
            last_command: None,
            discarding_chunks: false,
            exempt_from_errors: false,
        }
    }

    /// Allows XCLIENT from now on, because the peer is a trusted proxy. `header_address` is the client address from the PROXY
    /// header; `None` without such a header.
    pub fn enable_xclient(&mut self, header_address: Option<IpAddr>) {
        self.proxy = Some(XclientState::new(header_address));
    }

    /// Returns the greeting.
    pub fn greeting(&self) -> Reply {
        Reply::greeting(&self.settings.host_name)
    }

    /// Consumes input and returns the next step. The steps do not depend on packet boundaries.
    pub fn next_step(&mut self, input: &mut InputBuffer) -> Step {
        let step = match &mut self.state {
            SessionState::Data(..) => self.read_data(input),
            SessionState::Chunk(..) => self.read_chunk(input),
            SessionState::Closed => Step::NeedInput,
            SessionState::Ready | SessionState::Transaction(_) => self.execute_next_line(input),
        };
        match &step {
            Step::NeedInput => return step,
            Step::Reply(reply) if reply.counts_toward_error_limit() => {
                self.stats.errors += u64::from(!mem::take(&mut self.exempt_from_errors));
            }
            Step::Quit(_) | Step::Close(_) => self.state = SessionState::Closed,
            Step::Reply(_)
            | Step::RejectMessage(_)
            | Step::RejectXclient
            | Step::StartTls(_)
            | Step::Xclient(..)
            | Step::CheckRecipient(_)
            | Step::Save(..) => {}
        }
        self.stats.replies += 1;
        if self.stats.errors > MAX_ERRORS {
            self.state = SessionState::Closed;
            return Step::Close(reply::R421_TOO_MANY_ERRORS);
        }
        step
    }

    /// Continues after a successful TLS handshake; the HELO name and the transaction are discarded ([RFC 3207 §4.2]).
    ///
    /// [RFC 3207 §4.2]: https://www.rfc-editor.org/rfc/rfc3207#section-4.2
    pub fn reset_after_tls_handshake(&mut self) {
        self.tls = TlsState::On;
        self.helo = None;
        self.state = SessionState::Ready;
        self.commands.add_commands_of_ended_transaction();
    }

    /// Resets the count of commands, because the mail of the last [`Step::Save`] was saved.
    pub fn reset_command_count(&mut self) {
        self.commands.reset_count_after_saved_mail();
    }

    /// Returns the kind of input that is expected next.
    pub fn expected_input(&self) -> ExpectedInput {
        match self.state {
            SessionState::Data(..) | SessionState::Chunk(..) => ExpectedInput::Content,
            SessionState::Transaction(MailTransaction {
                chunks: Some(_), ..
            }) => ExpectedInput::Content,
            SessionState::Transaction(_) => ExpectedInput::TransactionCommand,
            SessionState::Ready | SessionState::Closed => ExpectedInput::Command,
        }
    }

    /// Returns the name in the client's last HELO or EHLO. Without such a command, returns the name that the proxy passed on,
    /// or an empty text.
    pub fn helo_name(&self) -> &str {
        let own = self.helo.as_ref().map(|helo| helo.name.as_str());
        let from_proxy = || self.proxy.as_ref()?.helo_name();
        own.or_else(from_proxy).unwrap_or_default()
    }

    /// Returns the protocol word for the Received field ([RFC 3848](https://www.rfc-editor.org/rfc/rfc3848), RFC 6531 §4.3).
    pub fn received_field_protocol(&self, envelope: &Envelope) -> &'static str {
        let extended = self.helo.as_ref().is_some_and(|helo| helo.extended);
        match (envelope.smtputf8, extended, self.tls == TlsState::On) {
            (true, _, false) => "UTF8SMTP",
            (true, _, true) => "UTF8SMTPS",
            (false, true, false) => "ESMTP",
            (false, true, true) => "ESMTPS",
            (false, false, _) => "SMTP",
        }
    }

    /// Returns the counters of the session.
    pub fn session_counters(&self) -> SessionStats {
        self.stats
    }

    /// Takes the last command line; `None` if it was already taken or [`SessionSettings::verbose`] is `false`.
    pub fn take_last_command(&mut self) -> Option<String> {
        self.last_command.take()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a complete line is there, and ends in CR LF"
    )]
    fn execute_next_line(&mut self, input: &mut InputBuffer) -> Step {
        let octets = match self.lines.find_next_smtp_line(input) {
            LineSearchResult::Complete(octets) => octets,
            LineSearchResult::Partial => return Step::NeedInput,
            LineSearchResult::TooLong if command::is_http_request(input.unconsumed_octets()) => {
                return Step::Close(reply::R500_HTTP_REQUEST);
            }
            LineSearchResult::TooLong => {
                return step_for_rejected_line(
                    input.unconsumed_octets(),
                    reply::R500_LINE_TOO_LONG,
                );
            }
            LineSearchResult::BareLf => return Step::Close(reply::R500_BARE_LF),
        };
        let line = &input.unconsumed_octets()[..octets - 2];
        if self.settings.verbose {
            self.last_command = Some(String::from_utf8_lossy(line).into_owned());
        }
        let was_in_transaction = self.is_in_transaction();
        let (verb, step) = if command::is_http_request(line) {
            (None, Some(Step::Close(reply::R500_HTTP_REQUEST)))
        } else if line.iter().any(|octet| matches!(octet, b'\r' | 0)) {
            (
                None,
                Some(step_for_rejected_line(line, reply::R500_BAD_OCTETS)),
            )
        } else {
            let (verb, argument) = command::split_verb_and_argument(line);
            self.discarding_chunks &= verb == Some(Verb::Bdat);
            let step = match verb {
                Some(verb) => self.execute_command(verb, argument),
                None => Some(step_for_rejected_line(line, reply::R500_UNKNOWN_VERB)),
            };
            (verb, step)
        };
        self.count_toward_command_limit(verb, was_in_transaction);
        input.consume(octets);
        match step {
            Some(step @ (Step::Quit(_) | Step::Close(_))) => step,
            _ if self.commands.is_command_limit_exceeded() => {
                Step::Close(reply::R421_TOO_MANY_COMMANDS)
            }
            Some(Step::StartTls(_)) if !input.unconsumed_octets().is_empty() => {
                Step::Close(reply::R454_PIPELINED_STARTTLS)
            }
            Some(step) => step,
            None => self.read_chunk(input),
        }
    }

    /// Executes a command. Returns `None` after BDAT if the octets of a chunk follow.
    fn execute_command(&mut self, verb: Verb, argument: &[u8]) -> Option<Step> {
        let outcome = match verb {
            Verb::Helo => self.handle_helo(argument, false).map(Step::Reply),
            Verb::Ehlo => self.handle_helo(argument, true).map(Step::Reply),
            Verb::Mail => self.handle_mail(argument),
            Verb::Rcpt => self.rcpt(argument),
            Verb::Data => self.handle_data(argument).map(Step::Reply),
            Verb::Bdat => return self.handle_bdat(argument),
            Verb::Rset => self.handle_rset(argument).map(Step::Reply),
            Verb::Noop => Ok(Step::Reply(reply::R250_OK)),
            Verb::Vrfy => Ok(Step::Reply(reply::R252_CANNOT_VERIFY)),
            Verb::Help => Ok(Step::Reply(reply::R214_HELP)),
            Verb::Quit => {
                command::check_no_argument(argument).map(|()| Step::Quit(reply::R221_BYE))
            }
            Verb::StartTls => self.handle_starttls(argument),
            Verb::Xclient => self.handle_xclient(argument),
            Verb::Expn | Verb::NotImplemented => Ok(Step::Reply(reply::R502_NOT_IMPLEMENTED)),
        };
        Some(outcome.unwrap_or_else(|error| Step::Reply(error.into())))
    }

    fn handle_helo(&mut self, argument: &[u8], extended: bool) -> Result<Reply, CommandError> {
        let name = command::parse_helo_name(argument)?.to_owned();
        self.helo = Some(Helo { name, extended });
        self.state = SessionState::Ready;
        self.stats.helo += 1;
        let settings = &self.settings;
        Ok(if extended {
            let chunking = self.chunking_allowed();
            let offer = ConditionalExtensions {
                chunking,
                // After XCLIENT a proxy forwards the commands, and its limits may be lower.
                max_recipients: chunking.then_some(settings.max_recipients),
                starttls: self.tls == TlsState::Offered,
                xclient: self.proxy.is_some(),
            };
            extension::ehlo_reply(&settings.host_name, settings.max_content_octets, offer)
        } else {
            Reply::new(250, None, settings.host_name.clone().into())
        })
    }

    fn handle_mail(&mut self, argument: &[u8]) -> Result<Step, CommandError> {
        if self.helo.is_none() {
            return Ok(Step::Reply(reply::R503_SEND_HELO_FIRST));
        }
        if let SessionState::Transaction(_) = self.state {
            return Ok(Step::Reply(reply::R503_NESTED_MAIL));
        }
        let mail = MailCommand::parse(argument)?;
        let max = self.settings.max_content_octets as u64;
        if mail.parameters.size.is_some_and(|size| size > max) {
            return Ok(Step::RejectMessage(ContentLimitError::TooLarge));
        }
        let envelope = Envelope {
            reverse_path: mail.reverse_path,
            recipients: Vec::new(),
            smtputf8: mail.parameters.smtputf8,
        };
        let chunks = None;
        self.state = SessionState::Transaction(MailTransaction { envelope, chunks });
        self.stats.mail += 1;
        Ok(Step::Reply(reply::R250_SENDER_OK))
    }

    fn handle_rset(&mut self, argument: &[u8]) -> Result<Reply, CommandError> {
        command::check_no_argument(argument)?;
        self.state = SessionState::Ready;
        Ok(reply::R250_OK)
    }

    fn handle_starttls(&self, argument: &[u8]) -> Result<Step, CommandError> {
        if self.tls == TlsState::Unavailable {
            return Ok(Step::Reply(reply::R502_NOT_IMPLEMENTED));
        }
        command::check_no_argument(argument)?;
        Ok(match self.tls {
            TlsState::On => Step::Reply(reply::R503_TLS_ACTIVE),
            TlsState::Offered | TlsState::Unavailable => Step::StartTls(reply::R220_START_TLS),
        })
    }

    /// Executes XCLIENT: the session starts over for the client of a trusted proxy. HELO or EHLO is required again.
    fn handle_xclient(&mut self, argument: &[u8]) -> Result<Step, CommandError> {
        let Some(proxy) = &mut self.proxy else {
            return Ok(Step::RejectXclient);
        };
        if let SessionState::Transaction(_) = self.state {
            return Ok(Step::Reply(reply::R503_XCLIENT_IN_TRANSACTION));
        }
        let attributes = XclientAttributes::parse(argument)?;
        let address = attributes.address;
        if !proxy.apply_xclient_attributes(attributes) {
            return Ok(Step::RejectXclient);
        }
        self.helo = None;
        Ok(Step::Xclient(address, self.greeting()))
    }
}

/// Returns the step that rejects a line that is not a valid command. The session ends if the line begins with BDAT,
/// because an unknown number of content octets follows.
fn step_for_rejected_line(line: &[u8], reply: Reply) -> Step {
    match command::begins_with_bdat(line) {
        true => Step::Close(reply),
        false => Step::Reply(reply),
    }
}

/// Maximum number of erroneous commands in a session; the next erroneous command ends the session.
const MAX_ERRORS: u64 = 10;
