//! The bounded pool: threads that accept and then serve, never more clients than places.
//!
//! Each thread blocks in `accept` itself, so a client reaches its thread without being handed over. The last thread that
//! leaves `accept` first sees to it that another one waits there. Beside a thread for each place there is at most one for
//! each port, which only says 421 then.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread;

use super::connection_limiter::{ConnectionLimiter, LimiterGuard};
use super::idle_threads::IdleThreads;
use super::io_timeout::{IoTimeout, SCAN_INTERVAL};
use super::listener::Listener;
use super::load::Load;
use super::trusted_proxies::TrustedProxies;
use crate::metrics::{self, CloseReason, Component, ListenerKind};
use crate::sync;

/// Serves one client, from its greeting to the end.
pub type ServeConnection = Box<dyn Fn(&Client) + Send + Sync>;

/// How many clients are served, and what the others hear.
pub struct AcceptPoolSettings {
    /// Places.
    pub max_clients: usize,
    /// Whose XCLIENT and PROXY header are believed, and whom no limit counts.
    pub trusted_proxies: TrustedProxies,
    /// Connections at once from one IPv4 address or IPv6 /64; 0 for no limit.
    pub max_clients_per_address: usize,
    /// What a client hears for which there is no place.
    pub busy_reply: Vec<u8>,
    /// What a client hears whose address has as many connections as it may.
    pub address_limit_reply: Vec<u8>,
}

/// Threads, places and the clients on them.
pub struct AcceptPool {
    settings: RwLock<Arc<AcceptPoolSettings>>,
    address_limiter: Arc<ConnectionLimiter>,
    serve: ServeConnection,
    idle_threads: IdleThreads,
    active_connections: AtomicUsize,
    next_number: AtomicU64,
    clients: Mutex<HashMap<u64, Arc<ConnectionState>>>,
    draining: AtomicBool,
}

/// A client on its place.
pub struct Client {
    /// Counts up from 1 since the start.
    pub number: u64,
    /// It begins with its handshake.
    pub implicit_tls: bool,
    /// Its peer's address is one of those whose word is taken; fixed here, whatever that peer says.
    pub is_trusted_proxy: bool,
    peer: IpAddr,
    ip: Cell<IpAddr>,
    address_guard: RefCell<LimiterGuard>,
    pool: Arc<AcceptPool>,
    state: Arc<ConnectionState>,
}

struct ConnectionState {
    socket: Arc<TcpStream>,
    io_timeout: Arc<IoTimeout>,
    /// Waits for a command with nothing under way: may be told to leave at any moment.
    idle: AtomicBool,
    /// The server is shutting down.
    drain_requested: AtomicBool,
}

impl AcceptPool {
    /// A pool where nobody is served before [`open`](Pool::open).
    pub fn new(settings: AcceptPoolSettings, serve: ServeConnection) -> Arc<AcceptPool> {
        Arc::new(AcceptPool {
            settings: RwLock::new(Arc::new(settings)),
            address_limiter: Arc::default(),
            serve,
            idle_threads: IdleThreads::default(),
            active_connections: AtomicUsize::new(0),
            next_number: AtomicU64::new(1),
            clients: Mutex::new(HashMap::new()),
            draining: AtomicBool::new(false),
        })
    }

    /// Begins to accept clients from all `listeners`; once, for threads are shared between those that are known here.
    ///
    /// # Errors
    /// When not even one thread for each can be started.
    pub fn open(self: &Arc<Self>, listeners: &[Arc<Listener>]) -> std::io::Result<()> {
        self.idle_threads.register_listeners(listeners);
        let mut listeners = listeners.iter();
        listeners.try_for_each(|listener| self.start_thread(listener))
    }

    /// Starts the thread that ends reads and writes whose time is up, as long as the pool lives.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn watch_deadlines(self: &Arc<Self>) -> std::io::Result<()> {
        let pool = Arc::downgrade(self);
        let watching = thread::Builder::new().name("deadlines".to_owned());
        // Nothing here can panic or wait: without this thread no deadline would hold.
        let looking = move || {
            while let Some(pool) = pool.upgrade() {
                let load = pool.load();
                for client in pool.lock_clients().values() {
                    client.io_timeout.expire_if_due(&client.socket, load);
                }
                drop(pool);
                thread::sleep(SCAN_INTERVAL);
            }
        };
        watching
            .stack_size(THREAD_STACK_BYTES)
            .spawn(looking)
            .map(drop)
    }

    /// Decides by other settings from now on; whoever is on a place stays.
    pub fn update_settings(&self, settings: AcceptPoolSettings) {
        *sync::write(&self.settings) = Arc::new(settings);
    }

    /// Clients on places at this moment.
    pub fn active_connections(&self) -> usize {
        self.active_connections.load(Ordering::SeqCst)
    }

    /// Places there are.
    pub fn max_connections(&self) -> usize {
        self.settings().max_clients
    }

    /// Whether [`drain`](Pool::drain) was called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Asks every client to leave: idle ones now, the others when what they have under way is done.
    ///
    /// Accepting is ended by [`Listener::close`].
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.idle_threads.shut_down();
        for client in self.lock_clients().values() {
            client.drain_requested.store(true, Ordering::SeqCst);
            if client.idle.load(Ordering::SeqCst) {
                // Its thread wakes from reading as if the client had finished sending.
                let _ = client.socket.shutdown(Shutdown::Read);
            }
        }
    }

    /// Cuts every client off: what it has not sent yet is not waited for, whatever is under way.
    pub fn abort_connections(&self) {
        for client in self.lock_clients().values() {
            let _ = client.socket.shutdown(Shutdown::Read);
        }
    }

    fn accept_and_serve(self: Arc<Self>, mut listener: Arc<Listener>) {
        while let Some((socket, address)) = listener.accept() {
            let settings = self.settings();
            let Some(place) = ConnectionSlot::take(&self, settings.max_clients) else {
                reject(
                    &socket,
                    &listener,
                    &settings.busy_reply,
                    CloseReason::LimitReached,
                );
                continue;
            };
            let is_trusted_proxy = settings.trusted_proxies.contain(address.ip());
            // 0 for no limit: each proxy speaks for many.
            let max = match is_trusted_proxy {
                true => 0,
                false => settings.max_clients_per_address,
            };
            let Some(share) = self.address_limiter.try_acquire(address.ip(), max) else {
                reject(
                    &socket,
                    &listener,
                    &settings.address_limit_reply,
                    CloseReason::AddressLimitReached,
                );
                continue;
            };
            if !self.leave_accept(&listener) {
                reject(
                    &socket,
                    &listener,
                    &settings.busy_reply,
                    CloseReason::LimitReached,
                );
                continue;
            }
            drop(settings);
            let ip = address.ip().to_canonical();
            self.serve_client(socket, ip, is_trusted_proxy, share, listener.implicit_tls());
            let rest = self.idle_threads.park(&listener);
            drop(place);
            if let Some(rest) = rest {
                let Some(calling) = rest.wait() else {
                    return;
                };
                listener = calling;
            }
        }
    }

    /// Counts this thread out of `accept`, once another one waits there. `false`: none could be started, stay.
    fn leave_accept(self: &Arc<Self>, listener: &Arc<Listener>) -> bool {
        if self.idle_threads.try_leave_accept(listener) {
            return true;
        }
        let Err(error) = self.start_thread(listener) else {
            return true;
        };
        log::error!(reason:% = error; "thread_start_failed");
        // Meanwhile another one may have come to rest.
        self.idle_threads.try_leave_accept(listener)
    }

    fn start_thread(self: &Arc<Self>, listener: &Arc<Listener>) -> std::io::Result<()> {
        let pool = Arc::clone(self);
        let listener = Arc::clone(listener);
        thread::Builder::new()
            .name("client".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || pool.accept_and_serve(listener))
            .map(drop)
    }

    fn serve_client(
        self: &Arc<Self>,
        socket: TcpStream,
        ip: IpAddr,
        is_trusted_proxy: bool,
        share: LimiterGuard,
        tls_at_once: bool,
    ) {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(ConnectionState {
            socket: Arc::new(socket),
            io_timeout: Arc::new(IoTimeout::new()),
            idle: AtomicBool::new(false),
            drain_requested: AtomicBool::new(false),
        });
        self.lock_clients().insert(number, Arc::clone(&state));
        if self.draining.load(Ordering::SeqCst) {
            state.drain_requested.store(true, Ordering::SeqCst);
        }
        let client = Client {
            number,
            implicit_tls: tls_at_once,
            is_trusted_proxy,
            peer: ip,
            ip: Cell::new(ip),
            address_guard: RefCell::new(share),
            pool: Arc::clone(self),
            state,
        };
        if catch_unwind(AssertUnwindSafe(|| (self.serve)(&client))).is_err() {
            metrics::PANICS.count(Component::Connection);
            metrics::CONNECTIONS.count((ListenerKind::new(tls_at_once), CloseReason::Panicked));
            log::error!(session:% = client.session_id(), client:% = ip; "panicked");
        }
        self.lock_clients().remove(&number);
    }

    fn load(&self) -> Load {
        Load::of(self.active_connections(), self.max_connections())
    }

    fn settings(&self) -> Arc<AcceptPoolSettings> {
        Arc::clone(&sync::read(&self.settings))
    }

    fn lock_clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<ConnectionState>>> {
        sync::lock(&self.clients)
    }
}

impl Client {
    /// Its socket, shared with the pool, which may shut it.
    pub fn socket(&self) -> Arc<TcpStream> {
        Arc::clone(&self.state.socket)
    }

    /// What ends its reads and writes when their time is up.
    pub fn io_timeout(&self) -> &Arc<IoTimeout> {
        &self.state.io_timeout
    }

    /// Where it comes from, IPv4 also when it came as `::ffff:`; as a proxy said, once one did.
    pub fn ip(&self) -> IpAddr {
        self.ip.get()
    }

    /// Takes the address that a trusted proxy passed on; from now on that one is counted. With `None` the proxy does not
    /// know it, and its own, which no limit counts, has to do. `false`: the address has as many connections as it may,
    /// and this one has to go.
    pub fn set_client_address(&self, ip: Option<IpAddr>) -> bool {
        // First back, then taken: a proxy may pass on an address that is counted already.
        self.address_guard.replace(LimiterGuard::uncounted());
        let Some(ip) = ip else {
            self.ip.set(self.peer);
            return true;
        };
        self.ip.set(ip.to_canonical());
        let max = self.pool.settings().max_clients_per_address;
        let share = self.pool.address_limiter.try_acquire(ip, max);
        share
            .map(|share| self.address_guard.replace(share))
            .is_some()
    }

    /// Returns how many of the connection slots are taken.
    pub fn load(&self) -> Load {
        self.pool.load()
    }

    /// How the log names its session.
    pub fn session_id(&self) -> String {
        format!("{:04x}", self.number)
    }

    /// Says whether anything of this client is under way; answers whether it shall leave now.
    pub fn mark_idle(&self, idle: bool) -> bool {
        self.state.idle.store(idle, Ordering::SeqCst);
        // The pool first says `leave`, then looks whether we are idle: one of us sees the other.
        !(idle && self.state.drain_requested.load(Ordering::SeqCst))
    }

    /// Ends idleness, before a command is looked at; answers whether the client may go on. After `false` nothing more
    /// of it can be read.
    pub fn mark_busy(&self) -> bool {
        self.state.idle.store(false, Ordering::SeqCst);
        // Again the pool sees that we are busy, or we see that we shall leave.
        !self.state.drain_requested.load(Ordering::SeqCst)
    }
}

/// One of the places; free again on drop, also after a panic.
struct ConnectionSlot<'a>(&'a AcceptPool);

impl ConnectionSlot<'_> {
    fn take(pool: &AcceptPool, max_clients: usize) -> Option<ConnectionSlot<'_>> {
        pool.active_connections
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| {
                (taken < max_clients).then_some(taken + 1)
            })
            .ok()
            .map(|_| ConnectionSlot(pool))
    }
}

impl Drop for ConnectionSlot<'_> {
    fn drop(&mut self) {
        self.0.active_connections.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Says 421 to a client that is not served, without ever waiting for it; in the plain to nobody who expects TLS.
fn reject(socket: &TcpStream, listener: &Listener, reply: &[u8], why: CloseReason) {
    metrics::CONNECTIONS.count((ListenerKind::new(listener.implicit_tls()), why));
    let mut socket = socket;
    if listener.implicit_tls() {
        return;
    }
    if socket.set_nonblocking(true).is_err() || socket.write(reply).is_err() {
        return;
    }
    let _ = socket.shutdown(Shutdown::Write);
    // What it sent already would turn our close into a reset, which can cost it the reply.
    let _ = socket.read(&mut [0; 4_096]);
}

/// Enough for a TLS handshake and the deepest parse, and costs only what is touched.
const THREAD_STACK_BYTES: usize = 256 * 1_024;
