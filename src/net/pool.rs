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

use super::crew::Crew;
use super::listener::Listener;
use super::load::Load;
use super::per_address::{AddressShare, PerAddress};
use super::trusted::TrustedProxies;
use super::watch::{LOOK_EVERY, Watch};
use crate::locks;
use crate::metrics::{self, End, Part, Port};

/// Serves one client, from its greeting to the end.
pub type Serve = Box<dyn Fn(&Client) + Send + Sync>;

/// How many clients are served, and what the others hear.
pub struct PoolSettings {
    /// Places.
    pub max_clients: usize,
    /// Whose XCLIENT and PROXY header are believed, and whom no limit counts.
    pub trusted_proxies: TrustedProxies,
    /// Connections at once from one IPv4 address or IPv6 /64; 0 for no limit.
    pub max_clients_per_address: usize,
    /// What a client hears for which there is no place.
    pub full: Vec<u8>,
    /// What a client hears whose address has as many connections as it may.
    pub address_full: Vec<u8>,
}

/// Threads, places and the clients on them.
pub struct Pool {
    settings: RwLock<Arc<PoolSettings>>,
    addresses: Arc<PerAddress>,
    serve: Serve,
    crew: Crew,
    places_taken: AtomicUsize,
    next_number: AtomicU64,
    clients: Mutex<HashMap<u64, Arc<ClientState>>>,
    draining: AtomicBool,
}

/// A client on its place.
pub struct Client {
    /// Counts up from 1 since the start.
    pub number: u64,
    /// It begins with its handshake.
    pub tls_at_once: bool,
    /// Its peer's address is one of those whose word is taken; fixed here, whatever that peer says.
    pub is_trusted_proxy: bool,
    peer: IpAddr,
    ip: Cell<IpAddr>,
    share: RefCell<AddressShare>,
    pool: Arc<Pool>,
    state: Arc<ClientState>,
}

struct ClientState {
    socket: Arc<TcpStream>,
    watch: Arc<Watch>,
    /// Waits for a command with nothing under way: may be told to leave at any moment.
    idle: AtomicBool,
    /// The server is shutting down.
    leave: AtomicBool,
}

impl Pool {
    /// A pool where nobody is served before [`open`](Pool::open).
    pub fn new(settings: PoolSettings, serve: Serve) -> Arc<Pool> {
        Arc::new(Pool {
            settings: RwLock::new(Arc::new(settings)),
            addresses: Arc::default(),
            serve,
            crew: Crew::default(),
            places_taken: AtomicUsize::new(0),
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
        self.crew.add_ports(listeners);
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
                    client.watch.look(&client.socket, load);
                }
                drop(pool);
                thread::sleep(LOOK_EVERY);
            }
        };
        watching.stack_size(STACK_OCTETS).spawn(looking).map(drop)
    }

    /// Decides by other settings from now on; whoever is on a place stays.
    pub fn change(&self, settings: PoolSettings) {
        *locks::write(&self.settings) = Arc::new(settings);
    }

    /// Clients on places at this moment.
    pub fn places_taken(&self) -> usize {
        self.places_taken.load(Ordering::SeqCst)
    }

    /// Places there are.
    pub fn places(&self) -> usize {
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
        self.crew.dismiss();
        for client in self.lock_clients().values() {
            client.leave.store(true, Ordering::SeqCst);
            if client.idle.load(Ordering::SeqCst) {
                // Its thread wakes from reading as if the client had finished sending.
                let _ = client.socket.shutdown(Shutdown::Read);
            }
        }
    }

    /// Cuts every client off: what it has not sent yet is not waited for, whatever is under way.
    pub fn cut(&self) {
        for client in self.lock_clients().values() {
            let _ = client.socket.shutdown(Shutdown::Read);
        }
    }

    fn work(self: Arc<Self>, mut listener: Arc<Listener>) {
        while let Some((socket, address)) = listener.accept() {
            let settings = self.settings();
            let Some(place) = Place::take(&self, settings.max_clients) else {
                refuse(&socket, &listener, &settings.full, End::RefusedFull);
                continue;
            };
            let is_trusted_proxy = settings.trusted_proxies.contain(address.ip());
            // 0 for no limit: each proxy speaks for many.
            let max = match is_trusted_proxy {
                true => 0,
                false => settings.max_clients_per_address,
            };
            let Some(share) = self.addresses.take(address.ip(), max) else {
                refuse(
                    &socket,
                    &listener,
                    &settings.address_full,
                    End::RefusedPerAddress,
                );
                continue;
            };
            if !self.leave_accept(&listener) {
                refuse(&socket, &listener, &settings.full, End::RefusedFull);
                continue;
            }
            drop(settings);
            let ip = address.ip().to_canonical();
            self.serve_client(socket, ip, is_trusted_proxy, share, listener.tls_at_once());
            let rest = self.crew.come_back(&listener);
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
        if self.crew.may_leave(listener) {
            return true;
        }
        let Err(error) = self.start_thread(listener) else {
            return true;
        };
        log::error!(reason:% = error; "thread_not_started");
        // Meanwhile another one may have come to rest.
        self.crew.may_leave(listener)
    }

    fn start_thread(self: &Arc<Self>, listener: &Arc<Listener>) -> std::io::Result<()> {
        let pool = Arc::clone(self);
        let listener = Arc::clone(listener);
        thread::Builder::new()
            .name("client".to_owned())
            .stack_size(STACK_OCTETS)
            .spawn(move || pool.work(listener))
            .map(drop)
    }

    fn serve_client(
        self: &Arc<Self>,
        socket: TcpStream,
        ip: IpAddr,
        is_trusted_proxy: bool,
        share: AddressShare,
        tls_at_once: bool,
    ) {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let state = Arc::new(ClientState {
            socket: Arc::new(socket),
            watch: Arc::new(Watch::new()),
            idle: AtomicBool::new(false),
            leave: AtomicBool::new(false),
        });
        self.lock_clients().insert(number, Arc::clone(&state));
        if self.draining.load(Ordering::SeqCst) {
            state.leave.store(true, Ordering::SeqCst);
        }
        let client = Client {
            number,
            tls_at_once,
            is_trusted_proxy,
            peer: ip,
            ip: Cell::new(ip),
            share: RefCell::new(share),
            pool: Arc::clone(self),
            state,
        };
        if catch_unwind(AssertUnwindSafe(|| (self.serve)(&client))).is_err() {
            metrics::PANICS.count(Part::Connection);
            metrics::CONNECTIONS.count((Port::new(tls_at_once), End::Panicked));
            log::error!(session:% = client.session_id(), client:% = ip; "panicked");
        }
        self.lock_clients().remove(&number);
    }

    fn load(&self) -> Load {
        Load::of(self.places_taken(), self.places())
    }

    fn settings(&self) -> Arc<PoolSettings> {
        Arc::clone(&locks::read(&self.settings))
    }

    fn lock_clients(&self) -> MutexGuard<'_, HashMap<u64, Arc<ClientState>>> {
        locks::lock(&self.clients)
    }
}

impl Client {
    /// Its socket, shared with the pool, which may shut it.
    pub fn socket(&self) -> Arc<TcpStream> {
        Arc::clone(&self.state.socket)
    }

    /// What ends its reads and writes when their time is up.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.state.watch
    }

    /// Where it comes from, IPv4 also when it came as `::ffff:`; as a proxy said, once one did.
    pub fn ip(&self) -> IpAddr {
        self.ip.get()
    }

    /// Takes the address that a trusted proxy passed on; from now on that one is counted. With `None` the proxy does not
    /// know it, and its own, which no limit counts, has to do. `false`: the address has as many connections as it may,
    /// and this one has to go.
    pub fn becomes(&self, ip: Option<IpAddr>) -> bool {
        // First back, then taken: a proxy may pass on an address that is counted already.
        self.share.replace(AddressShare::uncounted());
        let Some(ip) = ip else {
            self.ip.set(self.peer);
            return true;
        };
        self.ip.set(ip.to_canonical());
        let max = self.pool.settings().max_clients_per_address;
        let share = self.pool.addresses.take(ip, max);
        share.map(|share| self.share.replace(share)).is_some()
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
    pub fn may_stay(&self, idle: bool) -> bool {
        self.state.idle.store(idle, Ordering::SeqCst);
        // The pool first says `leave`, then looks whether we are idle: one of us sees the other.
        !(idle && self.state.leave.load(Ordering::SeqCst))
    }

    /// Ends idleness, before a command is looked at; answers whether the client may go on. After `false` nothing more
    /// of it can be read.
    pub fn may_begin(&self) -> bool {
        self.state.idle.store(false, Ordering::SeqCst);
        // Again the pool sees that we are busy, or we see that we shall leave.
        !self.state.leave.load(Ordering::SeqCst)
    }
}

/// One of the places; free again on drop, also after a panic.
struct Place<'a>(&'a Pool);

impl Place<'_> {
    fn take(pool: &Pool, max_clients: usize) -> Option<Place<'_>> {
        pool.places_taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| {
                (taken < max_clients).then_some(taken + 1)
            })
            .ok()
            .map(|_| Place(pool))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.places_taken.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Says 421 to a client that is not served, without ever waiting for it; in the plain to nobody who expects TLS.
fn refuse(socket: &TcpStream, listener: &Listener, reply: &[u8], why: End) {
    metrics::CONNECTIONS.count((Port::new(listener.tls_at_once()), why));
    let mut socket = socket;
    if listener.tls_at_once() {
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
const STACK_OCTETS: usize = 256 * 1_024;
