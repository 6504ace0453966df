//! Receives signals in a thread, which sends them as values over a channel.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

/// What a signal requests from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalEvent {
    /// SIGTERM or SIGINT: drain the connections, then stop. A second SIGTERM or SIGINT ends the process without draining.
    Stop,
    /// SIGHUP: read the configuration, keys and certificates again.
    Reload,
    /// SIGUSR1: reopen the log file.
    ReopenLog,
}

/// The installed signal handlers. Signals are queued until [`start_signal_thread`](SignalListener::start_signal_thread) is
/// called.
pub struct SignalListener(Signals);

/// Installs the signal handlers. Call it before anything else at startup, because scripts send signals as soon as the port
/// is bound or the PID file exists.
///
/// # Errors
/// A signal handler cannot be installed.
pub fn install_handlers() -> io::Result<SignalListener> {
    // Without a handler, a write beyond RLIMIT_FSIZE would kill the process. With a handler, the write fails, like a write to
    // a full disk.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1]).map(SignalListener)
}

/// Returns a flag that SIGINT and SIGTERM set, for a command that can be interrupted. A second signal ends the process at once.
///
/// # Errors
/// A signal handler cannot be installed.
pub fn interrupt_flag() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal must not find the flag set by itself.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

impl SignalListener {
    /// Starts the thread that receives signals. [`install_handlers`] does not start it, because no thread may exist before
    /// privileges are dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_signal_thread(self) -> io::Result<Receiver<SignalEvent>> {
        let SignalListener(mut signals) = self;
        let (events, received) = bounded(MAX_EVENTS + 2);
        let listening = move || {
            let mut stop_requested = false;
            for signal in signals.forever() {
                let event = match signal {
                    SIGHUP => SignalEvent::Reload,
                    SIGUSR1 => SignalEvent::ReopenLog,
                    _ => SignalEvent::Stop,
                };
                // If MAX_EVENTS events are queued, a further reload or reopen event changes nothing, so it is dropped. The
                // channel has two more places, so the first two stop events always fit.
                if event == SignalEvent::Stop || events.len() < MAX_EVENTS {
                    let _ = events.try_send(event);
                }
                if event == SignalEvent::Stop && std::mem::replace(&mut stop_requested, true) {
                    exit_if_second_stop_unread(&events);
                }
            }
        };
        let builder = thread::Builder::new().name("signals".to_owned());
        builder.spawn(listening)?;
        Ok(received)
    }
}

/// Exits the process if the main thread does not receive a second stop request within [`SECOND_STOP_TIMEOUT`]. The main thread
/// may be blocked because a file system does not respond.
fn exit_if_second_stop_unread(events: &Sender<SignalEvent>) {
    let give_up_at = Instant::now() + SECOND_STOP_TIMEOUT;
    while !events.is_empty() {
        if Instant::now() >= give_up_at {
            // The PID file remains, as after kill -9.
            log::warn!("forced_exit");
            std::process::exit(0);
        }
        thread::sleep(TICK);
    }
}

/// How long a second stop request may stay in the queue. After that, the process exits.
const SECOND_STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// How often [`exit_if_second_stop_unread`] checks the queue.
const TICK: Duration = Duration::from_millis(10);
/// If this many events are queued, reload and reopen events are dropped. The queue has two more places, for stop events.
const MAX_EVENTS: usize = 8;
