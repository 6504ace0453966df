//! Signals as values on a channel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
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

/// Begins to listen for signals.
///
/// # Errors
/// When the kernel refuses a handler or a thread.
pub fn listen() -> io::Result<Receiver<Request>> {
    // Past a file size limit a write shall fail like on a full disk, not end the process.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    let (requests, received) = bounded(MAX_REQUESTS);
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                let request = match signal {
                    SIGHUP => Request::Reload,
                    SIGUSR1 => Request::ReopenLog,
                    _ => Request::Stop,
                };
                // Waits where the queue is full: the kernel keeps one signal of each kind meanwhile.
                if requests.send(request).is_err() {
                    return;
                }
            }
        })?;
    Ok(received)
}

/// Requests that wait for the one before them.
const MAX_REQUESTS: usize = 8;
