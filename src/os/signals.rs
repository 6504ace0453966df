//! Signals as values on a channel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

/// What a signal asks the server to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGTERM or SIGINT: drain and stop; a second one stops at once.
    Stop,
    /// SIGHUP: read configuration, keys and certificates again.
    Reload,
    /// SIGUSR1: reopen the log file.
    ReopenLog,
}

/// Signal handlers that are installed; signals are queued until [`listen`](Caught::listen).
pub struct SignalListener(Signals);

/// Installs the signal handlers. Must run first: scripts send signals as soon as the port is bound or the PID file exists.
///
/// # Errors
/// The kernel refuses a handler.
pub fn catch() -> io::Result<SignalListener> {
    // Without a handler, a write beyond RLIMIT_FSIZE would kill the process; with it, the write fails like on a full disk.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map(SignalListener)
}

impl SignalListener {
    /// Starts the thread that receives signals. Separate from [`catch`], because no thread may exist before privileges are
    /// dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn listen(self) -> io::Result<Receiver<Event>> {
        let SignalListener(mut signals) = self;
        let (requests, received) = bounded(MAX_EVENTS + 2);
        let listening = move || {
            let mut stop_was_asked = false;
            for signal in signals.forever() {
                let request = match signal {
                    SIGHUP => Event::Reload,
                    SIGUSR1 => Event::ReopenLog,
                    _ => Event::Stop,
                };
                // Further reloads and reopens add nothing while some are queued; a stop is always queued.
                if request == Event::Stop || requests.len() < MAX_EVENTS {
                    let _ = requests.try_send(request);
                }
                if request == Event::Stop && std::mem::replace(&mut stop_was_asked, true) {
                    exit_if_stuck(&requests);
                }
            }
        };
        let builder = thread::Builder::new().name("signals".to_owned());
        builder.spawn(listening)?;
        Ok(received)
    }
}

/// Exits the process if the main thread does not take a second stop request in time: it may be stuck in a file system
/// that does not answer, or in a pipe that has replaced a file.
fn exit_if_stuck(requests: &Sender<Event>) {
    let give_up_at = Instant::now() + STUCK_AFTER;
    while !requests.is_empty() {
        if Instant::now() >= give_up_at {
            // The PID file remains, as after kill -9.
            log::warn!("forced_exit");
            std::process::exit(0);
        }
        thread::sleep(TICK);
    }
}

/// How long a second stop request may stay in the queue.
const STUCK_AFTER: Duration = Duration::from_millis(500);
/// Polling interval of that wait.
const TICK: Duration = Duration::from_millis(10);
/// Queue length for reload and reopen requests; two more entries are for stop requests.
const MAX_EVENTS: usize = 8;
