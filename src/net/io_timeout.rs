//! Ends reads and writes whose time is up, from outside.
//!
//! A timeout in the kernel costs a timer for each read that waits, and nearly every read of a fast client waits a moment.
//! Instead one thread looks at all connections ten times a second and shuts down a socket whose deadline has passed: the
//! reading side of one that waits to read, so that a last reply can still be sent, else both. The call that waits returns
//! as if the client had closed, and the connection then learns the reason here.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::deadline::Deadline;
use super::load::Load;

/// Until when a client may keep its thread waiting.
#[derive(Debug)]
pub struct IoTimeout {
    epoch: Instant,
    wait: AtomicU8,
    /// Milliseconds since `epoch`, one for each load.
    ends_at: [AtomicU64; Load::ALL.len()],
    /// Position in [`Load::ALL`] of the load at the last look.
    load: AtomicUsize,
    expiry: AtomicU8,
    /// Slots ran out when the wait was ended.
    expired_nearly_full: AtomicBool,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// Octets of the client.
    Read,
    /// Room for octets to the client.
    Write,
}

/// Why a wait was ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The deadline of a server that is not busy had passed.
    TimedOut,
    /// Only the earlier deadline that holds while slots run out had passed.
    Shed,
}

impl IoTimeout {
    /// Returns a watch while nothing is waited for.
    pub fn new() -> IoTimeout {
        IoTimeout {
            epoch: Instant::now(),
            wait: AtomicU8::new(NO_WAIT),
            ends_at: Default::default(),
            load: AtomicUsize::new(0),
            expiry: AtomicU8::new(NOT_EXPIRED),
            expired_nearly_full: AtomicBool::new(false),
        }
    }

    /// Returns why a wait would be ended now. A client that always has octets under way never waits, so that no look may
    /// find its deadline armed.
    pub fn expiry_without_wait(&self, deadline: &Deadline) -> Option<Expiry> {
        let now = Instant::now();
        let load = Load::ALL.get(self.load.load(Ordering::Relaxed));
        if now >= deadline.ends_at(Load::Normal) {
            return Some(Expiry::TimedOut);
        }
        let has_passed = load.is_some_and(|load| now >= deadline.ends_at(*load));
        has_passed.then_some(Expiry::Shed)
    }

    /// Arms the deadline of the read or write that comes next.
    pub fn arm(&self, wait: WaitKind, deadline: &Deadline) {
        for (load, ends_at) in Load::ALL.into_iter().zip(&self.ends_at) {
            let since_epoch = deadline.ends_at(load).saturating_duration_since(self.epoch);
            ends_at.store(since_epoch.as_millis() as u64, Ordering::Relaxed);
        }
        let wait = match wait {
            WaitKind::Read => READ,
            WaitKind::Write => WRITE,
        };
        // Release: a look that sees the wait sees its deadlines as well.
        self.wait.store(wait, Ordering::Release);
    }

    /// Disarms the deadline after the read or write; returns why a wait was ended, if one was.
    pub fn disarm(&self) -> Option<Expiry> {
        self.wait.store(NO_WAIT, Ordering::Release);
        self.expiry()
    }

    /// Returns why a wait was ended for good, if one was.
    pub fn expiry(&self) -> Option<Expiry> {
        match self.expiry.load(Ordering::Acquire) {
            NOT_EXPIRED => None,
            TIMED_OUT => Some(Expiry::TimedOut),
            _ => Some(Expiry::Shed),
        }
    }

    /// Returns whether slots ran out when a wait was ended: others want this one's slot.
    pub fn has_expired_nearly_full(&self) -> bool {
        self.expired_nearly_full.load(Ordering::Relaxed)
    }

    /// Ends the wait under way on `socket` if its deadline at this load has passed.
    pub fn expire_if_due(&self, socket: &TcpStream, load: Load) {
        self.load.store(load as usize, Ordering::Relaxed);
        let how = match self.wait.load(Ordering::Acquire) {
            READ => Shutdown::Read,
            WRITE => Shutdown::Both,
            _ => return,
        };
        let now = self.epoch.elapsed().as_millis() as u64;
        let [normal, half_full, nearly_full] = &self.ends_at;
        let has_passed = |ends_at: &AtomicU64| now >= ends_at.load(Ordering::Relaxed);
        let has_expired = match load {
            Load::Normal => has_passed(normal),
            Load::HalfFull => has_passed(half_full),
            Load::NearlyFull => has_passed(nearly_full),
        };
        if !has_expired {
            return;
        }
        let expiry = match has_passed(normal) {
            true => TIMED_OUT,
            false => SHED,
        };
        self.expired_nearly_full
            .store(load == Load::NearlyFull, Ordering::Relaxed);
        self.expiry.store(expiry, Ordering::Release);
        // An error means that the client is gone, which ends the wait as well.
        let _ = socket.shutdown(how);
    }
}

impl Default for IoTimeout {
    fn default() -> Self {
        IoTimeout::new()
    }
}

const NO_WAIT: u8 = 0;
const READ: u8 = 1;
const WRITE: u8 = 2;
const NOT_EXPIRED: u8 = 0;
const TIMED_OUT: u8 = 1;
const SHED: u8 = 2;
/// Between two looks: how much later than its deadline a wait may end.
pub const SCAN_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Both ends of a connection, the server's first.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    fn within(timeout: Duration) -> Deadline {
        Deadline::for_command(Instant::now(), timeout)
    }

    #[test]
    fn read_timeout_ends_a_read_at_its_deadline_and_not_before() {
        let (server, _client) = connection();
        let watch = IoTimeout::new();
        let look = || watch.expire_if_due(&server, Load::Normal);
        look();
        watch.arm(WaitKind::Read, &within(Duration::from_secs(3_600)));
        look();
        assert_eq!(watch.disarm(), None);
        watch.arm(WaitKind::Read, &within(Duration::ZERO));
        std::thread::sleep(Duration::from_millis(2));
        look();
        assert_eq!((&server).read(&mut [0]).unwrap(), 0);
        assert_eq!(watch.disarm(), Some(Expiry::TimedOut));
        // A last reply can still be sent.
        (&server).write_all(b"x").unwrap();
    }

    #[test]
    fn write_timeout_ends_a_blocked_write() {
        let (server, _client) = connection();
        let watch = IoTimeout::new();
        watch.arm(WaitKind::Write, &within(Duration::ZERO));
        std::thread::scope(|scope| {
            // Nobody reads, so this waits until the socket is shut down.
            let writing = scope.spawn(|| {
                while (&server).write(&[0; 65_536]).is_ok() {}
                watch.disarm()
            });
            std::thread::sleep(Duration::from_millis(2));
            watch.expire_if_due(&server, Load::Normal);
            assert_eq!(writing.join().unwrap(), Some(Expiry::TimedOut));
        });
    }

    #[test]
    fn wait_cut_short_because_slots_run_out_expires_as_shed() {
        let (server, _client) = connection();
        let watch = IoTimeout::new();
        let started_at = Instant::now() - Duration::from_secs(10);
        let deadline = Deadline::for_command(started_at, Duration::from_secs(100));
        watch.arm(WaitKind::Read, &deadline);
        watch.expire_if_due(&server, Load::HalfFull);
        assert_eq!(watch.expiry(), None);
        assert_eq!(watch.expiry_without_wait(&deadline), None);
        watch.expire_if_due(&server, Load::NearlyFull);
        assert_eq!(watch.disarm(), Some(Expiry::Shed));
        assert_eq!(watch.expiry_without_wait(&deadline), Some(Expiry::Shed));
    }
}
