//! Ends reads whose time is up, from outside.
//!
//! A time-out of the kernel's costs a timer for each read that waits, and nearly every read of a fast client waits a
//! moment. So a thread looks at all waiting clients instead, ten times a second, and shuts the reading side of a socket
//! whose deadline has passed: its thread wakes as if the client had finished sending, and finds out why.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Until when a client may keep its thread waiting.
#[derive(Debug)]
pub struct Watch {
    epoch: Instant,
    /// Milliseconds since `epoch`; 0 while nothing is waited for.
    until: AtomicU64,
    /// Milliseconds that this wait may take in all, as far as that is fixed.
    patience: AtomicU64,
    /// The client waits at leisure: it has handed over a mail, and nothing of it is under way.
    at_leisure: AtomicBool,
    state: AtomicU8,
}

/// How reading was ended for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// All the time it had was up.
    TimedOut,
    /// It had some left, but the places run out and others wait.
    MadeRoom,
}

impl Watch {
    /// A watch that waits for nothing.
    pub fn new() -> Watch {
        Watch {
            epoch: Instant::now(),
            until: AtomicU64::new(0),
            patience: AtomicU64::new(0),
            at_leisure: AtomicBool::new(false),
            state: AtomicU8::new(READING),
        }
    }

    /// The read that comes next may take until then; it is part of a wait of so much `patience`.
    pub fn begin(&self, until: Instant, patience: Duration) {
        self.patience
            .store(patience.as_millis() as u64, Ordering::Relaxed);
        let until = until.saturating_duration_since(self.epoch).as_millis() as u64;
        self.until.store(until.max(1), Ordering::SeqCst);
    }

    /// The read has ended; answers whether that was because its time was up.
    pub fn end(&self) -> Option<Expiry> {
        self.until.store(0, Ordering::SeqCst);
        self.expiry()
    }

    /// Whether reading was ended for good, and why.
    pub fn expiry(&self) -> Option<Expiry> {
        match self.state.load(Ordering::SeqCst) {
            READING => None,
            TIMED_OUT => Some(Expiry::TimedOut),
            _ => Some(Expiry::MadeRoom),
        }
    }

    /// Says whether the client has handed over a mail and has nothing under way: such ones make room first.
    pub fn set_at_leisure(&self, at_leisure: bool) {
        self.at_leisure.store(at_leisure, Ordering::Relaxed);
    }

    /// Ends the read under way on `socket` if its time, less what is taken off for want of places, is up.
    pub fn look(&self, socket: &TcpStream, haste: Haste) {
        let until = self.until.load(Ordering::SeqCst);
        if until == 0 {
            return;
        }
        let now = self.epoch.elapsed().as_millis() as u64;
        let patience = Duration::from_millis(self.patience.load(Ordering::Relaxed));
        let less = haste.takes_off(patience, self.at_leisure.load(Ordering::Relaxed));
        if now.saturating_add(less.as_millis() as u64) < until {
            return;
        }
        let state = if now >= until { TIMED_OUT } else { MADE_ROOM };
        self.state.store(state, Ordering::SeqCst);
        // An error means that the client is gone, which ends the read as well.
        let _ = socket.shutdown(Shutdown::Read);
    }
}

/// How much of each wait's time is taken off for want of places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Haste {
    /// What is left, as a share of all, of the time of a client that has handed over a mail and could go.
    at_leisure: f64,
    /// The same for all others.
    others: f64,
}

impl Haste {
    /// None while half of the places are free. From there on time falls with the root of what is free, slowly at first,
    /// to a few seconds when the last place is taken; for clients at leisure twice as steeply.
    pub fn of(taken: usize, places: usize) -> Haste {
        let free = places.saturating_sub(taken) as f64 / places.max(1) as f64;
        let share = (2.0 * free).min(1.0);
        Haste {
            at_leisure: share,
            others: share.sqrt(),
        }
    }

    /// Of a wait's own patience, whatever the configuration says by now; a wait that is short anyway keeps all of it.
    fn takes_off(self, patience: Duration, at_leisure: bool) -> Duration {
        let (share, least) = match at_leisure {
            true => (self.at_leisure, LEAST_AT_LEISURE),
            false => (self.others, LEAST),
        };
        // A share is from 0 to 1, so the product is no longer than the patience.
        patience.saturating_sub(patience.mul_f64(share).max(least))
    }
}

impl Default for Watch {
    fn default() -> Self {
        Watch::new()
    }
}

/// What is left of GSMTP_TIMEOUT when every place is taken: enough for a client that works, even from far away.
const LEAST: Duration = Duration::from_secs(5);
/// The same for a client that has handed over its mail.
const LEAST_AT_LEISURE: Duration = Duration::from_secs(2);
const READING: u8 = 0;
const TIMED_OUT: u8 = 1;
const MADE_ROOM: u8 = 2;
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
        let (server, _) = listener.accept().unwrap();
        let watch = Watch::new();
        let look = || watch.look(&server, Haste::of(0, 1));
        look();
        watch.begin(
            Instant::now() + Duration::from_secs(3_600),
            Duration::from_secs(3_600),
        );
        look();
        assert_eq!(watch.end(), None);
        watch.begin(Instant::now(), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        look();
        assert_eq!((&server).read(&mut [0]).unwrap(), 0);
        assert_eq!(watch.end(), Some(Expiry::TimedOut));
        drop(client);
    }

    #[test]
    fn a_client_at_leisure_makes_room_before_one_at_work() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let haste = Haste::of(95, 100);
        let watch = Watch::new();
        watch.begin(
            Instant::now() + Duration::from_secs(80),
            Duration::from_secs(100),
        );
        watch.look(&server, haste);
        assert_eq!(watch.expiry(), None);
        watch.set_at_leisure(true);
        watch.look(&server, haste);
        assert_eq!(watch.expiry(), Some(Expiry::MadeRoom));
    }

    #[test]
    fn time_shortens_as_places_run_out() {
        let patience = Duration::from_secs(100);
        // Taken of 100 places, seconds left at leisure, seconds left for the others.
        for (taken, at_leisure, others) in [
            (0, 100, 100),
            (50, 100, 100),
            (75, 50, 70),
            (95, 10, 31),
            (99, 2, 14),
            (100, 2, 5),
            (101, 2, 5),
        ] {
            let haste = Haste::of(taken, 100);
            let left = |at_leisure| (patience - haste.takes_off(patience, at_leisure)).as_secs();
            assert_eq!(
                (left(true), left(false)),
                (at_leisure, others),
                "{taken} taken"
            );
        }
        // A PROXY header has five seconds, and keeps them.
        let short = Haste::of(100, 100).takes_off(LEAST, false);
        assert_eq!(short, Duration::ZERO);
    }
}
