//! Time limit for a whole database call: a socket timeout restarts with each octet.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::locks::lock;

/// Deadlines of the calls in progress, one per connection. Remove an entry before closing its socket, because the descriptor
/// number can be reused.
#[derive(Default)]
pub struct Calls {
    until: Mutex<HashMap<RawFd, Instant>>,
}

impl Calls {
    /// Registers a call.
    pub fn begin(&self, socket: RawFd, timeout: Duration) {
        lock(&self.until).insert(socket, Instant::now() + timeout);
    }

    /// Removes a call that has ended or whose connection is about to be closed.
    pub fn end(&self, socket: RawFd) {
        lock(&self.until).remove(&socket);
    }

    fn cut_overdue(&self) {
        let now = Instant::now();
        lock(&self.until).retain(|socket, until| {
            let is_overdue = now >= *until;
            if is_overdue {
                // Further reads and writes fail. If shutdown itself fails, the socket is already unusable.
                let _ = shutdown(*socket, Shutdown::Both);
            }
            !is_overdue
        });
    }
}

/// Starts the thread that aborts overdue calls; it ends when `calls` is dropped.
///
/// # Errors
/// The thread cannot be started.
pub fn look_after(calls: &Arc<Calls>) -> std::io::Result<()> {
    let calls = Arc::downgrade(calls);
    let looking = move || {
        while let Some(calls) = calls.upgrade() {
            calls.cut_overdue();
            drop(calls);
            thread::sleep(LOOK_EVERY);
        }
    };
    let builder = thread::Builder::new().name("mysql-calls".to_owned());
    builder.spawn(looking).map(drop)
}

/// Interval between two scans.
const LOOK_EVERY: Duration = Duration::from_millis(500);
