//! Ends reads whose time is up, from outside.
//!
//! A time-out of the kernel's costs a timer for each read that waits, and nearly every read of a fast client waits a
//! moment. So a thread looks at all waiting clients instead, ten times a second, and shuts the reading side of a socket
//! whose deadline has passed: its thread wakes as if the client had finished sending, and finds out why.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Until when a client may keep its thread waiting.
#[derive(Debug)]
pub struct Watch {
    epoch: Instant,
    /// Milliseconds since `epoch`; 0 while nothing is waited for.
    until: AtomicU64,
    expired: AtomicBool,
}

impl Watch {
    /// A watch that waits for nothing.
    pub fn new() -> Watch {
        Watch {
            epoch: Instant::now(),
            until: AtomicU64::new(0),
            expired: AtomicBool::new(false),
        }
    }

    /// The read that comes next may take until then.
    pub fn begin(&self, until: Instant) {
        let until = until.saturating_duration_since(self.epoch).as_millis() as u64;
        self.until.store(until.max(1), Ordering::SeqCst);
    }

    /// The read has ended; answers whether that was because its time was up.
    pub fn end(&self) -> bool {
        self.until.store(0, Ordering::SeqCst);
        self.has_expired()
    }

    /// Whether reading was ended for good.
    pub fn has_expired(&self) -> bool {
        self.expired.load(Ordering::SeqCst)
    }

    /// Ends the read under way on `socket` if its time is up.
    pub fn look(&self, socket: &TcpStream) {
        let until = self.until.load(Ordering::SeqCst);
        if until > 0 && self.epoch.elapsed().as_millis() as u64 >= until {
            self.expired.store(true, Ordering::SeqCst);
            // An error means that the client is gone, which ends the read as well.
            let _ = socket.shutdown(Shutdown::Read);
        }
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch::new()
    }
}

/// Between two looks: how much later than its deadline a read may end.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_read_ends_when_its_time_is_up_and_not_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let watch = Watch::new();
        watch.look(&server);
        watch.begin(Instant::now() + Duration::from_secs(3_600));
        watch.look(&server);
        assert!(!watch.end());
        watch.begin(Instant::now());
        std::thread::sleep(Duration::from_millis(2));
        watch.look(&server);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        assert!(watch.end());
        drop(client);
    }
}
