//! Time limit for a whole database call. A socket timeout does not suffice, because it restarts with each octet received.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::sync::lock;

/// Deadlines of the calls in progress, one per connection. An entry must be removed before its socket is closed, because the
/// kernel may reuse the descriptor number for another socket, which would then be shut down.
#[derive(Default)]
pub struct DatabaseCallWatchdog {
    deadlines: Mutex<HashMap<RawFd, Instant>>,
}

impl DatabaseCallWatchdog {
    /// Registers the start of a database call on `socket`. The call is aborted if it takes longer than `timeout`.
    pub fn begin(&self, socket: RawFd, timeout: Duration) {
        lock(&self.deadlines).insert(socket, Instant::now() + timeout);
    }

    /// Removes the call on `socket`, because the call has ended or its connection is about to be closed.
    pub fn end(&self, socket: RawFd) {
        lock(&self.deadlines).remove(&socket);
    }

    fn abort_overdue_calls(&self) {
        let now = Instant::now();
        lock(&self.deadlines).retain(|socket, until| {
            let is_overdue = now >= *until;
            if is_overdue {
                // Makes further reads and writes of the socket fail. If `shutdown` fails, the socket is already unusable.
                let _ = shutdown(*socket, Shutdown::Both);
            }
            !is_overdue
        });
    }
}

/// Starts the thread that aborts database calls whose deadline has passed. The thread ends after the last `Arc` of `watchdog`
/// is dropped.
///
/// # Errors
/// The thread cannot be started.
pub fn spawn_call_watchdog(watchdog: &Arc<DatabaseCallWatchdog>) -> std::io::Result<()> {
    let watchdog = Arc::downgrade(watchdog);
    let scan = move || {
        while let Some(watchdog) = watchdog.upgrade() {
            watchdog.abort_overdue_calls();
            drop(watchdog);
            thread::sleep(SCAN_INTERVAL);
        }
    };
    let builder = thread::Builder::new().name("mysql-calls".to_owned());
    builder.spawn(scan).map(drop)
}

/// Interval at which the watchdog thread looks for database calls whose deadline has passed.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);
