//! Ends calls to the database that take too long in all: the time-outs of a socket begin anew with each octet.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::locks::lock;

/// The calls under way, one a connection. An entry goes before its socket is closed, so that no other one is meant.
#[derive(Default)]
pub struct Calls {
    until: Mutex<HashMap<RawFd, Instant>>,
}

impl Calls {
    /// A call begins.
    pub fn begin(&self, socket: RawFd, timeout: Duration) {
        lock(&self.until).insert(socket, Instant::now() + timeout);
    }

    /// It is over, or its connection is.
    pub fn end(&self, socket: RawFd) {
        lock(&self.until).remove(&socket);
    }

    fn cut_overdue(&self) {
        let now = Instant::now();
        lock(&self.until).retain(|socket, until| {
            let is_overdue = now >= *until;
            if is_overdue {
                // Its reads and writes fail from now on; an error means that they do already.
                let _ = shutdown(*socket, Shutdown::Both);
            }
            !is_overdue
        });
    }
}

/// Starts the thread that ends those that are overdue; it ends when nobody calls any more.
///
/// # Errors
/// When the thread cannot be started.
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

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
