//! One client from 220 to close: the only place where protocol meets socket.

mod policy_handle;
mod preamble;
mod save;
mod waiting;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::waiting::Deadlines;
use crate::metrics::{self, CloseReason, Code, Handshake, ListenerKind, MailOutcome};
use crate::net::accept_pool::Client;
use crate::net::deadline::Deadline;
use crate::net::tls::TlsCredentials;
use crate::net::transport::{NegotiatedTls, Transport, TransportError};
use crate::smtp::reply::{self, Reply};
use crate::smtp::{
    COMMAND_READ_SIZE, CONTENT_READ_SIZE, ClientAddress, ContentError, DiscardReason, Expecting,
    InputBuffer, MemoryBudget, Session, SessionSettings, Step, Tls,
};
use crate::store::Saver;

pub use self::policy_handle::{PolicyHandle, StoreLimits};

/// What every connection needs of the house.
pub struct ConnectionSettings {
    /// What sessions decide by; a session keeps what it began with.
    pub session: Arc<PolicyHandle>,
    /// How long a client may keep us waiting.
    pub client_timeout: Duration,
    /// The memory all content shares.
    pub budget: MemoryBudget,
    /// Where mail goes.
    pub saver: Saver,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Our key and certificate, if TLS is offered.
    pub tls: Option<TlsCredentials>,
}

/// Serves one client to its end and says in one log line what it did.
pub fn serve(client: &Client, settings: &ConnectionSettings) {
    let started_at = Instant::now();
    let ended = |end| metrics::CONNECTIONS.count((ListenerKind::new(client.implicit_tls), end));
    let mut connection = match Connection::new(client, settings) {
        Ok(connection) => connection,
        Err(error) => {
            ended(CloseReason::ClosedBeforeGreeting);
            log::debug!(client:% = client.ip(), reason:% = error; "closed_before_greeting");
            return;
        }
    };
    let reason = connection.run();
    let counts = connection.session.counts();
    let reason = match connection.is_health_check && counts.mail == 0 {
        true => CloseReason::HealthCheck,
        false => reason,
    };
    ended(reason);
    // A balancer that looks every other second whether we are well is no news, nor is a flood of connects.
    let level = match reason {
        CloseReason::HealthCheck | CloseReason::NoData => log::Level::Debug,
        CloseReason::ClientLeft | CloseReason::ConnectionReset if connection.octets_in == 0 => {
            log::Level::Debug
        }
        _ => log::Level::Info,
    };
    log::log!(
        level,
        session:% = client.session_id(),
        client:% = client.ip(),
        reason = reason.as_str(),
        helo = connection.session.helo_name(),
        ehlo = counts.helo,
        mail = counts.mail,
        rcpt:% = format_args!("{}/{}", counts.rcpt, counts.rcpt_total),
        data:% = format_args!("{}/{}", connection.mails_saved, counts.data),
        faults = counts.errors,
        octets = connection.octets_in,
        tls = connection.tls.map_or("none", |tls| tls.version),
        cipher = connection.tls.map_or("none", |tls| tls.cipher),
        seconds:% = format_args!("{:.3}", started_at.elapsed().as_secs_f64());
        "disconnected"
    );
}

struct Connection<'a> {
    client: &'a Client,
    settings: &'a ConnectionSettings,
    session_settings: Arc<SessionSettings>,
    transport: Transport,
    session: Session,
    input: InputBuffer,
    output: Vec<u8>,
    deadlines: Deadlines,
    tls: Option<NegotiatedTls>,
    mails_saved: u64,
    octets_in: u64,
    /// A proxy connected for itself.
    is_health_check: bool,
    /// It was said in the log that its XCLIENT is not believed.
    xclient_rejection_logged: bool,
}

fn close_reason(error: &TransportError) -> CloseReason {
    match error {
        TransportError::TimedOut => CloseReason::TimedOut,
        TransportError::Shed => CloseReason::Shed,
        TransportError::ConnectionReset(_) => CloseReason::ConnectionReset,
        TransportError::Tls(_) => CloseReason::TlsFailed,
    }
}

/// Returns the outcome to count for a message that the session rejects.
fn rejected_mail(error: ContentError) -> MailOutcome {
    match error {
        ContentError::TooLarge => MailOutcome::TooLarge,
        ContentError::NoMemory => MailOutcome::NoMemory,
    }
}

impl<'a> Connection<'a> {
    fn new(
        client: &'a Client,
        settings: &'a ConnectionSettings,
    ) -> std::io::Result<Connection<'a>> {
        let tls = match &settings.tls {
            Some(_) => Tls::Offered,
            None => Tls::Unavailable,
        };
        let session = settings.session.current();
        Ok(Connection {
            client,
            settings,
            transport: Transport::new(
                client.socket(),
                Arc::clone(client.io_timeout()),
                settings.client_timeout,
            )?,
            session: Session::new(Arc::clone(&session), settings.budget.clone(), tls),
            session_settings: session,
            input: InputBuffer::new(),
            output: Vec::new(),
            deadlines: Deadlines::new(Instant::now()),
            tls: None,
            mails_saved: 0,
            octets_in: 0,
            is_health_check: false,
            xclient_rejection_logged: false,
        })
    }

    /// The one loop between protocol and socket.
    fn run(&mut self) -> CloseReason {
        if let Err(end) = self.negotiate() {
            return end;
        }
        self.queue_reply(&self.session.greeting());
        loop {
            let gone_on = match self.session.next_step(&mut self.input) {
                Step::NeedInput => self.read_input(),
                Step::Reply(reply) => self.handle_reply(&reply),
                Step::RejectMessage(error) => {
                    metrics::MAILS.count(rejected_mail(error));
                    self.handle_reply(&error.into())
                }
                Step::RejectXclient => {
                    self.log_xclient_rejection();
                    self.handle_reply(&reply::R550_XCLIENT_DENIED)
                }
                Step::Save(envelope, content) => {
                    let reply = self.save(envelope, content);
                    self.queue_reply(&reply);
                    Ok(())
                }
                Step::StartTls(reply) => {
                    self.queue_reply(&reply);
                    self.flush().and_then(|()| self.start_tls())
                }
                Step::Xclient(address, reply) => self.apply_xclient(address, &reply),
                Step::Quit(reply) => Err(self.quit(&reply)),
                Step::Close(reply) => Err(self.close(&reply)),
            };
            if let Err(end) = gone_on {
                return end;
            }
        }
    }

    /// Sends what was said and waits for more of the client's octets.
    fn read_input(&mut self) -> Result<(), CloseReason> {
        self.flush()?;
        let awaited = self.session.expecting();
        if !self.client.mark_idle(awaited == Expecting::Command) {
            return Err(self.close_for_shutdown());
        }
        let timeout = self.settings.client_timeout;
        let deadline = self
            .deadlines
            .next(&self.session, timeout, self.mails_saved > 0);
        if self.session.is_discarding() && self.has_discarded_enough() {
            let reason = self.session.discard_reason();
            return Err(self.close_slow_client(reason));
        }
        let room = match awaited {
            Expecting::Content => self.input.spare_mut(CONTENT_READ_SIZE),
            Expecting::Command | Expecting::TransactionCommand => {
                // Also behind a message that was refused.
                self.input.shrink();
                self.input.spare_mut(COMMAND_READ_SIZE)
            }
        };
        match self.transport.read(room, &deadline) {
            // The pool may have ended the reading of an idle client, perhaps behind what was just read, and in the end
            // that of any other one.
            Ok(octets)
                if (octets == 0 || awaited == Expecting::Command) && !self.client.mark_busy() =>
            {
                Err(self.close_for_shutdown())
            }
            Ok(0) => Err(CloseReason::ClientLeft),
            Ok(octets) => {
                if awaited == Expecting::Content {
                    self.deadlines.record_content(Instant::now());
                }
                self.input.advance(octets);
                self.octets_in += octets as u64;
                metrics::RECEIVED_BYTES.add((), octets);
                Ok(())
            }
            Err(error) => {
                let end = close_reason(&error);
                if matches!(end, CloseReason::TimedOut | CloseReason::Shed) {
                    let reason = self.reported_discard_reason(end);
                    self.close_slow_client(reason);
                }
                Err(end)
            }
        }
    }

    /// Says a reply, at once only where too many are held already.
    fn handle_reply(&mut self, reply: &Reply) -> Result<(), CloseReason> {
        self.queue_reply(reply);
        match self.output.len() >= MAX_QUEUED_REPLY_OCTETS {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Logs the first XCLIENT rejection of a connection: any client may send the command many times. Without this line a
    /// proxy that is missing in GM_TRUSTED_PROXIES would show only in bounces.
    fn log_xclient_rejection(&mut self) {
        if mem::replace(&mut self.xclient_rejection_logged, true) {
            return;
        }
        let session = self.client.session_id();
        let fix = match self.client.is_trusted_proxy {
            true => "none: the client behind this proxy wanted to be another one",
            false => "if this is a proxy of yours, name it in GM_TRUSTED_PROXIES",
        };
        log::info!(session:% = session, client:% = self.client.ip(), command = "XCLIENT", fix = fix; "rejected");
    }

    /// Takes the client that a trusted proxy speaks for.
    fn apply_xclient(&mut self, address: ClientAddress, reply: &Reply) -> Result<(), CloseReason> {
        let may_stay = match address {
            ClientAddress::NotGiven => true,
            ClientAddress::Unknown => self.client.set_client_address(None),
            ClientAddress::Known(ip) => self.client.set_client_address(Some(ip)),
        };
        if !may_stay {
            self.close(&reply::R421_TOO_MANY_FROM_ADDRESS);
            return Err(CloseReason::AddressLimitReached);
        }
        self.queue_reply(reply);
        Ok(())
    }

    /// The handshake, with one deadline for all of it. After a failure nothing is said any more, least of all in plain.
    fn start_tls(&mut self) -> Result<(), CloseReason> {
        let identity = self.settings.tls.as_ref().ok_or(CloseReason::TlsFailed)?;
        let now = Instant::now();
        let commands_since = self.deadlines.commands_since(now);
        let deadline = Deadline::for_command(now, self.settings.client_timeout)
            .with_commands_since(commands_since);
        match self.transport.start_tls(identity.config(), &deadline) {
            Ok(facts) => {
                metrics::HANDSHAKES.count(match facts.version {
                    "TLSv1_2" => Handshake::Tls12,
                    _ => Handshake::Tls13,
                });
                self.tls = Some(facts);
                self.session.tls_started();
                Ok(())
            }
            Err(error) => {
                metrics::HANDSHAKES.count(Handshake::Failed);
                // Who left a port for TLS before the handshake was through is no news either.
                if self.octets_in > 0 || !matches!(error, TransportError::ConnectionReset(_)) {
                    let session = self.client.session_id();
                    log::info!(session:% = session, client:% = self.client.ip(), reason:% = error; "tls_failed");
                }
                Err(close_reason(&error))
            }
        }
    }

    fn queue_reply(&mut self, reply: &Reply) {
        if self.session_settings.verbose {
            self.log_dialogue(reply);
        }
        metrics::REPLIES.count(Code(reply.code()));
        reply.write_to(&mut self.output);
    }

    fn log_dialogue(&mut self, reply: &Reply) {
        let session = self.client.session_id();
        if let Some(line) = self.session.take_last_command() {
            let verb = line.split_ascii_whitespace().next().unwrap_or_default();
            let is_secret = verb.eq_ignore_ascii_case("AUTH");
            let line = if is_secret { "AUTH ..." } else { line.as_str() };
            log::info!(session:% = session, line = line; "smtp_in");
        }
        let mut said = Vec::new();
        reply.write_to(&mut said);
        let said = String::from_utf8_lossy(&said);
        for line in said.lines() {
            log::info!(session:% = session, line = line; "smtp_out");
        }
    }

    /// Sends what was said. Replies to commands that came together leave together.
    fn flush(&mut self) -> Result<(), CloseReason> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.transport.write_all(&self.output);
        self.output.clear();
        self.output.shrink_to(KEPT_OUTPUT_CAPACITY);
        written.map_err(|error| match error {
            TransportError::TimedOut => CloseReason::WriteTimeout,
            error => close_reason(&error),
        })
    }

    fn close_for_shutdown(&mut self) -> CloseReason {
        self.close(&reply::R421_SHUTTING_DOWN);
        CloseReason::Shutdown
    }

    /// Closes the connection of a client that took too long, with the reply to the message that is being discarded, if any.
    fn close_slow_client(&mut self, reason: Option<DiscardReason>) -> CloseReason {
        if let Some(DiscardReason::Message(error)) = reason {
            metrics::MAILS.count(rejected_mail(error));
        }
        let reply = reason.map_or(reply::R421_TIMEOUT, Reply::from);
        self.close(&reply)
    }

    fn quit(&mut self, reply: &Reply) -> CloseReason {
        self.queue_reply(reply);
        if let Err(end) = self.flush() {
            return end;
        }
        self.transport.send_close_notify();
        CloseReason::Quit
    }

    fn close(&mut self, reply: &Reply) -> CloseReason {
        self.queue_reply(reply);
        if let Err(end) = self.flush() {
            return end;
        }
        self.transport.lingering_close();
        CloseReason::Rejected
    }
}

/// What is kept of the buffer for replies between two batches of them.
const KEPT_OUTPUT_CAPACITY: usize = 4_096;
/// Replies held for a client that pipelines and does not read; then it has to.
const MAX_QUEUED_REPLY_OCTETS: usize = 65_536;
