//! One client from 220 to close: the only place where protocol meets socket.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::mail::{Mail, Origin};
use crate::net::deadline::Deadline;
use crate::net::pool::Client;
use crate::net::transport::{Transport, TransportError};
use crate::smtp::reply::{self, Reply};
use crate::smtp::{
    Awaited, Content, Envelope, Input, MemoryBudget, Session, SessionSettings, Step,
};
use crate::storage::{SaveError, SavedId, Saver};

/// What every connection needs of the house.
pub struct ConnectionSettings {
    /// What sessions decide by.
    pub session: Arc<SessionSettings>,
    /// How long a client may keep us waiting.
    pub client_timeout: Duration,
    /// The memory all content shares.
    pub budget: MemoryBudget,
    /// Where mail goes.
    pub saver: Saver,
}

/// Serves one client to its end and says in one log line what it did.
pub fn serve(client: &Client, settings: &ConnectionSettings) {
    let started_at = Instant::now();
    let mut connection = match Connection::new(client, settings) {
        Ok(connection) => connection,
        Err(error) => {
            log::debug!(client:% = client.ip(), reason:% = error; "gone_at_once");
            return;
        }
    };
    let reason = connection.converse();
    let counts = connection.session.counts();
    log::info!(
        session:% = client.session_id(),
        client:% = client.ip(),
        reason = reason.as_str(),
        helo = connection.session.helo_name(),
        ehlo = counts.helo,
        mail = counts.mail,
        rcpt:% = format_args!("{}/{}", counts.rcpt, counts.rcpt_asked),
        data:% = format_args!("{}/{}", connection.saved, counts.data),
        faults = counts.faults,
        octets = connection.octets_in,
        seconds:% = format_args!("{:.3}", started_at.elapsed().as_secs_f64());
        "disconnected"
    );
}

struct Connection<'a> {
    client: &'a Client,
    settings: &'a ConnectionSettings,
    transport: Transport,
    session: Session,
    input: Input,
    output: Vec<u8>,
    saved: u32,
    octets_in: u64,
}

/// Why a connection ended.
#[derive(Clone, Copy)]
enum End {
    Quit,
    Refused,
    ClientLeft,
    TimedOut,
    NotReading,
    Lost,
    ShuttingDown,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            End::Quit => "quit",
            End::Refused => "refused",
            End::ClientLeft => "client_left",
            End::TimedOut => "timed_out",
            End::NotReading => "client_does_not_read",
            End::Lost => "lost",
            End::ShuttingDown => "shutting_down",
        }
    }
}

impl<'a> Connection<'a> {
    fn new(
        client: &'a Client,
        settings: &'a ConnectionSettings,
    ) -> std::io::Result<Connection<'a>> {
        Ok(Connection {
            client,
            settings,
            transport: Transport::new(client.socket(), settings.client_timeout)?,
            session: Session::new(Arc::clone(&settings.session), settings.budget.clone()),
            input: Input::new(),
            output: Vec::new(),
            saved: 0,
            octets_in: 0,
        })
    }

    /// The one loop between protocol and socket.
    fn converse(&mut self) -> End {
        let mut patience = Patience::default();
        self.say(&self.session.greet());
        loop {
            match self.session.next_step(&mut self.input) {
                Step::Reply(reply) => {
                    self.say(&reply);
                    if self.output.len() >= MAX_HELD_OCTETS
                        && let Err(end) = self.flush()
                    {
                        return end;
                    }
                }
                Step::Save(envelope, content) => {
                    let reply = self.save(envelope, content);
                    self.say(&reply);
                }
                Step::Close(reply) => return self.close(&reply),
                Step::NeedInput => {
                    if let Err(end) = self.flush() {
                        return end;
                    }
                    let awaited = self.session.awaited();
                    if !self.client.may_stay(awaited == Awaited::Command) {
                        self.close(&reply::R421_SHUTTING_DOWN);
                        return End::ShuttingDown;
                    }
                    let deadline = patience.deadline(&self.session, self.settings.client_timeout);
                    match self.transport.read(self.input.room(), deadline) {
                        // The pool may have ended the reading of an idle client, perhaps behind what was just read.
                        Ok(_) if awaited == Awaited::Command && !self.client.may_begin() => {
                            self.close(&reply::R421_SHUTTING_DOWN);
                            return End::ShuttingDown;
                        }
                        Ok(0) => return End::ClientLeft,
                        Ok(octets) => {
                            deadline.moved(Instant::now(), octets);
                            self.input.filled(octets);
                            self.octets_in += octets as u64;
                        }
                        Err(TransportError::TimedOut) => {
                            self.close(&reply::R421_TOO_SLOW);
                            return End::TimedOut;
                        }
                        Err(TransportError::Lost(_)) => return End::Lost,
                    }
                }
            }
        }
    }

    /// Has a mail saved, and turns the outcome into its reply.
    fn save(&mut self, envelope: Envelope, content: Content) -> Reply {
        self.input.shrink();
        let octets = content.octets().len();
        let outcome = self.mail(envelope, content).and_then(|mail| {
            let from = mail.reverse_path().to_owned();
            let recipients = mail.deliveries().len();
            // A client that has sent on, as pipelining ones do, has not given up.
            let has_sent_on = !self.input.unread().is_empty();
            let mut client_left = || !has_sent_on && self.transport.client_left();
            let saved = self.settings.saver.save(mail, &mut client_left)?;
            Ok((saved, from, recipients))
        });
        let session = self.client.session_id();
        match outcome {
            Ok((saved, from, recipients)) => {
                self.saved += 1;
                log::info!(
                    session:% = session, hash = saved.as_str(), from = from.as_str(),
                    rcpt = recipients, octets = octets; "saved"
                );
                Reply::queued(SavedId::as_str(&saved))
            }
            Err(error) => {
                log::warn!(session:% = session, octets = octets, reason:% = error; "not_saved");
                match error {
                    SaveError::Unavailable(_) => reply::R451_NOT_SAVED,
                    SaveError::Full(_) => reply::R452_STORE_FULL,
                }
            }
        }
    }

    fn mail(&self, envelope: Envelope, content: Content) -> Result<Mail, SaveError> {
        let settings = &self.settings.session;
        let origin = Origin {
            client_ip: self.client.ip(),
            helo_name: self.session.helo_name().to_owned(),
            protocol: self.session.protocol(&envelope),
            host_name: settings.host_name.clone(),
            received_at: Timestamp::now(),
        };
        Mail::new(envelope, content, origin, |path| settings.to_address(path))
            .map_err(|error| SaveError::Unavailable(error.to_string()))
    }

    fn say(&mut self, reply: &Reply) {
        if self.settings.session.verbose {
            self.log_dialogue(reply);
        }
        reply.write_to(&mut self.output);
    }

    fn log_dialogue(&mut self, reply: &Reply) {
        let session = self.client.session_id();
        if let Some(line) = self.session.take_said() {
            log::info!(session:% = session, line = line.as_str(); "client_said");
        }
        let mut said = Vec::new();
        reply.write_to(&mut said);
        let said = String::from_utf8_lossy(&said);
        for line in said.lines() {
            log::info!(session:% = session, line = line; "we_said");
        }
    }

    /// Sends what was said. Replies to commands that came together leave together.
    fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.transport.write_all(&self.output);
        self.output.clear();
        written.map_err(|error| match error {
            TransportError::TimedOut => End::NotReading,
            TransportError::Lost(_) => End::Lost,
        })
    }

    fn close(&mut self, reply: &Reply) -> End {
        self.say(reply);
        if let Err(end) = self.flush() {
            return end;
        }
        if reply.code() == reply::R221_BYE.code() {
            return End::Quit;
        }
        self.transport.close_gently();
        End::Refused
    }
}

/// The deadline of what is awaited; a new one whenever something was completed.
#[derive(Default)]
struct Patience {
    current: Option<(Awaited, u32, Deadline)>,
}

impl Patience {
    fn deadline(&mut self, session: &Session, timeout: Duration) -> &mut Deadline {
        let (awaited, replies) = (session.awaited(), session.counts().replies);
        let is_current = matches!(&self.current, Some((a, r, _)) if (*a, *r) == (awaited, replies));
        if !is_current {
            self.current = None;
        }
        let (_, _, deadline) = self.current.get_or_insert_with(|| {
            let now = Instant::now();
            let deadline = match awaited {
                Awaited::Content => Deadline::for_content(now, timeout),
                Awaited::Command | Awaited::CommandOfTransaction => {
                    Deadline::for_command(now, timeout)
                }
            };
            (awaited, replies, deadline)
        });
        deadline
    }
}

/// Replies held for a client that pipelines and does not read; then it has to.
const MAX_HELD_OCTETS: usize = 65_536;
