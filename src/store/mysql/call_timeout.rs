//! Time limit for a whole database call. A socket timeout does not suffice, because it restarts with each octet received.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::sync::lock;

/// The calls in progress, one per connection. An entry must be removed before its socket is closed, because the
/// kernel may reuse the descriptor number for another socket, which would then be shut down.
#[derive(Default)]
pub struct DatabaseCallWatchdog {
    calls: Mutex<HashMap<RawFd, DatabaseCall>>,
    promotion: Mutex<Option<Promotion>>,
}

/// A standby that became writable, such as the new primary of a replication group.
struct Promotion {
    host: usize,
    noticed_at: Instant,
}

/// A call in progress.
struct DatabaseCall {
    /// Index of the host that the call was sent to.
    host: usize,
    began_at: Instant,
    until: Instant,
}

impl DatabaseCallWatchdog {
    /// Registers the start of a database call on `socket`, a connection to `host`. The call is aborted if it takes longer than
    /// `timeout`.
    pub fn add_call_deadline(&self, socket: RawFd, host: usize, timeout: Duration) {
        let began_at = Instant::now();
        let call = DatabaseCall {
            host,
            began_at,
            until: began_at + timeout,
        };
        lock(&self.calls).insert(socket, call);
    }

    /// Removes the call on `socket`, because the call has ended or its connection is about to be closed.
    pub fn remove_call_deadline(&self, socket: RawFd) {
        lock(&self.calls).remove(&socket);
    }

    /// Aborts all calls in progress on connections to `host`.
    pub fn abort_calls_to_host(&self, host: usize) {
        self.abort_calls_if(|call| call.host == host);
    }

    /// Records that `host`, which was a standby, is writable. Calls to other hosts that began before and take longer than
    /// [`CALL_TIME_OF_FORMER_PRIMARY`] are aborted: a primary that leaves its group leaves calls unanswered until its process
    /// ends, although it still answers checks.
    pub fn record_promotion(&self, host: usize) {
        *lock(&self.promotion) = Some(Promotion {
            host,
            noticed_at: Instant::now(),
        });
    }

    fn abort_overdue_calls(&self) {
        let now = Instant::now();
        let promotion = lock(&self.promotion);
        let is_to_former_primary = |call: &DatabaseCall| {
            promotion.as_ref().is_some_and(|promotion| {
                call.host != promotion.host && call.began_at < promotion.noticed_at
            })
        };
        self.abort_calls_if(|call| {
            let is_late = now >= call.began_at + CALL_TIME_OF_FORMER_PRIMARY;
            now >= call.until || (is_late && is_to_former_primary(call))
        });
    }

    fn abort_calls_if(&self, must_abort: impl Fn(&DatabaseCall) -> bool) {
        lock(&self.calls).retain(|socket, call| {
            let is_aborted = must_abort(call);
            if is_aborted {
                // Makes further reads and writes of the socket fail. If `shutdown` fails, the socket is already unusable.
                let _ = shutdown(*socket, Shutdown::Both);
            }
            !is_aborted
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

/// Time after which a call to another host is aborted once a standby has become writable.
const CALL_TIME_OF_FORMER_PRIMARY: Duration = Duration::from_secs(1);
/// Interval at which the watchdog thread looks for database calls whose deadline has passed.
const SCAN_INTERVAL: Duration = Duration::from_millis(500);
