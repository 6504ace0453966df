//! Where the pool's threads wait for their next client: in `accept`, or at rest until a port has need of them.
//!
//! With several ports only one thread waits at each, and the others rest for whichever is next: threads that waited where
//! the last crowd was would be of no use where the next one comes.

use std::mem;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::listener::Listener;
use crate::locks;

/// The threads that serve nobody at the moment.
#[derive(Default)]
pub struct Crew {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ports: usize,
    /// The one that came last is the first to go: its stack is still at hand.
    at_rest: Vec<Arc<Rest>>,
    /// Who rests is of no more use.
    is_dismissed: bool,
}

/// One thread's rest.
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
    /// Ports at which a first thread each is about to wait. All are told before any such thread is started.
    pub fn add_ports(&self, listeners: &[Arc<Listener>]) {
        locks::lock(&self.state).ports += listeners.len();
        for listener in listeners {
            listener.add_waiting();
        }
    }

    /// The calling thread has a client and wants to leave `accept`. `false`: nobody else waits there or rests. It is counted
    /// all the same, for a thread that it starts now, or for itself if it has to stay.
    pub fn may_leave(&self, listener: &Arc<Listener>) -> bool {
        let mut state = locks::lock(&self.state);
        if listener.waiting() > 1 {
            listener.remove_waiting();
            return true;
        }
        let Some(rest) = state.at_rest.pop() else {
            return false;
        };
        // Counted in the caller's stead.
        rest.end(Call::To(Arc::clone(listener)));
        true
    }

    /// The calling thread has served a client that came to `listener`. `None`: it is to go back to `accept`, where it is
    /// counted already. Its client's place must be free only afterwards: whoever gets it may have need of this thread.
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

    /// Ends the threads at rest; nobody rests any more.
    pub fn dismiss(&self) {
        let mut state = locks::lock(&self.state);
        state.is_dismissed = true;
        for rest in state.at_rest.drain(..) {
            rest.end(Call::Home);
        }
    }
}

impl Rest {
    /// Until it is sent to a port; `None`: it may end.
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
