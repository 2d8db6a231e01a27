//! Who calls: the right-most hop that is not one of our own proxies.
//!
//! Every hop appends the address that it saw to `X-Forwarded-For`; so it is to be believed from the right, as far as
//! our own proxies go, and not a hop further: the left-most entry is whatever the caller wrote.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

use super::allow_list::contains;

const HEADER: &str = "x-forwarded-for";
/// Most hops that are looked at; an honest chain has three.
const MAX_HOPS: usize = 32;

/// The client's address. `peer` is who holds the other end of the connection.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !contains(trusted_proxies, client) {
        return client;
    }
    // Several header lines are one list, in their order.
    let lines: Vec<_> = headers
        .get_all(HEADER)
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')).take(MAX_HOPS) {
        // A hop that cannot be read ends what can be believed; the last one that could is who called.
        let Some(address) = parse(hop.trim()) else {
            return client;
        };
        client = address;
        if !contains(trusted_proxies, client) {
            break;
        }
    }
    client
}

/// `1.2.3.4`, `1.2.3.4:5678`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:5678`.
fn parse(hop: &str) -> Option<IpAddr> {
    let bare = hop
        .strip_prefix('[')
        .and_then(|rest| rest.split(']').next())
        .unwrap_or(hop);
    let address = bare
        .parse::<IpAddr>()
        .or_else(|_| bare.parse::<std::net::SocketAddr>().map(|one| one.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seen(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HEADER, line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "127.0.0.1/32".parse().unwrap()];
        client_ip(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_hops_are_believed() {
        assert_eq!(seen("203.0.113.9", &["1.1.1.1"]), "203.0.113.9");
        assert_eq!(seen("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1", "198.51.100.7"]), "198.51.100.7");
        assert_eq!(seen("::ffff:10.0.0.1", &["198.51.100.7:1234"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, nonsense"]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1", &["1.1.1.1, nonsense, 10.0.0.3"]), "10.0.0.3");
    }

    proptest! {
        #[test]
        fn what_the_caller_writes_never_becomes_its_address(forged in "[ -~]{0,60}") {
            let line = format!("{forged}, 198.51.100.7");
            prop_assert_eq!(seen("10.0.0.1", &[&line]), "198.51.100.7");
            prop_assert_eq!(seen("203.0.113.9", &[&forged]), "203.0.113.9");
        }
    }
}
