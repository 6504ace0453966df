//! Idle threads of the pool: they block in `accept`, or are parked until a listener needs them.
//!
//! With several listeners, one idle thread per listener blocks in `accept`. The other idle threads are parked and can serve
//! any listener. If they blocked in `accept` instead, they could not serve a burst of connections on another port.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::listener::Listener;
use crate::sync;

/// The threads that currently serve no client.
#[derive(Default)]
pub struct IdleThreads {
    state: Mutex<IdleThreadsState>,
}

#[derive(Default)]
struct IdleThreadsState {
    listeners: usize,
    /// Last in, first out: the stack of the thread that was parked last is most likely still in the CPU cache.
    parked: Vec<Arc<ParkedThread>>,
    /// Whether [`end_parked_threads`](IdleThreads::end_parked_threads) was called; from then on no thread is parked.
    is_shut_down: bool,
}

/// A thread that waits until a listener uses it.
#[derive(Default)]
pub struct ParkedThread {
    wakeup: Mutex<ParkedThreadCommand>,
    changed: Condvar,
}

#[derive(Default)]
enum ParkedThreadCommand {
    #[default]
    Pending,
    Accept(Arc<Listener>),
    Exit,
}

impl IdleThreads {
    /// Counts one accepting thread for each of `listeners`. Called once, before the first such thread starts.
    pub fn add_one_accepting_thread_per_listener(&self, listeners: &[Arc<Listener>]) {
        sync::lock(&self.state).listeners += listeners.len();
        for listener in listeners {
            listener.increment_accepting_threads();
        }
    }

    /// Called by a thread that accepted a client. Returns `true` if another thread now accepts on `listener`; a parked thread
    /// is woken if necessary. Returns `false` if no thread is parked either: the caller still counts as accepting, and must
    /// start a thread that accepts or call `accept` again.
    pub fn hand_over_accepting(&self, listener: &Arc<Listener>) -> bool {
        let mut state = sync::lock(&self.state);
        if listener.accepting_threads() > 1 {
            listener.decrement_accepting_threads();
            return true;
        }
        let Some(thread) = state.parked.pop() else {
            return false;
        };
        // The number of accepting threads stays the same: the woken thread replaces the caller.
        thread.wake(ParkedThreadCommand::Accept(Arc::clone(listener)));
        true
    }

    /// Called by a thread that has served a client of `listener`. Returns the `ParkedThread` on which the caller must wait, or
    /// `None` if the caller must return to `accept`; the caller then already counts as accepting. Release the connection slot
    /// only after `park_thread_or_accept`, so that the thread is available when the slot is free.
    pub fn park_thread_or_accept(&self, listener: &Listener) -> Option<Arc<ParkedThread>> {
        let mut state = sync::lock(&self.state);
        if state.listeners == 1 || state.is_shut_down {
            listener.increment_accepting_threads();
            return None;
        }
        let thread = Arc::new(ParkedThread::default());
        state.parked.push(Arc::clone(&thread));
        Some(thread)
    }

    /// Ends all parked threads; no thread is parked from now on.
    pub fn end_parked_threads(&self) {
        let mut state = sync::lock(&self.state);
        state.is_shut_down = true;
        for thread in state.parked.drain(..) {
            thread.wake(ParkedThreadCommand::Exit);
        }
    }
}

impl ParkedThread {
    /// Blocks until a listener needs this thread; returns `None` if the thread should exit.
    pub fn wait_until_a_listener_needs_this_thread(&self) -> Option<Arc<Listener>> {
        let wakeup = sync::lock(&self.wakeup);
        let is_pending =
            |wakeup: &mut ParkedThreadCommand| matches!(wakeup, ParkedThreadCommand::Pending);
        let wakeup = self.changed.wait_while(wakeup, is_pending);
        match mem::take(&mut *wakeup.unwrap_or_else(PoisonError::into_inner)) {
            ParkedThreadCommand::Accept(listener) => Some(listener),
            ParkedThreadCommand::Pending | ParkedThreadCommand::Exit => None,
        }
    }

    fn wake(&self, wakeup: ParkedThreadCommand) {
        *sync::lock(&self.wakeup) = wakeup;
        self.changed.notify_one();
    }
}
