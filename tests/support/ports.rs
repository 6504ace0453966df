//! Ports for programs that have to be told theirs before they start.
//!
//! Each is given out once in a run of the tests: two questions to the kernel, one after the other, may have one answer. And
//! all are below those that the kernel gives to clients, which would take a port while its server is down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// An address that nobody listens on.
pub fn free_address(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, free_port())
}

/// The first of so many ports in a row that nobody listens on.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const IN_ALL: u16 = 12_000;
    // Two runs at once begin at different places.
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
