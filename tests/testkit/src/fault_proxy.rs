//! A TCP proxy that simulates network faults.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{let_time_pass, wait_at_most, wait_for};

/// What the proxy does with the client's octets. The server's answers pass unless the connection is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Forwards everything.
    Pass,
    /// Closes new connections at once and existing ones now.
    Refuse,
    /// Accepts new connections, but forwards nothing in either direction.
    Hang,
    /// Drops all octets and keeps the connections open.
    Discard,
    /// Delays each piece by this time.
    Delay(Duration),
    /// Forwards at most this many octets every 10 ms.
    Throttle(usize),
    /// Closes the connection when the client sends this text, without forwarding it.
    CutBefore(&'static str),
    /// Forwards this text, then closes the connection before the answer.
    CutAfter(&'static str),
    /// Holds the piece with this text back until another fault is set, and counts it as a cut.
    HoldAt(&'static str),
    /// As [`Fault::HoldAt`]; all other connections are closed then, and new ones at once until another fault is set.
    HoldAtAndRefuse(&'static str),
    /// As [`Fault::CutBefore`]; from then on new connections are closed at once.
    CutBeforeAndRefuse(&'static str),
    /// As [`Fault::CutAfter`]; from then on new connections are closed at once.
    CutAfterAndRefuse(&'static str),
}

/// A proxy between the server under test and a server that it depends on.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: SocketAddr,
    fault: Mutex<Fault>,
    /// How many more connections are cut.
    cuts_left: AtomicUsize,
    cuts: AtomicUsize,
    stopped: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
}

impl FaultProxy {
    /// Starts a proxy for `upstream` on a free port.
    pub fn start(upstream: SocketAddr) -> FaultProxy {
        FaultProxy::start_at((Ipv4Addr::LOCALHOST, 0).into(), upstream)
    }

    /// Starts a proxy for `upstream` on `address`.
    pub fn start_at(address: SocketAddr, upstream: SocketAddr) -> FaultProxy {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let shared = Arc::new(Shared {
            upstream,
            fault: Mutex::new(Fault::Pass),
            cuts_left: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
            sockets: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    accepting.serve(client);
                }
            }
        });
        FaultProxy {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// Returns the address on which the proxy listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sets the fault from now on.
    pub fn set(&self, fault: Fault) {
        let refuses = fault == Fault::Refuse;
        *lock(&self.shared.fault) = fault;
        if refuses {
            self.shared.close_all();
        }
    }

    /// Sets a fault that cuts `times` connections and then forwards everything.
    pub fn cut(&self, fault: Fault, times: usize) {
        self.shared.cuts_left.store(times, Ordering::SeqCst);
        self.set(fault);
    }

    /// Returns how many connections have been cut.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Waits until this many connections have been cut.
    pub fn wait_for_cuts(&self, times: usize) {
        wait_for("the connection to be cut", || {
            (self.cuts() >= times).then_some(())
        });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.shared.close_all();
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(self: &Arc<Shared>, client: TcpStream) {
        if self.refuses() {
            return;
        }
        let Ok(server) = TcpStream::connect(self.upstream) else {
            return;
        };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else {
            return;
        };
        lock(&self.sockets).extend([&client, &server].iter().filter_map(|s| s.try_clone().ok()));
        let (up, down) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || up.forward(&client, &server, true));
        thread::spawn(move || down.forward(&server_too, &client_too, false));
    }

    /// Returns whether new connections are closed at once.
    fn refuses(&self) -> bool {
        match self.fault() {
            Fault::Refuse => true,
            Fault::HoldAtAndRefuse(_) => self.cuts_left.load(Ordering::SeqCst) == 0,
            _ => false,
        }
    }

    /// Waits while the fault is one that holds octets, until the proxy stops.
    fn hold_while(&self, holds: impl Fn(Fault) -> bool) {
        wait_at_most(HOLD_LIMIT, || {
            (!holds(self.fault()) || self.stopped.load(Ordering::SeqCst)).then_some(())
        });
    }

    /// Forwards octets in one direction until one side ends.
    fn forward(&self, mut from: &TcpStream, mut to: &TcpStream, is_request: bool) {
        let mut octets = [0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut octets) {
            let piece = &octets[..count];
            self.hold_while(|fault| matches!(fault, Fault::Hang));
            let passed = match self.fault() {
                Fault::Discard => Ok(()),
                Fault::Delay(pause) if is_request => {
                    let_time_pass(pause, "a slow network");
                    to.write_all(piece)
                }
                Fault::Throttle(octets) => piece.chunks(octets).try_for_each(|some| {
                    let_time_pass(TICK, "a slow network");
                    to.write_all(some)
                }),
                Fault::HoldAt(text) if is_request && self.cuts_at(piece, text) => {
                    self.hold_while(|fault| matches!(fault, Fault::HoldAt(_)));
                    to.write_all(piece)
                }
                Fault::HoldAtAndRefuse(text) if is_request && self.cuts_at(piece, text) => {
                    self.close_all_but([from, to]);
                    self.hold_while(|fault| matches!(fault, Fault::HoldAtAndRefuse(_)));
                    to.write_all(piece)
                }
                Fault::CutBefore(text) if is_request && self.cuts_at(piece, text) => break,
                Fault::CutBeforeAndRefuse(text) if is_request && self.cuts_at(piece, text) => {
                    *lock(&self.fault) = Fault::Refuse;
                    break;
                }
                Fault::CutAfterAndRefuse(text) if is_request && self.cuts_at(piece, text) => {
                    *lock(&self.fault) = Fault::Refuse;
                    let _ = from.shutdown(Shutdown::Both);
                    to.write_all(piece)
                }
                Fault::CutAfter(text) if is_request && self.cuts_at(piece, text) => {
                    // Closing the client side first ensures that no answer reaches it.
                    let _ = from.shutdown(Shutdown::Both);
                    to.write_all(piece)
                }
                _ => to.write_all(piece),
            };
            if passed.is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        // The other end can still read what was written before.
        let _ = to.shutdown(Shutdown::Write);
        if !is_request {
            let _ = to.shutdown(Shutdown::Both);
        }
    }

    /// Returns whether to cut at this piece: it contains the text and cuts are left. MySQL sends a statement in one
    /// write.
    fn cuts_at(&self, piece: &[u8], text: &str) -> bool {
        let found = piece
            .windows(text.len())
            .any(|window| window == text.as_bytes());
        let cuts = found
            && self
                .cuts_left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
        if cuts {
            self.cuts.fetch_add(1, Ordering::SeqCst);
        }
        cuts
    }

    fn fault(&self) -> Fault {
        lock(&self.fault).clone()
    }

    fn close_all(&self) {
        self.close_all_but([]);
    }

    fn close_all_but<const N: usize>(&self, kept: [&TcpStream; N]) {
        let ends = |socket: &TcpStream| (socket.local_addr().ok(), socket.peer_addr().ok());
        let kept = kept.map(ends);
        lock(&self.sockets).retain(|socket| {
            let is_kept = kept.contains(&ends(socket));
            if !is_kept {
                let _ = socket.shutdown(Shutdown::Both);
            }
            is_kept
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long octets are held at most; longer than any test.
const HOLD_LIMIT: Duration = Duration::from_secs(600);
/// The interval of [`Fault::Throttle`].
const TICK: Duration = Duration::from_millis(10);
