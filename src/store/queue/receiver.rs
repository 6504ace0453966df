//! The end of the queue from which the writers take mails, and to which they return those that they could not save.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded, select};

use super::outcome::ClaimedMail;
use super::pending::UnansweredMail;
use crate::store::SaveError;

/// The end of the queue from which the writers take mails: first those of a failed attempt, then those that arrived since.
#[derive(Clone)]
pub struct QueueReceiver {
    arrived: Receiver<UnansweredMail>,
    returned: Receiver<UnansweredMail>,
    return_to: Sender<UnansweredMail>,
    /// Is disconnected when the writers are to save the queued mails and stop.
    stopped: Receiver<()>,
}

impl QueueReceiver {
    /// Returns the receiving end for `arrived` mails; at most `capacity` returned mails are kept.
    pub fn new(
        arrived: Receiver<UnansweredMail>,
        stopped: Receiver<()>,
        capacity: usize,
    ) -> QueueReceiver {
        let (return_to, returned) = bounded(capacity);
        QueueReceiver {
            arrived,
            returned,
            return_to,
            stopped,
        }
    }

    /// Returns the number of mails in the queue, including those that their connections have withdrawn.
    pub fn len(&self) -> usize {
        self.returned.len() + self.arrived.len()
    }

    /// Returns the next mail, or `None` if the queue is empty.
    pub fn try_next(&self) -> Option<UnansweredMail> {
        let returned = self.returned.try_recv();
        returned.or_else(|_| self.arrived.try_recv()).ok()
    }

    /// Waits for the next mail. Returns `None` if the writers are to stop and the queue is empty.
    pub fn wait_for_next(&self) -> Option<UnansweredMail> {
        self.try_next().or_else(|| {
            select! {
                recv(self.returned) -> returned => returned.ok(),
                recv(self.arrived) -> arrived => arrived.ok(),
                recv(self.stopped) -> _ => self.try_next(),
            }
        })
    }

    /// Waits for `pause`, or until the writers are to stop.
    pub fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            // No value is ever sent: the result is a timeout, or the end of the channel.
            let _ = self.stopped.recv_timeout(pause);
        }
    }

    /// Tells `first` and every mail in the queue that an attempt to save failed with `error`, and removes the withdrawn ones.
    /// The others stay queued if the store is only unavailable and the writers are not to stop; else each gets the error.
    /// Returns the number of mails.
    pub fn fail_waiting_mails(&self, first: UnansweredMail, error: &SaveError) -> usize {
        let arrived = self.arrived.try_iter().take(self.arrived.len());
        let waiting: Vec<UnansweredMail> = std::iter::once(first)
            .chain(self.returned.try_iter().take(self.returned.len()))
            .chain(arrived)
            .collect();
        let count = waiting.len();
        let is_held = self.is_held_after(error);
        for queued in waiting {
            if !is_held {
                queued.set_save_outcome(Err(error.clone()), None);
            } else if queued.record_failure(error) {
                self.put_back(queued);
            }
        }
        count
    }

    /// Ends a claimed mail that was not saved: it goes back into the queue or gets the error.
    pub fn fail_claimed_mail(&self, (queued, mail): ClaimedMail, error: SaveError) {
        if !self.is_held_after(&error) {
            queued.set_save_outcome(Err(error), Some(mail));
        } else if queued.return_to_queue(mail, error) {
            self.put_back(queued);
        }
    }

    fn is_held_after(&self, error: &SaveError) -> bool {
        let is_stopping = self.stopped.try_recv() == Err(TryRecvError::Disconnected);
        !is_stopping && error.may_be_tried_again()
    }

    fn put_back(&self, queued: UnansweredMail) {
        // If the channel is full, the mail is dropped, and its client gets 451.
        let _ = self.return_to.try_send(queued);
    }
}
