//! The bounded thread pool: each thread accepts a connection and then serves it.
//!
//! Because each thread blocks in `accept` itself, no connection is passed between threads. Before the last accepting thread
//! of a listener serves its client, it makes sure that another thread accepts. The pool has at most one thread per
//! connection slot and one additional thread per listener. The additional thread answers 421 while all slots are taken.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::mem;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use super::client::ActiveClientState;
pub use super::client::Client;
use super::connection_limiter::{PerAddressConnectionGuard, PerAddressLimiter};
use super::connection_slot::ConnectionSlot;
use super::idle_threads::IdleThreads;
use super::io_timeout::{BlockingIoDeadlines, SCAN_INTERVAL};
use super::listener::Listener;
use super::load::LoadLevel;
use super::trusted_proxies::TrustedProxies;
use crate::metrics::{CloseReason, Component, ListenerKind, Metrics};
use crate::sync;

/// Serves one client, from the greeting to the end of the connection.
pub type ConnectionHandler = Box<dyn Fn(&Client) + Send + Sync>;
/// Returns the connection limits that are in force now.
pub type GetAcceptPoolSettings = Box<dyn Fn() -> Arc<AcceptPoolSettings> + Send + Sync>;

/// Connection limits, and the replies to clients that exceed them.
pub struct AcceptPoolSettings {
    /// Number of connection slots.
    pub max_clients: usize,
    /// Proxies whose XCLIENT and PROXY headers are trusted, and to which `max_clients_per_address` does not apply.
    pub trusted_proxies: TrustedProxies,
    /// Maximum number of connections from one IPv4 address or IPv6 /64; 0 means no limit.
    pub max_clients_per_address: usize,
    /// Reply to a client if no connection slot is free.
    pub busy_reply: Vec<u8>,
    /// Reply to a client if its address has `max_clients_per_address` connections.
    pub address_limit_reply: Vec<u8>,
}

/// The threads, the connection slots and the connected clients.
pub struct AcceptPool {
    settings: GetAcceptPoolSettings,
    pub(super) address_limiter: Arc<PerAddressLimiter>,
    pub(super) metrics: Arc<Metrics>,
    serve: ConnectionHandler,
    stack_octets: usize,
    idle_threads: IdleThreads,
    active_connections: AtomicUsize,
    next_number: AtomicU64,
    clients: Mutex<HashMap<u64, Arc<ActiveClientState>>>,
    draining: AtomicBool,
}

impl AcceptPool {
    /// Returns a pool that accepts no connection until [`start_accepting`](AcceptPool::start_accepting). The pool calls
    /// `settings` for each new connection; connected clients stay, even if they exceed limits that were lowered meanwhile.
    pub fn new(
        settings: GetAcceptPoolSettings,
        metrics: Arc<Metrics>,
        serve: ConnectionHandler,
        stack_octets: usize,
    ) -> Arc<AcceptPool> {
        Arc::new(AcceptPool {
            settings,
            address_limiter: Arc::default(),
            metrics,
            serve,
            stack_octets,
            idle_threads: IdleThreads::default(),
            active_connections: AtomicUsize::new(0),
            next_number: AtomicU64::new(1),
            clients: Mutex::new(HashMap::new()),
            draining: AtomicBool::new(false),
        })
    }

    /// Starts to accept connections on all `listeners`. Call it once, with all listeners: they share the idle threads.
    ///
    /// # Errors
    /// The first thread of a listener cannot be started.
    pub fn start_accepting(self: &Arc<Self>, listeners: &[Arc<Listener>]) -> std::io::Result<()> {
        self.idle_threads
            .add_one_accepting_thread_per_listener(listeners);
        let mut listeners = listeners.iter();
        listeners.try_for_each(|listener| self.start_client_thread(listener))
    }

    /// Starts the thread that ends reads and writes after their deadline. It stops when the pool is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start_deadlines_thread(self: &Arc<Self>) -> std::io::Result<()> {
        let pool = Arc::downgrade(self);
        let builder = thread::Builder::new().name("deadlines".to_owned());
        // This code must neither panic nor block, because without this thread no deadline is enforced.
        let scan = move || {
            while let Some(pool) = pool.upgrade() {
                let load = pool.current_load_level();
                for client in pool.lock_clients().values() {
                    client
                        .io_timeout
                        .shut_down_socket_if_overdue(&client.socket, load);
                }
                drop(pool);
                thread::sleep(SCAN_INTERVAL);
            }
        };
        builder
            .stack_size(CLIENT_STACK_OCTETS)
            .spawn(scan)
            .map(drop)
    }

    /// Returns the metrics of the server.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Returns the number of connection slots that are taken.
    pub fn taken_connection_slots(&self) -> usize {
        self.active_connections.load(Ordering::SeqCst)
    }

    /// Returns the number of connection slots.
    pub fn connection_slot_count(&self) -> usize {
        self.settings().max_clients
    }

    /// Returns whether [`drain`](AcceptPool::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Requests the end of all sessions: idle sessions end now, other sessions after their open transaction.
    ///
    /// New connections are still accepted until [`Listener::close`].
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.idle_threads.end_parked_threads();
        for client in self.lock_clients().values() {
            client.drain_requested.store(true, Ordering::SeqCst);
            if client.idle.load(Ordering::SeqCst) {
                // The read of the client's thread then returns as if the client had finished sending.
                let _ = client.socket.shutdown(Shutdown::Read);
            }
        }
    }

    /// Ends all connections, even in the middle of a message: their sockets are shut down for reading.
    pub fn abort_connections(&self) {
        for client in self.lock_clients().values() {
            let _ = client.socket.shutdown(Shutdown::Read);
        }
    }

    fn accept_and_serve(self: Arc<Self>, mut listener: Arc<Listener>) {
        while let Some((socket, address)) = listener.accept() {
            let settings = self.settings();
            let reject_busy = || {
                self.send_rejection_and_close(
                    &socket,
                    &listener,
                    &settings.busy_reply,
                    CloseReason::LimitReached,
                )
            };
            let Some(slot) = ConnectionSlot::take_connection_slot(
                &self.active_connections,
                settings.max_clients,
            ) else {
                reject_busy();
                continue;
            };
            let is_trusted_proxy = settings.trusted_proxies.contains(address.ip());
            // The limit per address does not apply to a trusted proxy, because a proxy connects for many clients.
            let max = match is_trusted_proxy {
                true => 0,
                false => settings.max_clients_per_address,
            };
            let Some(address_guard) = self.address_limiter.try_acquire(address.ip(), max) else {
                self.send_rejection_and_close(
                    &socket,
                    &listener,
                    &settings.address_limit_reply,
                    CloseReason::AddressLimitReached,
                );
                continue;
            };
            if !self.ensure_other_thread_accepts(&listener) {
                reject_busy();
                continue;
            }
            drop(settings);
            let ip = address.ip().to_canonical();
            self.serve_client(
                socket,
                ip,
                is_trusted_proxy,
                address_guard,
                listener.implicit_tls(),
            );
            let parked = self.idle_threads.park_thread_or_accept(&listener);
            drop(slot);
            if let Some(parked) = parked {
                let Some(next_listener) = parked.wait_until_a_listener_needs_this_thread() else {
                    return;
                };
                listener = next_listener;
            }
        }
    }

    /// Makes sure that another thread accepts on `listener`, so that the caller can serve its client. Returns `false` if no
    /// other thread accepts and none could be started; the caller must then return to `accept`.
    fn ensure_other_thread_accepts(self: &Arc<Self>, listener: &Arc<Listener>) -> bool {
        if self.idle_threads.hand_over_accepting(listener) {
            return true;
        }
        let Err(error) = self.start_client_thread(listener) else {
            return true;
        };
        log::error!(reason:% = error; "thread_start_failed");
        // A thread may have been parked since the first call; it can replace the thread that could not be started.
        self.idle_threads.hand_over_accepting(listener)
    }

    fn start_client_thread(self: &Arc<Self>, listener: &Arc<Listener>) -> std::io::Result<()> {
        let pool = Arc::clone(self);
        let listener = Arc::clone(listener);
        thread::Builder::new()
            .name("client".to_owned())
            .stack_size(self.stack_octets)
            .spawn(move || pool.accept_and_serve(listener))
            .map(drop)
    }

    fn serve_client(
        self: &Arc<Self>,
        socket: TcpStream,
        ip: IpAddr,
        is_trusted_proxy: bool,
        address_guard: PerAddressConnectionGuard,
        implicit_tls: bool,
    ) {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(ActiveClientState {
            socket: Arc::new(socket),
            io_timeout: Arc::new(BlockingIoDeadlines::new()),
            idle: AtomicBool::new(false),
            drain_requested: AtomicBool::new(false),
        });
        self.lock_clients().insert(number, Arc::clone(&state));
        if self.draining.load(Ordering::SeqCst) {
            state.drain_requested.store(true, Ordering::SeqCst);
        }
        let client = Client {
            number,
            implicit_tls,
            is_trusted_proxy,
            peer: ip,
            ip: Cell::new(ip),
            address_guard: RefCell::new(address_guard),
            pool: Arc::clone(self),
            state,
        };
        let served = catch_unwind(AssertUnwindSafe(|| (self.serve)(&client)));
        self.lock_clients().remove(&number);
        if let Err(payload) = served {
            self.metrics.panics.count(Component::Connection);
            let labels = (ListenerKind::new(implicit_tls), CloseReason::Panicked);
            self.metrics.connections.count(labels);
            // The logger of an embedding program may panic too, and so may dropping the payload.
            let logged = catch_unwind(AssertUnwindSafe(|| {
                log::error!(session:% = client.session_id(), client:% = ip; "panicked");
                drop(payload);
            }));
            if let Err(payload) = logged {
                mem::forget(payload);
            }
        }
    }

    /// Sends `reply` (a 421) to a rejected client, without blocking. On an implicit-TLS port nothing is sent, because `reply`
    /// is plaintext.
    fn send_rejection_and_close(
        &self,
        socket: &TcpStream,
        listener: &Listener,
        reply: &[u8],
        outcome: CloseReason,
    ) {
        let kind = ListenerKind::new(listener.implicit_tls());
        self.metrics.connections.count((kind, outcome));
        let mut socket = socket;
        if listener.implicit_tls() {
            return;
        }
        if socket.set_nonblocking(true).is_err() || socket.write(reply).is_err() {
            return;
        }
        let _ = socket.shutdown(Shutdown::Write);
        // Discards octets that have arrived: if `close` found them unread, the kernel would reset the connection, and the
        // client might lose the reply.
        let _ = socket.read(&mut [0; 4_096]);
    }

    pub(super) fn current_load_level(&self) -> LoadLevel {
        LoadLevel::load_level_of_slots(self.taken_connection_slots(), self.connection_slot_count())
    }

    pub(super) fn settings(&self) -> Arc<AcceptPoolSettings> {
        (self.settings)()
    }

    fn lock_clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<ActiveClientState>>> {
        sync::lock(&self.clients)
    }
}

/// Stack size of a thread in octets that suffices for a TLS handshake and the deepest parser. Only pages in use take memory.
pub const CLIENT_STACK_OCTETS: usize = 256 * 1_024;
