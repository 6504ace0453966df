//! Ports for programs that need a port number before they start.
//!
//! Each port is given out only once per test run, because the kernel may return the same free port twice. All are below
//! the ephemeral range, so that no client connection takes the port of a stopped server. Test runs at the same time use
//! different blocks of ports, because a port may be free while the program that it was given to starts again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// The ports that this process gives out.
struct PortBlock {
    /// The first port of the block stays bound while this process runs, so that no other test run has the block.
    claim: TcpListener,
    given_out: AtomicU16,
}

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
    static BLOCK: LazyLock<PortBlock> = LazyLock::new(PortBlock::claim);
    BLOCK.free_ports(count)
}

impl PortBlock {
    fn claim() -> PortBlock {
        let mut firsts = (0..BLOCK_COUNT).map(|block| FIRST_PORT + block * BLOCK_SIZE);
        let claim = firsts.find_map(|first| TcpListener::bind((Ipv4Addr::LOCALHOST, first)).ok());
        PortBlock {
            claim: claim.expect("a block of ports that no other test run uses"),
            given_out: AtomicU16::new(0),
        }
    }

    fn free_ports(&self, count: u16) -> u16 {
        let claimed = self.claim.local_addr().expect("a bound socket").port();
        (0..BLOCK_SIZE)
            .map(|_| self.given_out.fetch_add(count, Ordering::SeqCst) % (BLOCK_SIZE - count))
            .map(|given_out| claimed + 1 + given_out)
            .find(|first| (*first..first + count).all(is_free))
            .expect("free ports in a row")
    }
}

fn is_free(port: u16) -> bool {
    let is_free_on = |ip: IpAddr| TcpListener::bind((ip, port)).is_ok();
    is_free_on(Ipv4Addr::LOCALHOST.into()) && is_free_on(Ipv6Addr::LOCALHOST.into())
}

/// The first port of the first block.
const FIRST_PORT: u16 = 20_000;
/// Enough for a whole test run; after the last one, ports are given out again from the first.
const BLOCK_SIZE: u16 = 3_000;
/// The number of test runs that are possible at the same time.
const BLOCK_COUNT: u16 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_runs_at_the_same_time_use_different_ports() {
        let (one, other) = (PortBlock::claim(), PortBlock::claim());
        for count in [1, 3, 10] {
            let (first, second) = (one.free_ports(count), other.free_ports(count));
            assert!(first.abs_diff(second) > BLOCK_SIZE / 2, "{first} {second}");
        }
    }

    #[test]
    fn block_gives_out_each_port_once_and_no_port_of_the_next_block() {
        let block = PortBlock::claim();
        let claimed = block.claim.local_addr().expect("a bound socket").port();
        let mut ports: Vec<u16> = (0..200).map(|_| block.free_ports(10)).collect();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] + 10 <= pair[1]));
        assert!(ports.first() > Some(&claimed));
        assert!(ports.last() < Some(&(claimed + BLOCK_SIZE - 9)));
    }
}
