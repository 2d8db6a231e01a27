//! The client address: the right-most hop that is not a trusted proxy.
//!
//! Every hop appends the address that it saw to `X-Forwarded-For`. So the header is trusted from the right, as far as trusted
//! proxies go, and not a hop further: the left-most entry is whatever the caller wrote.

use std::net::IpAddr;

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::registry::allow_list::contains;

const HEADER: &str = "x-forwarded-for";
const PROTOCOL_HEADER: &str = "x-forwarded-proto";
/// Most hops that are looked at; an honest chain has three.
const MAX_HOPS: usize = 32;

/// The client's address. `peer` is who holds the other end of the connection.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> IpAddr {
    chain(peer, headers, trusted_proxies).0
}

/// Whether the client spoke TLS: to us (`tls`) where it is our peer, else to the proxy that it called.
///
/// A proxy of ours says so in `X-Forwarded-Proto`. Where each of several adds its word, the one counts that the client
/// called; where one alone stands there, that one. A proxy that adds none must at least not let its caller's through.
pub fn came_by_tls(peer: IpAddr, tls: bool, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> bool {
    let (_, proxies) = chain(peer, headers, trusted_proxies);
    let lines: Vec<_> = headers
        .get_all(PROTOCOL_HEADER)
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    let words = lines.iter().rev().flat_map(|line| line.rsplit(','));
    match words.take(proxies).last() {
        Some(word) => word.trim().eq_ignore_ascii_case("https"),
        None => tls,
    }
}

/// The client's address, and the number of trusted proxies that its request passed.
fn chain(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[IpNet]) -> (IpAddr, usize) {
    let mut client = peer.to_canonical();
    if !contains(trusted_proxies, client) {
        return (client, 0);
    }
    let mut proxies = 1;
    // Several header lines form one list, in their order.
    let lines: Vec<_> = headers
        .get_all(HEADER)
        .iter()
        .map(|value| value.to_str().unwrap_or("?"))
        .collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')).take(MAX_HOPS) {
        // An unreadable hop ends the trusted part; the last readable hop is the client.
        let Some(address) = parse(hop.trim()) else {
            return (client, proxies);
        };
        client = address;
        if !contains(trusted_proxies, client) {
            break;
        }
        proxies += 1;
    }
    (client, proxies)
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
        // A chain that is longer than any real one is read only up to the limit.
        let chain = |hops: usize| format!("198.51.100.7{}", ", 10.0.0.2".repeat(hops));
        assert_eq!(seen("10.0.0.1", &[&chain(31)]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1", &[&chain(32)]), "10.0.0.2");
    }

    #[test]
    fn only_trusted_proxies_say_how_the_client_came() {
        let came = |peer: &str, tls: bool, forwarded_for: &str, protocols: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.append(HEADER, forwarded_for.parse().unwrap());
            for line in protocols {
                headers.append(PROTOCOL_HEADER, line.parse().unwrap());
            }
            came_by_tls(peer.parse().unwrap(), tls, &headers, &["10.0.0.0/8".parse().unwrap()])
        };
        // A stranger's header is ignored.
        assert!(!came("203.0.113.9", false, "", &["https"]));
        assert!(came("203.0.113.9", true, "", &["http"]));
        // One proxy; entries written by the client come first.
        assert!(came("10.0.0.1", false, "198.51.100.7", &["https"]));
        assert!(came("::ffff:10.0.0.1", false, "198.51.100.7", &["HTTPS"]));
        assert!(!came("10.0.0.1", false, "198.51.100.7", &["http"]));
        assert!(!came("10.0.0.1", false, "198.51.100.7", &["https, http"]));
        assert!(!came("10.0.0.1", false, "198.51.100.7", &["https", "http"]));
        assert!(!came("10.0.0.1", false, "198.51.100.7", &["https\u{9}x"]));
        assert!(!came("10.0.0.1", false, "198.51.100.7", &[]));
        // TLS between the proxy and the hub says nothing about the client's connection.
        assert!(!came("10.0.0.1", true, "198.51.100.7", &["http"]));
        // Two proxies; the client called the outer one.
        assert!(came("10.0.0.1", false, "198.51.100.7, 10.0.0.2", &["https, http"]));
        assert!(!came(
            "10.0.0.1",
            false,
            "198.51.100.7, 10.0.0.2",
            &["https, http, http"]
        ));
        assert!(came("10.0.0.1", false, "198.51.100.7, 10.0.0.2", &["https"]));
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
