//! Timeouts of blocking reads and writes, enforced by one thread for all connections.
//!
//! A socket timeout (SO_RCVTIMEO) costs a kernel timer for each read that blocks, and nearly every read from a fast client
//! blocks for a moment. Instead, the deadlines thread checks all connections every [`SCAN_INTERVAL`] and shuts down each
//! socket whose deadline has passed. If the connection's thread waits in a read, the socket is shut down only for reading,
//! so that a last reply can still be sent; if it waits in a write, the socket is shut down in both directions. The blocked
//! read or write then returns, and the connection's thread reads the reason from [`BlockingIoDeadlines`].

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::deadline::Deadline;
use super::load::LoadLevel;

/// The deadlines of the read or write that a connection's thread blocks in, shared with the deadlines thread.
#[derive(Debug)]
pub struct BlockingIoDeadlines {
    epoch: Instant,
    wait: AtomicU8,
    /// When the blocking read or write times out at each load level, in milliseconds since `epoch`.
    ends_at: [AtomicU64; LoadLevel::ALL.len()],
    /// Index in [`LoadLevel::ALL`] of the load level when the deadlines thread last checked this connection.
    load: AtomicUsize,
    expiry: AtomicU8,
    /// Whether the load level was [`LoadLevel::NearlyFull`] when the deadlines thread shut the socket down.
    expired_nearly_full: AtomicBool,
}

/// Whether a blocking call is a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDirection {
    /// Waits for octets from the client.
    Read,
    /// Waits for free space in the socket's send buffer.
    Write,
}

/// Why a blocking read or write was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoExpiryReason {
    /// The full deadline has passed, which applies while enough connection slots are free.
    TimedOut,
    /// The full deadline has not passed yet, but the shorter one that applies while connection slots run out.
    Shed,
}

impl BlockingIoDeadlines {
    /// Returns an `BlockingIoDeadlines` without an armed deadline.
    pub fn new() -> BlockingIoDeadlines {
        BlockingIoDeadlines {
            epoch: Instant::now(),
            wait: AtomicU8::new(NO_WAIT),
            ends_at: Default::default(),
            load: AtomicUsize::new(0),
            expiry: AtomicU8::new(NOT_EXPIRED),
            expired_nearly_full: AtomicBool::new(false),
        }
    }

    /// Returns `TimedOut` if the normal time limit of `deadline` has passed, `Shed` if only the shorter one of the current load
    /// level has passed, otherwise `None`. The load level is the one that the deadlines thread stored last.
    ///
    /// The deadlines thread ends only calls that block, and no read blocks if a client sends without a pause. Therefore the
    /// connection's thread calls this function before each read and after each incomplete write.
    pub fn reason_if_deadline_passed(&self, deadline: &Deadline) -> Option<IoExpiryReason> {
        let now = Instant::now();
        let load = LoadLevel::ALL.get(self.load.load(Ordering::Relaxed));
        if now >= deadline.deadline_passes_at(LoadLevel::Normal) {
            return Some(IoExpiryReason::TimedOut);
        }
        let has_passed = load.is_some_and(|load| now >= deadline.deadline_passes_at(*load));
        has_passed.then_some(IoExpiryReason::Shed)
    }

    /// Arms `deadline` for the read or write that comes next.
    pub fn set_io_deadline(&self, wait: IoDirection, deadline: &Deadline) {
        for (load, ends_at) in LoadLevel::ALL.into_iter().zip(&self.ends_at) {
            let since_epoch = deadline
                .deadline_passes_at(load)
                .saturating_duration_since(self.epoch);
            ends_at.store(since_epoch.as_millis() as u64, Ordering::Relaxed);
        }
        let wait = match wait {
            IoDirection::Read => READ,
            IoDirection::Write => WRITE,
        };
        // Release: if the deadlines thread reads this value of `wait`, it also reads the values stored in `ends_at` above.
        self.wait.store(wait, Ordering::Release);
    }

    /// Disarms the deadline after a read or write. Returns why the deadlines thread ended this or an earlier read or write;
    /// `None` if it ended none.
    pub fn clear_io_deadline(&self) -> Option<IoExpiryReason> {
        self.wait.store(NO_WAIT, Ordering::Release);
        self.io_expiry_reason()
    }

    /// Returns why the deadlines thread ended a read or write of this connection; `None` if it ended none.
    pub fn io_expiry_reason(&self) -> Option<IoExpiryReason> {
        match self.expiry.load(Ordering::Acquire) {
            NOT_EXPIRED => None,
            TIMED_OUT => Some(IoExpiryReason::TimedOut),
            _ => Some(IoExpiryReason::Shed),
        }
    }

    /// Returns whether the deadlines thread ended a read or write while at least 90 % of the connection slots were taken. The
    /// caller should then close the connection soon, to release its slot.
    pub fn expired_while_slots_nearly_full(&self) -> bool {
        self.expired_nearly_full.load(Ordering::Relaxed)
    }

    /// Shuts down `socket` if a read or write is in progress and its deadline for load level `load` has passed.
    pub fn shut_down_socket_if_overdue(&self, socket: &TcpStream, load: LoadLevel) {
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
            LoadLevel::Normal => has_passed(normal),
            LoadLevel::HalfFull => has_passed(half_full),
            LoadLevel::NearlyFull => has_passed(nearly_full),
        };
        if !has_expired {
            return;
        }
        let expiry = match has_passed(normal) {
            true => TIMED_OUT,
            false => SHED,
        };
        self.expired_nearly_full
            .store(load == LoadLevel::NearlyFull, Ordering::Relaxed);
        self.expiry.store(expiry, Ordering::Release);
        // If `shutdown` fails, the client is gone, and the blocked read or write returns anyway.
        let _ = socket.shutdown(how);
    }
}

impl Default for BlockingIoDeadlines {
    fn default() -> Self {
        BlockingIoDeadlines::new()
    }
}

const NO_WAIT: u8 = 0;
const READ: u8 = 1;
const WRITE: u8 = 2;
const NOT_EXPIRED: u8 = 0;
const TIMED_OUT: u8 = 1;
const SHED: u8 = 2;
/// Time between two checks of all deadlines; a blocked read or write may end this much later than its deadline.
pub const SCAN_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// Returns both ends of a connection, the server's first.
    fn connected_tcp_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    fn command_deadline_after(timeout: Duration) -> Deadline {
        Deadline::new_command_deadline(Instant::now(), timeout)
    }

    #[test]
    fn read_timeout_ends_a_read_at_its_deadline_and_not_before() {
        let (server, _client) = connected_tcp_pair();
        let timeout = BlockingIoDeadlines::new();
        let scan = || timeout.shut_down_socket_if_overdue(&server, LoadLevel::Normal);
        scan();
        timeout.set_io_deadline(
            IoDirection::Read,
            &command_deadline_after(Duration::from_secs(3_600)),
        );
        scan();
        assert_eq!(timeout.clear_io_deadline(), None);
        timeout.set_io_deadline(IoDirection::Read, &command_deadline_after(Duration::ZERO));
        testkit::wait_for("the deadline to pass", || {
            scan();
            timeout.io_expiry_reason()
        });
        assert_eq!((&server).read(&mut [0]).unwrap(), 0);
        assert_eq!(timeout.clear_io_deadline(), Some(IoExpiryReason::TimedOut));
        // A last reply can still be sent.
        (&server).write_all(b"x").unwrap();
    }

    #[test]
    fn write_timeout_ends_a_blocked_write() {
        let (server, _client) = connected_tcp_pair();
        let timeout = BlockingIoDeadlines::new();
        timeout.set_io_deadline(IoDirection::Write, &command_deadline_after(Duration::ZERO));
        std::thread::scope(|scope| {
            // The client does not read, so the write blocks until the socket is shut down.
            let writing = scope.spawn(|| {
                while (&server).write(&[0; 65_536]).is_ok() {}
                timeout.clear_io_deadline()
            });
            testkit::wait_for("the deadline to pass", || {
                timeout.shut_down_socket_if_overdue(&server, LoadLevel::Normal);
                timeout.io_expiry_reason()
            });
            assert_eq!(writing.join().unwrap(), Some(IoExpiryReason::TimedOut));
        });
    }

    #[test]
    fn wait_cut_short_because_slots_run_out_expires_as_shed() {
        let (server, _client) = connected_tcp_pair();
        let timeout = BlockingIoDeadlines::new();
        let started_at = Instant::now() - Duration::from_secs(10);
        let deadline = Deadline::new_command_deadline(started_at, Duration::from_secs(100));
        timeout.set_io_deadline(IoDirection::Read, &deadline);
        timeout.shut_down_socket_if_overdue(&server, LoadLevel::HalfFull);
        assert_eq!(timeout.io_expiry_reason(), None);
        assert_eq!(timeout.reason_if_deadline_passed(&deadline), None);
        timeout.shut_down_socket_if_overdue(&server, LoadLevel::NearlyFull);
        assert_eq!(timeout.clear_io_deadline(), Some(IoExpiryReason::Shed));
        assert_eq!(
            timeout.reason_if_deadline_passed(&deadline),
            Some(IoExpiryReason::Shed)
        );
    }
}
