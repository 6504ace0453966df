//! Graceful shutdown: drains connections, then flushes the store, within fixed time limits.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::net::accept_pool::AcceptPool;
use crate::net::listener::Listener;
use crate::store::WriterThreads;

/// Drains the connections, then flushes and closes the store. A message in `stop_requests` is a second stop request: it ends
/// the wait for messages in progress.
pub fn shut_down(
    pool: &AcceptPool,
    listeners: &[Arc<Listener>],
    writers: Vec<WriterThreads>,
    stop_requests: &Receiver<()>,
) {
    for listener in listeners {
        listener.close();
    }
    pool.drain();
    log::info!(clients = pool.taken_connection_slots(); "shutdown");
    let mut give_up_at = Instant::now() + DRAIN_TIMEOUT;
    while pool.taken_connection_slots() > 0 && Instant::now() < give_up_at {
        if stop_requests.recv_timeout(DRAIN_TICK) != Err(RecvTimeoutError::Timeout) {
            give_up_at = Instant::now();
        }
    }
    if pool.taken_connection_slots() > 0 {
        log::warn!(clients = pool.taken_connection_slots(); "connections_aborted");
        pool.abort_connections();
        let aborted_at = Instant::now();
        while pool.taken_connection_slots() > 0 && aborted_at.elapsed() < ABORT_TIMEOUT {
            thread::sleep(DRAIN_TICK);
        }
    }
    drain_writers_until(writers, give_up_at + STORE_TIMEOUT, stop_requests);
}

/// Waits for the writers to save the queued mails and close the store, at most until `give_up_at`, and after a stop request at
/// most for [`STORE_TIMEOUT`].
fn drain_writers_until(
    writers: Vec<WriterThreads>,
    mut give_up_at: Instant,
    stop_requests: &Receiver<()>,
) {
    let (done, finished) = bounded(1);
    let closer = thread::Builder::new()
        .name("finish".to_owned())
        .spawn(move || {
            writers.into_iter().for_each(WriterThreads::drain_and_join);
            // The send fails if `drain_writers_until` has already returned at its time limit.
            let _ = done.send(());
        });
    while closer.is_ok() && finished.recv_timeout(DRAIN_TICK) == Err(RecvTimeoutError::Timeout) {
        if stop_requests.try_recv().is_ok() {
            give_up_at = give_up_at.min(Instant::now() + STORE_TIMEOUT);
        }
        if Instant::now() > give_up_at {
            log::error!(reason = "the store did not finish"; "connections_aborted");
            break;
        }
    }
}

/// Time that messages in progress have to finish. Connections that then remain are aborted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that the threads of aborted connections have to end. After that, shutdown continues without them.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);
/// Time that the store has, after [`DRAIN_TIMEOUT`] or a second stop request, to finish its last COMMIT. Its threads are then
/// left behind.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);
/// Polling interval of every wait during shutdown.
const DRAIN_TICK: Duration = Duration::from_millis(10);
