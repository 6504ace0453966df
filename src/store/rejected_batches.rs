//! Counts rejected batches, to distinguish a failing store from a single client whose mails are unacceptable.

use std::net::IpAddr;

/// Counts consecutive batches of which every mail was rejected. A success resets the count.
#[derive(Debug, Default)]
pub struct RejectedBatchCount {
    batches: usize,
    first_client: Option<IpAddr>,
    several_clients: bool,
}

impl RejectedBatchCount {
    /// Records a rejected batch with mails of these clients. Returns whether the store now counts as failing; rejections of one
    /// client's mails are never enough.
    pub fn add_batch_and_check_if_failing(
        &mut self,
        clients: impl Iterator<Item = IpAddr>,
    ) -> bool {
        self.batches = self.batches.saturating_add(1);
        for client in clients.map(client_network_address) {
            let first = *self.first_client.get_or_insert(client);
            self.several_clients |= first != client;
        }
        self.batches >= MIN_REJECTED_BATCHES && self.several_clients
    }
}

/// Returns an IPv4 address unchanged, and the /64 network of an IPv6 address, because one client may use every address of a
/// /64.
fn client_network_address(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// Number of rejected batches in a row after which the store counts as failing, if they came from several clients.
const MIN_REJECTED_BATCHES: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_mails_from_one_ipv6_network_count_as_one_client() {
        let mut rejected = RejectedBatchCount::default();
        let address = |net: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, net, 0, 0, 0, host]);
        for host in 0..50 {
            assert!(!rejected.add_batch_and_check_if_failing(std::iter::once(address(1, host))));
        }
        assert!(
            rejected.add_batch_and_check_if_failing([address(1, 0), address(2, 0)].into_iter())
        );
    }
}
