//! Signals as values on a channel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

/// What an administrator asks of the running server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// SIGTERM or SIGINT: finish and stop; a second one stops at once.
    Stop,
    /// SIGHUP: read again what may change while running.
    Reload,
    /// SIGUSR1: open the log file anew.
    ReopenLog,
}

/// Signals that no longer end the process: they wait until somebody listens.
pub struct Caught(Signals);

/// Catches signals from now on. The first thing of all, for scripts send one as soon as they see our port or PID file.
///
/// # Errors
/// When the kernel refuses a handler.
pub fn catch() -> io::Result<Caught> {
    // Past a file size limit a write shall fail like on a full disk, not end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map(Caught)
}

impl Caught {
    /// Starts the thread that listens. Separate, because no thread may exist before privileges are dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn listen(self) -> io::Result<Receiver<Request>> {
        let Caught(mut signals) = self;
        let (requests, received) = bounded(MAX_REQUESTS + 2);
        let listening = move || {
            let mut stop_was_asked = false;
            for signal in signals.forever() {
                let request = match signal {
                    SIGHUP => Request::Reload,
                    SIGUSR1 => Request::ReopenLog,
                    _ => Request::Stop,
                };
                // Many of the others say no more than one; a request to stop always finds room.
                if request == Request::Stop || requests.len() < MAX_REQUESTS {
                    let _ = requests.try_send(request);
                }
                if request == Request::Stop && std::mem::replace(&mut stop_was_asked, true) {
                    end_unless_taken(&requests);
                }
            }
        };
        let builder = thread::Builder::new().name("signals".to_owned());
        builder.spawn(listening)?;
        Ok(received)
    }
}

/// Ends the process where nobody takes what was asked twice: whoever should hangs, in a file system that does not answer or
/// a pipe that stands in a file's place.
fn end_unless_taken(requests: &Sender<Request>) {
    let give_up_at = Instant::now() + TAKEN_WITHIN;
    while !requests.is_empty() {
        if Instant::now() >= give_up_at {
            // The PID file stays, as after kill -9.
            log::warn!("stopped_at_once");
            std::process::exit(0);
        }
        thread::sleep(TICK);
    }
}

/// How long a second request to stop may wait before it is carried out here.
const TAKEN_WITHIN: Duration = Duration::from_millis(500);
/// Between two looks.
const TICK: Duration = Duration::from_millis(10);
/// Requests that wait for the one before them, beside two to stop.
const MAX_REQUESTS: usize = 8;
