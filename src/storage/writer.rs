//! The queue between connections and the store, and group commit.
//!
//! A writer takes whatever queued up while the last commit ran: alone a mail commits at once, under load commits grow by
//! themselves. Several writers take turns while there is little to do, for one commit of all is cheaper than one each; a
//! writer that hangs, or a queue that grows, ends that within milliseconds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};

use super::{Health, SaveError, SaveMail, SavedId};
use crate::locks;
use crate::mail::Mail;
use crate::metrics::{self, Part, StoreFault};

/// Opens a store for a writer; called again after a panic.
pub type OpenStore = Arc<dyn Fn() -> Result<Box<dyn SaveMail>, SaveError> + Send + Sync>;

/// What connections save their mails with. Clones share one queue.
#[derive(Clone)]
pub struct Saver {
    jobs: Option<Sender<Ticket>>,
    prepare: bool,
    health: Health,
}

/// The writer threads behind a [`Saver`].
pub struct Writers {
    threads: Vec<JoinHandle<()>>,
    /// Dropped to say that no more mail will come.
    stop: Sender<()>,
}

impl Saver {
    /// Says yes and keeps nothing, without any queue: what the server itself costs.
    pub fn discard() -> Saver {
        Saver {
            jobs: None,
            prepare: false,
            health: Health::up(),
        }
    }

    /// What is known of the store behind it.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Saves a mail and waits for the outcome, for a minute at most.
    ///
    /// `client_left` is asked once a second: a client that gave up while its mail still queued is not saved behind its
    /// back, for it will come again.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is not known whether it is.
    pub fn save(
        &self,
        mail: Mail,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let Some(jobs) = &self.jobs else {
            return Ok(SavedId::from(mail.hash()));
        };
        if let Some(reason) = self.health.why_down() {
            return Err(SaveError::Unavailable(reason));
        }
        if self.prepare {
            let prepared = mail.prepare();
            prepared.map_err(|error| SaveError::Full(error.to_string()))?;
        }
        let (ticket, receipt) = ticket(mail);
        match jobs.try_send(ticket) {
            Ok(()) => receipt.wait(client_left),
            // Those of clients that gave up long ago: the store has been stuck for hours.
            Err(TrySendError::Full(_)) => Err(unavailable("the store has been stuck for too long")),
            Err(TrySendError::Disconnected(_)) => Err(unavailable("the writers have stopped")),
        }
    }
}

impl Writers {
    /// Starts `count` writers. `prepare` has each connection's thread compute what a row needs ([`Mail::prepare`]);
    /// while `health` says that the store is down, no mail is queued.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        count: usize,
        prepare: bool,
        health: Health,
        open: OpenStore,
    ) -> std::io::Result<(Saver, Writers)> {
        let (jobs_in, jobs_out) = bounded(MAX_TICKETS);
        let (stop, stopped) = bounded(0);
        let turns = Arc::new(Turns::default());
        let threads = (0..count)
            .map(|number| {
                let writer = Writer {
                    jobs: jobs_out.clone(),
                    stopped: stopped.clone(),
                    open: Arc::clone(&open),
                    store: None,
                    health: health.clone(),
                    turns: Arc::clone(&turns),
                };
                thread::Builder::new()
                    .name(format!("writer-{number}"))
                    .spawn(move || writer.run())
            })
            .collect::<std::io::Result<_>>()?;
        let saver = Saver {
            jobs: Some(jobs_in),
            prepare,
            health,
        };
        Ok((saver, Writers { threads, stop }))
    }

    /// Whether all threads have ended by themselves, as they do once no [`Saver`] is left.
    pub fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Saves what has queued up, closes the store and ends the threads.
    pub fn finish(self) {
        drop(self.stop);
        for thread in self.threads {
            // A writer's panics are caught where they happen. This may wait long; the server stops without it then.
            let _ = thread.join();
        }
    }
}

struct Writer {
    jobs: Receiver<Ticket>,
    stopped: Receiver<()>,
    open: OpenStore,
    store: Option<Box<dyn SaveMail>>,
    health: Health,
    turns: Arc<Turns>,
}

impl Writer {
    fn run(mut self) {
        let turns = Arc::clone(&self.turns);
        while let Some((first, turn)) = turns.next(|| self.next_job(), || self.jobs.len()) {
            let batch = AssertUnwindSafe(|| self.save_queued(first, turn));
            // The tickets of a batch that panics say 451 as they are dropped.
            if catch_unwind(batch).is_err() {
                metrics::PANICS.count(Part::Writer);
                let reason = "the writer panicked; its store is opened anew";
                log::error!(reason = reason; "deferred");
                self.health.failed(reason);
                // Dropped, a broken store may panic once more.
                let _ = catch_unwind(AssertUnwindSafe(|| self.store = None));
            }
        }
    }

    fn next_job(&self) -> Option<Ticket> {
        if let Ok(job) = self.jobs.try_recv() {
            return Some(job);
        }
        select! {
            recv(self.jobs) -> job => job.ok(),
            recv(self.stopped) -> _ => self.jobs.try_recv().ok(),
        }
    }

    /// One batch, from making ready to the last answer.
    fn save_queued(&mut self, first: Ticket, turn: Turn) {
        if let Err(error) = self.make_ready() {
            // Only those that waited for this attempt; whoever comes now is worth another one.
            let waiting = self.jobs.try_iter().take(self.jobs.len());
            let waiting = std::iter::once(first).chain(waiting);
            let mut count = 0;
            for ticket in waiting {
                ticket.answer(Err(error.clone()));
                count += 1;
            }
            count_fault(&error);
            self.health.failed(&error.to_string());
            log::error!(mails = count, reason:% = error; "deferred");
            return;
        }
        let (mails, tickets) = self.claim_batch(first);
        let Some(store) = &mut self.store else {
            return;
        };
        if mails.is_empty() {
            store.stand_down();
            return;
        }
        metrics::BATCHES.observe(mails.len() as u64);
        let outcomes = store.save_batch(&mails);
        drop(turn);
        debug_assert_eq!(outcomes.len(), mails.len());
        if let Some(Err(error)) = outcomes.iter().find(|outcome| outcome.is_err()) {
            let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            count_fault(error);
            if failed == mails.len() {
                self.health.failed(&error.to_string());
            }
            log::error!(mails = failed, of = mails.len(), reason:% = error; "deferred");
        }
        if outcomes.iter().any(Result::is_ok) {
            self.health.worked();
        }
        // Whoever hears of it may send the next mail at once, and finds the memory of this one free.
        drop(mails);
        for (ticket, outcome) in tickets.into_iter().zip(outcomes) {
            ticket.answer(outcome);
        }
    }

    /// Another mail that has queued up. Where several have, connections that are about to queue theirs get the processor
    /// first: a moment of theirs makes a larger commit, which is cheaper for all. A mail that is alone waits for nobody of them.
    fn next_of_batch(&self, so_far: usize) -> Option<Ticket> {
        let next = self.jobs.try_recv().ok();
        if next.is_some() || so_far < 2 {
            return next;
        }
        thread::yield_now();
        self.jobs.try_recv().ok()
    }

    fn make_ready(&mut self) -> Result<(), SaveError> {
        let store = match &mut self.store {
            Some(store) => store,
            None => self.store.insert((self.open)()?),
        };
        store.ready()
    }

    /// Takes what has queued up, less what was withdrawn, up to the ceilings of a batch.
    fn claim_batch(&self, first: Ticket) -> (Vec<Mail>, Vec<Ticket>) {
        let (mut mails, mut tickets) = (Vec::new(), Vec::new());
        let (mut rows, mut octets) = (0, 0);
        let mut next = Some(first);
        while let Some(ticket) = next {
            if let Some(mail) = ticket.claim() {
                rows += mail.deliveries().len();
                octets += mail.stored_octets();
                mails.push(mail);
                tickets.push(ticket);
            }
            if rows >= MAX_BATCH_ROWS || octets >= MAX_BATCH_OCTETS {
                break;
            }
            next = self.next_of_batch(mails.len());
        }
        (mails, tickets)
    }
}

/// Who saves now. One writer at a time waits for mail, and for batches in hand to end; the others wait for their turn.
#[derive(Default)]
struct Turns {
    next: Mutex<()>,
    /// Batches in hand.
    busy: Mutex<usize>,
    ended: Condvar,
}

/// A batch in hand, until dropped.
struct Turn<'a>(&'a Turns);

impl Turns {
    /// The first mail of a batch. What queues up while others save shall be one batch too, so their end is waited for; but
    /// not for long, and not when enough has queued up already.
    fn next(
        &self,
        first: impl FnOnce() -> Option<Ticket>,
        queued: impl FnOnce() -> usize,
    ) -> Option<(Ticket, Turn<'_>)> {
        let _next = locks::lock(&self.next);
        let first = first()?;
        let mut busy = locks::lock(&self.busy);
        if queued() < WORTH_A_COMMIT {
            let ended = (self.ended).wait_timeout_while(busy, MAX_LINGER, |busy| *busy > 0);
            busy = ended.unwrap_or_else(PoisonError::into_inner).0;
        }
        *busy += 1;
        Some((first, Turn(self)))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *locks::lock(&self.0.busy) -= 1;
        self.0.ended.notify_one();
    }
}

/// The writer's end of a mail's fate. Dropped unanswered, it says 451 by itself.
struct Ticket {
    fate: Arc<Fate>,
}

/// The connection's end.
struct Receipt {
    fate: Arc<Fate>,
}

struct Fate {
    state: Mutex<FateState>,
    changed: Condvar,
}

enum FateState {
    /// The mail waits here, so that withdrawing it frees it at once, however long the queue is.
    Queued(Box<Mail>),
    Withdrawn,
    Claimed,
    Answered(Result<SavedId, SaveError>),
}

fn ticket(mail: Mail) -> (Ticket, Receipt) {
    let fate = Arc::new(Fate {
        state: Mutex::new(FateState::Queued(Box::new(mail))),
        changed: Condvar::new(),
    });
    let ticket = Ticket {
        fate: Arc::clone(&fate),
    };
    (ticket, Receipt { fate })
}

impl Ticket {
    /// From now on the mail may be stored; `None` when its connection no longer wants that.
    fn claim(&self) -> Option<Mail> {
        let mut state = self.fate.lock();
        match std::mem::replace(&mut *state, FateState::Claimed) {
            FateState::Queued(mail) => Some(*mail),
            other => {
                *state = other;
                None
            }
        }
    }

    fn answer(self, outcome: Result<SavedId, SaveError>) {
        self.settle(outcome);
    }

    fn settle(&self, outcome: Result<SavedId, SaveError>) {
        let mut state = self.fate.lock();
        if matches!(*state, FateState::Queued(_) | FateState::Claimed) {
            *state = FateState::Answered(outcome);
            drop(state);
            self.fate.changed.notify_one();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle(Err(unavailable("the mail was dropped on its way")));
    }
}

impl Receipt {
    fn wait(self, client_left: &mut dyn FnMut() -> bool) -> Result<SavedId, SaveError> {
        let started = Instant::now();
        let mut state = self.fate.lock();
        loop {
            let waited = started.elapsed();
            match &*state {
                FateState::Answered(outcome) => return outcome.clone(),
                FateState::Queued(_) if waited >= MAX_QUEUED => {
                    *state = FateState::Withdrawn;
                    return Err(unavailable("the store did not get round to it"));
                }
                FateState::Queued(_) if waited >= HEARTBEAT && client_left() => {
                    *state = FateState::Withdrawn;
                    return Err(unavailable("the client left before its mail's turn"));
                }
                FateState::Claimed if waited >= MAX_QUEUED + MAX_CLAIMED => {
                    // It may be stored or not: 451, never 250 on doubt.
                    return Err(unavailable("the store took it and did not answer"));
                }
                FateState::Queued(_) | FateState::Claimed | FateState::Withdrawn => {}
            }
            let wait = self.fate.changed.wait_timeout(state, HEARTBEAT);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Fate {
    fn lock(&self) -> MutexGuard<'_, FateState> {
        // A state is replaced whole, so a panic elsewhere cannot leave half of one.
        locks::lock(&self.state)
    }
}

fn count_fault(error: &SaveError) {
    metrics::STORE_ERRORS.count(match error {
        SaveError::Unavailable(_) => StoreFault::Unavailable,
        SaveError::Full(_) => StoreFault::Full,
    });
}

fn unavailable(reason: &str) -> SaveError {
    SaveError::Unavailable(reason.to_owned())
}

/// Tickets that may queue up: one for each client, of which there are fewer, and those that withdrew their mail from a store
/// that hangs. About 2 MB for the queue itself.
const MAX_TICKETS: usize = 131_072;
/// Rows of one transaction: beyond a hundred a commit gets no cheaper by row.
const MAX_BATCH_ROWS: usize = 256;
/// Mails that are a batch of their own, whatever other writers do.
const WORTH_A_COMMIT: usize = 64;
/// How long a writer waits for the batch of another one.
const MAX_LINGER: Duration = Duration::from_millis(5);
/// Octets of one transaction.
const MAX_BATCH_OCTETS: usize = 8 << 20;
/// How long a mail may wait for its turn; clients wait ten minutes (RFC 5321 §4.5.3.2.6), but hold a place meanwhile.
const MAX_QUEUED: Duration = Duration::from_secs(30);
/// How long a store may take over a batch before its mails count as not saved.
const MAX_CLAIMED: Duration = Duration::from_secs(30);
/// How often a waiting connection looks after its client.
const HEARTBEAT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Origin;
    use crate::smtp::{Content, Envelope, ForwardPath, MemoryBudget, ReversePath};

    #[test]
    fn a_mail_that_finds_the_queue_full_is_told_so_at_once() {
        // Nobody takes from it, and it holds nothing.
        let (jobs, _kept) = bounded(0);
        let saver = Saver {
            jobs: Some(jobs),
            prepare: false,
            health: Health::default(),
        };
        let (reverse_path, _) = ReversePath::parse("<a@client.test>").unwrap();
        let (recipient, _) = ForwardPath::parse("<u@ours.test>").unwrap();
        let envelope = Envelope {
            reverse_path,
            recipients: vec![recipient],
            smtputf8: false,
        };
        let origin = Origin {
            client_ip: [127, 0, 0, 1].into(),
            helo_name: "client.test".to_owned(),
            protocol: "SMTP",
            host_name: "mx.test".to_owned(),
            received_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let content = Content::new(0, &MemoryBudget::new(0));
        let mail = Mail::new(envelope, content, origin, |_| String::new()).unwrap();
        let asked = Instant::now();
        let saved = saver.save(mail, &mut || false);
        assert_eq!(
            saved,
            Err(unavailable("the store has been stuck for too long"))
        );
        assert!(asked.elapsed() < HEARTBEAT);
    }
}
