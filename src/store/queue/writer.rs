//! The writer threads, which commit queued mails in batches.
//!
//! A writer takes all mails that were queued during the previous commit. So under light load a mail is committed immediately,
//! and batches grow with the load. [`BatchScheduler`] decides how several writers share the queue.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, TrySendError, bounded};

use super::batching::{BatchPermit, BatchScheduler};
use super::feed_entries::feed_entries_of_saved_mails;
use super::hold::{FailedAttempts, HoldLimit};
use super::in_doubt::InDoubtThreads;
use super::outcome::{ClaimedMail, count_store_error, record_outcomes};
use super::pending::{SaveWaiterRegistry, UnansweredMail, new_pending_save};
use super::receiver::QueueReceiver;
use crate::error_chain::display_with_causes;
use crate::feed::Feed;
use crate::mail::Mail;
use crate::metrics::{Component, Metrics};
use crate::panics;
use crate::store::{SaveError, SaveMail, SavedId, StoreHealth};

/// The function that opens a store on a writer's thread. The writer calls it for the first batch, and again after a failed
/// open or a panic.
pub type StoreOpener = Arc<dyn Fn() -> Result<Box<dyn SaveMail>, SaveError> + Send + Sync>;

/// Queues mails for the writers and waits for the outcome. Clones share one queue.
#[derive(Clone)]
pub struct SaveQueue {
    queue: Option<SaveQueueSender>,
    precompute_rows: bool,
    health: StoreHealth,
}

/// The sending end of the queue, with which client connections put mails into it.
#[derive(Clone)]
struct SaveQueueSender {
    queued: Sender<UnansweredMail>,
    scheduler: Arc<BatchScheduler>,
    waiters: Arc<SaveWaiterRegistry>,
}

/// The writer threads of a [`SaveQueue`].
pub struct WriterThreads {
    threads: Vec<JoinHandle<()>>,
    in_doubt: Arc<InDoubtThreads>,
    /// When this sender is dropped, the writers save the queued mails and stop.
    stop: Sender<()>,
}

impl SaveQueue {
    /// Returns a queue that accepts each mail immediately and stores none. `metrics` are those of the server.
    pub fn new_discarding(metrics: Arc<Metrics>) -> SaveQueue {
        SaveQueue {
            queue: None,
            precompute_rows: false,
            health: StoreHealth::new_of_reached_store(metrics),
        }
    }

    /// Returns whether mails are queued for the writers.
    pub fn has_queued_mails(&self) -> bool {
        (self.queue.as_ref()).is_some_and(|queue| !queue.queued.is_empty())
    }

    /// Returns the state of the store.
    pub fn health(&self) -> StoreHealth {
        self.health.clone()
    }

    /// Saves a mail and waits for the outcome. While the store is unavailable, the mail waits as long as `hold` says, which is
    /// called again and again because the load changes it.
    ///
    /// After the first second, `client_left` is called twice a second while the mail is queued. If it returns true, the mail is
    /// withdrawn: a client that disconnected sends the mail again, so saving it would make a duplicate.
    ///
    /// # Errors
    /// [`SaveError`]: the mail is not saved, or it is unknown whether the mail is saved.
    pub fn save(
        &self,
        mail: Mail,
        hold: &dyn Fn() -> HoldLimit,
        client_left: &mut dyn FnMut() -> bool,
    ) -> Result<SavedId, SaveError> {
        let Some(queue) = &self.queue else {
            return Ok(SavedId::from(mail.hash()));
        };
        if let Some(reason) = self.health.store_down_reason()
            && hold().is_zero()
        {
            return Err(SaveError::unavailable(reason));
        }
        if self.precompute_rows {
            let computed = mail.precompute_summary_and_body();
            computed.map_err(SaveError::full)?;
        }
        let (queued, waiter) = new_pending_save(mail, hold());
        match queue.queued.try_send(queued) {
            Ok(()) => {
                queue
                    .scheduler
                    .wake_writer_if_batch_is_ready(queue.queued.len());
                waiter.wait_for_save_outcome(&queue.waiters, &self.health, hold, client_left)
            }
            // A mail whose client has left stays in the queue until a writer removes it, so the queue fills while the writers
            // hang. Filling it takes hours.
            Err(TrySendError::Full(_)) => Err(SaveError::unavailable(
                "the queue is full: the store has been stuck for hours",
            )),
            Err(TrySendError::Disconnected(_)) => {
                Err(SaveError::unavailable("the writers have stopped"))
            }
        }
    }
}

impl WriterThreads {
    /// Starts `count` writers, which open their stores with `open`.
    ///
    /// If `precompute_rows` is set, each connection's thread computes the row (`Mail::precompute_summary_and_body`) before it
    /// queues the mail. While `health` reports the store as down, only mails that may wait for it are queued. `feed` gets an
    /// entry for each saved row.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(
        count: usize,
        precompute_rows: bool,
        health: StoreHealth,
        feed: &Arc<Feed>,
        open: StoreOpener,
    ) -> std::io::Result<(SaveQueue, WriterThreads)> {
        let (sender, receiver) = bounded(MAX_QUEUED_MAILS);
        let (stop, stopped) = bounded(0);
        let receiver = QueueReceiver::new(receiver, stopped, MAX_QUEUED_MAILS);
        let scheduler = Arc::new(BatchScheduler::default());
        let in_doubt = Arc::new(InDoubtThreads::new(count, health.clone(), Arc::clone(feed)));
        let threads = (0..count)
            .map(|number| {
                let writer = QueueWriter {
                    queue: receiver.clone(),
                    failed: FailedAttempts::default(),
                    open: Arc::clone(&open),
                    store: None,
                    health: health.clone(),
                    feed: Arc::clone(feed),
                    scheduler: Arc::clone(&scheduler),
                    in_doubt: Arc::clone(&in_doubt),
                };
                thread::Builder::new()
                    .name(format!("writer-{number}"))
                    .spawn(move || writer.run())
            })
            .collect::<std::io::Result<_>>()?;
        let queue = SaveQueueSender {
            queued: sender,
            scheduler,
            waiters: SaveWaiterRegistry::start()?,
        };
        let saver = SaveQueue {
            queue: Some(queue),
            precompute_rows,
            health,
        };
        let writers = WriterThreads {
            threads,
            in_doubt,
            stop,
        };
        Ok((saver, writers))
    }

    /// Returns whether all threads have ended. The writers end after the last [`SaveQueue`] is dropped.
    pub fn are_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished) && self.in_doubt.are_finished()
    }

    /// Saves the queued mails, closes the store and ends the threads.
    pub fn drain_and_join(self) {
        drop(self.stop);
        for thread in self.threads {
            // The thread catches panics, so `join` returns no error. `join` may block for a long time, but the shutdown waits
            // for this function only up to a time limit.
            let _ = thread.join();
        }
        self.in_doubt.join();
    }
}

struct QueueWriter {
    queue: QueueReceiver,
    failed: FailedAttempts,
    open: StoreOpener,
    store: Option<Box<dyn SaveMail>>,
    health: StoreHealth,
    feed: Arc<Feed>,
    scheduler: Arc<BatchScheduler>,
    in_doubt: Arc<InDoubtThreads>,
}

impl QueueWriter {
    fn run(mut self) {
        let scheduler = Arc::clone(&self.scheduler);
        let metrics = Arc::clone(self.health.metrics());
        while let Some((first, permit)) =
            scheduler.acquire_batch_permit(|| self.queue.wait_for_next(), || self.queue.len())
        {
            // A panic drops the queued mails of the batch. Their clients then get 451.
            if let Err(text) = panics::catch_and_count_panic(&metrics, Component::Writer, || {
                self.save_batch(first, permit)
            }) {
                let reason = format!("the writer panicked and reopens its store: {text}");
                self.health.record_failed_batch_in_health(&reason);
                // The logger of an embedding program may panic too, and so may dropping the broken store.
                let _ = panics::catch_panic(|| {
                    log::error!(reason = reason.as_str(); "batch_failed");
                });
                self.drop_broken_store();
            }
            self.queue.pause(self.failed.pause());
        }
    }

    /// Drops the store after a panic; the next batch opens it again. Dropping it may panic too.
    fn drop_broken_store(&mut self) {
        let metrics = Arc::clone(self.health.metrics());
        let store = self.store.take();
        let _ = panics::catch_and_count_panic(&metrics, Component::Writer, || drop(store));
    }

    /// Saves one batch: prepares the store, saves the mails and reports the outcome of each.
    fn save_batch(&mut self, first: UnansweredMail, mut permit: BatchPermit) {
        let _request = self.health.begin_store_request("a batch");
        if let Err(error) = self.open_store_and_prepare_batch() {
            self.fail_queued_mails(first, &error);
            return;
        }
        let (mails, queued_mails) = self.collect_batch(first);
        let Some(store) = &mut self.store else {
            return;
        };
        if mails.is_empty() {
            store.cancel_batch();
            return;
        }
        permit.record_size_for_scheduling(mails.len());
        self.health.metrics().batches.observe(mails.len() as u64);
        let outcomes = store.save_batch(&mails);
        drop(permit);
        if outcomes.len() != mails.len() {
            log::error!(mails = mails.len(), outcomes = outcomes.len(), note = "mails without an outcome count as not saved"; "batch_failed");
        }
        let has_panicked = outcomes
            .iter()
            .any(|outcome| matches!(outcome, Err(error) if error.is_store_panic()));
        let claimed = queued_mails.into_iter().zip(mails).collect();
        let (claimed, outcomes) = self.in_doubt.start_for_mails_in_doubt(claimed, outcomes);
        if !claimed.is_empty() {
            self.report_outcomes_or_return_mails(claimed, outcomes);
        }
        if has_panicked {
            self.health.metrics().panics.count(Component::Writer);
            self.drop_broken_store();
        }
    }

    /// Ends an attempt to prepare the store. Fails only the mails that are already queued: a mail that arrives later starts
    /// another attempt, as a mail does that goes on waiting.
    fn fail_queued_mails(&mut self, first: UnansweredMail, error: &SaveError) {
        let count = self.queue.fail_waiting_mails(first, error);
        count_store_error(self.health.metrics(), error);
        let reason = display_with_causes(error);
        self.health.record_failed_batch_in_health(&reason);
        match error.may_be_tried_again() {
            true => self.failed.add(),
            false => self.failed.end(),
        }
        if self.failed.is_to_be_logged(&reason) {
            log::error!(mails = count, reason = reason.as_str(); "batch_failed");
        }
    }

    /// Records the outcomes of a batch. Returns the mails to the queue for which the store was unavailable, and answers the
    /// connections of the others. Then publishes the feed's entries about the saved ones.
    fn report_outcomes_or_return_mails(
        &mut self,
        mails: Vec<ClaimedMail>,
        outcomes: Vec<Result<SavedId, SaveError>>,
    ) {
        let is_unavailable = |outcome: &Result<SavedId, SaveError>| {
            outcome.as_ref().is_err_and(SaveError::may_be_tried_again)
        };
        match outcomes.iter().all(is_unavailable) {
            true => self.failed.add(),
            false => self.failed.end(),
        }
        let failed = &mut self.failed;
        record_outcomes(&self.health, &mails, &outcomes, |reason| {
            failed.is_to_be_logged(reason)
        });
        let entries = feed_entries_of_saved_mails(&self.feed, &self.health, &mails, &outcomes);
        for ((queued, mail), outcome) in mails.into_iter().zip(outcomes) {
            match outcome {
                Err(error) => self.queue.fail_claimed_mail((queued, mail), error),
                saved => queued.set_save_outcome(saved, Some(mail)),
            }
        }
        self.feed.publish(entries);
    }

    /// Returns another queued mail for a batch of `so_far` mails. If the queue is empty and the batch has two or more mails,
    /// yields the processor once, so that connections can queue further mails: a commit costs less per mail in a larger batch.
    fn next_queued_mail_for_batch(&self, so_far: usize) -> Option<UnansweredMail> {
        let next = self.queue.try_next();
        if next.is_some() || so_far < 2 {
            return next;
        }
        thread::yield_now();
        self.queue.try_next()
    }

    fn open_store_and_prepare_batch(&mut self) -> Result<(), SaveError> {
        let store = match &mut self.store {
            Some(store) => store,
            None => self.store.insert((self.open)()?),
        };
        store.prepare_batch()
    }

    /// Takes `first` and then queued mails until the batch reaches `MAX_BATCH_ROWS` or `MAX_BATCH_OCTETS` or the queue is
    /// empty; skips withdrawn mails.
    fn collect_batch(&self, first: UnansweredMail) -> (Vec<Mail>, Vec<UnansweredMail>) {
        let (mut mails, mut queued_mails) = (Vec::new(), Vec::new());
        let (mut rows, mut octets) = (0, 0);
        let mut next = Some(first);
        while let Some(queued) = next {
            if let Some(mail) = queued.claim_mail() {
                rows += mail.recipients().len();
                octets += mail.estimated_stored_octets();
                mails.push(mail);
                queued_mails.push(queued);
            }
            if rows >= MAX_BATCH_ROWS || octets >= MAX_BATCH_OCTETS {
                break;
            }
            next = self.next_queued_mail_for_batch(mails.len());
        }
        (mails, queued_mails)
    }
}

/// Maximum number of queued mails; a further mail gets 451. Each connection waits for at most one of them; the others were
/// withdrawn while a store hung. This queue and that of mails to be tried again take about 2 MB each, and 20 MB more if all
/// mails have been withdrawn.
const MAX_QUEUED_MAILS: usize = 131_072;
/// Number of rows at which a batch takes no further mail. Above 100 rows, a commit does not get cheaper per row.
const MAX_BATCH_ROWS: usize = 256;
/// Number of octets to store at which a batch takes no further mail.
const MAX_BATCH_OCTETS: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn save_into_a_full_queue_fails_at_once() {
        // A channel without capacity is full while no thread receives from it.
        let (sender, _receiver) = bounded(0);
        let queue = SaveQueueSender {
            queued: sender,
            scheduler: Arc::default(),
            waiters: Arc::default(),
        };
        let saver = SaveQueue {
            queue: Some(queue),
            precompute_rows: false,
            health: StoreHealth::new(Arc::default()),
        };
        let mail = Mail::builder().recipient("u@ours.test").build().unwrap();
        let started_at = Instant::now();
        let saved = saver.save(mail, &HoldLimit::none, &mut || false);
        let error = saved.expect_err("a full queue");
        assert!(matches!(error, SaveError::Unavailable(_)), "{error}");
        assert!(error.to_string().starts_with("the queue is full"));
        testkit::assert_took(started_at.elapsed(), testkit::AT_ONCE);
    }
}
