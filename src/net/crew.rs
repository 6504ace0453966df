//! Idle threads of the pool: they block in `accept`, or are parked until a listener needs them.
//!
//! With several listeners, one idle thread blocks in `accept` per listener and the others are parked and can serve any
//! listener. Otherwise threads that served a burst on one port could not serve a burst on another.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::listener::Listener;
use crate::locks;

/// The threads that currently serve no client.
#[derive(Default)]
pub struct Crew {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ports: usize,
    /// LIFO: the most recently parked thread has the warmest stack.
    at_rest: Vec<Arc<Rest>>,
    /// After shutdown no thread is parked any more.
    is_dismissed: bool,
}

/// A thread that waits for a listener to need it.
#[derive(Default)]
pub struct Rest {
    call: Mutex<Call>,
    called: Condvar,
}

#[derive(Default)]
enum Call {
    #[default]
    NotYet,
    To(Arc<Listener>),
    Home,
}

impl Crew {
    /// Counts one accepting thread for each of `listeners`. Called once, before the first such thread starts.
    pub fn add_ports(&self, listeners: &[Arc<Listener>]) {
        locks::lock(&self.state).ports += listeners.len();
        for listener in listeners {
            listener.add_waiting();
        }
    }

    /// Called by a thread that accepted a client. Returns `true` after making sure that another thread accepts on `listener`.
    /// Returns `false` if there is none and none is parked: the count of accepting threads then stays, for the thread that the
    /// caller starts, or for the caller if it has to go back to `accept`.
    pub fn may_leave(&self, listener: &Arc<Listener>) -> bool {
        let mut state = locks::lock(&self.state);
        if listener.waiting() > 1 {
            listener.remove_waiting();
            return true;
        }
        let Some(rest) = state.at_rest.pop() else {
            return false;
        };
        // The woken thread takes over the caller's place in the count.
        rest.end(Call::To(Arc::clone(listener)));
        true
    }

    /// Called by a thread that has served a client of `listener`. Returns `None` if the thread goes back to `accept`, where it
    /// is already counted. Release the connection slot only after this call, so that a new client can find this thread.
    pub fn come_back(&self, listener: &Listener) -> Option<Arc<Rest>> {
        let mut state = locks::lock(&self.state);
        if state.ports == 1 || state.is_dismissed {
            listener.add_waiting();
            return None;
        }
        let rest = Arc::new(Rest::default());
        state.at_rest.push(Arc::clone(&rest));
        Some(rest)
    }

    /// Ends all parked threads; no thread is parked from now on.
    pub fn dismiss(&self) {
        let mut state = locks::lock(&self.state);
        state.is_dismissed = true;
        for rest in state.at_rest.drain(..) {
            rest.end(Call::Home);
        }
    }
}

impl Rest {
    /// Blocks until a listener needs this thread; returns `None` if the thread should exit.
    pub fn wait(&self) -> Option<Arc<Listener>> {
        let call = locks::lock(&self.call);
        let is_awaited = |call: &mut Call| matches!(call, Call::NotYet);
        let called = self.called.wait_while(call, is_awaited);
        match mem::take(&mut *called.unwrap_or_else(PoisonError::into_inner)) {
            Call::To(listener) => Some(listener),
            Call::NotYet | Call::Home => None,
        }
    }

    fn end(&self, call: Call) {
        *locks::lock(&self.call) = call;
        self.called.notify_one();
    }
}
