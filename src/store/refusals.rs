//! Batches that were refused whole, in a row: when they say something of the store and not of one client's mails.

use std::net::IpAddr;

/// Batches that were refused since the last success.
#[derive(Debug, Default)]
pub struct Refusals {
    batches: usize,
    first_client: Option<IpAddr>,
    several_clients: bool,
}

impl Refusals {
    /// Adds a batch whose mails came from these clients. Returns whether the store counts as failing: one client that
    /// sends mails which are refused must not bring that about.
    pub fn add(&mut self, clients: impl Iterator<Item = IpAddr>) -> bool {
        self.batches = self.batches.saturating_add(1);
        for client in clients.map(network) {
            let first = *self.first_client.get_or_insert(client);
            self.several_clients |= first != client;
        }
        self.batches >= MIN_REFUSED_BATCHES && self.several_clients
    }
}

/// Returns the address, or the /64 of an IPv6 address: one client may use all addresses of it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// Batches in a row.
const MIN_REFUSED_BATCHES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_mails_from_one_ipv6_network_count_as_one_client() {
        let mut refusals = Refusals::default();
        let address = |net: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, host]);
        for host in 0..50 {
            assert!(!refusals.add(std::iter::once(address(1, host))));
        }
        assert!(refusals.add([address(1, 0), address(2, 0)].into_iter()));
    }
}
