//! Where the pool's threads wait for their next client: in `accept`, or at rest until a port has need of them.
//!
//! With several ports only one thread waits at each, and the others rest for whichever is next: threads that waited where
//! the last crowd was would be of no use where the next one comes.

use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, bounded};

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
    at_rest: Vec<Sender<Arc<Listener>>>,
    /// Who rests is of no more use.
    is_dismissed: bool,
}

/// Who waits in `accept` when the caller no longer does.
pub enum Successor {
    /// Somebody does, or was sent there from its rest.
    Waits,
    /// Nobody would. The caller is still counted: for a thread that it starts now, or for itself if it has to stay.
    Missing,
}

/// Where a thread goes that has served its client.
pub enum Post {
    /// Back to `accept`, where it is counted already.
    SamePort,
    /// To rest, until it is sent to a port.
    Rest(Receiver<Arc<Listener>>),
}

impl Crew {
    /// One more port, at which a first thread is about to wait.
    pub fn add_port(&self, listener: &Listener) {
        locks::lock(&self.state).ports += 1;
        listener.add_waiting();
    }

    /// The calling thread has a client, and leaves `accept`.
    pub fn leave(&self, listener: &Arc<Listener>) -> Successor {
        let mut state = locks::lock(&self.state);
        if listener.waiting() > 1 {
            listener.remove_waiting();
            return Successor::Waits;
        }
        match state.at_rest.pop() {
            // Counted in the caller's stead. It cannot have gone: it listens until it hears.
            Some(resting) if resting.send(Arc::clone(listener)).is_ok() => Successor::Waits,
            _ => Successor::Missing,
        }
    }

    /// Where the calling thread goes, which has served a client that came to `listener`. Its client's place must be free
    /// only afterwards: whoever gets it may have need of this thread.
    pub fn come_back(&self, listener: &Listener) -> Post {
        let mut state = locks::lock(&self.state);
        if listener.waiting() == 0 || state.ports == 1 || state.is_dismissed {
            listener.add_waiting();
            return Post::SamePort;
        }
        let (sender, receiver) = bounded(1);
        state.at_rest.push(sender);
        Post::Rest(receiver)
    }

    /// Ends the threads at rest; nobody rests any more.
    pub fn dismiss(&self) {
        let mut state = locks::lock(&self.state);
        state.is_dismissed = true;
        state.at_rest.clear();
    }
}
