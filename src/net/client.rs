//! A connected client: its socket, its address, and whether it is idle.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::accept_pool::AcceptPool;
use super::connection_limiter::PerAddressConnectionGuard;
use super::io_timeout::BlockingIoDeadlines;
use super::load::LoadLevel;
use crate::metrics::Metrics;

/// A connected client that holds a connection slot.
pub struct Client {
    /// Number of the connection, counted from 1 at the start of the server.
    pub number: u64,
    /// Whether TLS starts with the first octet.
    pub implicit_tls: bool,
    /// Whether the peer is a trusted proxy. Stays the same after the peer has passed on a client address.
    pub is_trusted_proxy: bool,
    pub(super) peer: IpAddr,
    pub(super) ip: Cell<IpAddr>,
    pub(super) address_guard: RefCell<PerAddressConnectionGuard>,
    pub(super) pool: Arc<AcceptPool>,
    pub(super) state: Arc<ActiveClientState>,
}

/// The part of a client that the pool and its deadlines thread use.
pub(super) struct ActiveClientState {
    pub(super) socket: Arc<TcpStream>,
    pub(super) io_timeout: Arc<BlockingIoDeadlines>,
    /// Whether the client's thread waits for a command and no transaction is open. If so, `drain` ends the thread's read.
    pub(super) idle: AtomicBool,
    /// Whether the server is shutting down.
    pub(super) drain_requested: AtomicBool,
}

impl Client {
    /// Returns the client's socket, which the pool shares in order to shut it down.
    pub fn socket(&self) -> Arc<TcpStream> {
        Arc::clone(&self.state.socket)
    }

    /// Returns the deadlines of this client's reads and writes, which the deadlines thread enforces.
    pub fn client_io_deadlines(&self) -> &Arc<BlockingIoDeadlines> {
        &self.state.io_timeout
    }

    /// Returns the client's address: the address of the peer, or the address that a trusted proxy passed on. IPv4-mapped
    /// addresses are converted to IPv4.
    pub fn ip(&self) -> IpAddr {
        self.ip.get()
    }

    /// Sets the client's address to `ip`, which a trusted proxy passed on; the connection then counts toward the limit of `ip`.
    /// With `None` (the proxy passed on no address), the client's address is the proxy's own, to which no limit applies.
    /// Returns `false` if `ip` already has the maximum number of connections; the caller must then close this connection.
    pub fn try_set_client_address(&self, ip: Option<IpAddr>) -> bool {
        // The connection is uncounted for the old address before it is counted for the new one, because the two may be equal.
        self.address_guard
            .replace(PerAddressConnectionGuard::uncounted_connection_guard());
        let Some(ip) = ip else {
            self.ip.set(self.peer);
            return true;
        };
        self.ip.set(ip.to_canonical());
        let max = self.pool.settings().max_clients_per_address;
        let address_guard = self.pool.address_limiter.try_acquire(ip, max);
        address_guard
            .map(|address_guard| self.address_guard.replace(address_guard))
            .is_some()
    }

    /// Returns the metrics of the server.
    pub fn metrics(&self) -> &Metrics {
        &self.pool.metrics
    }

    /// Returns the load level of the pool.
    pub fn connection_slot_load(&self) -> LoadLevel {
        self.pool.current_load_level()
    }

    /// Returns how many connection slots are taken, and how many there are.
    pub fn taken_and_all_connection_slots(&self) -> (usize, usize) {
        let pool = &self.pool;
        (pool.taken_connection_slots(), pool.connection_slot_count())
    }

    /// Returns whether the server is shutting down.
    pub fn is_server_draining(&self) -> bool {
        self.pool.is_draining()
    }

    /// Returns the id of this client's session in the log.
    pub fn session_id(&self) -> String {
        format!("{:04x}", self.number)
    }

    /// Sets whether the client is idle; called before its thread waits for input. Returns `false` if the client is idle and the
    /// server is shutting down; the caller must then end the session.
    pub fn set_idle(&self, idle: bool) -> bool {
        self.state.idle.store(idle, Ordering::SeqCst);
        // `drain` sets `drain_requested` before it reads `idle`; this thread sets `idle` before it reads `drain_requested`.
        // So `drain` sees the new `idle`, or this thread sees `drain_requested`, or both.
        !(idle && self.state.drain_requested.load(Ordering::SeqCst))
    }

    /// Marks the client as not idle, before a command is executed. Returns `false` if the server is shutting down; `drain` may
    /// then have shut down the socket for reading.
    pub fn mark_busy(&self) -> bool {
        self.state.idle.store(false, Ordering::SeqCst);
        // As in `set_idle`: `drain` sees that `idle` is `false`, or this thread sees `drain_requested`, or both.
        !self.state.drain_requested.load(Ordering::SeqCst)
    }
}
