//! From serving to rest: nothing that was acknowledged is lost, and nobody waits for ever.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::net::accept_pool::AcceptPool;
use crate::net::listener::Listener;
use crate::os::signals::Event;
use crate::store::Writers;

/// A second request to stop came: nothing is waited for any more.
pub struct ImmediateStop;

/// Ends all: first the clients, then the writers.
///
/// # Errors
/// [`AtOnce`], after which the process has to end.
pub fn stop(
    pool: &AcceptPool,
    listeners: &[Arc<Listener>],
    writers: Vec<Writers>,
    requests: &Receiver<Event>,
) -> Result<(), ImmediateStop> {
    let give_up_at = Instant::now() + DRAIN_TIMEOUT;
    drain(pool, listeners, requests, give_up_at)?;
    finish(writers, requests, give_up_at)
}

/// Lets idle clients go, and the others finish what they have under way, for at most [`DRAIN_PATIENCE`].
fn drain(
    pool: &AcceptPool,
    listeners: &[Arc<Listener>],
    requests: &Receiver<Event>,
    give_up_at: Instant,
) -> Result<(), ImmediateStop> {
    for listener in listeners {
        listener.close();
    }
    pool.drain();
    log::info!(clients = pool.active_connections(); "shutdown");
    wait_for_clients(pool, requests, give_up_at)?;
    if pool.active_connections() > 0 {
        log::warn!(clients = pool.active_connections(); "connections_aborted");
        pool.abort_connections();
        wait_for_clients(pool, requests, give_up_at + ABORT_TIMEOUT)?;
    }
    Ok(())
}

fn wait_for_clients(
    pool: &AcceptPool,
    requests: &Receiver<Event>,
    give_up_at: Instant,
) -> Result<(), ImmediateStop> {
    while pool.active_connections() > 0 && Instant::now() < give_up_at {
        if next_request(requests) == Some(Event::Stop) {
            return Err(ImmediateStop);
        }
    }
    Ok(())
}

/// Waits a tick for a request; also when the thread is gone that would send one, as after a panic of it.
fn next_request(requests: &Receiver<Event>) -> Option<Event> {
    match requests.recv_timeout(DRAIN_TICK) {
        Ok(request) => Some(request),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            thread::sleep(DRAIN_TICK);
            None
        }
    }
}

/// Lets the writers save what has queued up and close the store; whoever still waits by then was told 451.
fn finish(
    writers: Vec<Writers>,
    requests: &Receiver<Event>,
    give_up_at: Instant,
) -> Result<(), ImmediateStop> {
    let (done, finished) = bounded(1);
    let helper = thread::Builder::new()
        .name("finish".to_owned())
        .spawn(move || {
            writers.into_iter().for_each(Writers::drain_and_join);
            // Nobody listens any more if it took too long.
            let _ = done.send(());
        });
    while helper.is_ok() && finished.recv_timeout(DRAIN_TICK) == Err(RecvTimeoutError::Timeout) {
        if requests.try_recv() == Ok(Event::Stop) {
            return Err(ImmediateStop);
        }
        if Instant::now() > give_up_at + FINISH_TIMEOUT {
            log::error!(reason = "the store did not finish"; "connections_aborted");
            break;
        }
    }
    Ok(())
}

/// How long messages under way may take to finish.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long clients that are cut off may take to hear so.
const ABORT_TIMEOUT: Duration = Duration::from_millis(500);
/// How much longer the store may take to finish a commit that is under way.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// How often draining looks whether it is done.
const DRAIN_TICK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_wait_does_not_busy_loop_without_a_signal_thread() {
        let (sender, requests) = bounded(1);
        sender.send(Event::Stop).unwrap();
        assert_eq!(next_request(&requests), Some(Event::Stop));
        drop(sender);
        let started_at = Instant::now();
        for _ in 0..5 {
            assert_eq!(next_request(&requests), None);
        }
        assert!(started_at.elapsed() >= DRAIN_TICK * 5);
    }
}
