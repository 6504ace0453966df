//! One connection from its first octet to its close. It carries out the steps of an SMTP session on a socket.

mod current_metrics;
mod deadlines;
mod handshake;
mod preamble;
mod recipient;
mod save;
mod settings;

use std::io::ErrorKind;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

use self::deadlines::Deadlines;
use crate::metrics::{CloseReason, ListenerKind, MailOutcome, Metrics, ReplyCodeLabel};
use crate::net::accept_pool::Client;
use crate::net::transport::{ClientIoError, ClientTransport, NegotiatedTls};
use crate::smtp::reply::{self, Reply};
use crate::smtp::{
    COMMAND_READ_SIZE, CONTENT_READ_SIZE, ContentDiscardReason, ContentLimitError, ExpectedInput,
    InputBuffer, Session, SessionSettings, Step, TlsState, XclientAddress,
};

pub use self::current_metrics::{metrics_snapshot, metrics_text, up_to_date_metrics};
pub use self::settings::{ConnectionSettings, SharedSettings, StoreLimits, StoreLimitsCell};

/// Serves one client until the connection closes, then logs a summary.
pub fn serve(client: &Client, settings: &ConnectionSettings) {
    let started_at = Instant::now();
    let connections = &client.metrics().connections;
    let count_closed = |reason| connections.count((ListenerKind::new(client.implicit_tls), reason));
    let mut connection = match ClientConnection::new(client, settings) {
        Ok(connection) => connection,
        Err(error) => {
            count_closed(CloseReason::ClosedBeforeGreeting);
            log::debug!(client:% = client.ip(), reason:% = error; "closed_before_greeting");
            return;
        }
    };
    let reason = connection.run();
    let counts = connection.session.session_counters();
    let reason = match connection.is_health_check && counts.mail == 0 {
        true => CloseReason::HealthCheck,
        false => reason,
    };
    count_closed(reason);
    // Health checks and connections without any input are frequent, so they are logged at debug level only.
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

struct ClientConnection<'a> {
    client: &'a Client,
    settings: &'a ConnectionSettings,
    metrics: &'a Metrics,
    session_settings: Arc<SessionSettings>,
    transport: ClientTransport,
    session: Session,
    input: InputBuffer,
    output: Vec<u8>,
    deadlines: Deadlines,
    tls: Option<NegotiatedTls>,
    mails_saved: u64,
    octets_in: u64,
    /// Whether the peer is a load balancer that connects for a health check (PROXY LOCAL).
    is_health_check: bool,
    /// Whether a rejected XCLIENT command of this connection was logged; later rejections are not logged.
    xclient_rejection_logged: bool,
    /// Whether a panic of the recipient hook was logged; later panics of this connection are not logged.
    hook_panic_logged: bool,
}

fn close_reason_of_io_error(error: &ClientIoError) -> CloseReason {
    match error {
        ClientIoError::TimedOut => CloseReason::TimedOut,
        ClientIoError::Shed => CloseReason::Shed,
        // The client closed the connection during the TLS handshake, as a check of the port does.
        ClientIoError::ConnectionReset(end) if end.kind() == ErrorKind::UnexpectedEof => {
            CloseReason::ClientLeft
        }
        ClientIoError::ConnectionReset(_) => CloseReason::ConnectionReset,
        ClientIoError::Tls(_) => CloseReason::TlsFailed,
    }
}

/// Returns the metrics outcome of a message that the session rejects.
fn rejected_mail_outcome(error: ContentLimitError) -> MailOutcome {
    match error {
        ContentLimitError::TooLarge => MailOutcome::TooLarge,
        ContentLimitError::NoMemory => MailOutcome::NoMemory,
    }
}

impl<'a> ClientConnection<'a> {
    fn new(
        client: &'a Client,
        settings: &'a ConnectionSettings,
    ) -> std::io::Result<ClientConnection<'a>> {
        let tls = match &settings.tls {
            Some(_) => TlsState::Offered,
            None => TlsState::Unavailable,
        };
        let session = Arc::clone(&settings.session);
        Ok(ClientConnection {
            client,
            settings,
            metrics: client.metrics(),
            transport: ClientTransport::new(
                client.socket(),
                Arc::clone(client.client_io_deadlines()),
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
            hook_panic_logged: false,
        })
    }

    /// Carries out the steps of the session until the connection ends.
    fn run(&mut self) -> CloseReason {
        if let Err(reason) = self.receive_proxy_header_and_start_tls() {
            return reason;
        }
        self.queue_reply(&self.session.greeting());
        loop {
            let outcome = match self.session.next_step(&mut self.input) {
                Step::NeedInput => self.flush_replies_and_read_input(),
                Step::Reply(reply) => self.queue_reply_and_flush_if_large(&reply),
                Step::RejectMessage(error) => {
                    self.metrics.mails.count(rejected_mail_outcome(error));
                    self.queue_reply_and_flush_if_large(&error.into())
                }
                Step::RejectXclient => {
                    self.log_first_xclient_rejection();
                    self.queue_reply_and_flush_if_large(&reply::R550_XCLIENT_DENIED)
                }
                Step::CheckRecipient(path) => self.ask_hook_and_queue_rcpt_reply(path),
                Step::Save(envelope, content) => {
                    let reply = self.save(envelope, content);
                    self.queue_reply(&reply);
                    Ok(())
                }
                Step::StartTls(reply) => {
                    self.queue_reply(&reply);
                    self.send_queued_replies().and_then(|()| self.start_tls())
                }
                Step::Xclient(address, reply) => self.apply_xclient(address, &reply),
                Step::Quit(reply) => Err(self.send_quit_reply_and_close(&reply)),
                Step::Close(reply) => Err(self.close(&reply)),
            };
            if let Err(reason) = outcome {
                return reason;
            }
        }
    }

    /// Sends queued replies, then reads more input.
    fn flush_replies_and_read_input(&mut self) -> Result<(), CloseReason> {
        self.send_queued_replies()?;
        let expected = self.session.expected_input();
        if !self.client.set_idle(expected == ExpectedInput::Command) {
            return Err(self.close_for_shutdown());
        }
        let timeout = self.settings.client_timeout;
        let deadline = self.deadlines.deadline_for_expected_input(
            &self.session,
            timeout,
            self.mails_saved > 0,
        );
        if self.session.is_discarding_content() && self.is_discard_limit_reached() {
            let reason = self.session.discard_reason();
            return Err(self.close_client_over_time_or_size_limit(reason));
        }
        let spare = match expected {
            ExpectedInput::Content => self.input.spare_mut(CONTENT_READ_SIZE),
            ExpectedInput::Command | ExpectedInput::TransactionCommand => {
                // The input buffer may have grown for a rejected message. Commands need only a small buffer, so a large one is
                // freed.
                self.input.free_large_empty_buffer();
                self.input.spare_mut(COMMAND_READ_SIZE)
            }
        };
        match self.transport.read(spare, &deadline) {
            // At shutdown the pool shuts down the sockets for reading: first those of idle clients, after the grace period
            // all. `read` then returns 0, as if the client had closed, or octets that arrived earlier, and `mark_busy` returns
            // `false`.
            Ok(octets)
                if (octets == 0 || expected == ExpectedInput::Command)
                    && !self.client.mark_busy() =>
            {
                Err(self.close_for_shutdown())
            }
            Ok(0) => Err(CloseReason::ClientLeft),
            Ok(octets) => {
                if expected == ExpectedInput::Content {
                    self.deadlines
                        .restart_timeout_for_content_pause(Instant::now());
                }
                self.input.mark_spare_octets_as_filled(octets);
                self.octets_in += octets as u64;
                self.metrics.received_bytes.add((), octets);
                Ok(())
            }
            Err(error) => {
                let reason = close_reason_of_io_error(&error);
                if matches!(reason, CloseReason::TimedOut | CloseReason::Shed) {
                    let discard_reason = self.discard_reason_to_send_on_close(reason);
                    self.close_client_over_time_or_size_limit(discard_reason);
                }
                Err(reason)
            }
        }
    }

    /// Queues a reply; sends all queued replies when they reach 64 KiB.
    fn queue_reply_and_flush_if_large(&mut self, reply: &Reply) -> Result<(), CloseReason> {
        self.queue_reply(reply);
        match self.output.len() >= MAX_QUEUED_REPLY_OCTETS {
            true => self.send_queued_replies(),
            false => Ok(()),
        }
    }

    /// Logs the first rejected XCLIENT of a connection, because a proxy that is missing in GM_TRUSTED_PROXIES would otherwise
    /// be noticed only through bounces. Later rejections are not logged, because any client can send XCLIENT.
    fn log_first_xclient_rejection(&mut self) {
        if mem::replace(&mut self.xclient_rejection_logged, true) {
            return;
        }
        let session = self.client.session_id();
        let fix = match self.client.is_trusted_proxy {
            true => "none: a client of this proxy sent XCLIENT with another address",
            false => "if this client is your proxy, add its address to GM_TRUSTED_PROXIES",
        };
        log::info!(session:% = session, client:% = self.client.ip(), command = "XCLIENT", fix = fix; "rejected");
    }

    /// Applies the client address that a trusted proxy passed on and queues `reply`. Closes the connection instead if that
    /// address has too many connections.
    fn apply_xclient(&mut self, address: XclientAddress, reply: &Reply) -> Result<(), CloseReason> {
        let is_within_limit = match address {
            XclientAddress::NotGiven => true,
            XclientAddress::Unknown => self.client.try_set_client_address(None),
            XclientAddress::Known(ip) => self.client.try_set_client_address(Some(ip)),
        };
        if !is_within_limit {
            self.close(&reply::R421_TOO_MANY_FROM_ADDRESS);
            return Err(CloseReason::AddressLimitReached);
        }
        self.queue_reply(reply);
        Ok(())
    }

    fn queue_reply(&mut self, reply: &Reply) {
        if self.session_settings.verbose {
            self.log_command_and_reply(reply);
        }
        self.metrics
            .replies
            .count(ReplyCodeLabel(reply.three_digit_code()));
        reply.write_to(&mut self.output);
    }

    fn log_command_and_reply(&mut self, reply: &Reply) {
        let session = self.client.session_id();
        if let Some(line) = self.session.take_last_command() {
            let verb = line.split_ascii_whitespace().next().unwrap_or_default();
            let is_secret = verb.eq_ignore_ascii_case("AUTH");
            let line = if is_secret { "AUTH ..." } else { line.as_str() };
            log::info!(session:% = session, line = line; "smtp_in");
        }
        let mut reply_text = Vec::new();
        reply.write_to(&mut reply_text);
        let reply_text = String::from_utf8_lossy(&reply_text);
        for line in reply_text.lines() {
            log::info!(session:% = session, line = line; "smtp_out");
        }
    }

    /// Sends all queued replies in one write.
    fn send_queued_replies(&mut self) -> Result<(), CloseReason> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.transport.write_all(&self.output);
        self.output.clear();
        self.output.shrink_to(KEPT_OUTPUT_CAPACITY);
        written.map_err(|error| match error {
            ClientIoError::TimedOut => CloseReason::WriteTimeout,
            error => close_reason_of_io_error(&error),
        })
    }

    fn close_for_shutdown(&mut self) -> CloseReason {
        self.close(&reply::R421_SHUTTING_DOWN);
        CloseReason::Shutdown
    }

    /// Closes the connection of a client that exceeded a time or size limit while sending. Sends the reply for `reason`, or
    /// 421 (timeout) if `reason` is `None`.
    fn close_client_over_time_or_size_limit(
        &mut self,
        reason: Option<ContentDiscardReason>,
    ) -> CloseReason {
        if let Some(ContentDiscardReason::Message(error)) = reason {
            self.metrics.mails.count(rejected_mail_outcome(error));
        }
        let reply = reason.map_or(reply::R421_TIMEOUT, Reply::from);
        self.close(&reply)
    }

    fn send_quit_reply_and_close(&mut self, reply: &Reply) -> CloseReason {
        self.queue_reply(reply);
        if let Err(reason) = self.send_queued_replies() {
            return reason;
        }
        self.transport.send_close_notify();
        CloseReason::Quit
    }

    fn close(&mut self, reply: &Reply) -> CloseReason {
        self.queue_reply(reply);
        if let Err(reason) = self.send_queued_replies() {
            return reason;
        }
        self.transport.lingering_close();
        CloseReason::Rejected
    }
}

/// Capacity in octets that the reply queue keeps after its replies were sent; capacity beyond this is freed.
const KEPT_OUTPUT_CAPACITY: usize = 4_096;
/// The queued replies are sent when they reach this number of octets, even if more pipelined commands are unread.
const MAX_QUEUED_REPLY_OCTETS: usize = 65_536;
