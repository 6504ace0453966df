//! Time limit for a whole database call: a socket timeout restarts with each octet.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::sync::lock;

/// Deadlines of the calls in progress, one per connection. Remove an entry before closing its socket, because the descriptor
/// number can be reused.
#[derive(Default)]
pub struct CallWatchdog {
    deadlines: Mutex<HashMap<RawFd, Instant>>,
}

impl CallWatchdog {
    /// Registers a call.
    pub fn begin(&self, socket: RawFd, timeout: Duration) {
        lock(&self.deadlines).insert(socket, Instant::now() + timeout);
    }

    /// Removes a call that has ended or whose connection is about to be closed.
    pub fn end(&self, socket: RawFd) {
        lock(&self.deadlines).remove(&socket);
    }

    fn abort_overdue(&self) {
        let now = Instant::now();
        lock(&self.deadlines).retain(|socket, until| {
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
pub fn spawn(calls: &Arc<CallWatchdog>) -> std::io::Result<()> {
    let calls = Arc::downgrade(calls);
    let looking = move || {
        while let Some(calls) = calls.upgrade() {
            calls.abort_overdue();
            drop(calls);
            thread::sleep(SCAN_INTERVAL);
        }
    };
    let builder = thread::Builder::new().name("mysql-calls".to_owned());
    builder.spawn(looking).map(drop)
}

/// Interval between two scans.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);
