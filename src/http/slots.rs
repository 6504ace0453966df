//! The connections that an HTTP server serves at the same time, and which one is closed early so that a new one is served.
//!
//! Without this, a few clients that connect and send nothing would keep out a health check, and the orchestrator would restart a
//! server that works. So if all slots are taken, the new connection gets the slot of another one: of a client that has its
//! response already, or has not sent its request for [`DISPLACE_AFTER`], otherwise of one that is slow to read its response. The
//! address with the most such connections loses its oldest one, so that one address cannot displace the others.
//!
//! The socket of a client that is slow to read is shut down. That of another displaced client is shut down only for reading, and
//! then still returns the octets that the kernel has: a request that has arrived is answered.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::sync;

/// The connections of one HTTP server, at most [`MAX_HTTP_CONNECTIONS`].
pub struct HttpSlots {
    /// The time that a client has for its request before another connection may get its slot.
    displace_after: Duration,
    /// The oldest connection is the first one.
    open: Mutex<Vec<Arc<SlotUser>>>,
}

/// A connection that has a slot until this value is dropped.
pub struct HttpSlot {
    slots: Arc<HttpSlots>,
    user: Arc<SlotUser>,
}

struct SlotUser {
    socket: Arc<TcpStream>,
    address: IpAddr,
    connected_at: Instant,
    phase: AtomicU8,
}

/// What a connection that has a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HttpPhase {
    /// Reads the request.
    Reading,
    /// Makes the response.
    Answering,
    /// Sends the response.
    Writing,
    /// Waits after the response until the client closes.
    Lingering,
    /// Has lost its slot and is about to end.
    Displaced,
}

impl HttpSlots {
    /// Returns slots of which none is taken.
    pub fn new(displace_after: Duration) -> Arc<HttpSlots> {
        let open = Mutex::default();
        Arc::new(HttpSlots {
            displace_after,
            open,
        })
    }

    /// Gives the connection a slot; `None` if none becomes free until `timeout` is over.
    pub fn take(
        self: &Arc<HttpSlots>,
        socket: &Arc<TcpStream>,
        peer: SocketAddr,
        timeout: Duration,
    ) -> Option<HttpSlot> {
        let wait_until = Instant::now() + timeout;
        let mut displace_at = Instant::now();
        loop {
            let mut open = sync::lock(&self.open);
            if open.len() < MAX_HTTP_CONNECTIONS {
                let user = Arc::new(SlotUser {
                    socket: Arc::clone(socket),
                    address: peer.ip(),
                    connected_at: Instant::now(),
                    phase: AtomicU8::new(HttpPhase::Reading as u8),
                });
                open.push(Arc::clone(&user));
                let slots = Arc::clone(self);
                return Some(HttpSlot { slots, user });
            }
            let now = Instant::now();
            if now >= displace_at && displace_one(&open, self.displace_after) {
                displace_at = now + DISPLACE_INTERVAL;
            }
            drop(open);
            if now >= wait_until {
                return None;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

impl HttpSlot {
    /// Records what the connection does. A displaced one remains displaced.
    pub fn enter(&self, phase: HttpPhase) {
        let is_displaced = HttpPhase::Displaced as u8;
        let change = |now| (now != is_displaced).then_some(phase as u8);
        let phase = &self.user.phase;
        let _ = phase.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    }
}

impl Drop for HttpSlot {
    fn drop(&mut self) {
        sync::lock(&self.slots.open).retain(|user| !Arc::ptr_eq(user, &self.user));
    }
}

impl SlotUser {
    fn is_in(&self, phase: HttpPhase) -> bool {
        self.phase.load(Ordering::SeqCst) == phase as u8
    }

    /// Takes the slot from a connection that is in `phase`. Returns false if it is in another one.
    fn displace(&self, phase: HttpPhase) -> bool {
        let displaced = HttpPhase::Displaced as u8;
        let order = Ordering::SeqCst;
        let changed = (self.phase).compare_exchange(phase as u8, displaced, order, order);
        if changed.is_err() {
            return false;
        }
        let ended = match phase {
            HttpPhase::Writing => Shutdown::Both,
            _ => Shutdown::Read,
        };
        // The client may have closed the connection meanwhile.
        let _ = self.socket.shutdown(ended);
        true
    }
}

/// Displaces the oldest connection of the address with the most connections that can be displaced. Returns whether there was
/// one.
fn displace_one(open: &[Arc<SlotUser>], displace_after: Duration) -> bool {
    let phases = [
        (HttpPhase::Lingering, Duration::ZERO),
        (HttpPhase::Reading, displace_after),
        (HttpPhase::Writing, displace_after),
    ];
    for (phase, min_age) in phases {
        let can_be_displaced =
            |user: &&Arc<SlotUser>| user.is_in(phase) && user.connected_at.elapsed() >= min_age;
        let candidates = open.iter().filter(can_be_displaced);
        let mut counts = HashMap::<IpAddr, usize>::new();
        for user in candidates.clone() {
            *counts.entry(user.address).or_default() += 1;
        }
        let Some(most) = counts.values().max() else {
            continue;
        };
        let mut largest = candidates.filter(|user| counts.get(&user.address) == Some(most));
        if largest.any(|user| user.displace(phase)) {
            return true;
        }
    }
    false
}

/// Maximum number of HTTP connections at the same time, without streams. If none of them can be displaced, a further connection
/// is closed without a response.
pub const MAX_HTTP_CONNECTIONS: usize = 32;
/// Age from which a connection that reads its request or writes its response can be displaced. nginx opens hundreds of
/// connections for auth_http at once, and sends each request only when its event loop comes round again, on a busy machine after
/// some hundred milliseconds. It is less than the time for which a new connection waits for a slot.
pub const DISPLACE_AFTER: Duration = Duration::from_millis(500);
/// Time after which a new connection displaces another one too. A displaced one usually ends within a millisecond, but not if
/// its request had arrived.
const DISPLACE_INTERVAL: Duration = Duration::from_millis(100);
/// Interval at which a new connection checks whether a slot has become free.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::AtomicUsize;

    use testkit::wait_for;

    use super::super::server::serve;
    use super::super::{HttpRequest, HttpResponse};
    use super::*;
    use crate::net::listener::Listener;

    fn start(
        handler: impl Fn(&HttpRequest) -> HttpResponse + Send + Sync + 'static,
    ) -> Arc<Listener> {
        let address = "127.0.0.1:0".parse().unwrap();
        let listener = Arc::new(Listener::bind(address, false, false).unwrap());
        serve(&listener, &Arc::default(), Arc::new(handler)).unwrap();
        listener
    }

    /// Returns the slots, and the slot and the client of each connection from these addresses.
    fn full(
        displace_after: Duration,
        addresses: impl Iterator<Item = &'static str>,
    ) -> (Arc<HttpSlots>, Vec<(HttpSlot, TcpStream)>) {
        let slots = HttpSlots::new(displace_after);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |address: &str| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let socket = Arc::new(listener.accept().unwrap().0);
            let peer = SocketAddr::new(address.parse().unwrap(), 1);
            let slot = slots.take(&socket, peer, Duration::ZERO).unwrap();
            (slot, client)
        };
        let taken = addresses.map(connect).collect();
        (slots, taken)
    }

    fn displaced(taken: &[(HttpSlot, TcpStream)]) -> Vec<usize> {
        let is_displaced =
            |(slot, _): &(HttpSlot, TcpStream)| slot.user.is_in(HttpPhase::Displaced);
        let numbers = taken.iter().enumerate();
        numbers
            .filter_map(|(number, slot)| is_displaced(slot).then_some(number))
            .collect()
    }

    fn take_another(slots: &Arc<HttpSlots>) -> Option<HttpSlot> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = Arc::new(TcpStream::connect(address).unwrap());
        slots.take(&socket, address, Duration::ZERO)
    }

    #[test]
    fn oldest_connection_of_the_address_with_the_most_is_displaced() {
        let addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.2"];
        let (slots, mut taken) = full(
            Duration::ZERO,
            addresses.into_iter().cycle().take(MAX_HTTP_CONNECTIONS),
        );
        // It has no slot yet, because the displaced one has not ended.
        assert!(take_another(&slots).is_none());
        assert_eq!(displaced(&taken), [1]);
        taken.remove(1);
        assert!(take_another(&slots).is_some());
        assert_eq!(displaced(&taken), [0; 0]);
    }

    #[test]
    fn connection_that_makes_a_response_keeps_its_slot_and_one_that_writes_is_displaced_last() {
        let (slots, taken) = full(
            Duration::ZERO,
            std::iter::repeat_n("192.0.2.1", MAX_HTTP_CONNECTIONS),
        );
        for (slot, _) in &taken {
            slot.enter(HttpPhase::Answering);
        }
        assert!(take_another(&slots).is_none());
        assert_eq!(displaced(&taken), [0; 0]);
        taken[3].0.enter(HttpPhase::Writing);
        taken[7].0.enter(HttpPhase::Reading);
        assert!(take_another(&slots).is_none());
        assert_eq!(displaced(&taken), [7]);
        assert!(take_another(&slots).is_none());
        assert_eq!(displaced(&taken), [3, 7]);
        taken[7].0.enter(HttpPhase::Answering);
        assert_eq!(displaced(&taken), [3, 7]);
    }

    #[test]
    fn client_has_time_for_its_request_before_another_connection_gets_its_slot() {
        let addresses = std::iter::repeat_n("192.0.2.1", MAX_HTTP_CONNECTIONS);
        let (slots, taken) = full(Duration::from_secs(3_600), addresses);
        taken[3].0.enter(HttpPhase::Writing);
        assert!(take_another(&slots).is_none());
        assert_eq!(displaced(&taken), [0; 0]);
        taken[5].0.enter(HttpPhase::Lingering);
        assert!(take_another(&slots).is_none());
        assert_eq!(displaced(&taken), [5]);
    }

    #[test]
    fn request_that_has_arrived_is_read_after_its_connection_was_displaced() {
        let (slots, mut taken) = full(
            Duration::ZERO,
            std::iter::repeat_n("192.0.2.1", MAX_HTTP_CONNECTIONS),
        );
        taken[0].1.write_all(b"request").unwrap();
        let mut socket = &*taken[0].0.user.socket;
        let mut octets = [0; 16];
        // The octets have arrived.
        assert_eq!(socket.peek(&mut octets).unwrap(), 7);
        assert!(take_another(&slots).is_none());
        assert_eq!(socket.read(&mut octets).unwrap(), 7);
        assert_eq!(socket.read(&mut octets).unwrap(), 0);
        socket.write_all(b"response").unwrap();
    }

    #[test]
    fn request_is_answered_while_idle_connections_have_all_slots() {
        let listener = start(|_| HttpResponse::plain_text_response(200, ""));
        let connect = |_| TcpStream::connect(listener.bound_address()).unwrap();
        let mut idle: Vec<TcpStream> = (0..MAX_HTTP_CONNECTIONS).map(connect).collect();
        for _ in 0..3 {
            let mut asking = connect(0);
            asking.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut answer = String::new();
            asking.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        // The newest one has kept its slot.
        let last = idle.last_mut().unwrap();
        last.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        last.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(idle[0].read(&mut [0]).unwrap_or(0), 0);
    }

    #[test]
    fn connection_is_closed_while_all_slots_make_a_response_and_none_of_them_ends() {
        let (release, released) = crossbeam_channel::bounded::<()>(0);
        let entered = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&entered);
        let listener = start(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = released.recv();
            HttpResponse::plain_text_response(200, "late")
        });
        let request = b"GET / HTTP/1.1\r\n\r\n";
        let connect = |_| {
            let mut socket = TcpStream::connect(listener.bound_address()).unwrap();
            socket.write_all(request).unwrap();
            socket
        };
        let mut waiting: Vec<TcpStream> = (0..MAX_HTTP_CONNECTIONS).map(connect).collect();
        wait_for("all requests to be passed to the handler", || {
            (entered.load(Ordering::SeqCst) == MAX_HTTP_CONNECTIONS).then_some(())
        });
        assert_eq!(connect(0).read(&mut [0]).unwrap_or(0), 0);
        drop(release);
        for socket in &mut waiting {
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("late"), "{answer}");
        }
    }
}
