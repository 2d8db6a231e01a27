//! The addresses that may call a provider's endpoint.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks that may call; none named = all may.
#[derive(Debug, Clone, Default)]
pub struct AllowList(Vec<IpNet>);

impl AllowList {
    /// Of these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether all may call.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this address may.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.is_open() || contains(&self.0, address)
    }
}

/// Whether one of the networks holds the address; `::ffff:1.2.3.4` counts as `1.2.3.4`.
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidr_of_both_families() {
        let list = AllowList::new(vec![
            "34.204.192.0/20".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ]);
        for (address, allowed) in [
            ("34.204.192.0", true),
            ("34.204.207.255", true),
            ("34.204.208.0", false),
            ("34.204.191.255", false),
            ("::ffff:34.204.200.1", true),
            ("::ffff:34.205.0.1", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(list.allows(address.parse().unwrap()), allowed, "{address}");
        }
        assert!(AllowList::default().allows("203.0.113.9".parse().unwrap()));
    }
}
