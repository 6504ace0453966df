//! The queue between connections and the store, and group commit.
//!
//! A writer takes whatever queued up while the last commit ran: alone a mail commits at once, under load commits grow by
//! themselves. Several writers take turns, for few large commits are cheaper than many small ones; a writer that hangs, or
//! a queue that grows, ends that within milliseconds.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};

use super::batching::{BatchPermit, BatchScheduler};
use super::pending::{QueuedMail, WaiterRegistry, pending_save};
use crate::mail::Mail;
use crate::metrics::{self, Component, StoreErrorKind};
use crate::panics;
use crate::store::{Health, SaveError, SaveMail, SavedId};

/// Opens a store for a writer; called again after a panic.
pub type OpenStore = Arc<dyn Fn() -> Result<Box<dyn SaveMail>, SaveError> + Send + Sync>;

/// What connections save their mails with. Clones share one queue.
#[derive(Clone)]
pub struct Saver {
    queue: Option<Queue>,
    precompute_rows: bool,
    health: Health,
}

/// Where mails wait for a writer, and connections for their mails.
#[derive(Clone)]
struct Queue {
    queued: Sender<QueuedMail>,
    scheduler: Arc<BatchScheduler>,
    waiters: Arc<WaiterRegistry>,
}

/// The writer threads behind a [`Saver`].
pub struct Writers {
    threads: Vec<JoinHandle<()>>,
    /// Dropped to say that no more mail will come.
    stop: Sender<()>,
}

impl Saver {
    /// Says yes and keeps nothing, without any queue: what the server itself costs.
    pub fn discarding() -> Saver {
        Saver {
            queue: None,
            precompute_rows: false,
            health: Health::up(),
        }
    }

    /// What is known of the store behind it.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Saves a mail and waits for the outcome, for a minute at most.
    ///
    /// `client_left` is asked twice a second once the first one is over: a client that gave up while its mail still queued
    /// is not saved behind its back, for it will come again.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is not known whether it is.
    pub fn save(
        &self,
        mail: Mail,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let Some(queue) = &self.queue else {
            return Ok(SavedId::from(mail.hash()));
        };
        if let Some(reason) = self.health.down_reason() {
            return Err(SaveError::Unavailable(reason));
        }
        if self.precompute_rows {
            let prepared = mail.precompute_row();
            prepared.map_err(|error| SaveError::Full(error.to_string()))?;
        }
        let (ticket, receipt) = pending_save(mail);
        match queue.queued.try_send(ticket) {
            Ok(()) => {
                queue.scheduler.notify_queued(queue.queued.len());
                receipt.wait(&queue.waiters, client_left)
            }
            // Those of clients that gave up long ago: the store has been stuck for hours.
            Err(TrySendError::Full(_)) => Err(SaveError::unavailable(
                "the store has been stuck for too long",
            )),
            Err(TrySendError::Disconnected(_)) => {
                Err(SaveError::unavailable("the writers have stopped"))
            }
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
        let (jobs_in, jobs_out) = bounded(MAX_QUEUED_MAILS);
        let (stop, stopped) = bounded(0);
        let turns = Arc::new(BatchScheduler::default());
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
        let queue = Queue {
            queued: jobs_in,
            scheduler: turns,
            waiters: WaiterRegistry::start()?,
        };
        let saver = Saver {
            queue: Some(queue),
            precompute_rows: prepare,
            health,
        };
        Ok((saver, Writers { threads, stop }))
    }

    /// Whether all threads have ended by themselves, as they do once no [`Saver`] is left.
    pub fn are_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Saves what has queued up, closes the store and ends the threads.
    pub fn drain_and_join(self) {
        drop(self.stop);
        for thread in self.threads {
            // A writer's panics are caught where they happen. This may wait long; the server stops without it then.
            let _ = thread.join();
        }
    }
}

struct Writer {
    jobs: Receiver<QueuedMail>,
    stopped: Receiver<()>,
    open: OpenStore,
    store: Option<Box<dyn SaveMail>>,
    health: Health,
    turns: Arc<BatchScheduler>,
}

impl Writer {
    fn run(mut self) {
        let turns = Arc::clone(&self.turns);
        while let Some((first, turn)) = turns.acquire(|| self.next_queued(), || self.jobs.len()) {
            // The tickets of a batch that panics say 451 as they are dropped.
            if let Err(text) = panics::catch(Component::Writer, || self.save_batch(first, turn)) {
                let reason = format!("the writer panicked, and opens its store anew: {text}");
                log::error!(reason = reason.as_str(); "batch_failed");
                self.health.record_failure(&reason);
                // Dropped, a broken store may panic once more.
                let _ = panics::catch(Component::Writer, || self.store = None);
            }
        }
    }

    fn next_queued(&self) -> Option<QueuedMail> {
        if let Ok(job) = self.jobs.try_recv() {
            return Some(job);
        }
        select! {
            recv(self.jobs) -> job => job.ok(),
            recv(self.stopped) -> _ => self.jobs.try_recv().ok(),
        }
    }

    /// One batch, from making ready to the last answer.
    fn save_batch(&mut self, first: QueuedMail, mut turn: BatchPermit) {
        let _question = self.health.ask("a batch");
        if let Err(error) = self.prepare_store() {
            // Only those that waited for this attempt; whoever comes now is worth another one.
            let waiting = self.jobs.try_iter().take(self.jobs.len());
            let waiting = std::iter::once(first).chain(waiting);
            let mut count = 0;
            for ticket in waiting {
                ticket.answer(Err(error.clone()), None);
                count += 1;
            }
            count_store_error(&error);
            self.health.record_failure(&error.to_string());
            log::error!(mails = count, reason:% = error; "batch_failed");
            return;
        }
        let (mails, tickets) = self.collect_batch(first);
        let Some(store) = &mut self.store else {
            return;
        };
        if mails.is_empty() {
            store.cancel_batch();
            return;
        }
        turn.record_size(mails.len());
        metrics::BATCHES.observe(mails.len() as u64);
        let outcomes = store.save_batch(&mails);
        drop(turn);
        debug_assert_eq!(outcomes.len(), mails.len());
        if let Some(Err(error)) = outcomes.iter().find(|outcome| outcome.is_err()) {
            let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            count_store_error(error);
            log::error!(mails = failed, of = mails.len(), reason:% = error; "batch_failed");
        }
        self.judge(&mails, &outcomes);
        for ((ticket, mail), outcome) in tickets.into_iter().zip(mails).zip(outcomes) {
            ticket.answer(outcome, Some(mail));
        }
    }

    /// Updates the health of the store after a batch.
    fn judge(&self, mails: &[Mail], outcomes: &[Result<SavedId, SaveError>]) {
        if outcomes.iter().any(Result::is_ok) {
            self.health.record_success();
            return;
        }
        let mut errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        let of_the_store = |error: &&SaveError| !matches!(error, SaveError::Refused(_));
        if let Some(error) = errors.clone().find(of_the_store) {
            self.health.record_failure(&error.to_string());
        } else if let Some(error) = errors.next() {
            let clients = mails.iter().map(|mail| mail.origin().client_ip);
            self.health.refused(clients, &error.to_string());
        }
    }

    /// Another mail that has queued up. Where several have, connections that are about to queue theirs get the processor
    /// first: a moment of theirs makes a larger commit, which is cheaper for all. A mail that is alone waits for nobody of them.
    fn next_of_batch(&self, so_far: usize) -> Option<QueuedMail> {
        let next = self.jobs.try_recv().ok();
        if next.is_some() || so_far < 2 {
            return next;
        }
        thread::yield_now();
        self.jobs.try_recv().ok()
    }

    fn prepare_store(&mut self) -> Result<(), SaveError> {
        let store = match &mut self.store {
            Some(store) => store,
            None => self.store.insert((self.open)()?),
        };
        store.prepare_batch()
    }

    /// Takes what has queued up, less what was withdrawn, up to the ceilings of a batch.
    fn collect_batch(&self, first: QueuedMail) -> (Vec<Mail>, Vec<QueuedMail>) {
        let (mut mails, mut tickets) = (Vec::new(), Vec::new());
        let (mut rows, mut octets) = (0, 0);
        let mut next = Some(first);
        while let Some(ticket) = next {
            if let Some(mail) = ticket.claim() {
                rows += mail.recipients().len();
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

fn count_store_error(error: &SaveError) {
    metrics::STORE_ERRORS.count(match error {
        SaveError::Unavailable(_) => StoreErrorKind::Unavailable,
        SaveError::Full(_) => StoreErrorKind::Full,
        SaveError::Refused(_) => StoreErrorKind::Refused,
    });
}

/// Tickets that may queue up: one for each client, of which there are fewer, and those that withdrew their mail from a store
/// that hangs. About 2 MB for the queue itself, and 20 MB more for what is left of mails once all of them have withdrawn.
const MAX_QUEUED_MAILS: usize = 131_072;
/// Rows of one transaction: beyond a hundred a commit gets no cheaper by row.
const MAX_BATCH_ROWS: usize = 256;
/// Octets of one transaction.
const MAX_BATCH_OCTETS: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::mail::Origin;
    use crate::smtp::{Content, Envelope, ForwardPath, MemoryBudget, ReversePath};

    #[test]
    fn save_into_a_full_queue_fails_at_once() {
        // Nobody takes from it, and it holds nothing.
        let (jobs, _kept) = bounded(0);
        let queue = Queue {
            queued: jobs,
            scheduler: Arc::default(),
            waiters: Arc::default(),
        };
        let saver = Saver {
            queue: Some(queue),
            precompute_rows: false,
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
            Err(SaveError::unavailable(
                "the store has been stuck for too long"
            ))
        );
        assert!(asked.elapsed() < Duration::from_secs(1));
    }
}
