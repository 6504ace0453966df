//! Ports for programs that need a port number before they start.
//!
//! Each port is given out only once per test run, because the kernel may return the same free port twice. All are below
//! the ephemeral range, so that no client connection takes the port of a stopped server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Returns a port on which no process listens.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// Returns an address on which no process listens.
pub fn free_address(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, free_port())
}

/// Returns the first of `count` consecutive ports on which no process listens.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const IN_ALL: u16 = 12_000;
    // Concurrent test runs start at different offsets.
    let offset = (std::process::id() % 1_000) as u16 * 10;
    (0..1_000)
        .map(|_| FIRST + (offset + NEXT.fetch_add(count, Ordering::SeqCst)) % IN_ALL)
        .find(|first| (*first..first + count).all(is_free))
        .expect("free ports in a row")
}

fn is_free(port: u16) -> bool {
    let is_free_on = |ip: IpAddr| TcpListener::bind((ip, port)).is_ok();
    is_free_on(Ipv4Addr::LOCALHOST.into()) && is_free_on(Ipv6Addr::LOCALHOST.into())
}
