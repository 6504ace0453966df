//! Graceful shutdown: drains connections, then flushes the store, within fixed time limits.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::net::accept_pool::AcceptPool;
use crate::net::listener::Listener;
use crate::os::signals::SignalEvent;
use crate::store::Writers;

/// A second stop request has arrived: the process must exit at once.
pub struct ImmediateStop;

/// Drains the connections, then flushes and closes the store.
///
/// # Errors
/// [`ImmediateStop`]; the caller must end the process.
pub fn shut_down(
    pool: &AcceptPool,
    listeners: &[Arc<Listener>],
    writers: Vec<Writers>,
    events: &Receiver<SignalEvent>,
) -> Result<(), ImmediateStop> {
    let give_up_at = Instant::now() + DRAIN_TIMEOUT;
    drain(pool, listeners, events, give_up_at)?;
    close_store(writers, events, give_up_at)
}

/// Closes the listeners and idle connections, and waits for messages in progress until `give_up_at`. Then aborts the
/// connections that remain.
fn drain(
    pool: &AcceptPool,
    listeners: &[Arc<Listener>],
    events: &Receiver<SignalEvent>,
    give_up_at: Instant,
) -> Result<(), ImmediateStop> {
    for listener in listeners {
        listener.close();
    }
    pool.drain();
    log::info!(clients = pool.active_connections(); "shutdown");
    wait_for_clients(pool, events, give_up_at)?;
    if pool.active_connections() > 0 {
        log::warn!(clients = pool.active_connections(); "connections_aborted");
        pool.abort_connections();
        wait_for_clients(pool, events, give_up_at + ABORT_TIMEOUT)?;
    }
    Ok(())
}

fn wait_for_clients(
    pool: &AcceptPool,
    events: &Receiver<SignalEvent>,
    give_up_at: Instant,
) -> Result<(), ImmediateStop> {
    while pool.active_connections() > 0 && Instant::now() < give_up_at {
        if next_event(events) == Some(SignalEvent::Stop) {
            return Err(ImmediateStop);
        }
    }
    Ok(())
}

/// Waits up to [`DRAIN_TICK`] for an event. If the signal thread has ended, waits the full time, so that the caller's loop
/// does not spin.
fn next_event(events: &Receiver<SignalEvent>) -> Option<SignalEvent> {
    match events.recv_timeout(DRAIN_TICK) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            thread::sleep(DRAIN_TICK);
            None
        }
    }
}

/// Waits for the writers to save the queued mails and close the store, at most until `give_up_at` plus [`STORE_TIMEOUT`].
fn close_store(
    writers: Vec<Writers>,
    events: &Receiver<SignalEvent>,
    give_up_at: Instant,
) -> Result<(), ImmediateStop> {
    let (done, finished) = bounded(1);
    let closer = thread::Builder::new()
        .name("finish".to_owned())
        .spawn(move || {
            writers.into_iter().for_each(Writers::drain_and_join);
            // The send fails if `close_store` has already returned at its time limit.
            let _ = done.send(());
        });
    while closer.is_ok() && finished.recv_timeout(DRAIN_TICK) == Err(RecvTimeoutError::Timeout) {
        if events.try_recv() == Ok(SignalEvent::Stop) {
            return Err(ImmediateStop);
        }
        if Instant::now() > give_up_at + STORE_TIMEOUT {
            log::error!(reason = "the store did not finish"; "connections_aborted");
            break;
        }
    }
    Ok(())
}

/// Time that messages in progress have to finish. Connections that then remain are aborted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that the threads of aborted connections have to end. After that, shutdown continues without them.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);
/// Time after [`DRAIN_TIMEOUT`] that the store has to finish its last COMMIT. After that, the process ends anyway.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);
/// Polling interval of every wait during shutdown.
const DRAIN_TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_wait_does_not_busy_loop_without_a_signal_thread() {
        let (sender, events) = bounded(1);
        sender.send(SignalEvent::Stop).unwrap();
        assert_eq!(next_event(&events), Some(SignalEvent::Stop));
        drop(sender);
        let started_at = Instant::now();
        for _ in 0..5 {
            assert_eq!(next_event(&events), None);
        }
        assert!(started_at.elapsed() >= DRAIN_TICK * 5);
    }
}
