//! The threads that ask the database, each with one connection.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::connection::RecipientQueryConnection;
use super::{ANSWER_TIMEOUT, NO_ANSWER, RECIPIENT_CONNECTIONS, SharedLookupState};
use crate::store::mysql::call_timeout::{DatabaseCallWatchdog, spawn_call_watchdog};
use crate::store::mysql::error::MySqlErrorClass;
use crate::store::mysql::error_text::error_words;

/// A question of a session: does this recipient exist?
pub struct RecipientQuestion {
    /// The address, `local-part@domain`.
    pub address: String,
    /// Time at which the session stops waiting.
    pub deadline: Instant,
    /// Receives the answer; `None` if the database did not give one.
    pub reply: Sender<Option<bool>>,
}

/// One thread's part of the work: its connection, and what it shares with the other threads.
struct LookupWorker {
    shared: Arc<SharedLookupState>,
    watchdog: Arc<DatabaseCallWatchdog>,
    /// Index of the host that answered last. All threads use it first, so that only the first one waits for a host that hangs.
    preferred_host: Arc<AtomicUsize>,
    connection: Option<RecipientQueryConnection>,
}

/// Starts the threads. They end after the returned sender is dropped.
///
/// # Errors
/// A thread cannot be started.
pub fn start_workers(shared: &Arc<SharedLookupState>) -> io::Result<Sender<RecipientQuestion>> {
    let (questions, asked) = bounded::<RecipientQuestion>(MAX_QUEUED_QUESTIONS);
    let (watchdog, preferred_host) = (Arc::default(), Arc::default());
    spawn_call_watchdog(&watchdog)?;
    for _ in 0..RECIPIENT_CONNECTIONS {
        let worker = LookupWorker {
            shared: Arc::clone(shared),
            watchdog: Arc::clone(&watchdog),
            preferred_host: Arc::clone(&preferred_host),
            connection: None,
        };
        let asked = asked.clone();
        let builder = thread::Builder::new().name("mysql-rcpt".to_owned());
        builder.spawn(move || worker.run(&asked))?;
    }
    Ok(questions)
}

impl LookupWorker {
    fn run(mut self, asked: &Receiver<RecipientQuestion>) {
        self.connect_in_advance();
        for question in asked {
            // After the deadline the session does not wait any more, so the question is dropped.
            if Instant::now() < question.deadline {
                let answer = self.answer(&question);
                let _ = question.reply.send(answer);
            }
        }
    }

    /// Connects and prepares the query, so that the first client does not wait, and the log names a fault before mail arrives.
    fn connect_in_advance(&mut self) {
        let query = self.shared.settings.query.clone();
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let prepared = self.connect_and_call(deadline, |connection| connection.prepare(&query));
        if let Err(reason) = prepared {
            self.shared.failures.record_failure(&reason);
        }
    }

    fn answer(&mut self, question: &RecipientQuestion) -> Option<bool> {
        let shared = Arc::clone(&self.shared);
        // If many clients ask about one recipient at once, the first answer is used for all that still wait: at most one
        // question per connection goes to the database.
        if let Some(answer) = shared.cache.fresh_answer(&question.address) {
            return Some(answer);
        }
        match self.ask(&shared.settings.query, question) {
            Ok(exists) => {
                shared.cache.store_answer(&question.address, exists);
                shared.failures.record_answer();
                Some(exists)
            }
            Err(reason) => {
                shared.failures.record_failure(&reason);
                None
            }
        }
    }

    /// Asks with the open connection, or with a new one if that is lost. The server may have closed an idle connection.
    fn ask(&mut self, query: &str, question: &RecipientQuestion) -> Result<bool, String> {
        if let Some(connection) = &mut self.connection {
            match connection.returns_row(query, &question.address) {
                Ok(exists) => return Ok(exists),
                Err(error) if !needs_other_connection(&error) => return Err(error_words(&error)),
                Err(error) => {
                    self.connection = None;
                    if Instant::now() >= question.deadline {
                        return Err(error_words(&error));
                    }
                }
            }
        }
        self.connect_and_call(question.deadline, |connection| {
            connection.returns_row(query, &question.address)
        })
    }

    /// Connects to the first host that answers before the deadline, and runs `call` there.
    ///
    /// # Errors
    /// The text of the error of the host tried last.
    fn connect_and_call<T>(
        &mut self,
        deadline: Instant,
        mut call: impl FnMut(&mut RecipientQueryConnection) -> mysql::Result<T>,
    ) -> Result<T, String> {
        let shared = Arc::clone(&self.shared);
        let hosts = &shared.settings.database.hosts;
        let first = self.preferred_host.load(Ordering::Relaxed);
        let mut reason = NO_ANSWER.to_owned();
        for host in (0..hosts.len()).map(|next| (first + next) % hosts.len()) {
            if Instant::now() >= deadline {
                break;
            }
            let opened = RecipientQueryConnection::open(
                &shared.settings,
                host,
                &self.watchdog,
                &shared.metrics,
            );
            let outcome = opened.and_then(|mut connection| {
                let outcome = call(&mut connection);
                let is_usable = !outcome.as_ref().is_err_and(needs_other_connection);
                if is_usable {
                    self.connection = Some(connection);
                    self.preferred_host.store(host, Ordering::Relaxed);
                }
                outcome
            });
            match outcome {
                Ok(value) => return Ok(value),
                Err(error) => reason = error_words(&error),
            }
            if self.connection.is_some() {
                break;
            }
        }
        Err(reason)
    }
}

/// Returns whether a question that failed with this error may succeed with another connection, to this host or another one.
fn needs_other_connection(error: &mysql::Error) -> bool {
    matches!(
        MySqlErrorClass::classify_mysql_error(error),
        MySqlErrorClass::ConnectionLost
            | MySqlErrorClass::NotReady
            | MySqlErrorClass::Busy
            | MySqlErrorClass::Retry
    )
}

/// Maximum number of questions that wait for a connection. Each session waits for one question at a time; beyond this number it
/// waits, until its deadline, for room in the queue.
const MAX_QUEUED_QUESTIONS: usize = 1_024;
