//! Proxies whose XCLIENT and PROXY headers are trusted.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Addresses and CIDR blocks of the trusted proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    blocks: Vec<IpNet>,
}

impl TrustedProxies {
    /// Returns a list of `blocks`. A block of IPv4-mapped addresses (in `::ffff:0:0/96`) is converted to the same block in
    /// IPv4.
    pub fn new(blocks: impl IntoIterator<Item = IpNet>) -> TrustedProxies {
        TrustedProxies {
            blocks: blocks.into_iter().map(unmap_ipv4_mapped_block).collect(),
        }
    }

    /// Returns whether `ip` is in the list; an IPv4-mapped address counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.blocks.iter().any(|block| block.contains(&ip))
    }
}

fn unmap_ipv4_mapped_block(block: IpNet) -> IpNet {
    let IpNet::V6(v6) = block else {
        return block;
    };
    let v4 = v6.addr().to_ipv4_mapped().and_then(|ip| {
        let length = v6.prefix_len().checked_sub(96)?;
        Ipv4Net::new(ip, length).ok()
    });
    v4.map_or(block, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn trusted_proxies_match_by_address_and_cidr_block() {
        let trusted = TrustedProxies::new(
            [
                "10.0.0.0/8",
                "192.0.2.1/32",
                "2001:db8::/32",
                "::ffff:172.16.0.0/108",
            ]
            .map(|block| block.parse().unwrap()),
        );
        for (ip, want) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(trusted.contains(ip.parse().unwrap()), want, "{ip}");
        }
        assert!(!TrustedProxies::default().contains(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
