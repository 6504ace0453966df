//! Limit of concurrent connections for each client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::sync;

/// Counts connections by IPv4 address or by IPv6 /64, the smallest block that a customer gets (RFC 6177).
///
/// There are never more entries than counted connections: an entry is removed with its last connection.
#[derive(Debug, Default)]
pub struct PerAddressLimiter {
    counts: Mutex<HashMap<CountedNetwork, usize>>,
}

/// One counted connection of an address. On drop, the connection is no longer counted.
#[derive(Debug)]
pub struct PerAddressConnectionGuard {
    counted: Option<(Arc<PerAddressLimiter>, CountedNetwork)>,
}

/// An IPv4 address, or the upper 64 bits of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CountedNetwork {
    V4(u32),
    V6(u64),
}

impl PerAddressLimiter {
    /// Counts one more connection from `ip`. Returns `None` if `ip`, or its /64 for IPv6, already has `max` connections. If
    /// `max` is 0, there is no limit, and the returned guard counts nothing.
    pub fn try_acquire(
        self: &Arc<Self>,
        ip: IpAddr,
        max: usize,
    ) -> Option<PerAddressConnectionGuard> {
        if max == 0 {
            return Some(PerAddressConnectionGuard::uncounted_connection_guard());
        }
        let prefix = CountedNetwork::of(ip);
        let mut counts = self.lock();
        let count = counts.entry(prefix).or_default();
        // A new entry has count 0, which is below `max`; so the return leaves no entry with count 0.
        if *count >= max {
            return None;
        }
        *count += 1;
        let counted = Some((Arc::clone(self), prefix));
        Some(PerAddressConnectionGuard { counted })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CountedNetwork, usize>> {
        sync::lock(&self.counts)
    }
}

impl PerAddressConnectionGuard {
    /// Returns a guard that counts nothing, for a connection to which the limit does not apply.
    pub fn uncounted_connection_guard() -> PerAddressConnectionGuard {
        PerAddressConnectionGuard { counted: None }
    }
}

impl Drop for PerAddressConnectionGuard {
    fn drop(&mut self) {
        let Some((limiter, prefix)) = &self.counted else {
            return;
        };
        let mut counts = limiter.lock();
        if let Some(count) = counts.get_mut(prefix) {
            *count -= 1;
            if *count == 0 {
                counts.remove(prefix);
            }
        }
    }
}

impl CountedNetwork {
    fn of(ip: IpAddr) -> CountedNetwork {
        match ip.to_canonical() {
            IpAddr::V4(ip) => CountedNetwork::V4(ip.to_bits()),
            IpAddr::V6(ip) => CountedNetwork::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limiter_counts_each_address_prefix_separately() {
        let limiter = Arc::new(PerAddressLimiter::default());
        let take = |ip: &str| limiter.try_acquire(ip.parse().unwrap(), 2);
        for (first, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::2", "2001:db8::3:0:0:1", "2001:db8:0:1::2"),
        ] {
            let (one, two) = (take(first), take(same));
            assert!(one.is_some() && two.is_some());
            assert!(take(first).is_none() && take(same).is_none());
            assert!(take(other).is_some());
            drop(one);
            assert!(take(same).is_some(), "{same}");
        }
        assert!(
            limiter.lock().is_empty(),
            "entries are removed with the last connection"
        );
    }

    #[test]
    fn connection_limiter_without_a_limit_counts_nothing() {
        let limiter = Arc::new(PerAddressLimiter::default());
        let ip = "192.0.2.1".parse().unwrap();
        let held: Vec<_> = (0..100).map(|_| limiter.try_acquire(ip, 0)).collect();
        assert!(held.iter().all(Option::is_some) && limiter.lock().is_empty());
    }
}
